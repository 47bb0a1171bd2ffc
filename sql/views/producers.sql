-- producers: one row a producer name. sequence, step and position are those of its last batch that
-- is durable; the counts are of the steps that the session sees, live and reclaimed.
-- batches_per_s is over the last hundred batches; null where that took no time.
create view this.producers as
with recent as (
    select producer, committed_at,
        row_number() over (partition by producer order by step desc) as back
    from this.batches
),
rates as (
    select producer,
        (count(*) - 1) / nullif(epoch(max(committed_at)) - epoch(min(committed_at)), 0) as rate
    from recent where back <= 100 group by producer
),
published as (
    select producer, count(*) as batches, sum(rows)::bigint as rows, sum(bytes)::bigint as bytes,
        min(step) as first_step
    from this.batches group by producer
)
select
    state.producer, state.generation, state.sequence, state.step, state.last_commit_at,
    state.position,
    coalesce(published.batches, 0) as batches,
    coalesce(published.rows, 0) as rows,
    coalesce(published.bytes, 0) as bytes,
    published.first_step,
    {stop} - 1 - state.step as lag_steps,
    now() - state.last_commit_at as idle,
    rates.rate as batches_per_s
from this.producer_states as state
left join published using (producer)
left join rates using (producer)
order by producer;
