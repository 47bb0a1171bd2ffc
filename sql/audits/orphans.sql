-- name: orphans
-- checks: Every file of the stream's own belongs to a live batch or to a producer's position.
-- parameter: seconds double = 86400 (how old a file is that should be committed by now; those below
--   the horizon can never be, however young)
-- needs: listing, state_now, positions_read, moment
select
    path, found.bytes, upload_version, modified_at,
    case when upload_version < horizon then 'it is below the horizon: sweep deletes it'
        else 'nothing names it since it was written' end as problem
from listing as found, stream_state, state_now, moment
where upload_version is not null
    and path not in (select path from parts)
    and path not in (select object from positions_read where object is not null)
    -- The files of a reclaim whose grace period lasts are neither named nor orphans.
    and upload_version < coalesce(oldest_pending, upload_version + 1)
    and (upload_version < horizon or modified_at < now - to_seconds($seconds))
order by path
