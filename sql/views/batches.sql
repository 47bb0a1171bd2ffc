-- batches: one row a step, live and reclaimed ones together. No data file is opened.
-- skew is the bytes of the largest slice over those of the mean; checkpoint the first one that has
-- seen the step. sources is null where only the data files know, skew and snapshot where those are
-- gone.
create view this.batches as
with bytes_of_slices as (
    select
        *, list_apply(
            range(1, slices + 1),
            lambda nth: coalesce(offsets[nth + 1], data_end) - offsets[nth]
        ) as slice_bytes
    from this.parts
),
live as (
    select
        step,
        any_value(producer) as producer,
        any_value(sequence) as sequence,
        any_value(committed_at) as committed_at,
        any_value(version) as version,
        any_value(snapshot) as snapshot,
        count(*)::integer as parts,
        sum(slices)::integer as slices,
        sum(rows)::bigint as rows,
        sum(bytes)::bigint as bytes,
        max(list_max(slice_bytes)) * sum(slices) / sum(list_sum(slice_bytes)) as skew,
        -- Sorted as structs: an ordered aggregate takes four times as long.
        list_transform(
            list_sort(list({'first': first_slice, 'digest': digest})), lambda one: one.digest
        ) as digests,
        case when count(source) = count(*) then list_distinct(list_transform(
            list_sort(list({'first': first_slice, 'source': source})), lambda one: one.source
        )) end as sources,
        null::varchar as remembered,
        false as reclaimed
    from bytes_of_slices
    group by step
),
gone as (
    select
        batch_step, batch_producer, batch_sequence, batch_committed_at,
        nullif(version, 0), null::bigint, len(digests)::integer, {slices}::integer, rows, bytes,
        null::double, digests, list_filter(list_distinct(sources), lambda one: one is not null),
        checkpoint, true
    from this.ledger
),
both_of_them as (from live union all from gone),
covering as (
    select next_step, min_by(checkpoint, registered_at) as checkpoint
    from this.checkpoints group by next_step
)
select
    both_of_them.* exclude (remembered, reclaimed),
    coalesce(remembered, covering.checkpoint) as checkpoint,
    reclaimed
from both_of_them
asof left join covering on both_of_them.step < covering.next_step
order by step;
