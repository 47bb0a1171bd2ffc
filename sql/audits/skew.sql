-- name: skew
-- checks: No slice is far larger than the others, in a batch or over all steps.
-- parameter: times double = 3 (how many times what the other slices of its batch hold on average,
--   and what the stream's slices typically hold, a slice may hold)
-- parameter: overall double = 1.5 (the same for a slice over all steps, and for how much smaller
--   it may be)
-- parameter: steps bigint = 20 (from how many steps on the sums over all of them are looked at)
-- needs: slice_values
with typical as (
    select measure, median(value) as value from slice_values group by measure
),
within as (
    select
        *, (sum(value) over batch - value) / nullif(count(*) over batch - 1, 0) as others
    from slice_values
    window batch as (partition by measure, step)
),
sums as (
    select measure, slice, sum(value) as value, count(distinct step) as steps
    from slice_values group by measure, slice
),
over_all as (
    select
        *, (sum(value) over every - value) / nullif(count(*) over every - 1, 0) as others
    from sums
    window every as (partition by measure)
)
select
    within.measure, step, slice, within.value, round(others, 1) as others_on_average,
    'the slice is far larger than the others of its batch' as problem
from within join typical using (measure)
where within.value > $times * others and within.value > $times * typical.value
union all
select
    measure, null, slice, value, round(others, 1),
    'over ' || steps || ' steps the slice holds far '
        || case when value > others then 'more' else 'less' end || ' than the others'
from over_all
where steps >= $steps and (value > $overall * others or value * $overall < others)
order by step nulls first, measure, slice
