"""Logical types <-> storage types: how a stream's Arrow schema fits into an open table.

Owns the mapping from every Arrow type that a stream may declare to the narrower set that Parquet
files of an Iceberg or Delta table hold, and the exact way there and back. Values are never rounded,
wrapped or truncated: what does not fit is an error. Columns whose types are equal are handed
through as they are. Pure; imports: standard library, numpy, pyarrow and errors.

========================================  ==========================================
logical                                   storage
========================================  ==========================================
int8, int16, uint8, uint16                int32
uint32                                    int64
uint64                                    decimal128(20, 0)
halffloat                                 float
date64                                    date32
time32                                    time64[us]
timestamp[s, ms, us]                      timestamp[us], in UTC where it has a zone
timestamp[ns], time64[ns], duration       int64, in the unit that the logical type names
decimal32, decimal64, decimal256 to 38    decimal128
large_string, string_view                 string
large_binary, binary_view                 binary
every kind of list                        list
dictionary, run_end_encoded               the type of the values
null                                      bool, all null
extension types                           what their storage type maps to
========================================  ==========================================

Two things are not kept, as no query can see them: how values are shared in a dictionary or in runs
(both are made again when read), and the custom metadata of fields inside other fields.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchweave.errors import SchemaMismatch, UnsupportedType

LIST_VALUES_MAX = 2**31 - 1
STRING_BYTES_MAX = 2**31 - 1
DECIMAL_DIGITS_MAX = 38

Leaf: TypeAlias = Callable[[pa.Array, pa.DataType], pa.Array]

_PLAIN = {
    pa.bool_(): pa.bool_(),
    pa.int8(): pa.int32(),
    pa.int16(): pa.int32(),
    pa.int32(): pa.int32(),
    pa.int64(): pa.int64(),
    pa.uint8(): pa.int32(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.float32(): pa.float32(),
    pa.float64(): pa.float64(),
    pa.date32(): pa.date32(),
    pa.date64(): pa.date32(),
    pa.time32("s"): pa.time64("us"),
    pa.time32("ms"): pa.time64("us"),
    pa.time64("us"): pa.time64("us"),
    pa.time64("ns"): pa.int64(),
    pa.string(): pa.string(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.binary(): pa.binary(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.null(): pa.bool_(),
}


class _TooLongError(ValueError):
    """A chunk holds more than 32-bit offsets or a small index can count; fewer rows may do."""


def storage_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of the table that holds a stream of this logical schema.

    Names, order and nullability are kept at every level; metadata is dropped. All its types can
    be written by Parquet and converted to Iceberg.

    Raises:
        UnsupportedType: no columns, an empty or repeated name, or a type that cannot be kept
            exactly (intervals, unions, decimals of more than 38 digits, structs without fields,
            ordered dictionaries); the message names the column and the type.
    """
    if len(schema) == 0:
        raise UnsupportedType("a stream needs at least one column, got a schema without any")
    _check_names(schema.names, "the schema")
    return pa.schema([_storage_field(field, field.name) for field in schema])


def _check_names(names: list[str], owner: str) -> None:
    if not all(names):
        raise UnsupportedType(f"column names must not be empty, got one in {owner}")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise UnsupportedType(f"column names must differ, {owner} repeats {repeated}")


def _storage_field(field: pa.Field, column: str) -> pa.Field:
    kind = field.type
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_null(kind) and not field.nullable:
        raise _unsupported(column, field.type, "it is declared not null; declare it nullable")
    return pa.field(field.name, _storage_type(kind, column), field.nullable)


def _unsupported(column: str, kind: pa.DataType, why: str) -> UnsupportedType:
    return UnsupportedType(f"column {column!r} has type {kind}, which cannot be stored: {why}")


def _storage_type(kind: pa.DataType, column: str) -> pa.DataType:
    plain = _PLAIN.get(kind)
    if plain is not None:
        return plain
    if isinstance(kind, pa.BaseExtensionType):
        return _storage_type(kind.storage_type, column)
    if is_list(kind):
        return pa.list_(_storage_field(kind.value_field, column))
    if pa.types.is_struct(kind):
        if kind.num_fields == 0:
            raise _unsupported(column, kind, "Parquet has no structs without fields")
        _check_names(kind.names, f"column {column!r}")
        return pa.struct([_storage_field(field, column) for field in kind.fields])
    if pa.types.is_map(kind):
        value = _storage_field(kind.item_field, column)
        return pa.map_(_storage_field(kind.key_field, column), value)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _encoded_values_type(kind, column)
    return _parametric_type(kind, column)


def _encoded_values_type(kind: pa.DataType, column: str) -> pa.DataType:
    if pa.types.is_dictionary(kind) and kind.ordered:
        raise _unsupported(column, kind, "the order of its categories would be lost")
    values = kind.value_type
    encoded = pa.types.is_dictionary(values) or pa.types.is_run_end_encoded(values)
    if encoded or pa.types.is_nested(values) or isinstance(values, pa.BaseExtensionType):
        raise _unsupported(column, kind, f"values of type {values} cannot be encoded again")
    return _storage_type(values, column)


def _parametric_type(kind: pa.DataType, column: str) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        if kind.unit == "ns":
            return pa.int64()
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_decimal(kind):
        if kind.precision > DECIMAL_DIGITS_MAX:
            raise _unsupported(column, kind, f"tables hold {DECIMAL_DIGITS_MAX} digits at most")
        if not 0 <= kind.scale <= kind.precision:
            raise _unsupported(column, kind, "the scale must be from 0 to the precision")
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_fixed_size_binary(kind):
        if kind.byte_width == 0:
            raise _unsupported(column, kind, "Parquet has no fixed-size values of zero bytes")
        return kind
    raise _unsupported(column, kind, "Parquet has no such type")


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
    return _converted_table(table, stored, _encode)


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
    return _converted_table(table, schema, _decode)


def relayout(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
    """The same values in another Arrow type that has the same storage type; zero-copy if equal.

    Raises:
        pyarrow.ArrowInvalid, ValueError: a value does not fit.
    """
    chunks = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    return _converted(chunks, kind, _relay)


def check_nulls(column: pa.ChunkedArray, field: pa.Field) -> None:
    """Refuse nulls where the field, or one inside of it, is declared not null.

    Raises:
        SchemaMismatch: naming the column and the inner field.
    """
    if field.nullable and not _requires_values(field.type):
        return
    for chunk in column.chunks:
        found = _null_path(chunk, field, allowed=0)
        if found:
            inner = "" if found == field.name else f" (in {found})"
            raise SchemaMismatch(f"column {field.name!r} is declared not null, found null{inner}")


def schema_to_text(schema: pa.Schema) -> str:
    """The logical schema as ASCII text, for a table property. Equal schemas give equal text."""
    return base64.b64encode(schema.serialize()).decode("ascii")


def schema_from_text(text: str) -> pa.Schema:
    """The schema that `schema_to_text` wrote, metadata included.

    Raises:
        SchemaMismatch: the text is no such schema.
    """
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text, validate=True)))
    except (binascii.Error, ValueError, OSError) as error:
        raise SchemaMismatch(f"expected a schema as base64 of Arrow IPC, got {text!r}") from error


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
    except _TooLongError:
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


def _without_validity(array: pa.Array) -> pa.Array:
    kind = array.type
    fixed = pa.types.is_primitive(kind) or pa.types.is_decimal(kind)
    if not (fixed or pa.types.is_fixed_size_binary(kind) or kind in _PLAIN.values()):
        return array  # No storage type, so Parquet's writer will not see it.
    buffers = [None, *array.buffers()[1:]]
    return pa.Array.from_buffers(kind, len(array), buffers, offset=array.offset)


def _mask(array: pa.Array, *, required: bool) -> pa.Array | None:
    return None if required or array.null_count == 0 else array.is_null()


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
    mask = _mask(array, required=required)
    return pa.StructArray.from_arrays(converted, fields=target.fields, mask=mask)


def list_lengths(array: pa.Array) -> npt.NDArray[np.int64]:
    """How many items each row of a list array holds; 0 for null rows."""
    if pa.types.is_list(array.type) and array.null_count == 0:
        return np.asarray(np.diff(array.offsets.to_numpy()), dtype=np.int64)
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def list_items(array: pa.Array) -> pa.Array:
    """The items of a list array's rows, one after another; those of null rows are left out.

    Zero-copy unless there are null rows or the list is a view. Where items must be copied, those
    of encoded and extension types come as their storage: Arrow cannot copy all of them.
    """
    contiguous = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if contiguous and array.null_count == 0:
        return array.flatten()
    return _copyable(array).flatten()


def _copyable(array: pa.Array) -> pa.Array:
    """The same values without extension types, dictionaries and runs, at any depth."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _copyable(array.storage)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _encode(array, _storage_type(kind, ""))
    if not _has_uncopyable(kind):
        return array
    if pa.types.is_struct(kind):
        children = [_copyable(array.field(n)) for n in range(kind.num_fields)]
        pairs = zip(kind.fields, children, strict=True)
        fields = [field.with_type(child.type) for field, child in pairs]
        mask = _mask(array, required=False)
        return pa.StructArray.from_arrays(children, fields=fields, mask=mask)
    if pa.types.is_map(kind):
        keys, items = _copyable(array.keys), _copyable(array.items)
        fields = [kind.key_field.with_type(keys.type), kind.item_field.with_type(items.type)]
        child = pa.StructArray.from_arrays([keys, items], fields=fields)
        plain, buffers = pa.map_(*fields), 2
    else:
        child = _copyable(array.values)
        plain, buffers = _list_of(kind, kind.value_field.with_type(child.type))
    own = array.buffers()[:buffers]
    return pa.Array.from_buffers(plain, len(array), own, offset=array.offset, children=[child])


def _list_of(kind: pa.DataType, field: pa.Field) -> tuple[pa.DataType, int]:
    """The same kind of list of another field, and how many buffers such an array has."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size), 1
    if pa.types.is_list_view(kind):
        return pa.list_view(field), 3
    if pa.types.is_large_list_view(kind):
        return pa.large_list_view(field), 3
    return (pa.list_(field) if pa.types.is_list(kind) else pa.large_list(field)), 2


def offsets_of(
    lengths: npt.NDArray[np.int64], dtype: type[np.int32] | type[np.int64] = np.int32
) -> pa.Array:
    """Arrow offsets of rows of these lengths.

    Raises:
        ValueError: the sum exceeds 32 bits and ``dtype`` is int32.
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if dtype is np.int32 and offsets[-1] > LIST_VALUES_MAX:
        raise _TooLongError(
            f"a list column holds {LIST_VALUES_MAX} values a chunk, got {offsets[-1]}"
        )
    return pa.array(offsets.astype(dtype, copy=False))


def _convert_list(array: pa.Array, target: pa.DataType, leaf: Leaf, *, required: bool) -> pa.Array:
    if not is_list(array.type):
        raise ValueError(f"expected {target}, got {array.type}")
    lengths, items, mask = list_lengths(array), list_items(array), _mask(array, required=required)
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


def _entries(array: pa.Array) -> pa.Array:
    """A map array as a list array of key-value structs, which more kernels understand."""
    kind = array.type
    fields = [kind.key_field, kind.item_field]
    entries = pa.StructArray.from_arrays([array.keys, array.items], fields=fields)
    return pa.ListArray.from_buffers(
        pa.list_(entries.type),
        len(array),
        array.buffers()[:2],
        offset=array.offset,
        children=[entries],
    )


def _convert_map(array: pa.Array, target: pa.DataType, leaf: Leaf, *, required: bool) -> pa.Array:
    if not pa.types.is_map(array.type):
        raise ValueError(f"expected {target}, got {array.type}")
    lists = _entries(array)
    entries = list_items(lists)
    keys = _convert(entries.field(0), target.key_type, leaf, required=True)
    values = _child(entries.field(1), target.item_field, leaf, inherited=0)
    offsets = offsets_of(list_lengths(lists))
    mask = _mask(array, required=required)
    return pa.MapArray.from_arrays(offsets, keys, values, type=target, mask=mask)


def _encode(array: pa.Array, storage: pa.DataType) -> pa.Array:
    """One array without children, to its storage type."""
    kind = array.type
    if kind == storage:
        return array
    if pa.types.is_null(kind):
        return pa.nulls(len(array), storage)
    if pa.types.is_dictionary(kind):
        return _encode(array.dictionary, storage).take(array.indices)
    if pa.types.is_run_end_encoded(kind):
        values = _encode(array.values, storage)
        runs = pa.RunEndEncodedArray.from_arrays(array.run_ends, values)
        return pc.run_end_decode(runs.slice(array.offset, len(array)))
    if pa.types.is_float16(kind):
        return _with_values(array, storage, half_to_float(_values(array)))
    if _is_reinterpreted(kind):
        return array.view(storage)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        array = array.cast(pa.large_string() if storage == pa.string() else pa.large_binary())
    if array.type in (pa.large_string(), pa.large_binary()) and array.nbytes > STRING_BYTES_MAX:
        raise _TooLongError(f"a column holds {STRING_BYTES_MAX} bytes a chunk, got {array.nbytes}")
    return array.cast(storage)


def _is_reinterpreted(kind: pa.DataType) -> bool:
    """Whether the 64-bit values are stored as they are, under another type."""
    if pa.types.is_timestamp(kind):
        return bool(kind.unit in ("ns", "us"))
    return bool(pa.types.is_duration(kind) or kind == pa.time64("ns"))


def _decode(array: pa.Array, target: pa.DataType) -> pa.Array:
    """One array without children, from its storage type."""
    storage = _storage_type(target, "")
    if array.type != storage:
        array = _encode(array, storage)
    if storage == target:
        return array
    if pa.types.is_null(target):
        if array.null_count < len(array):
            raise ValueError("expected only nulls, got a value")
        return pa.nulls(len(array))
    if pa.types.is_dictionary(target):
        return _dictionary(array, target)
    if pa.types.is_run_end_encoded(target):
        return _runs(array, target)
    if pa.types.is_float16(target):
        return _exact_half(array)
    if _is_reinterpreted(target):
        return array.view(target)
    return array.cast(target)


def _relay(array: pa.Array, target: pa.DataType) -> pa.Array:
    if array.type == target:
        return array
    if pa.types.is_temporal(target) and pa.types.is_temporal(array.type):
        return array.cast(target)
    return _decode(_encode(array, _storage_type(target, "")), target)


def _dictionary(array: pa.Array, target: pa.DataType) -> pa.Array:
    encoded = array.dictionary_encode()
    values = encoded.dictionary
    try:
        indices = encoded.indices.cast(target.index_type)
    except pa.ArrowInvalid as error:
        raise _TooLongError(f"{len(values)} values exceed the index of {target}") from error
    return pa.DictionaryArray.from_arrays(indices, _decode(values, target.value_type))


def _runs(array: pa.Array, target: pa.DataType) -> pa.Array:
    index = target.run_end_type
    if len(array) > np.iinfo(index.to_pandas_dtype()).max:
        raise _TooLongError(f"{len(array)} rows exceed the run ends of {target}")
    encoded = pc.run_end_encode(array, run_end_type=index)
    values = _decode(encoded.values, target.value_type)
    return pa.RunEndEncodedArray.from_arrays(encoded.run_ends, values, type=target)


def _values(array: pa.Array) -> npt.NDArray[Any]:
    """The values of a fixed-width array, whatever stands in for nulls included; no copy."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    data = array.buffers()[1]
    offset = array.offset * dtype.itemsize
    return np.ndarray((len(array),), dtype, buffer=data, offset=offset)


def _with_values(array: pa.Array, kind: pa.DataType, values: npt.NDArray[Any]) -> pa.Array:
    """An array of the same nulls and new values."""
    mask = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    return pa.array(values, kind, mask=mask, from_pandas=False)


def half_to_float(values: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """Float16 widened to float32; the bits of NaNs survive, which a hardware cast may change."""
    wide = values.astype(np.float32, order="C")
    nan = np.isnan(values)
    if nan.any():
        bits = values.view(np.uint16)[nan].astype(np.uint32)
        wide.view(np.uint32)[nan] = (bits & 0x8000) << 16 | 0x7F800000 | (bits & 0x3FF) << 13
    return wide


def float_to_half(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """The inverse of `half_to_float`; values that are no float16 are rounded."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16, order="C")
    nan = np.isnan(values)
    if nan.any():
        bits = values.view(np.uint32)[nan]
        halves = (bits >> 16 & 0x8000) | 0x7C00 | (bits >> 13 & 0x3FF)
        # A NaN with only low bits set is no widened float16; it must not become an infinity.
        halves[halves & 0x3FF == 0] |= 0x200
        narrow.view(np.uint16)[nan] = halves.astype(np.uint16)
    return narrow


def _exact_half(array: pa.Array) -> pa.Array:
    wide = _values(array)
    narrow = float_to_half(wide)
    differs = half_to_float(narrow).view(np.uint32) != wide.view(np.uint32)
    if array.null_count:
        differs &= array.is_valid().to_numpy(zero_copy_only=False)
    if differs.any():
        raise ValueError(f"expected float16 values, got {wide[differs][0]!r}")
    return _with_values(array, pa.float16(), narrow)


def _inner_fields(kind: pa.DataType) -> list[pa.Field]:
    if isinstance(kind, pa.BaseExtensionType):
        return _inner_fields(kind.storage_type)
    if is_list(kind):
        return [kind.value_field]
    if pa.types.is_map(kind):
        # Arrow itself refuses null keys; only what is inside of them counts.
        return [kind.key_field.with_nullable(True), kind.item_field]
    return list(kind.fields) if pa.types.is_struct(kind) else []


def _has_uncopyable(kind: pa.DataType) -> bool:
    encoded = pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind)
    if encoded or isinstance(kind, pa.BaseExtensionType):
        return True
    return any(_has_uncopyable(field.type) for field in _inner_fields(kind))


def _requires_values(kind: pa.DataType) -> bool:
    """Whether any field inside this type is declared not null."""
    return any(not f.nullable or _requires_values(f.type) for f in _inner_fields(kind))


def _struct_requires_values(kind: pa.DataType) -> bool:
    """Whether a field of a struct, at any depth, is declared not null."""
    fields = _inner_fields(kind)
    own = pa.types.is_struct(kind) and any(not field.nullable for field in fields)
    return bool(own) or any(_struct_requires_values(field.type) for field in fields)


def _null_path(array: pa.Array, field: pa.Field, *, allowed: int) -> str | None:
    """The path of a field declared not null that has a null; ``allowed`` come from its parent."""
    if not field.nullable and _null_count(array) > allowed:
        return str(field.name)
    if not _requires_values(field.type):
        return None
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_map(array.type):
        entries = list_items(_entries(array))
        children, inherited = [entries.field(0), entries.field(1)], 0
    else:
        struct = pa.types.is_struct(array.type)
        children = array.flatten() if struct else [list_items(array)]
        inherited = array.null_count if struct else 0
    for child, inner in zip(children, _inner_fields(array.type), strict=True):
        found = _null_path(child, inner, allowed=inherited)
        if found:
            return f"{field.name}.{found}"
    return None


def _null_count(array: pa.Array) -> int:
    """How many values are null, also where a dictionary or runs hide it."""
    kind = array.type
    if pa.types.is_dictionary(kind) and array.dictionary.null_count:
        return int(array.dictionary.is_null().take(array.indices).fill_null(True).true_count)
    if pa.types.is_run_end_encoded(kind) and array.values.null_count:
        runs = pa.RunEndEncodedArray.from_arrays(array.run_ends, array.values.is_null())
        return int(pc.run_end_decode(runs.slice(array.offset, len(array))).true_count)
    return int(array.null_count)
