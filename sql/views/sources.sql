-- sources: where each slice came from. Reads the source column of the live steps' data files; slice
-- is null where the ledger has one source for all slices of a batch.
create view this.sources as
select step, slice, any_value(source) as source, false as reclaimed
from this.samples
group by step, slice
union all
select
    batch_step,
    case when len(sources) > 1 then (nth - 1)::integer end,
    sources[nth],
    true
from (select *, unnest(range(1, len(sources) + 1)) as nth from this.ledger)
order by step, slice;
