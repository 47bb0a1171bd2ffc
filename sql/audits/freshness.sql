-- name: freshness
-- checks: The newest batch is not too old, unless the stream is sealed.
-- parameter: seconds double = null (how old it may be)
-- needs: moment
select newest_batch_at, round(epoch(now - newest_batch_at)) as age_s, next_step
from (select max(committed_at) as newest_batch_at from batches), moment, stream_state
where not sealed
    and (newest_batch_at is null or now - newest_batch_at > to_seconds($seconds))
