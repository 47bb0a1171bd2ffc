"""Nulls where a schema forbids them, at any depth.

Owns the check of fields declared not null, also where a dictionary or runs hide the null. Pure;
imports: pyarrow, errors, arrow_types and list_arrays.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from batchweave.columns.arrow_types import inner_fields
from batchweave.columns.list_arrays import list_items, map_entries
from batchweave.errors import SchemaMismatch


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


def _requires_values(kind: pa.DataType) -> bool:
    """Whether any field inside this type is declared not null."""
    return any(not f.nullable or _requires_values(f.type) for f in inner_fields(kind))


def _null_path(array: pa.Array, field: pa.Field, *, allowed: int) -> str | None:
    """The path of a field declared not null that has a null; ``allowed`` come from its parent."""
    if not field.nullable and _null_count(array) > allowed:
        return str(field.name)
    if not _requires_values(field.type):
        return None
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_map(array.type):
        entries = list_items(map_entries(array))
        children, inherited = [entries.field(0), entries.field(1)], 0
    else:
        struct = pa.types.is_struct(array.type)
        children = array.flatten() if struct else [list_items(array)]
        inherited = array.null_count if struct else 0
    for child, inner in zip(children, inner_fields(array.type), strict=True):
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
