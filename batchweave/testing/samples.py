"""Rows to publish: every kind of column that each table format holds, and their values by number.

The same number and slice give the same rows in every process, so that whoever reads them back can
tell what they ought to be. Imports: standard library, numpy, pyarrow.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

COLUMNS: Mapping[str, pa.DataType] = {
    "number": pa.int64(),
    "tokens": pa.list_(pa.int32()),
    "text": pa.string(),
    "image": pa.binary(),
    "flag": pa.bool_(),
    "byte": pa.uint8(),
    "word": pa.int16(),
    "wide": pa.uint64(),
    "half": pa.list_(pa.float16()),
    "single": pa.float32(),
    "double": pa.float64(),
    "price": pa.decimal128(12, 2),
    "day": pa.date32(),
    "at": pa.timestamp("us", tz="UTC"),
    "seen": pa.timestamp("ms", tz="Europe/Paris"),
    "label": pa.dictionary(pa.int32(), pa.string()),
    "nested": pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]),
    "matrix": pa.list_(pa.list_(pa.int32())),
    "pairs": pa.map_(pa.string(), pa.int64()),
}
"""One column of each kind that Iceberg and Delta both hold, declared as users declare it."""

SCHEMA = pa.schema(list(COLUMNS.items()))
SMALL_SCHEMA = pa.schema([("number", pa.int64()), ("tokens", pa.list_(pa.int32()))])
"""What the tests publish that are about order and commits, not about values."""

ROWS_MAX = 4
_DAY_ZERO = datetime.date(2026, 1, 1)
_TIME_ZERO = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def row_id(number: int, index: int, row: int) -> int:
    """What the column ``number`` holds: another value in every row of a stream."""
    return (number * 1000 + index) * 10 + row


def rows_of(number: int, index: int) -> int:
    """How many rows slice ``index`` of batch ``number`` has: from 1 to `ROWS_MAX`."""
    return 1 + (number + index) % ROWS_MAX


def sample_slice(number: int, index: int, schema: pa.Schema = SCHEMA) -> pa.Table:
    """The rows of one slice of one batch, in the columns of ``schema`` that `COLUMNS` has."""
    ids = [row_id(number, index, row) for row in range(rows_of(number, index))]
    arrays = [pa.array([_VALUES[field.name](one) for one in ids], field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def sample_batch(number: int, slices: int, schema: pa.Schema = SCHEMA) -> list[pa.Table]:
    """All slices of one batch, as `Producer.publish` takes them."""
    return [sample_slice(number, index, schema) for index in range(slices)]


def batch_number(table: pa.Table) -> int:
    """Which batch rows that were read back belong to: the inverse of `sample_batch`."""
    return int(table["number"][0].as_py()) // 10_000


# Nulls, empty values and extremes come round as the numbers grow.
_VALUES: Mapping[str, Callable[[int], Any]] = {
    "number": lambda n: n,
    "tokens": lambda n: [n % 2**31, *range(n % 5)] if n % 7 else [],
    "text": lambda n: None if n % 3 == 1 else f"row {n} äß€",
    "image": lambda n: b"" if n % 5 == 2 else bytes([n % 256, 0, 255]),
    "flag": lambda n: None if n % 4 == 3 else n % 2 == 0,
    "byte": lambda n: n % 256,
    "word": lambda n: n % 2**16 - 2**15,
    "wide": lambda n: 2**64 - 1 - n,
    "half": lambda n: [np.float16(n % 100 / 4), np.float16(-0.5)],
    "single": lambda n: float(np.float32(n / 3)),
    "double": lambda n: None if n % 6 == 5 else n / 7,
    "price": lambda n: decimal.Decimal(n).scaleb(-2),
    "day": lambda n: _DAY_ZERO + datetime.timedelta(days=n % 20_000),
    "at": lambda n: _TIME_ZERO + datetime.timedelta(microseconds=n),
    "seen": lambda n: _TIME_ZERO + datetime.timedelta(milliseconds=n),
    "label": lambda n: ("red", "green", None)[n % 3],
    "nested": lambda n: {"a": n, "b": ["x", None][: n % 3]},
    "matrix": lambda n: [[n % 2**31], [], [1, 2]][: 1 + n % 3],
    "pairs": lambda n: [("first", n), ("second", None)][: n % 3],
}
