-- name: foreign
-- checks: Nobody but BatchWeave has committed to the table, or left rows or deletions in it.
select
    'a commit by another program' as problem, version, snapshot, operation, committed_at,
    null as path
from snapshots where not own
union all
select what, null, null, null, null, path from foreign_files
union all
select
    'a file that BatchWeave did not name', version, snapshot, null, committed_at, path
from parts_of_stream
where not coalesce(regexp_matches(path, '^data/v[0-9]{12,}/[A-Za-z0-9._-]+[.]parquet$'), false)
    or step is null or producer is null or "sequence" is null or committed_at is null
    or digest is null
order by version, path
