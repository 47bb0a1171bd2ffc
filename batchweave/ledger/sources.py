"""Where a committed batch came from, out of its files: what its producer said, and its documents.

Only the chunks of the columns concerned are read, and each file's footer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchweave.errors import StoreError, StreamCorrupted
from batchweave.parquet import NOTES_KEY, Fetched
from batchweave.table import SOURCE, BatchEntry, Part, Table


@dataclass(frozen=True, slots=True)
class Origins:
    """Where a batch came from.

    ``sources`` is what its producer said of each slice; a single item where all slices share it.
    ``lineage`` has one JSON object a slice, see `lineage_text`; None where no column is declared.
    """

    sources: tuple[str | None, ...]
    lineage: tuple[str, ...] | None = None


def batch_origins(table: Table, entry: BatchEntry, columns: Sequence[str] = ()) -> Origins:
    """Read where a batch came from; ``columns`` are the stream's lineage columns.

    Raises:
        ObjectNotFound: the batch's files are gone.
        StreamCorrupted: a file is not what the table describes.
    """
    sources: list[str | None] = []
    lineage: list[str] = []
    for part in entry.parts:
        said, held = _part_origins(table, part, columns)
        sources += said
        lineage += held
    return Origins(
        tuple(sources[:1]) if len(set(sources)) == 1 else tuple(sources),
        tuple(lineage) if columns else None,
    )


def lineage_text(slice_rows: pa.Table, columns: Sequence[str]) -> str:
    """The distinct values of a slice's lineage columns, in order of first appearance.

    A compact JSON object: ``{"doc_id":["a","b"],"shard":[7]}``. Of lists the items count; a null
    value is ``null``.
    """
    found = {name: _distinct(slice_rows.column(name)) for name in columns}
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False)


def _distinct(values: pa.ChunkedArray) -> list[str | int | None]:
    while pa.types.is_list(values.type):
        values = pc.list_flatten(values)
    distinct = pc.unique(values).to_pylist()
    if pa.types.is_decimal(values.type):  # how storage holds 64 bits without a sign
        return [None if value is None else int(value) for value in distinct]
    return list(distinct)


def _part_origins(
    table: Table, part: Part, columns: Sequence[str]
) -> tuple[list[str | None], list[str]]:
    """Sources and lineage of a part's slices. The footer has a source that all of them share."""
    tail = (part.data_end, part.bytes - part.data_end)
    footer = table.objects.get_ranges(part.path, [tail])[0]
    try:
        metadata = pq.ParquetFile(_file(part, {part.data_end: footer})).metadata
        notes = json.loads((metadata.metadata or {}).get(NOTES_KEY.encode(), b"{}"))
        wanted = list(columns) if "source" in notes else [*columns, SOURCE]
        sources = [notes.get("source")] * part.slices
        if not wanted:
            return sources, []
        ranges = list(_chunks(metadata, part.slices, frozenset(wanted)))
        data = table.objects.get_ranges(part.path, ranges)
        fetched = {start: chunk for (start, _), chunk in zip(ranges, data, strict=True)}
        file = pq.ParquetFile(
            _file(part, {**fetched, part.data_end: footer}),
            pre_buffer=False,
            page_checksum_verification=True,  # what is recorded now, nobody can check later
        )
        lineage: list[str] = []
        for at in range(part.slices):
            rows = file.read_row_group(at, columns=wanted)
            if SOURCE in wanted:
                sources[at] = rows.column(SOURCE)[0].as_py()
            if columns:
                lineage.append(lineage_text(rows, columns))
        return sources, lineage
    except StoreError:
        raise
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        raise StreamCorrupted(f"{part.path} cannot be read: {error}") from error


def _chunks(metadata: Any, groups: int, columns: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Where the columns lie in each row group. A list's items are below the list's name."""
    first = metadata.row_group(0)
    leaves = [
        at
        for at in range(first.num_columns)
        if first.column(at).path_in_schema.partition(".")[0] in columns
    ]
    for number in range(groups):
        group = metadata.row_group(number)
        for at in leaves:
            column = group.column(at)
            start = column.dictionary_page_offset or column.data_page_offset
            yield start, column.total_compressed_size


def _file(part: Part, ranges: dict[int, Any]) -> pa.PythonFile:
    return pa.PythonFile(Fetched(part.bytes, ranges), mode="r")
