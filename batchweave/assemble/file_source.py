"""A source of files: Parquet, Arrow and JSON lines, on this machine or in a store.

A position is the file's number, name and size, a hash of all names and sizes before it, and the
row's number in it. So files may be added behind, and any other change is noticed.
Imports: standard library, numpy, pyarrow, errors, files, file_formats, json_lines, sources.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchweave.assemble.file_formats import (
    ArrowReader,
    BadRow,
    Opener,
    ParquetReader,
    Reader,
    RowsGone,
)
from batchweave.assemble.files import File, find_files, running_digests
from batchweave.assemble.json_lines import JsonLinesReader
from batchweave.assemble.sources import (
    Chunk,
    Condition,
    Fault,
    Position,
    as_schema,
    check_columns,
    drift,
    normal_schema,
)
from batchweave.errors import InvalidInput, ObjectNotFound, SchemaMismatch, SourceCorrupted

FORMATS: dict[str, Opener] = {
    ".parquet": ParquetReader,
    ".arrow": ArrowReader,
    ".feather": ArrowReader,
    ".jsonl": JsonLinesReader,
    ".ndjson": JsonLinesReader,
    ".jsonl.gz": partial(JsonLinesReader, codec="gzip"),
    ".jsonl.zst": partial(JsonLinesReader, codec="zstd"),
}
_UNREADABLE = (pa.ArrowException, OSError, ObjectNotFound, UnicodeDecodeError)


def register_format(suffix: str, opener: Opener) -> None:
    """Let `FileSource` read files whose names end so."""
    FORMATS[suffix] = opener


class FileSource:
    """The rows of files, in the order of the files' names.

    All files have the columns of the first one (or of ``schema``), in any order; what differs is a
    fault of the whole file. Files that come to lie behind the others are read by the next run.

    Args:
        location: a file, a folder with all below it, a pattern (``data/*.parquet``), or several,
            each a path or a URI of any store that streams can lie in.
        columns: only these, in this order.
        where: conditions that rows meet, all of them: ``[("lang", "=", "en")]``. In Parquet, row
            groups without such rows are not read. Rows keep their numbers.
        schema: what columns and types to read, where files do not say (JSON lines).
        properties: the store's, as `load_catalog` takes them (``s3.endpoint``, …).

    Raises:
        InvalidInput: no files, or a column or condition that they do not have.
        SourceCorrupted: the first file cannot be read.
        StoreError: the store refuses or fails.
    """

    def __init__(
        self,
        location: str | Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        where: Sequence[Condition] | None = None,
        schema: pa.Schema | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        locations = [location] if isinstance(location, str) else list(location)
        self._files = find_files(locations, FORMATS, properties or {})
        self._digests = running_digests(self._files)
        self._bytes = np.concatenate(([0], np.cumsum([file.size for file in self._files])))
        self._totals: dict[int, int] = {}
        self._whole = schema
        self._exact = columns is None
        whole = normal_schema(self._first_schema() if schema is None else schema)
        self._whole = whole
        if len(set(whole.names)) < len(whole.names):
            raise SchemaMismatch(f"column names must differ, got {whole.names}")
        what = self._files[0].name
        if columns is not None:
            check_columns(whole, columns, what)
        wanted = whole.names if columns is None else list(columns)
        self._schema = pa.schema([whole.field(name) for name in wanted])
        self._where = [(name, sign, value) for name, sign, value in where or ()]
        check_columns(whole, [name for name, _, _ in self._where], what)
        extra = sorted({name for name, _, _ in self._where} - set(wanted))
        self._read_schema = pa.schema([*self._schema, *(whole.field(name) for name in extra)])
        self._filter = _expression(self._where, self._read_schema)

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"where": [[name, sign, value] for name, sign, value in self._where]}

    @property
    def files(self) -> list[str]:
        """The files' names, in order."""
        return [file.name for file in self._files]

    def unnamed(self, position: Position) -> tuple[str, int] | None:
        """The file and row of a position in a file that is none of these; None if it is in one."""
        name = position.get("name") if isinstance(position, Mapping) else None
        return None if name is None or name in self.files else (name, int(position["row"]))

    def progress(self, position: Position) -> float | None:
        if position is None or not self._bytes[-1]:
            return 0.0
        index = min(int(position["file"]), len(self._files))
        done = float(self._bytes[index])
        if index < len(self._files) and self._totals.get(index):
            share = int(position["row"]) / self._totals[index]
            done += self._files[index].size * min(1.0, share)
        return min(1.0, done / float(self._bytes[-1]))

    def __repr__(self) -> str:
        return f"FileSource({self._files[0].name!r}, …, {len(self._files)} files)"

    # -- reading ---------------------------------------------------------------------------

    def read(self, position: Position = None) -> Iterator[Chunk | Fault]:
        index, first = 0, 0
        if position is not None:
            index, first = int(position["file"]), int(position["row"])
            fault = self._misfit(position)
            if fault is not None:
                yield fault
                index, first = fault.position["file"], fault.position["row"]
        for at in range(index, len(self._files)):
            yield from self._read_file(at, first)
            first = 0

    def _read_file(self, index: int, first: int) -> Iterator[Chunk | Fault]:
        file, behind = self._files[index], self._position(index + 1, 0)
        number, total = first, None
        try:
            with file.open() as data:
                reader = self._open(file, data)
                total = reader.total
                if total is not None:
                    self._totals[index] = total
                found = drift(reader.schema, self._read_schema, exact=self._exact)
                if found is not None:
                    lost = max(0, (total or 0) - first)
                    yield Fault("schema", f"{file.name}: {found}", behind, file.name, first, lost)
                    return
                for one in self._rows(reader, index, first):
                    yield one
                    number = self._next_number(one, number)
        except RowsGone as gone:
            reason = f"{file.name} has {gone.total} rows, the position is row {first}"
            yield Fault("shrunk", reason, behind, file.name, gone.total)
        except _UNREADABLE as error:
            lost = max(0, (total or 0) - number)
            reason = f"{file.name} cannot be read from row {number} on: {_first_line(error)}"
            yield Fault("corrupt", reason, behind, file.name, number, lost)

    def _rows(self, reader: Reader, index: int, first: int) -> Iterator[Chunk | Fault]:
        file, base = self._files[index], self._base(index)
        for rows in reader.read(first, self._read_schema.names, self._filter):
            if isinstance(rows, BadRow):
                reason = f"{file.name} row {rows.number}: {rows.reason}"
                behind = {**base, "row": rows.number + 1}
                yield Fault("row", reason, behind, file.name, rows.number, 1)
                continue
            numbers, batch = rows
            batch = as_schema(batch, self._read_schema)
            if self._filter is not None:
                numbers, batch = _filtered(numbers, batch, self._filter)
            if batch.num_rows:
                rows_wanted = batch.select(self._schema.names)
                yield Chunk(rows_wanted, file.name, numbers, base, file.identity)

    @staticmethod
    def _next_number(one: Chunk | Fault, number: int) -> int:
        return one.row + 1 if isinstance(one, Fault) else int(one.numbers[-1]) + 1

    def _first_schema(self) -> pa.Schema:
        file = self._files[0]
        try:
            with file.open() as data:
                return self._open(file, data).schema
        except _UNREADABLE as error:
            raise SourceCorrupted(f"{file.name} cannot be read: {_first_line(error)}") from error

    def _open(self, file: File, data: pa.NativeFile) -> Reader:
        suffixes = [suffix for suffix in FORMATS if file.name.endswith(suffix)]
        if not suffixes:
            raise InvalidInput(f"{file.name}: files are {', '.join(sorted(FORMATS))}")
        return FORMATS[max(suffixes, key=len)](data, self._whole)

    # -- positions -------------------------------------------------------------------------

    def _base(self, index: int) -> dict[str, Any]:
        if index >= len(self._files):
            return {"file": index, "name": None, "size": 0, "before": self._digests[-1]}
        file = self._files[index]
        name, size = file.name, file.size
        return {"file": index, "name": name, "size": size, "before": self._digests[index]}

    def _position(self, index: int, row: int) -> Position:
        return {**self._base(index), "row": row}

    def _misfit(self, position: Position) -> Fault | None:
        """How the files differ from those that the position was made from, if they do."""
        index, name = int(position["file"]), position["name"]
        same = index <= len(self._files) and self._digests[index] == position["before"]
        if same and (name is None or {**self._base(index), "row": position["row"]} == position):
            return None
        sizes = {file.name: file.size for file in self._files}
        row = int(position["row"])
        if name is not None and sizes.get(name) == position["size"]:
            behind = self._position(self.files.index(name), row)
            reason = f"the files before {name} are not those that were there at its row {row}"
            return Fault("changed", reason, behind, name, row)
        if name in sizes:
            behind = self._position(self.files.index(name) + 1, 0)
            kind = "shrunk" if sizes[name] < position["size"] else "changed"
            reason = f"{name} has {sizes[name]} bytes, had {position['size']} (row {row})"
            return Fault(kind, reason, behind, name, row)
        later = [at for at, file in enumerate(self._files) if name and file.name > name]
        behind = self._position(later[0] if later else len(self._files), 0)
        what = f"{name} (row {row}) is gone" if name else f"of {index} files {len(sizes)} are left"
        return Fault("shrunk", what, behind, name or "", row)


def _filtered(
    numbers: Sequence[int], batch: pa.RecordBatch, condition: pa.compute.Expression
) -> tuple[Sequence[int], pa.RecordBatch]:
    """The rows that meet a condition, and their numbers."""
    names = [f"column {at}" for at in range(batch.num_columns)]
    numbered = pa.Table.from_batches([batch]).append_column(
        pa.field("", pa.int64()), pa.array(numbers, pa.int64())
    )
    kept = numbered.filter(condition).combine_chunks()
    if kept.num_rows == 0:
        return [], batch.slice(0, 0)
    (found,) = kept.to_batches()
    left = found.column(len(names)).to_pylist()
    return left, pa.RecordBatch.from_arrays(found.columns[:-1], schema=batch.schema)


def _expression(where: Sequence[Condition], schema: pa.Schema) -> pa.compute.Expression | None:
    """The conditions as Arrow has them, tried on the schema; JSON-able, because positions say."""
    if not where:
        return None
    try:
        json.dumps([list(one) for one in where], allow_nan=False)
        expression = pq.filters_to_expression(list(where))
        schema.empty_table().filter(expression)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidInput(f"the condition {where!r} does not suit: {error}") from None
    return expression


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
