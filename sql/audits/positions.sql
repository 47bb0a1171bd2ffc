-- name: positions
-- checks: The position of each producer can be read, and is not behind the sources of its batches.
-- needs: positions_read, position_places, newest_ranges
select producer, problem, object, null as "position", null as source_end, null as step
from positions_read where problem is not null
union all
select
    producer,
    'it would read again from ' || place || ' on in ' || thing,
    null, place, max(stop), max(step)
from position_places join newest_ranges using (producer, thing)
group by producer, thing, place
having place < max(stop)
order by producer, problem
