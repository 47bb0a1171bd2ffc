-- producers: one row a producer name: generation, last committed sequence and step, batches, rows.
create view producers as
select
    state.*,
    coalesce(published.batches, 0) as batches,
    coalesce(published.rows, 0) as rows
from producer_states as state
left join (
    select producer, count(*) as batches, sum(rows)::bigint as rows from batches group by producer
) as published using (producer)
order by producer;
