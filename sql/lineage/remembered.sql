-- remembered: checkpoints that the ledger names: they have seen at least the steps below next_step.
select checkpoint, max(batch_step) + 1 as next_step
from ledger
where checkpoint is not null
group by checkpoint;
