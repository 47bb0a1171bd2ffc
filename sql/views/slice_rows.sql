-- slice_rows: how many rows each slice of the live steps has. Reads one small column of the files.
create view this.slice_rows as
select step, slice, count(*) as rows from this.samples
group by step, slice
order by step, slice;
