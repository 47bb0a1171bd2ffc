"""Parts as readers need them, out of what a Delta table says, and of the files where it is silent.

Imports: errors, objects, parquet, table.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from batchweave.errors import StreamCorrupted
from batchweave.objects import Objects
from batchweave.parquet import FOOTER_TAIL_BYTES, NOTES_KEY, Fetched
from batchweave.table import BatchEntry, Part

TAIL_BYTES = 1 << 16


def check_batch(batch: BatchEntry, slices: int, table: str) -> BatchEntry:
    """The batch, if its parts hold each slice once.

    Raises:
        StreamCorrupted: a slice is missing, or is there twice.
    """
    slice_at = 0
    for part in batch.parts:
        if part.first_slice != slice_at:
            raise StreamCorrupted(f"step {batch.step} of {table} lacks slice {slice_at}")
        slice_at += part.slices
    if slice_at != slices:
        what = f"lacks slice {slice_at}" if slice_at < slices else "has too many"
        raise StreamCorrupted(f"step {batch.step} of {table} {what}: the mesh has {slices} slices")
    return batch


def whole(objects: Objects, batch: BatchEntry) -> BatchEntry:
    """The batch, with what another program's checkpoint dropped read from the files' footers."""
    if all(part.offsets for part in batch.parts):
        return batch
    parts = [part if part.offsets else recovered(objects, part) for part in batch.parts]
    return replace(batch, parts=tuple(sorted(parts, key=lambda part: part.first_slice)))


def recovered(objects: Objects, part: Part) -> Part:
    """A part as its own footer tells it: one request for most files.

    Raises:
        StreamCorrupted: the file is not one that BatchWeave wrote.
        ObjectNotFound: it is gone.
    """
    size = part.bytes
    start = max(0, size - TAIL_BYTES)
    tail = bytes(objects.get_range(part.path, start, size - start))
    footer = int.from_bytes(tail[-FOOTER_TAIL_BYTES:-4], "little") + FOOTER_TAIL_BYTES
    if footer > len(tail):
        start = max(0, size - footer)
        tail = bytes(objects.get_range(part.path, start, size - start))
    try:
        metadata = pq.read_metadata(pa.PythonFile(Fetched(size, {start: tail}), mode="r"))
        notes = json.loads((metadata.metadata or {})[NOTES_KEY.encode()])
        first_slice = int(notes["first_slice"])
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise StreamCorrupted(f"{part.path} was not written by BatchWeave: {error}") from error
    offsets, column_bytes = _places(metadata)
    return replace(
        part,
        first_slice=first_slice,
        slices=metadata.num_row_groups,
        rows=metadata.num_rows,
        offsets=offsets,
        data_end=size - footer,
        column_bytes=column_bytes,
    )


def _places(metadata: pq.FileMetaData) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the row groups begin, and the compressed bytes of each leaf column."""
    offsets: list[int] = []
    column_bytes = [0] * metadata.num_columns
    for number in range(metadata.num_row_groups):
        columns = [metadata.row_group(number).column(at) for at in range(metadata.num_columns)]
        offsets.append(min(one.dictionary_page_offset or one.data_page_offset for one in columns))
        for at, one in enumerate(columns):
            column_bytes[at] += one.total_compressed_size
    return tuple(offsets), tuple(column_bytes)
