-- name: duplicates
-- checks: No batch is there twice, neither by its producer's running number nor by its content.
-- parameter: content boolean = true (whether two batches may not have the same bytes; false for
--   streams that repeat their data on purpose, epoch after epoch, with the same sources)
with history as (
    select step, producer, "sequence", digest, path from parts
    union all
    select batch_step, batch_producer, batch_sequence, unnest(digests), null from ledger
)
select
    'the sequence is there ' || count(distinct step) || ' times' as problem,
    producer, "sequence", list_sort(list(distinct step)) as steps, null as digest
from history group by producer, "sequence" having count(distinct step) > 1
union all
select
    'the file is named ' || count(*) || ' times', any_value(producer), null,
    list_sort(list(distinct step)), any_value(digest)
from history where path is not null group by path having count(*) > 1
union all
select
    'the same bytes are in ' || count(distinct step) || ' steps',
    string_agg(distinct producer, ', '), null, list_sort(list(distinct step)), digest
from history where $content group by digest having count(distinct step) > 1
order by steps, problem
