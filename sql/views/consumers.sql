-- consumers: one row a training run: its checkpoint that is furthest ahead, and its lag in steps.
create view this.consumers as
select
    consumer,
    count(*) as checkpoints,
    max_by(checkpoint, (next_step, registered_at)) as furthest,
    max(next_step) as next_step,
    min(next_step) as oldest_step,
    {stop} - max(next_step) as lag_steps
from this.checkpoints
group by consumer
order by consumer;
