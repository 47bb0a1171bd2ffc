-- origins: the sources of each step from $start to $stop, and how many slices each has, as far as
-- the metadata and the ledger know them. A step of which a part is not known is left out whole.
select step, source, sum(slices)::bigint as slices
from parts
where step >= $start and step < $stop
    and {known}
group by step, source
union all
select batch_step, sources[1], {slices}
from ledger
where batch_step >= $start and batch_step < $stop and len(sources) = 1
union all
select batch_step, source, count(*)
from (
    select batch_step, unnest(sources) as source
    from ledger
    where batch_step >= $start and batch_step < $stop and len(sources) > 1
)
group by batch_step, source;
