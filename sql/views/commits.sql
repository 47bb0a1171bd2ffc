-- commits: one row a commit that published batches.
create view this.commits as
select
    version, any_value(snapshot) as snapshot, producer, committed_at,
    min(step) as first_step, max(step) as last_step, count(*) as steps,
    sum(rows)::bigint as rows, sum(bytes)::bigint as bytes
from this.batches
group by version, producer, committed_at
order by first_step;
