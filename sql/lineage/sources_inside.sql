-- sources_inside: how many sources look like $text, a pattern, out of the metadata, the ledger and, where
-- they are asked too, the data files.
select count(distinct source) as sources
from (
    select source from parts
    union all
    select unnest(sources) from ledger{files}
)
where source glob $text;
