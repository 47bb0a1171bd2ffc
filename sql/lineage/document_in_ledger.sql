-- document_in_ledger: the slices of which the ledger says that they held $value in $column. What
-- cannot hold it by its text ($text, in JSON) is not parsed.
select
    step, slice, producer, "sequence", committed_at, source, null::bigint as rows,
    true as reclaimed
from ({slices_of_ledger})
where case when contains(lineage, $text) then list_contains(
    map_extract_value(lineage::json::map(varchar, json), $column)::{kind}[], $value::{kind}
) end;
