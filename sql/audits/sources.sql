-- name: sources
-- checks: No range of a source was published in two batches.
-- parameter: whole boolean = false (whether a source that names no range counts as one that may be
--   published once)
-- needs: source_ranges
with pieces as (
    select thing, start, stop, step, producer from source_ranges where stop > start
),
opened as ( -- what one batch has of a thing, neighbours joined: only other batches can overlap it
    select
        *, start > coalesce(max(stop) over (
            partition by thing, step order by start, stop
            rows between unbounded preceding and 1 preceding
        ), start - 1) as opens
    from pieces
),
numbered as (
    select
        *, count(*) filter (opens) over (
            partition by thing, step order by start, stop
        ) as island
    from opened
),
islands as (
    select
        thing, step, any_value(producer) as producer, min(start) as start, max(stop) as stop
    from numbered group by thing, step, island
),
seen as (
    select
        *, max(stop) over before as reached, arg_max(step, stop) over before as other_step
    from islands
    window before as (
        partition by thing order by start, stop, step
        rows between unbounded preceding and 1 preceding
    )
)
select
    thing as source, start, least(stop, reached) as stop,
    list_sort([step, other_step]) as steps, producer, 'the range was published twice' as problem
from seen where start < reached
union all
select
    thing, null, null, list_sort(list(distinct step)), string_agg(distinct producer, ', '),
    'the source was published ' || count(distinct step) || ' times'
from source_ranges where $whole and start is null
group by thing having count(distinct step) > 1
order by source, start
