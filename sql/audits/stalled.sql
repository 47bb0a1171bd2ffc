-- name: stalled
-- checks: No producer has stopped while the others go on, unless the stream is sealed.
-- parameter: seconds double = 3600 (how long the others may have gone on without it; one that has
--   nothing more to publish counts as stalled until the stream is sealed)
with newest as (
    select max(committed_at) as committed_at from batches
)
select
    producer, generation, step as last_step, last_commit_at,
    newest.committed_at as newest_commit_at,
    round(epoch(newest.committed_at - last_commit_at)) as behind_s,
    coalesce(lag_steps, next_step) as lag_steps
from producers, newest, stream_state
where not sealed
    and coalesce(lag_steps, next_step) > 0
    and newest.committed_at - last_commit_at > to_seconds($seconds)
order by producer
