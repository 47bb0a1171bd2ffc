-- name: gaps
-- checks: Every step from the watermark to the head is there once, and each of its slices once.
with whole as (
    -- Not the view of parts, which ends at the head.
    select step, producer, "sequence" from parts_of_stream where step is not null group by all
),
laid as (
    select
        *, lag(first_slice + slices, 1, 0) over (
            partition by step, producer, "sequence" order by first_slice, path
        ) as expected
    from parts
),
ends as (
    select step, producer, "sequence", max(first_slice + slices) as found from parts group by all
)
select step, 'the step is missing' as problem, null as producer, null as "sequence"
from (select unnest(range(watermark, next_step)) as step from stream_state)
where step not in (select step from whole)
union all
select step, 'the step is there ' || count(*) || ' times', string_agg(producer, ', '), null
from whole group by step having count(*) > 1
union all
select step, 'the step is beyond the head', producer, "sequence"
from whole, stream_state where step >= next_step
union all
select step, 'the step is below the watermark and still in the table', producer, "sequence"
from whole, stream_state where step < watermark
union all
select
    step,
    case when first_slice > expected
        then 'slice ' || expected || ' is missing'
        else 'slice ' || first_slice || ' is there twice' end,
    producer, "sequence"
from laid where first_slice <> expected
union all
select
    ends.step,
    case when ends.found < slices
        then 'slice ' || ends.found || ' is missing'
        else 'slice ' || slices || ' is more than the mesh has' end,
    producer, "sequence"
from ends, stream_state where ends.found <> slices
order by step, problem
