-- batches: one row a step, out of the metadata alone: no data file is opened.
create view batches as
select
    step,
    any_value(producer) as producer,
    any_value(sequence) as sequence,
    any_value(committed_at) as committed_at,
    count(*) as parts,
    sum(slices)::integer as slices,
    sum(rows)::bigint as rows,
    sum(bytes)::bigint as bytes,
    list(digest order by first_slice) as digests
from batch_parts
group by step
order by step;
