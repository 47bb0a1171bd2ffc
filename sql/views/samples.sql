-- samples: every row of the live steps.
-- Besides the users' columns: slice, source, step, producer, sequence, committed_at, digest, and
-- the place of the slice on each axis of the mesh. Filters on step, producer and slice prune files
-- and row groups; those on an axis do not.
create view this.samples as
select *{axes} from this.rows_of_stream
where step < {stop};
