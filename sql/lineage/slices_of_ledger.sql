-- slices_of_ledger: what the ledger keeps of each slice whose data is gone.
select *{axes}
from (
    select
        batch_step as step, place::integer as slice, batch_producer as producer,
        batch_sequence as "sequence", batch_committed_at as committed_at,
        case when len(sources) = 1 then sources[1] else sources[place + 1] end as source,
        lineage[place + 1] as lineage
    from (select *, unnest(range(0, {slices})) as place from ledger)
)
