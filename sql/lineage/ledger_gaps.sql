-- ledger_gaps: how many rows the ledger has below $stop, and how many of them have no lineage.
select count(*) as rows, count(*) filter (lineage is null) as without_lineage
from ledger
where batch_step < $stop;
