"""Schemas of a stream on Delta: the table's, as its log says it, and that of its Parquet files.

Source: Delta protocol, "Schema Serialization Format". Delta has fewer types than Iceberg: a storage
type that it lacks is kept under one that holds the same values. A time of day is a ``long`` of
microseconds since midnight, in the files too; a fixed-size binary is ``binary``, in the files as it
is, which engines read as such. Streams read back what was declared either way.
Imports: columns, errors, table.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from batchweave.columns import storage_schema
from batchweave.errors import SchemaMismatch, StreamCorrupted, UnsupportedType
from batchweave.table import COMMIT_COLUMNS, FILE_COLUMNS

_SIMPLE = {
    pa.bool_(): "boolean",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.date32(): "date",
    pa.time64("us"): "long",
    pa.timestamp("us", "UTC"): "timestamp",
    pa.timestamp("us"): "timestamp_ntz",
    pa.string(): "string",
    pa.binary(): "binary",
}
_FORBIDDEN = " ,;{}()\n\t="


def table_schema(schema: pa.Schema) -> str:
    """The table's schema as its log writes it: user's columns, those of files, those of commits.

    Raises:
        SchemaMismatch: a column or field has a name that Delta cannot hold.
        UnsupportedType: a type that Delta cannot hold.
    """
    for field in schema:
        _check_names(field.name, field)
    fields = [
        *storage_schema(schema),
        *(pa.field(name, kind) for name, kind in FILE_COLUMNS.items()),
        *(pa.field(name, kind) for name, kind in COMMIT_COLUMNS.items()),
    ]
    return json.dumps(_struct(fields), separators=(",", ":"))


def file_schema(schema: pa.Schema) -> pa.Schema:
    """The physical schema of the files."""
    fields = [
        *(pa.field(one.name, _physical(one.type), one.nullable) for one in storage_schema(schema)),
        *(pa.field(name, kind) for name, kind in FILE_COLUMNS.items()),
    ]
    return pa.schema(fields)


def uses_timestamps_without_zone(schema: pa.Schema) -> bool:
    """Whether the table needs the feature ``timestampNtz``."""
    return "timestamp_ntz" in table_schema(schema)


def check_columns(declared: str, found: str, table: str) -> None:
    """Let other columns come and go, but none of the stream's own.

    Raises:
        StreamCorrupted: a foreign writer removed or retyped a column of the stream.
    """
    now = {field["name"]: field for field in json.loads(found)["fields"]}
    for field in json.loads(declared)["fields"]:
        here = now.get(field["name"])
        if here is None:
            raise StreamCorrupted(f"{table} has no column {field['name']!r} any more")
        if here["type"] != field["type"]:
            raise StreamCorrupted(
                f"column {field['name']!r} of {table} was {field['type']} and is {here['type']} now"
            )


def _struct(fields: list[pa.Field]) -> dict[str, Any]:
    return {
        "type": "struct",
        "fields": [
            {
                "name": field.name,
                "type": _type(field.type, field.name),
                "nullable": field.nullable,
                "metadata": {},
            }
            for field in fields
        ],
    }


def _type(kind: pa.DataType, column: str) -> Any:
    simple = _SIMPLE.get(kind)
    if simple is not None:
        return simple
    if pa.types.is_decimal128(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_fixed_size_binary(kind):
        return "binary"
    if pa.types.is_list(kind):
        return {
            "type": "array",
            "elementType": _type(kind.value_type, column),
            "containsNull": kind.value_field.nullable,
        }
    if pa.types.is_map(kind):
        return {
            "type": "map",
            "keyType": _type(kind.key_type, column),
            "valueType": _type(kind.item_type, column),
            "valueContainsNull": kind.item_field.nullable,
        }
    if pa.types.is_struct(kind):
        return _struct(list(kind.fields))
    raise UnsupportedType(
        f"column {column!r} needs the type {kind}, which Delta tables lack: use another type, "
        "or a catalog of Iceberg tables"
    )


def _physical(kind: pa.DataType) -> pa.DataType:
    if kind == pa.time64("us"):
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(_physical_field(kind.value_field))
    if pa.types.is_map(kind):
        return pa.map_(_physical_field(kind.key_field), _physical_field(kind.item_field))
    if pa.types.is_struct(kind):
        return pa.struct([_physical_field(field) for field in kind.fields])
    return kind


def _physical_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, _physical(field.type), field.nullable)


def _check_names(column: str, field: pa.Field) -> None:
    bad = sorted({letter for letter in field.name if letter in _FORBIDDEN})
    if bad:
        raise SchemaMismatch(
            f"column {column!r}: the name {field.name!r} has {', '.join(map(repr, bad))}, which "
            "Delta tables cannot hold: use letters, digits and '_'"
        )
    kind = field.type
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    inner = [kind.field(number) for number in range(kind.num_fields)]
    folded = [one.name.lower() for one in inner]
    if pa.types.is_struct(kind) and len(set(folded)) < len(folded):
        raise SchemaMismatch(
            f"column {column!r}: names of fields must differ by more than case in Delta tables: "
            f"{', '.join(one.name for one in inner)}"
        )
    for one in inner:
        _check_names(column, one)
