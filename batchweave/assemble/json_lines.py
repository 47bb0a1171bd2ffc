"""JSON lines: one object a line, numbered from 0; plain, ``.gz`` or ``.zst``.

Types are those of a given schema, or what the first lines show. Blank lines are passed over; a line
that does not fit is one bad row, and the ones behind it are read.
Imports: standard library, pyarrow, file_formats.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.json as paj

from batchweave.assemble.file_formats import ROWS_MAX, BadRow, Rows, RowsGone

READ_BYTES = 4 * 1024 * 1024
SHOWN_LINES = 1000
"""Lines that types are taken from where no schema says them."""
LINE_BYTES_MAX = 256 * 1024 * 1024

Lines = list[tuple[int, bytes]]


class JsonLinesReader:
    """One file of JSON lines. ``codec`` is what it is compressed with."""

    def __init__(
        self, data: pa.NativeFile, wanted: pa.Schema | None = None, *, codec: str | None = None
    ) -> None:
        self._data = data
        self._codec = codec
        self.schema: pa.Schema = wanted if wanted is not None else self._shown()

    @property
    def total(self) -> int | None:
        return None

    def read(
        self, first: int, columns: Sequence[str], where: pa.compute.Expression | None
    ) -> Iterator[Rows]:
        lines = self._lines()
        numbered = enumerate(lines)
        skipped = sum(1 for _ in itertools.islice(numbered, first))
        if skipped < first:
            raise RowsGone(skipped)
        while run := list(itertools.islice(numbered, ROWS_MAX)):
            full = [(number, line) for number, line in run if line.strip()]
            if full:
                yield from self._parsed(full, columns)

    def _parsed(self, lines: Lines, columns: Sequence[str]) -> Iterator[Rows]:
        """The lines' rows; halved where some do not parse, until the bad ones are alone."""
        numbers = [number for number, _ in lines]
        schema = pa.schema([self.schema.field(name) for name in columns])
        # Where not all columns are wanted, others than those that were seen may come, too.
        others = "ignore" if len(columns) < len(self.schema) else "error"
        try:
            table = _parse([line for _, line in lines], schema, others)
            if table.num_rows != len(lines):
                raise pa.ArrowInvalid(f"{table.num_rows} values on {len(lines)} lines")
        except (pa.ArrowException, UnicodeDecodeError) as error:
            if len(lines) == 1:
                yield BadRow(numbers[0], _first_line(error))
                return
            middle = len(lines) // 2
            yield from self._parsed(lines[:middle], columns)
            yield from self._parsed(lines[middle:], columns)
            return
        (batch,) = table.combine_chunks().to_batches()
        yield numbers, batch

    def _shown(self) -> pa.Schema:
        lines = [line for line in itertools.islice(self._lines(), SHOWN_LINES) if line.strip()]
        if not lines:
            return pa.schema([])
        schema = _parse(lines, None).schema
        unknown = [one.name for one in schema if pa.types.is_null(one.type)]
        if unknown:
            raise pa.ArrowInvalid(
                f"no type can be seen for {unknown[0]!r} in the first lines: give a schema"
            )
        return schema

    def _lines(self) -> Iterator[bytes]:
        self._data.seek(0)
        data = self._data
        if self._codec is not None:
            data = pa.CompressedInputStream(data, self._codec)
        rest = b""
        while block := data.read(READ_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                raise pa.ArrowInvalid(f"a line is longer than {LINE_BYTES_MAX} bytes")
            yield from lines
        if rest:
            yield rest


def _parse(lines: Sequence[bytes], schema: pa.Schema | None, others: str = "infer") -> pa.Table:
    text = b"\n".join(lines) + b"\n"
    how = paj.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others)
    options = paj.ReadOptions(use_threads=False, block_size=len(text) + 1)
    return paj.read_json(pa.BufferReader(text), read_options=options, parse_options=how)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
