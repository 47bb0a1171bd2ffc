"""Writing checkpoints of a Delta log: see `batchweave.catalogs.delta_checkpoint` for their layout.

Imports: delta_actions, delta_checkpoint, delta_snapshot, objects, table.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchweave.catalogs.delta_actions import add_body, domain_actions
from batchweave.catalogs.delta_checkpoint import (
    NOTES_KEY,
    Checkpoint,
    Group,
    batches_of,
    read_group_rows,
)
from batchweave.catalogs.delta_snapshot import Snapshot, batches_since, same_files
from batchweave.objects import Objects
from batchweave.table import BatchEntry

ADDS_PER_GROUP = 2048

_TEXTS = pa.map_(pa.string(), pa.string())
SCHEMA = pa.schema(
    [
        (
            "txn",
            pa.struct(
                [
                    ("appId", pa.string()),
                    ("version", pa.int64()),
                    ("lastUpdated", pa.int64()),
                ]
            ),
        ),
        (
            "add",
            pa.struct(
                [
                    ("path", pa.string()),
                    ("partitionValues", _TEXTS),
                    ("size", pa.int64()),
                    ("modificationTime", pa.int64()),
                    ("dataChange", pa.bool_()),
                    ("stats", pa.string()),
                    ("tags", _TEXTS),
                ]
            ),
        ),
        (
            "remove",
            pa.struct(
                [
                    ("path", pa.string()),
                    ("deletionTimestamp", pa.int64()),
                    ("dataChange", pa.bool_()),
                    ("extendedFileMetadata", pa.bool_()),
                    ("partitionValues", _TEXTS),
                    ("size", pa.int64()),
                ]
            ),
        ),
        (
            "metaData",
            pa.struct(
                [
                    ("id", pa.string()),
                    ("name", pa.string()),
                    ("description", pa.string()),
                    (
                        "format",
                        pa.struct([("provider", pa.string()), ("options", _TEXTS)]),
                    ),
                    ("schemaString", pa.string()),
                    ("partitionColumns", pa.list_(pa.string())),
                    ("createdTime", pa.int64()),
                    ("configuration", _TEXTS),
                ]
            ),
        ),
        (
            "protocol",
            pa.struct(
                [
                    ("minReaderVersion", pa.int32()),
                    ("minWriterVersion", pa.int32()),
                    ("readerFeatures", pa.list_(pa.string())),
                    ("writerFeatures", pa.list_(pa.string())),
                ]
            ),
        ),
        (
            "domainMetadata",
            pa.struct(
                [
                    ("domain", pa.string()),
                    ("configuration", pa.string()),
                    ("removed", pa.bool_()),
                ]
            ),
        ),
    ]
)


@dataclass(frozen=True, slots=True)
class Written:
    """The bytes of a new checkpoint, and what the hint says of it."""

    data: pa.Buffer
    actions: int
    files: int


def encode_checkpoint(
    objects: Objects, snapshot: Snapshot, *, tombstones_since_ms: int, created_ms: int
) -> Written:
    """The table as of the snapshot. Memory: the new file, and one row group at a time.

    Removed files are remembered from ``tombstones_since_ms`` on, as vacuum of other engines needs.
    """
    head = _head_rows(snapshot, tombstones_since_ms, created_ms)
    groups: list[Group] = []
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="snappy",
        write_statistics=False,
        write_page_checksum=True,
        use_dictionary=False,
        store_schema=False,
    )
    with writer:
        writer.write_table(pa.Table.from_pylist(head, schema=SCHEMA))
        for rows, first, last in _groups(objects, snapshot):
            groups.append(Group(len(groups) + 1, first, last, rows.num_rows))
            writer.write_table(rows, row_group_size=max(1, rows.num_rows))
        listed = [[one.row_group, one.first, one.last, one.files] for one in groups]
        writer.add_key_value_metadata({NOTES_KEY: json.dumps({"groups": listed})})
    files = sum(one.files for one in groups)
    return Written(sink.getvalue(), len(head) + files, files + len(snapshot.foreign))


def _head_rows(snapshot: Snapshot, since_ms: int, created_ms: int) -> list[dict[str, Any]]:
    assert snapshot.metadata is not None
    old = snapshot.anchor.entry.removed if snapshot.anchor else ()
    removes = {one.path: one.raw for one in (*old, *snapshot.removed)}
    meta = {"createdTime": created_ms, **snapshot.metadata.raw}
    return [
        {"protocol": snapshot.protocol},
        {"metaData": meta},
        *domain_actions(snapshot.properties),
        *({"domainMetadata": body} for body in snapshot.domains.values()),
        *({"txn": body} for body in snapshot.transactions.values()),
        *(
            {"remove": body | {"dataChange": False}}
            for body in map(dict, removes.values())
            if body.get("deletionTimestamp", 0) >= since_ms
        ),
        *({"add": dict(one.raw) | {"dataChange": False}} for one in snapshot.foreign),
    ]


def _groups(objects: Objects, snapshot: Snapshot) -> Iterator[tuple[pa.Table, int, int]]:
    """Rows of the stream's files, and their first and last step; in step order."""
    waiting: list[BatchEntry] = []
    anchor = snapshot.anchor
    gone = {one.path for one in snapshot.removed}
    if isinstance(anchor, Checkpoint):
        waiting = [_kept(batch, gone) for batch in anchor.entry.batches]
        for group in anchor.groups:
            rows = read_group_rows(objects, anchor, group)
            paths = set(pc.struct_field(rows["add"], "path").to_pylist()) if gone else set()
            if not waiting and group.files >= ADDS_PER_GROUP and not gone & paths:
                yield _layout(rows), group.first, group.last
            else:
                waiting += [_kept(batch, gone) for batch in batches_of(rows)]
                yield from _full(waiting)
    waiting += [_kept(batch, gone) for batch in batches_since(snapshot, 0)]
    waiting = newest_of_each(sorted(waiting, key=lambda batch: batch.step))
    yield from _full(waiting)
    if left := [batch for batch in waiting if batch.parts]:
        yield _add_rows(left), left[0].step, left[-1].step


def newest_of_each(batches: Iterable[BatchEntry]) -> list[BatchEntry]:
    """Batches in step order; of one that was named twice, by the same files, the later."""
    found: list[BatchEntry] = []
    for batch in batches:
        if found and same_files(found[-1], batch):
            found[-1] = batch
        else:
            found.append(batch)
    return found


def _kept(batch: BatchEntry, gone: set[str]) -> BatchEntry:
    if not gone:
        return batch
    parts = tuple(part for part in batch.parts if part.path not in gone)
    return replace(batch, parts=parts)


def _full(waiting: list[BatchEntry]) -> Iterator[tuple[pa.Table, int, int]]:
    """Take whole groups off the front; a batch is never split."""
    while True:
        totals = itertools.accumulate(len(batch.parts) for batch in waiting)
        count = next((at for at, files in enumerate(totals, 1) if files >= ADDS_PER_GROUP), 0)
        if not count:
            return
        taken = [batch for batch in waiting[:count] if batch.parts]
        del waiting[:count]
        yield _add_rows(taken), taken[0].step, taken[-1].step


def _add_rows(batches: Sequence[BatchEntry]) -> pa.Table:
    bodies = [add_body(batch, part) for batch in batches for part in batch.parts]
    rows = [{"add": body | {"dataChange": False}} for body in bodies]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _layout(rows: pa.Table) -> pa.Table:
    """Rows of a group that was read, with all columns of a checkpoint."""
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
