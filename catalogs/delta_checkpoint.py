"""Checkpoints of a Delta log: one Parquet file that holds the table as of one version.

Source: Delta protocol, "Checkpoints", V1, single file: every engine can read it. Ours are laid out
so that a range of steps costs a few range requests: the first row group has everything but the
stream's files, the others hold those in step order, and the file's own notes (`NOTES_KEY`) say
which steps are in which. Whole row groups go from one checkpoint to the next as they are.
Checkpoints of other programs are read too, whole.
Imports: delta_actions, delta_snapshot, errors, objects, parquet, table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchweave.catalogs.delta_actions import (
    Entry,
    collect,
    parse_add,
)
from batchweave.catalogs.delta_actions import group as grouped
from batchweave.errors import ObjectNotFound, StreamCorrupted
from batchweave.objects import Objects
from batchweave.parquet import FOOTER_TAIL_BYTES, Fetched
from batchweave.table import BatchEntry

LOG = "_delta_log"
NOTES_KEY = "batchweave.checkpoint"
TAIL_BYTES = 1 << 16
"""What is read at a file's end at first: the footer, and all of a small checkpoint."""


@dataclass(frozen=True, slots=True)
class Group:
    """A row group of a stream's files: steps ``first`` to ``last``, ``files`` of them."""

    row_group: int
    first: int
    last: int
    files: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint. ``own`` tells that its files lie in groups by step."""

    version: int
    e_tag: str
    size: int
    own: bool
    entry: Entry = field(repr=False)
    groups: tuple[Group, ...] = field(repr=False)
    files: int
    metadata: Any = field(repr=False, compare=False)

    @property
    def table_id(self) -> str:
        """The table that it is of: a namesake's may have been left behind."""
        return self.entry.metadata.id if self.entry.metadata else ""

    @property
    def path(self) -> str:
        """Where it lies below the table's folder."""
        return checkpoint_path(self.version)


def checkpoint_path(version: int) -> str:
    """Where the checkpoint of a version lies."""
    return f"{LOG}/{version:020d}.checkpoint.parquet"


# -- reading -----------------------------------------------------------------------------------


def open_checkpoint(objects: Objects, version: int, size: int, e_tag: str) -> Checkpoint:
    """Read a checkpoint's footer, and what it holds besides the stream's files.

    Raises:
        ObjectNotFound: it was cleaned up.
        StreamCorrupted: it is damaged.
    """
    path = checkpoint_path(version)
    start = max(0, size - TAIL_BYTES)
    tail = bytes(objects.get_range(path, start, size - start))
    footer = int.from_bytes(tail[-FOOTER_TAIL_BYTES:-4], "little") + FOOTER_TAIL_BYTES
    if footer > len(tail):
        start = max(0, size - footer)
        tail = bytes(objects.get_range(path, start, size - start))
    try:
        metadata = pq.read_metadata(pa.PythonFile(Fetched(size, {start: tail}), mode="r"))
        notes = json.loads((metadata.metadata or {}).get(NOTES_KEY.encode(), b"null"))
        own = notes is not None
        groups = tuple(Group(*one) for one in notes["groups"]) if own else ()
        read = [0] if own else range(metadata.num_row_groups)
        rows = [
            row
            for number in read
            for row in _rows(objects, path, size, metadata, number, None, {start: tail}).to_pylist()
        ]
        entry = collect(version, "", [_without_nulls(row) for row in rows])
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, ObjectNotFound):
            raise
        raise _damaged(objects, path, e_tag, error) from error
    files = sum(group.files for group in groups)
    if not own:
        files = sum(len(batch.parts) for batch in entry.batches)
    return Checkpoint(version, e_tag, size, own, entry, groups, files, metadata)


def read_group(objects: Objects, checkpoint: Checkpoint, group: Group) -> tuple[BatchEntry, ...]:
    """The batches of one group, in step order: one range request.

    Raises:
        ObjectNotFound: the checkpoint was cleaned up, or written anew, meanwhile.
        StreamCorrupted: it is damaged.
    """
    return batches_of(read_group_rows(objects, checkpoint, group))


def read_group_rows(objects: Objects, checkpoint: Checkpoint, group: Group) -> pa.Table:
    """The same, as rows that a newer checkpoint can take over."""
    try:
        return _rows(
            objects,
            checkpoint.path,
            checkpoint.size,
            checkpoint.metadata,
            group.row_group,
            ["add"],
            {},
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(objects, checkpoint.path, checkpoint.e_tag, error) from error


def _rows(
    objects: Objects,
    path: str,
    size: int,
    metadata: Any,
    number: int,
    columns: list[str] | None,
    fetched: Mapping[int, bytes],
) -> pa.Table:
    group = metadata.row_group(number)
    starts, ends = [], []
    for at in range(group.num_columns):
        column = group.column(at)
        first = column.dictionary_page_offset or column.data_page_offset
        starts.append(first)
        ends.append(first + column.total_compressed_size)
    start, end = min(starts), max(ends)
    if not any(at <= start and end <= at + len(data) for at, data in fetched.items()):
        fetched = {start: objects.get_range(path, start, end - start)}
    file = pa.PythonFile(Fetched(size, fetched), mode="r")
    return pq.ParquetFile(
        file, metadata=metadata, pre_buffer=False, page_checksum_verification=True
    ).read_row_group(number, columns=columns, use_threads=False)


def batches_of(rows: pa.Table) -> tuple[BatchEntry, ...]:
    """The batches that a group's rows name, in step order."""
    bodies = rows.column("add").to_pylist()
    parsed = (parse_add(body) for body in bodies if body is not None)
    return grouped(one for one in parsed if one is not None)


def _without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """One action out of a row of columns, as an entry of the log would have it."""
    return {kind: _plain(body) for kind, body in row.items() if body is not None}


def _plain(value: Any) -> Any:
    """A value without nulls; a map is read as a list of pairs."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, list) and value and all(isinstance(one, tuple) for one in value):
        return dict(value)
    return value


def _damaged(objects: Objects, path: str, e_tag: str, error: Exception) -> Exception:
    """Another program may have written the same checkpoint anew while it was read."""
    if objects.head(path).e_tag != e_tag:
        return ObjectNotFound(f"{path!r} was written anew while it was read")
    return StreamCorrupted(f"the checkpoint {path!r} cannot be read: {error}")
