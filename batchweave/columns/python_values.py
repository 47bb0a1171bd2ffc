"""Lists of Python values to Arrow columns; what Arrow would change silently is refused.

Owns which Python classes each Arrow type takes. Pure; imports: standard library, numpy, pyarrow,
arrow_types and storage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any
from uuid import UUID  # noqa: TID251 - the class, not the generators

import numpy as np
import pyarrow as pa

from batchweave.columns.arrow_types import (
    BINARIES,
    STRINGS,
    MisfitError,
    is_list,
    number_dtype,
    plain_type,
)
from batchweave.columns.storage import relayout


def python_column(values: Sequence[Any], declared: pa.DataType) -> pa.ChunkedArray:
    """A list of Python values. Arrow would truncate some of them silently; here they are refused.

    A Python float may be rounded to the precision of a ``float`` or ``halffloat`` column.
    """
    values = list(values)
    check_python(values, declared)
    column = pa.array(values, plain_type(declared, _wide), from_pandas=False)
    return relayout(column, declared)


def _wide(kind: pa.DataType) -> pa.DataType:
    """A type that Arrow builds from Python values, with all that they carry; see `relayout`."""
    if pa.types.is_timestamp(kind) and kind.unit in ("s", "ms"):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit in ("s", "ms"):
        return pa.duration("us")
    if pa.types.is_time32(kind):
        return pa.time64("us")
    return pa.date32() if pa.types.is_date64(kind) else kind


def check_python(values: Sequence[Any], declared: pa.DataType) -> None:
    """Refuse Python values of another kind than the declared type, at any depth."""
    present = [value for value in values if value is not None]
    kinds = set(map(type, present))
    if isinstance(declared, pa.BaseExtensionType):
        check_python(present, declared.storage_type)
    elif pa.types.is_dictionary(declared) or pa.types.is_run_end_encoded(declared):
        check_python(present, declared.value_type)
    elif is_list(declared):
        _expect(kinds, (list, tuple, np.ndarray), declared)
        check_python(list(chain.from_iterable(present)), declared.value_type)
    elif pa.types.is_map(declared):
        _expect(kinds, (dict, list, tuple), declared)
        pairs = [pair for value in present for pair in _pairs(value)]
        check_python([key for key, _ in pairs], declared.key_type)
        check_python([item for _, item in pairs], declared.item_type)
    elif pa.types.is_struct(declared):
        _expect(kinds, (dict,), declared)
        extra = set(chain.from_iterable(present)) - set(declared.names)
        if extra:
            raise MisfitError(f"declared {declared}, got fields {sorted(map(str, extra))}")
        for field in declared.fields:
            check_python([value.get(field.name) for value in present], field.type)
    else:
        _check_python_leaves(present, kinds, declared)


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, dict) else value


def _expect(kinds: set[type], allowed: tuple[type, ...], declared: pa.DataType) -> None:
    for kind in sorted(kinds, key=str):
        if not issubclass(kind, allowed) or (kind is bool and bool not in allowed):
            names = ", ".join(one.__name__ for one in allowed)
            raise MisfitError(f"declared {declared}, which takes {names}, got {kind.__name__}")


def _check_python_leaves(present: Sequence[Any], kinds: set[type], declared: pa.DataType) -> None:
    types = pa.types
    if types.is_boolean(declared):
        _expect(kinds, (bool, np.bool_), declared)
    elif types.is_integer(declared):
        _expect(kinds, (int, np.integer), declared)
    elif types.is_floating(declared):
        _expect(kinds, (float, int, np.floating), declared)
        _check_range(present, declared)
    elif types.is_decimal(declared):
        _expect(kinds, (Decimal, int), declared)
    elif declared in STRINGS:
        _expect(kinds, (str,), declared)
    elif declared in BINARIES:
        _expect(kinds, (bytes, bytearray, memoryview), declared)
    elif types.is_fixed_size_binary(declared):
        _expect(kinds, (bytes, bytearray, memoryview, UUID), declared)
    elif types.is_temporal(declared):
        _check_python_times(present, kinds, declared)


def _check_range(present: Sequence[Any], declared: pa.DataType) -> None:
    """Rounding is what a narrower float means, but a finite value must not become infinite."""
    largest = float(np.finfo(number_dtype(declared)).max)
    for value in present:
        if math.isfinite(value) and abs(value) > largest:
            raise MisfitError(f"declared {declared}, got {value!r}, which is out of its range")


def _check_python_times(present: Sequence[Any], kinds: set[type], declared: pa.DataType) -> None:
    """Exactly these classes: a subclass (pandas has some) may carry what Arrow would drop."""
    types = pa.types
    if types.is_timestamp(declared):
        wanted: type = datetime
    elif types.is_date(declared):
        wanted = date
    else:
        wanted = timedelta if types.is_duration(declared) else time
    if kinds - {wanted}:
        found = sorted(kind.__name__ for kind in kinds - {wanted})
        raise MisfitError(f"declared {declared}, which takes {wanted.__name__}, got {found}")
    if wanted in (datetime, time):
        zoned = types.is_timestamp(declared) and declared.tz is not None
        for value in present:
            if (value.tzinfo is not None) != zoned:
                state = "with" if zoned else "without"
                raise MisfitError(f"declared {declared}, expected values {state} tzinfo")
