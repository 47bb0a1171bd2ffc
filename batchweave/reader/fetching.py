"""A share of one batch: its byte ranges, or its local file, decoded and put together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from batchweave.batch import Batch
from batchweave.columns import ArrayType
from batchweave.errors import ObjectNotFound, StoreDenied, StoreUnavailable, StreamCorrupted
from batchweave.mesh import Share
from batchweave.parquet import SliceData, decode, spans
from batchweave.reader.checks import check_watermark
from batchweave.settings import ReaderSettings
from batchweave.table import BatchEntry, Part, Table

WHOLE_FILE_SPANS = 3


def fetch_threads(table: Table, settings: ReaderSettings) -> int:
    """Threads that fetch: local files only keep processors busy, so no more than there are."""
    local = table.objects.local_file("") is not None
    return min(settings.fetch_threads, os.cpu_count() or 1) if local else settings.fetch_threads


def fetch_batch(
    table: Table, entry: BatchEntry, share: Share, columns: Sequence[str] | None
) -> Batch:
    """Fetch, decode and put together a share of one batch.

    Raises:
        StepReclaimed: its files are gone, by policy.
        StreamCorrupted: they are gone although the table names them, or are not what it describes.
    """
    try:
        slices = fetch_slices(table, entry, share.slices, columns)
    except ObjectNotFound as error:
        check_watermark(table.head(), entry.step, table.name)
        raise StreamCorrupted(
            f"step {entry.step} of {table.name}: a file that the table names is gone: {error}"
        ) from error
    return to_batch(entry, share, slices)


def fetch_bytes(entry: BatchEntry, share: Share) -> int:
    """Bytes to fetch for a share of a batch."""
    return sum(
        length
        for part, wanted in wanted_parts(entry, share.slices)
        for _, length in spans(part, wanted)
    )


def fetch_slices(
    table: Table, entry: BatchEntry, slices: Sequence[int], columns: Sequence[str] | None = None
) -> list[SliceData]:
    """Fetch and decode slices of one batch: one round trip a part, for the data and the footer."""
    found: list[SliceData] = []
    for part, wanted in wanted_parts(entry, slices):
        found += decode(part, wanted, _source(table, part, wanted), table.schema, columns)
    return found


def _source(table: Table, part: Part, wanted: list[int]) -> Any:
    """What to decode from: the file itself where it is local, else its ranges, fetched at once."""
    local = table.objects.local_file(part.path)
    if local is not None:
        return _opened(local, part.path)
    needed = _requests(part, wanted)
    fetched = table.objects.get_ranges(part.path, needed)
    return {start: data for (start, _), data in zip(needed, fetched, strict=True)}


def _opened(local: str, path: str) -> Any:
    """The open file; what the system says against it is told in the store's errors."""
    try:
        return pa.OSFile(local)
    except FileNotFoundError:
        raise ObjectNotFound(f"no object at {path!r}") from None
    except (PermissionError, NotADirectoryError) as error:
        raise StoreDenied(f"the store refused {path!r}: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"the store failed on {path!r}: {error}") from error


def wanted_parts(entry: BatchEntry, slices: Sequence[int]) -> Iterator[tuple[Part, list[int]]]:
    """The parts that hold these slices, with the slices that each holds."""
    for part in entry.parts:
        wanted = [at for at in slices if part.first_slice <= at < part.first_slice + part.slices]
        if wanted:
            yield part, wanted


def _requests(part: Part, wanted: list[int]) -> list[tuple[int, int]]:
    """The ranges to fetch: those that are needed, or one over all if they are many or adjoin."""
    needed = spans(part, wanted)
    if len(needed) < WHOLE_FILE_SPANS:
        return needed
    start = needed[0][0]
    return [(start, part.bytes - start)]


def to_batch(entry: BatchEntry, share: Share, slices: Sequence[SliceData]) -> Batch:
    """Put decoded slices together as one rank's batch."""
    tables = [one.table for one in slices]
    kept = [range(table.num_rows) for table in tables]
    if share.parts > 1:
        kept = [share.rows(tables[0].num_rows)]
        tables = [tables[0].slice(kept[0].start, len(kept[0]))]
    return Batch(
        step=entry.step,
        table=tables[0] if len(tables) == 1 else pa.concat_tables(tables),
        slices=share.slices,
        producer=entry.producer,
        sequence=entry.sequence,
        committed_at_ms=entry.committed_at_ms,
        sources=tuple(one.source for one in slices),
        arrays=_common_arrays(slices),
        rows=tuple(kept),
    )


def _common_arrays(slices: Sequence[SliceData]) -> dict[str, ArrayType]:
    """Array types that all slices agree on: only those can be put together as one array."""
    first = slices[0].arrays
    return {
        name: kind
        for name, kind in first.items()
        if all(one.arrays.get(name) == kind for one in slices)
    }
