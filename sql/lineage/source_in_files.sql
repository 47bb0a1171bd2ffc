-- source_in_files: the same of the slices whose source is in their data files alone.
select
    step, slice, any_value(producer) as producer, any_value("sequence") as "sequence",
    any_value(committed_at) as committed_at, any_value(source) as source, null::bigint as rows,
    false as reclaimed
from samples
where step >= $first and step <= $last
    and step in (
        select step from parts where source is null and step >= $first and step <= $last
    )
    and {matches}
group by step, slice;
