-- name: watermark
-- checks: What is reclaimed is in the ledger, and no retained checkpoint needs it.
-- needs: given_up
select
    'checkpoint ' || checkpoint || ' needs steps that are reclaimed' as problem,
    checkpoint, checkpoints.next_step as step
from checkpoints, stream_state where checkpoints.next_step < watermark
union all
select 'checkpoint ' || checkpoint || ' is beyond the head', checkpoint, checkpoints.next_step
from checkpoint_states as checkpoints, stream_state
where checkpoints.next_step > stream_state.next_step
union all
select 'the ledger has no row of the step', null, step
from (select unnest(range(watermark)) as step from stream_state)
where step not in (select batch_step from ledger)
    and not exists (from given_up where step >= given_up."first" and step < given_up.stop)
order by step, problem
