"""One slice as a user hands it over, to an Arrow table in the stream's logical schema.

Owns the checks of a slice's columns against the schema, and which way each kind of value takes.
Pure; imports: standard library, pyarrow, errors and this package's other modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from batchweave.columns.array_types import ArrayType
from batchweave.columns.arrays_in import array_column, is_array, ragged_column, raw_array
from batchweave.columns.arrow_types import BINARIES, STRINGS, MisfitError, is_list
from batchweave.columns.nulls import check_nulls
from batchweave.columns.python_values import python_column
from batchweave.columns.storage import relayout
from batchweave.errors import SchemaMismatch


def slice_to_table(
    value: object, schema: pa.Schema, *, where: str
) -> tuple[pa.Table, dict[str, ArrayType]]:
    """One slice as a table in ``schema``, and how those of its columns that were arrays looked.

    ``value`` is an Arrow table or record batch (or anything with ``__arrow_c_stream__``, such as a
    data frame), or a mapping of column names to NumPy arrays, torch tensors, Arrow arrays, or
    lists: of Python values, or of 1-D arrays, one a row. Columns may come in any order. Arrays and
    lists are copied, so the caller may reuse them at once; Arrow data is immutable and shared.

    A type is never narrowed: it is the declared one, or lays out the same values differently
    (``large_string`` for ``string``). float16 and bfloat16 arrays also fit a ``float`` column.

    Raises:
        SchemaMismatch: columns are missing or too many, differ in rows, or hold other types,
            values that do not fit exactly, or nulls where none may be. The message begins with
            ``where`` and names the column, what was declared, and what was found.
    """
    given = _given_columns(value, where)
    _check_column_names(given, schema, where)
    columns: list[pa.ChunkedArray] = []
    arrays: dict[str, ArrayType] = {}
    for field in schema:
        try:
            column, array_type = _column(given[field.name], field.type)
        except MisfitError as error:
            raise SchemaMismatch(f"{where}, column {field.name!r}: {error}") from error
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise SchemaMismatch(
                f"{where}, column {field.name!r}: declared {field.type}, got values that it "
                f"does not take: {error}"
            ) from error
        columns.append(column)
        if array_type is not None:
            arrays[field.name] = array_type
    _check_rows(columns, schema, where)
    for column, field in zip(columns, schema, strict=True):
        try:
            check_nulls(column, field)
        except SchemaMismatch as error:
            raise SchemaMismatch(f"{where}, {error}") from None
    return pa.Table.from_arrays(columns, schema=schema), arrays


def _given_columns(value: object, where: str) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    table: Any = value
    if not isinstance(value, pa.Table | pa.RecordBatch):
        if not hasattr(value, "__arrow_c_stream__") or isinstance(value, pa.ChunkedArray):
            raise SchemaMismatch(
                f"{where}: expected a mapping of columns to arrays, or an Arrow table, "
                f"got {type(value).__name__}"
            )
        table = pa.table(value)
    names = table.schema.names
    if len(set(names)) < len(names):
        raise SchemaMismatch(f"{where}: column names must differ, got {names}")
    return dict(zip(names, table.columns, strict=True))


def _check_column_names(given: Mapping[Any, Any], schema: pa.Schema, where: str) -> None:
    missing = [name for name in schema.names if name not in given]
    extra = [name for name in given if name not in schema.names]
    if missing or extra:
        parts = ([f"missing {missing}"] if missing else []) + ([f"not in it {extra}"] * bool(extra))
        raise SchemaMismatch(
            f"{where}: the stream declares columns {schema.names}; {', '.join(parts)}"
        )


def _check_rows(columns: Sequence[pa.ChunkedArray], schema: pa.Schema, where: str) -> None:
    rows = {name: len(column) for name, column in zip(schema.names, columns, strict=True)}
    if len(set(rows.values())) > 1:
        raise SchemaMismatch(f"{where}: all columns must have equally many rows, got {rows}")


def _column(value: Any, declared: pa.DataType) -> tuple[pa.ChunkedArray, ArrayType | None]:
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return _arrow_column(value, declared), None
    raw = raw_array(value)
    if raw is not None:
        if raw.data.dtype == object and any(is_array(item) for item in raw.data.flat):
            return ragged_column(list(raw.data), declared)
        return array_column(raw, declared)
    if isinstance(value, list | tuple):
        if any(is_array(item) for item in value):
            return ragged_column(value, declared)
        return python_column(value, declared), None
    if hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__"):
        return _arrow_column(pa.chunked_array(value), declared), None
    raise MisfitError(f"expected an array or a list for {declared}, got {type(value).__name__}")


def _arrow_column(value: pa.Array | pa.ChunkedArray, declared: pa.DataType) -> pa.ChunkedArray:
    if not _same_values(value.type, declared):
        raise MisfitError(f"declared {declared}, got Arrow data of {value.type}; cast it first")
    return relayout(value, declared)


def _same_values(found: pa.DataType, declared: pa.DataType) -> bool:
    """Whether two types hold the same values, at most laid out differently."""
    if found == declared:
        return True
    extensions = isinstance(found, pa.BaseExtensionType), isinstance(declared, pa.BaseExtensionType)
    if any(extensions):
        return False
    for family in (STRINGS, BINARIES):
        if found in family:
            return declared in family
    if is_list(found) and is_list(declared):
        fixed = pa.types.is_fixed_size_list(found), pa.types.is_fixed_size_list(declared)
        if any(fixed) and not (all(fixed) and found.list_size == declared.list_size):
            return False
        return _same_values(found.value_type, declared.value_type)
    if pa.types.is_struct(found) and pa.types.is_struct(declared):
        return found.names == declared.names and all(
            _same_values(ours.type, theirs.type)
            for ours, theirs in zip(found.fields, declared.fields, strict=True)
        )
    if pa.types.is_map(found) and pa.types.is_map(declared):
        keys = _same_values(found.key_type, declared.key_type)
        return keys and _same_values(found.item_type, declared.item_type)
    return False
