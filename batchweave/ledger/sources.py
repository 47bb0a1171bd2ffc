"""Where a committed batch came from: what its producer said of each slice, out of its files."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchweave.errors import StoreError, StreamCorrupted
from batchweave.parquet import NOTES_KEY, Fetched
from batchweave.table import SOURCE, BatchEntry, Part, Table


def batch_sources(table: Table, entry: BatchEntry) -> tuple[str | None, ...]:
    """What the producer said of each slice's origin; a single item where all slices share it.

    Raises:
        ObjectNotFound: the batch's files are gone.
        StreamCorrupted: a file is not what the table describes.
    """
    found = [source for part in entry.parts for source in _part_sources(table, part)]
    return tuple(found[:1]) if len(set(found)) == 1 else tuple(found)


def _part_sources(table: Table, part: Part) -> list[str | None]:
    """The sources of a part's slices: out of the footer, or of the column where they differ."""
    tail = (part.data_end, part.bytes - part.data_end)
    footer = table.objects.get_ranges(part.path, [tail])[0]
    try:
        metadata = pq.ParquetFile(_file(part, {part.data_end: footer})).metadata
        notes = json.loads((metadata.metadata or {}).get(NOTES_KEY.encode(), b"{}"))
        if "source" in notes:
            return [notes["source"]] * part.slices
        ranges = [_column_range(metadata.row_group(at)) for at in range(part.slices)]
        data = table.objects.get_ranges(part.path, ranges)
        fetched = {start: chunk for (start, _), chunk in zip(ranges, data, strict=True)}
        file = pq.ParquetFile(_file(part, {**fetched, part.data_end: footer}), pre_buffer=False)
        groups = range(part.slices)
        return [file.read_row_group(at, columns=[SOURCE]).column(0)[0].as_py() for at in groups]
    except StoreError:
        raise
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        raise StreamCorrupted(f"{part.path} cannot be read: {error}") from error


def _column_range(group: Any) -> tuple[int, int]:
    """Where a row group's source column lies: its last column."""
    column = group.column(group.num_columns - 1)
    start = column.dictionary_page_offset or column.data_page_offset
    return start, column.total_compressed_size


def _file(part: Part, ranges: dict[int, Any]) -> pa.PythonFile:
    return pa.PythonFile(Fetched(part.bytes, ranges), mode="r")
