-- slices: one row a slice of the live steps, out of the metadata alone. Bytes are those of its row
-- group, where a reader finds it is "offset" in the file. How many rows it has, slice_rows tells.
create view this.slices as
select
    step, slice{axes}, producer, sequence, committed_at, part, path, digest,
    offsets[nth] as "offset",
    coalesce(offsets[nth + 1], data_end) - offsets[nth] as bytes,
    source
from (
    select *, (first_slice + nth - 1)::integer as slice
    from (select *, unnest(range(1, slices + 1)) as nth from this.parts)
)
order by step, slice;
