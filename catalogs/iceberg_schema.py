"""Schemas: the declared Arrow schema, its storage form with field IDs, and Iceberg's."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType

from batchweave.columns import storage_schema
from batchweave.errors import StreamCorrupted
from batchweave.table import COMMIT_COLUMNS, FILE_COLUMNS

_ID = b"PARQUET:field_id"


def full_schema(schema: pa.Schema) -> Schema:
    """User's columns, then ``slice`` and ``source``, then what is known only at commit."""
    fields = [
        *storage_schema(schema),
        *(pa.field(name, kind) for name, kind in FILE_COLUMNS.items()),
        *(pa.field(name, kind) for name, kind in COMMIT_COLUMNS.items()),
    ]
    return _pyarrow_to_schema_without_ids(pa.schema(fields))


def file_schema(schema: pa.Schema, table: Schema) -> pa.Schema:
    """The physical schema of the files: storage types with the table's field IDs.

    Raises:
        StreamCorrupted: a foreign writer removed or retyped a column of the stream.
    """
    fields = [
        *storage_schema(schema),
        *(pa.field(name, kind) for name, kind in FILE_COLUMNS.items()),
    ]
    by_name = {field.name: field for field in table.fields}
    found = []
    for field in fields:
        known = by_name.get(field.name)
        if known is None:
            raise StreamCorrupted(f"the table has no column {field.name!r} any more")
        kind = _with_ids(field.type, known.field_type)
        found.append(
            pa.field(field.name, kind, field.nullable, metadata={_ID: str(known.field_id).encode()})
        )
    return pa.schema(found)


def stream_schema(schema: pa.Schema) -> tuple[Schema, PartitionSpec]:
    """The Iceberg schema and identity-partition spec of a stream with this declared schema."""
    full = assign_fresh_schema_ids(full_schema(schema))
    fields = [
        PartitionField(
            source_id=full.find_field(name).field_id,
            field_id=1000 + at,
            transform=IdentityTransform(),
            name=name,
        )
        for at, name in enumerate(COMMIT_COLUMNS)
    ]
    return full, PartitionSpec(*fields)


def check_fit(declared: pa.Schema, files: pa.Schema, table: Schema, name: str) -> None:
    """Check that files of the schema ``files`` still fit a table that others may have changed.

    A column that others added is no matter, as long as it may be null.

    Raises:
        StreamCorrupted: a column of the stream was dropped, made anew or retyped, or one was added
            that must not be null.
    """
    what = f"another program changed the columns of {name}, nothing more can be committed"
    now = {field.name: field for field in table.fields}
    ours = full_schema(declared).fields
    for field in ours:
        found = now.pop(field.name, None)
        if found is None:
            raise StreamCorrupted(f"{what}: the table has no column {field.name!r} any more")
        if _shape(found) != _shape(field):
            raise StreamCorrupted(
                f"{what}: {field.name!r} was {field.field_type}, and is {found.field_type}"
                + (" not null" if found.required and not field.required else "")
            )
    for added in now.values():
        if added.required:
            raise StreamCorrupted(
                f"{what}: the new column {added.name!r} must not be null, and batches have no "
                "such column. Make it optional"
            )
    if not file_schema(declared, table).equals(files, check_metadata=True):
        raise StreamCorrupted(
            f"{what}: a column was dropped and made anew under the same name, which hides what is "
            "in the files"
        )


def _shape(of: NestedField | IcebergType) -> Any:
    """A field or type without its IDs and documentation."""
    if isinstance(of, NestedField):
        return of.name, of.required, _shape(of.field_type)
    if isinstance(of, ListType):
        return "list", of.element_required, _shape(of.element_type)
    if isinstance(of, MapType):
        return "map", _shape(of.key_type), of.value_required, _shape(of.value_type)
    if isinstance(of, StructType):
        return "struct", tuple(_shape(field) for field in of.fields)
    return str(of)


def leaf_ids(schema: pa.Schema) -> list[int]:
    """Field IDs of the Parquet leaf columns, in file order."""
    found: list[int] = []
    for field in schema:
        _collect(field, found)
    return found


def field_id(field: pa.Field) -> int:
    """The field ID that a file schema's field carries."""
    return int((field.metadata or {})[_ID])


def _collect(field: pa.Field, found: list[int]) -> None:
    children = _children(field.type)
    if not children:
        found.append(field_id(field))
    for child in children:
        _collect(child, found)


def _children(kind: pa.DataType) -> list[pa.Field]:
    if pa.types.is_map(kind):
        return [kind.key_field, kind.item_field]
    if pa.types.is_list(kind):
        return [kind.value_field]
    if pa.types.is_struct(kind):
        return list(kind)
    return []


def _with_ids(kind: pa.DataType, known: IcebergType) -> pa.DataType:
    if pa.types.is_list(kind) and isinstance(known, ListType):
        return pa.list_(_field(kind.value_field, "element", known.element_id, known.element_type))
    if pa.types.is_map(kind) and isinstance(known, MapType):
        return pa.map_(
            _field(kind.key_field, "key", known.key_id, known.key_type),
            _field(kind.item_field, "value", known.value_id, known.value_type),
        )
    if pa.types.is_struct(kind) and isinstance(known, StructType):
        inner = {field.name: field for field in known.fields}
        return pa.struct(
            [
                _field(field, field.name, inner[field.name].field_id, inner[field.name].field_type)
                for field in kind
            ]
        )
    return kind


def _field(field: pa.Field, name: str, field_id: int, known: IcebergType) -> pa.Field:
    return pa.field(
        name,
        _with_ids(field.type, known),
        field.nullable,
        metadata={_ID: str(field_id).encode()},
    )
