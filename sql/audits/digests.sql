-- name: digests
-- checks: Every file that a live batch names has the bytes that were published, by SHA-256.
-- deep: yes
-- needs: digests_read
select step, producer, path, problem, expected, found from digests_read order by step, path
