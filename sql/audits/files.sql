-- name: files
-- checks: Every file that a live batch names is in the store, with as many bytes as it had.
-- needs: listing, state_now
select
    step, producer, path,
    case when found.path is null then 'the file is not there'
        else 'the file has another size' end as problem,
    parts.bytes as expected_bytes, found.bytes as found_bytes
from parts
left join listing as found using (path)
where starts_with(path, 'data/')
    and step >= (select watermark from state_now) -- or it was reclaimed since
    and found.bytes is distinct from parts.bytes
order by step, path
