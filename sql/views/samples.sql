-- samples: every row of the stream's live history.
-- Besides the users' columns: step, slice, source, producer, sequence, committed_at, digest.
-- Filters on step, producer and slice prune files and row groups.
create view samples as select * from rows_of_stream;
