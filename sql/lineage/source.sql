-- source: the slices whose source is, begins with, or looks like $text, as far as the metadata and
-- the ledger know it.
select
    step, slice, producer, "sequence", committed_at, source, null::bigint as rows,
    false as reclaimed
from slices
where {known} and {matches}
union all
select
    step, slice, producer, "sequence", committed_at, source, null::bigint, true
from ({slices_of_ledger})
where {matches};
