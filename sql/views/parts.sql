-- parts: one row a data file of the live steps, out of the metadata alone.
create view this.parts as
select
    step, producer, sequence, committed_at, version, snapshot,
    (row_number() over (partition by step order by first_slice) - 1)::integer as part,
    path, first_slice, slices, rows, bytes, digest, source, offsets, data_end
from this.parts_of_stream
where step < {stop}
order by step, part;
