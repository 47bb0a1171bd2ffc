"""Logical types -> storage types: how a stream's Arrow schema fits into an open table.

Owns the mapping from every Arrow type that a stream may declare to the narrower set that Parquet
files of an Iceberg or Delta table hold, and the text by which a table remembers the logical schema.
How values get there and back is `storage`. Pure, on types alone; imports: standard
library, pyarrow, errors and arrow_types.

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
from functools import lru_cache

import pyarrow as pa

from batchweave.columns.arrow_types import is_list
from batchweave.errors import SchemaMismatch, UnsupportedType

DECIMAL_DIGITS_MAX = 38
SIMPLE_TYPES = {
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


@lru_cache(maxsize=128)
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
    return pa.field(field.name, storage_type(kind, column), field.nullable)


def _unsupported(column: str, kind: pa.DataType, why: str) -> UnsupportedType:
    return UnsupportedType(f"column {column!r} has type {kind}, which cannot be stored: {why}")


def storage_type(kind: pa.DataType, column: str) -> pa.DataType:
    """The type that holds values of this one; ``column`` is for the message.

    Raises:
        UnsupportedType: as `storage_schema`.
    """
    plain = SIMPLE_TYPES.get(kind)
    if plain is not None:
        return plain
    if isinstance(kind, pa.BaseExtensionType):
        return storage_type(kind.storage_type, column)
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
    return storage_type(values, column)


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
