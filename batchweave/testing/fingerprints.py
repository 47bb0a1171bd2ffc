"""Fingerprints: whether two programs read the same rows out of a stream, whatever their types.

Our reader's rows and another engine's are brought to the same Python values: engines widen
integers, rename string types and tell times in zones of their own, and all of that is the same row.
Row order does not count, as no engine promises one. Imports: standard library, pyarrow, columns,
parquet, reader, stream.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchweave.columns import to_storage
from batchweave.stream import Stream
from batchweave.table import COMMIT_COLUMNS, RESERVED_COLUMNS, SLICE, SOURCE, BatchEntry, Part

_MODULUS = 2**256
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a program read of a stream: row count, steps, slices, and a checksum of all values.

    Equal fingerprints mean the same rows, in any order, each as often.
    """

    rows: int
    steps: tuple[int, ...]
    slices: tuple[int, ...]
    checksum: str


def fingerprint(stream: Stream) -> Fingerprint:
    """The fingerprint of a stream as `Stream.read` gives its rows, ``digest`` and times included.

    Compare it with `fingerprint_of_rows` of what another engine reads of the same version.
    """
    state = stream.head()
    entries = {entry.step: entry for entry in stream.batches(stop=state.next_step)}
    rows = (
        row
        for index in range(stream.mesh.slices)
        for batch in stream.read(slice=index, start=state.watermark, stop=state.next_step)
        for row in _rows_of_slice(
            to_storage(batch.table, stream.schema),
            {SLICE: index, SOURCE: batch.sources[0], **_commit_values(entries[batch.step], index)},
        )
    )
    return _fingerprint(rows, stream.schema.names)


def fingerprint_of_rows(rows: pa.Table, stream: Stream) -> Fingerprint:
    """The fingerprint of rows that another engine read from the stream's table.

    ``rows`` has the stream's columns and the reserved ones, in any order; more columns are ignored,
    as an engine may have added them.

    Raises:
        AssertionError: a column is missing.
    """
    missing = {*stream.schema.names, *RESERVED_COLUMNS} - set(rows.column_names)
    if missing:
        raise AssertionError(
            f"{stream.name} was read without the columns {', '.join(sorted(missing))}"
        )
    names = [*stream.schema.names, *RESERVED_COLUMNS]
    kept = rows.select(names)
    return _fingerprint(iter(kept.to_pylist()), stream.schema.names)


def _commit_values(entry: BatchEntry, index: int) -> Mapping[str, Any]:
    part = next(part for part in entry.parts if _holds(part, index))
    values = (
        entry.step,
        entry.producer,
        entry.sequence,
        _EPOCH + datetime.timedelta(milliseconds=entry.committed_at_ms),
        part.digest,
    )
    return dict(zip(COMMIT_COLUMNS, values, strict=True))


def _holds(part: Part, index: int) -> bool:
    return part.first_slice <= index < part.first_slice + part.slices


def _rows_of_slice(table: pa.Table, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in table.to_pylist():
        yield {**row, **given}


def _fingerprint(rows: Iterator[dict[str, Any]], names: list[str]) -> Fingerprint:
    total, count = 0, 0
    steps: set[int] = set()
    slices: set[int] = set()
    for row in rows:
        values = [_plain(row[name]) for name in (*names, *RESERVED_COLUMNS)]
        digest = hashlib.sha256(repr(values).encode()).digest()
        total = (total + int.from_bytes(digest, "big")) % _MODULUS  # of any order, each row once
        count += 1
        steps.add(int(row["step"]))
        slices.add(int(row[SLICE]))
    return Fingerprint(count, tuple(sorted(steps)), tuple(sorted(slices)), f"{total:064x}")


def _plain(value: Any) -> Any:
    """The value without what engines differ in: kinds of text and time, widths, trailing zeros."""
    if isinstance(value, datetime.datetime):
        zoned = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return ("time", (zoned - _EPOCH) // _MICROSECOND)
    if isinstance(value, decimal.Decimal):
        return ("number", str(value.normalize()))
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    if isinstance(value, Mapping):
        return [_plain(one) for one in value.values()]
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
