-- steps: who published each step from $start to $stop, and how much. Metadata only.
select step, producer, rows, bytes, reclaimed
from batches
where step >= $start and step < $stop
order by step;
