"""The protocol that a table format implements: a versioned register that also lists its batches.

`Table.commit` is one compare-and-swap on the version and has three outcomes, as values.
Nothing here knows Iceberg or Delta. Imports: standard library, pyarrow, errors, mesh, objects,
state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from batchweave.errors import StreamCorrupted
from batchweave.mesh import Mesh
from batchweave.objects import Objects
from batchweave.state import StreamState

SLICE = "slice"
SOURCE = "source"
COMMIT_COLUMNS: Mapping[str, pa.DataType] = {
    "step": pa.int64(),
    "producer": pa.string(),
    "sequence": pa.int64(),
    "committed_at": pa.timestamp("us", tz="UTC"),
    "digest": pa.string(),
}
"""Columns that are known only at commit: identity-partition columns, absent from the files."""

FILE_COLUMNS: Mapping[str, pa.DataType] = {SLICE: pa.int32(), SOURCE: pa.string()}
RESERVED_COLUMNS = (*FILE_COLUMNS, *COMMIT_COLUMNS)


@dataclass(frozen=True, slots=True)
class Part:
    """One immutable Parquet file of a global batch: a run of slices, one row group each.

    ``offsets`` are the byte offsets of the row groups, ``data_end`` is where the footer begins,
    ``column_bytes`` the compressed bytes of each leaf column, in file order. ``source`` is where
    the slices came from, if that is one short text for all of them; else only the file says.
    """

    path: str
    digest: str
    first_slice: int
    slices: int
    rows: int
    bytes: int
    offsets: tuple[int, ...]
    data_end: int
    column_bytes: tuple[int, ...] = ()
    source: str | None = None


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """One committed global batch, as the table's metadata tells it.

    ``version`` is the table version that published it; 0 where that is not known (yet).
    """

    step: int
    producer: str
    sequence: int
    committed_at_ms: int
    parts: tuple[Part, ...]
    version: int = field(default=0, compare=False)

    @property
    def rows(self) -> int:
        """Rows of all slices together."""
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes of all files together."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest version of a table that was read, with its state.

    ``detail`` is the format's own and opaque to everybody else.
    """

    version: int
    state: StreamState
    detail: Any = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit does, all of it or nothing: a new state and batches to append."""

    state: StreamState
    added: tuple[BatchEntry, ...] = ()
    summary: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Committed:
    """The commit is in the table; ``head`` is what was written."""

    head: Head


@dataclass(frozen=True, slots=True)
class Lost:
    """Another commit took the version, or the store says so: read the head to know."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The store did not say. Read the head until it does; delete nothing."""

    cause: Exception


Outcome: TypeAlias = Committed | Lost | Unknown


class Table(Protocol):
    """A stream's table in some format, on some catalog. Safe to use from many threads."""

    @property
    def name(self) -> str:
        """``namespace.name``."""
        ...

    @property
    def id(self) -> str:
        """The table's own identity, which a namesake made after a drop does not share."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """The schema that the stream's creator declared."""
        ...

    @property
    def mesh(self) -> Mesh:
        """The axes that slices are laid over; never changes."""
        ...

    @property
    def file_schema(self) -> pa.Schema:
        """The physical schema of the Parquet files, with the format's field IDs."""
        ...

    @property
    def objects(self) -> Objects:
        """The store, rooted at the table's folder. Parts' paths are relative to it."""
        ...

    def head(self, known: Head | None = None) -> Head:
        """Read the newest version. ``known`` makes it cheap where nothing has changed."""
        ...

    def commit(self, base: Head, change: Change) -> Outcome:
        """Try to make ``change`` the version after ``base``: one compare-and-swap, no retry."""
        ...

    def entries(self, head: Head, start: int, stop: int) -> Iterator[BatchEntry]:
        """Batches of steps ``start`` to ``stop`` (exclusive) in step order.

        Reads only metadata that can hold those steps.

        Raises:
            StreamCorrupted: a step of the range is missing, or is there twice.
        """
        ...

    def tidy(self, head: Head) -> None:
        """Upkeep of the metadata after a commit of the caller's own; off the critical path.

        Never raises for the store's sake: what could not be done is left to the next.
        """
        ...


def newer_head(table: Table, head: Head) -> Head:
    """The newest head, for who met `ObjectNotFound` or `FileNotFoundError` in ``head``'s metadata.

    Old metadata is cleaned up, also while a slow process reads it.

    Raises:
        StreamCorrupted: there is no newer version, so nothing of this one may be missing.
    """
    newest = table.head()
    if newest.version == head.version:
        raise StreamCorrupted(
            f"metadata of {table.name} at version {head.version} names a file that is not there"
        )
    return newest
