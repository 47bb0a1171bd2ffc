"""Arrow types of any depth: what kind they are and what is inside of them.

Owns the questions about declared types that several modules ask, and the error of a value that
does not fit its type. Pure, on types alone; imports: standard library, numpy
and pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

STRINGS = (pa.string(), pa.large_string(), pa.string_view())
BINARIES = (pa.binary(), pa.large_binary(), pa.binary_view())


_NUMBERS: dict[pa.DataType, np.dtype[Any]] = {
    pa.float16(): np.dtype(np.float16),
    pa.float32(): np.dtype(np.float32),
    pa.float64(): np.dtype(np.float64),
    **{
        getattr(pa, name)(): np.dtype(name)
        for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
}


class MisfitError(ValueError):
    """A value does not fit its column; the caller adds which slice and which column."""


def number_dtype(kind: pa.DataType) -> np.dtype[Any]:
    """The NumPy dtype of an integer or float type, of the same width.

    Not `pa.DataType.to_pandas_dtype`, which needs pandas.
    """
    try:
        return _NUMBERS[kind]
    except KeyError:
        raise MisfitError(f"expected integers or floats, got {kind}") from None


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are rows of items: every kind of list, but not maps."""
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def inner_fields(kind: pa.DataType) -> list[pa.Field]:
    """The fields right inside of a type; the keys of a map count as nullable."""
    if isinstance(kind, pa.BaseExtensionType):
        return inner_fields(kind.storage_type)
    if is_list(kind):
        return [kind.value_field]
    if pa.types.is_map(kind):
        # Arrow itself refuses null keys; only what is inside of them counts.
        return [kind.key_field.with_nullable(True), kind.item_field]
    return list(kind.fields) if pa.types.is_struct(kind) else []


def list_levels(declared: pa.DataType) -> tuple[list[pa.DataType], pa.DataType]:
    """The list types around the innermost values, outermost first, and the type of those."""
    levels = []
    kind = declared
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif is_list(kind):
            levels.append(kind)
            kind = kind.value_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return levels, kind


def plain_type(
    kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType] = lambda kind: kind
) -> pa.DataType:
    """The type of the same values in plain lists, without extensions, dictionaries or runs."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type, leaf)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type, leaf)

    def plain(field: pa.Field) -> pa.Field:
        return field.with_type(plain_type(field.type, leaf))

    if is_list(kind):
        return pa.list_(plain(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([plain(field) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_field), plain(kind.item_field), kind.keys_sorted)
    return leaf(kind)
