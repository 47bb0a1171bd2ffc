-- name: order
-- checks: The batches of each producer are in its own order, numbered from 0 on without a gap.
-- needs: given_up
with history as (
    select step, producer, "sequence" from parts group by all
    union all
    select batch_step, batch_producer, batch_sequence from ledger
),
followed as (
    select
        *, coalesce(lag("sequence") over following, -1) as before,
        lag(step) over following as step_before
    from history
    window following as (partition by producer order by step, "sequence")
),
newest as (
    select producer, max("sequence") as "sequence", max(step) as step from history group by producer
)
select
    producer, step, "sequence",
    case when step_before is null
        then 'its first batch has sequence ' || "sequence" || ', not 0'
        else 'after sequence ' || before || ' in step ' || step_before || ' comes ' || "sequence"
    end as problem
from followed where "sequence" is distinct from before + 1 and not exists (
    from given_up where given_up."first" > coalesce(step_before, -1) and given_up.stop <= step
)
union all
select
    producer, newest.step, newest."sequence",
    'the state says that its last batch has sequence ' || coalesce(state."sequence", -1)
        || ' in step ' || coalesce(state.step, -1)
from producers as state full join newest using (producer)
where (
    coalesce(state."sequence", -1) <> coalesce(newest."sequence", -1)
    or coalesce(state.step, -1) <> coalesce(newest.step, -1)
) and not exists (
    from given_up where state.step >= given_up."first" and state.step < given_up.stop
)
order by producer, step, problem
