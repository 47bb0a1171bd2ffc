"""Logical values <-> stored values: a stream's rows as an open table holds them, and back.

Owns the exact way there and back along the mapping of `storage_types`, level by level of
nested columns. Values are never rounded, wrapped or truncated: what does not fit is an error.
Columns whose types are equal are handed through as they are. Pure; imports: standard library,
numpy, pyarrow, errors, arrow_types, storage_types, leaf_arrays, list_arrays and nulls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchweave.columns.arrow_types import inner_fields, is_list
from batchweave.columns.leaf_arrays import TooLongError, decode, encode, relay
from batchweave.columns.list_arrays import (
    list_items,
    list_lengths,
    map_entries,
    null_mask,
    offsets_of,
)
from batchweave.columns.nulls import check_nulls
from batchweave.columns.storage_types import SIMPLE_TYPES, storage_schema
from batchweave.errors import SchemaMismatch

Leaf: TypeAlias = Callable[[pa.Array, pa.DataType], pa.Array]


def to_storage(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows in the storage schema of ``schema``, which is the table's logical schema.

    Columns whose logical and storage types are equal are handed through, not copied.

    Raises:
        SchemaMismatch: the table is not in ``schema``; a value that the storage type cannot hold
            exactly; a null where the schema forbids one. The message names the column.
        UnsupportedType: as `storage_schema`.
    """
    stored = storage_schema(schema)
    _check_layout(table, schema)
    for column, field in zip(table.columns, schema, strict=True):
        check_nulls(column, field)
    return _converted_table(table, stored, encode)


def from_storage(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The exact inverse of `to_storage`: the rows in the logical ``schema``, metadata included.

    ``table`` has the columns of the storage schema, in its order; the names of list items and the
    width of offsets may differ, as readers choose their own. Columns whose types are equal are
    handed through, not copied. Dictionaries are made again from the values, in order of
    appearance; a chunk is split where its distinct values exceed the dictionary's index type.

    Raises:
        SchemaMismatch: other columns, or a value that is none of the logical type's.
    """
    storage_schema(schema)
    if table.column_names != schema.names:
        raise SchemaMismatch(f"expected stored columns {schema.names}, got {table.column_names}")
    return _converted_table(table, schema, decode)


def relayout(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
    """The same values in another Arrow type that has the same storage type; zero-copy if equal.

    Raises:
        pyarrow.ArrowInvalid, ValueError: a value does not fit.
    """
    chunks = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    return _converted(chunks, kind, relay)


def _check_layout(table: pa.Table, schema: pa.Schema) -> None:
    if table.column_names != schema.names:
        raise SchemaMismatch(f"expected columns {schema.names}, got {table.column_names}")
    for found, declared in zip(table.schema, schema, strict=True):
        if found.type != declared.type:
            raise SchemaMismatch(
                f"column {declared.name!r} is declared {declared.type}, got {found.type}"
            )


def _converted_table(table: pa.Table, schema: pa.Schema, leaf: Leaf) -> pa.Table:
    columns = []
    for column, field in zip(table.columns, schema, strict=True):
        try:
            columns.append(_converted(column, field.type, leaf))
        except (ValueError, pa.ArrowException) as error:
            raise SchemaMismatch(
                f"column {field.name!r} cannot become {field.type} without loss: {error}"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def _converted(column: pa.ChunkedArray, target: pa.DataType, leaf: Leaf) -> pa.ChunkedArray:
    if column.type == target and not _struct_requires_values(target):
        return column
    chunks = [part for chunk in column.chunks for part in _in_parts(chunk, target, leaf)]
    return pa.chunked_array(chunks, type=target)


def _in_parts(chunk: pa.Array, target: pa.DataType, leaf: Leaf) -> list[pa.Array]:
    """Convert a chunk, halving it as long as it is too long for the target's offsets."""
    try:
        return [_convert(chunk, target, leaf)]
    except TooLongError:
        half = len(chunk) // 2
        if half == 0:
            raise
        first, second = chunk.slice(0, half), chunk.slice(half)
        return _in_parts(first, target, leaf) + _in_parts(second, target, leaf)


def _convert(
    array: pa.Array, target: pa.DataType, leaf: Leaf, *, required: bool = False
) -> pa.Array:
    """Convert one array; ``required`` drops the validity that a null parent lent it.

    Parquet's writer refuses nulls in a field declared not null even below a null parent.
    """
    drop = required and array.null_count > 0
    if array.type == target and not drop and not _struct_requires_values(target):
        return array
    if isinstance(array.type, pa.BaseExtensionType):
        return _convert(array.storage, target, leaf, required=required)
    if isinstance(target, pa.BaseExtensionType):
        storage = _convert(array, target.storage_type, leaf, required=required)
        return pa.ExtensionArray.from_storage(target, storage)
    if is_list(target):
        return _convert_list(array, target, leaf, required=required)
    if pa.types.is_struct(target):
        return _convert_struct(array, target, leaf, required=required)
    if pa.types.is_map(target):
        return _convert_map(array, target, leaf, required=required)
    converted = leaf(array, target)
    return _without_validity(converted) if drop else converted


@lru_cache(maxsize=1024)
def _struct_requires_values(kind: pa.DataType) -> bool:
    """Whether a field of a struct, at any depth, is declared not null."""
    fields = inner_fields(kind)
    own = pa.types.is_struct(kind) and any(not field.nullable for field in fields)
    return bool(own) or any(_struct_requires_values(field.type) for field in fields)


def _without_validity(array: pa.Array) -> pa.Array:
    kind = array.type
    fixed = pa.types.is_primitive(kind) or pa.types.is_decimal(kind)
    if not (fixed or pa.types.is_fixed_size_binary(kind) or kind in SIMPLE_TYPES.values()):
        return array  # No storage type, so Parquet's writer will not see it.
    buffers = [None, *array.buffers()[1:]]
    return pa.Array.from_buffers(kind, len(array), buffers, offset=array.offset)


def _child(array: pa.Array, field: pa.Field, leaf: Leaf, *, inherited: int) -> pa.Array:
    """Convert the values of a field; ``inherited`` of its nulls only stand below a null parent."""
    if not field.nullable and array.null_count > inherited:
        raise ValueError(f"field {field.name!r} is declared not null, found null")
    return _convert(array, field.type, leaf, required=not field.nullable)


def _convert_struct(
    array: pa.Array, target: pa.DataType, leaf: Leaf, *, required: bool
) -> pa.Array:
    if not pa.types.is_struct(array.type) or array.type.names != target.names:
        raise ValueError(f"expected {target}, got {array.type}")
    if array.null_count:
        children = array.flatten()
    else:
        children = [array.field(number) for number in range(target.num_fields)]
    converted = [
        _child(child, field, leaf, inherited=array.null_count)
        for child, field in zip(children, target.fields, strict=True)
    ]
    mask = null_mask(array, required=required)
    return pa.StructArray.from_arrays(converted, fields=target.fields, mask=mask)


def _convert_list(array: pa.Array, target: pa.DataType, leaf: Leaf, *, required: bool) -> pa.Array:
    if not is_list(array.type):
        raise ValueError(f"expected {target}, got {array.type}")
    lengths, items, mask = (
        list_lengths(array),
        list_items(array),
        null_mask(array, required=required),
    )
    field = target.value_field
    if pa.types.is_fixed_size_list(target):
        padded = _padded(array, items, lengths, target)
        items = _child(padded, field, leaf, inherited=len(padded) - len(items))
        validity = None if mask is None else pc.invert(mask).buffers()[1]
        return pa.Array.from_buffers(target, len(array), [validity], children=[items])
    items = _child(items, field, leaf, inherited=0)
    if pa.types.is_list(target):
        return pa.ListArray.from_arrays(offsets_of(lengths), items, type=target, mask=mask)
    offsets = offsets_of(lengths, np.int64)
    if pa.types.is_large_list(target):
        return pa.LargeListArray.from_arrays(offsets, items, type=target, mask=mask)
    if pa.types.is_large_list_view(target):
        sizes = pa.array(lengths)
        return pa.LargeListViewArray.from_arrays(offsets[:-1], sizes, items, type=target, mask=mask)
    starts, sizes = offsets_of(lengths)[:-1], pa.array(lengths.astype(np.int32))
    return pa.ListViewArray.from_arrays(starts, sizes, items, type=target, mask=mask)


def _padded(
    array: pa.Array, items: pa.Array, lengths: npt.NDArray[np.int64], target: pa.DataType
) -> pa.Array:
    """Items of a fixed-size list: null rows take up room too, filled with nulls."""
    size = target.list_size
    valid = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
    if np.any(lengths[valid] != size):
        found = lengths[valid][lengths[valid] != size][0]
        raise ValueError(f"expected rows of {size} values, got one of {found}")
    if valid.all():
        return items
    filled = np.repeat(valid, size)
    places = np.cumsum(filled) - 1
    return items.take(pa.array(places, mask=~filled))


def _convert_map(array: pa.Array, target: pa.DataType, leaf: Leaf, *, required: bool) -> pa.Array:
    if not pa.types.is_map(array.type):
        raise ValueError(f"expected {target}, got {array.type}")
    lists = map_entries(array)
    entries = list_items(lists)
    keys = _convert(entries.field(0), target.key_type, leaf, required=True)
    values = _child(entries.field(1), target.item_field, leaf, inherited=0)
    offsets = offsets_of(list_lengths(lists))
    mask = null_mask(array, required=required)
    return pa.MapArray.from_arrays(offsets, keys, values, type=target, mask=mask)
