"""Formats of files that hold rows: Parquet, Arrow (file and stream), JSON lines.

A format opens a file's bytes as a `Reader`: its schema, and its rows from any row on. New formats
register by the suffix of their files' names. Imports: standard library, pyarrow, sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

ROWS_MAX = 8192
"""Rows that are decoded at a time."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read, where those behind it can."""

    number: int
    reason: str


class RowsGone(Exception):
    """The file has fewer rows than the position says."""

    def __init__(self, total: int) -> None:
        super().__init__(f"{total} rows")
        self.total = total


Rows: TypeAlias = "tuple[Sequence[int], pa.RecordBatch] | BadRow"


class Reader(Protocol):
    """One open file."""

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        ...

    @property
    def total(self) -> int | None:
        """How many rows it has; None if only reading to the end would tell."""
        ...

    def read(
        self, first: int, columns: Sequence[str], where: pa.compute.Expression | None
    ) -> Iterator[Rows]:
        """Rows from number ``first`` on with their numbers, at most `ROWS_MAX` at a time.

        ``where`` is a hint: rows that it excludes may be left out. Raises `RowsGone`, Arrow's
        errors, and `StoreError`.
        """
        ...


Opener: TypeAlias = Callable[[pa.NativeFile, "pa.Schema | None"], Reader]
"""Makes a reader of a file's bytes. The schema, if one is given, is what its rows should have:
a format without one of its own reads them so."""


class ParquetReader:
    """A Parquet file. Row groups whose statistics exclude all their rows are not read."""

    def __init__(self, data: pa.NativeFile, wanted: pa.Schema | None = None) -> None:
        self._data = data
        self._file = pq.ParquetFile(data, pre_buffer=True)

    @property
    def schema(self) -> pa.Schema:
        return self._file.schema_arrow

    @property
    def total(self) -> int | None:
        return int(self._file.metadata.num_rows)

    def read(
        self, first: int, columns: Sequence[str], where: pa.compute.Expression | None
    ) -> Iterator[Rows]:
        metadata = self._file.metadata
        if first > metadata.num_rows:
            raise RowsGone(metadata.num_rows)
        wanted = self._groups(where)
        begin = 0
        for group in range(metadata.num_row_groups):
            end = begin + metadata.row_group(group).num_rows
            if end > first and group in wanted:
                yield from self._group(group, begin, first, columns)
            begin = end

    def _group(self, group: int, begin: int, first: int, columns: Sequence[str]) -> Iterator[Rows]:
        for batch in self._file.iter_batches(
            batch_size=ROWS_MAX, row_groups=[group], columns=list(columns)
        ):
            yield from _from(begin, batch, first)
            begin += batch.num_rows

    def _groups(self, where: pa.compute.Expression | None) -> set[int]:
        if where is None:
            return set(range(self._file.metadata.num_row_groups))
        self._data.seek(0)
        fragment = pads.ParquetFileFormat().make_fragment(self._data)
        schema = self._file.schema_arrow
        return {group.id for group in fragment.subset(filter=where, schema=schema).row_groups}


class ArrowReader:
    """An Arrow IPC file (Feather) or stream; both are found in files named ``.arrow``."""

    def __init__(self, data: pa.NativeFile, wanted: pa.Schema | None = None) -> None:
        self._data = data
        self._is_file = data.read(6) == b"ARROW1"
        data.seek(0)
        self._open = pa.ipc.open_file if self._is_file else pa.ipc.open_stream
        self.schema: pa.Schema = self._open(data).schema
        data.seek(0)

    @property
    def total(self) -> int | None:
        return None

    def read(
        self, first: int, columns: Sequence[str], where: pa.compute.Expression | None
    ) -> Iterator[Rows]:
        fields = [self.schema.get_field_index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        self._data.seek(0)
        reader = self._open(self._data, options=options)
        begin = 0
        for batch in self._batches(reader):
            for at in range(0, batch.num_rows, ROWS_MAX):
                yield from _from(begin + at, batch.slice(at, ROWS_MAX), first)
            begin += batch.num_rows
        if first > begin:
            raise RowsGone(begin)

    def _batches(self, reader: Any) -> Iterator[pa.RecordBatch]:
        if self._is_file:
            for at in range(reader.num_record_batches):
                yield reader.get_batch(at)
        else:
            yield from reader


def _from(begin: int, batch: pa.RecordBatch, first: int) -> Iterator[Rows]:
    """The part of a batch that lies behind ``first``, if there is any."""
    skip = max(0, first - begin)
    if skip < batch.num_rows:
        yield range(begin + skip, begin + batch.num_rows), batch.slice(skip)
