"""Columns: values on their way in, into storage, out of it, and back as arrays.

``slices`` takes what users publish (``python_values``, ``arrays_in``); ``storage`` gives it the
types that open tables have (``storage_types``, ``leaf_arrays``, ``list_arrays``, ``nulls``) and
takes it back, exactly; ``arrays_out`` makes the arrays that went in; ``lineage_columns`` says which
columns may tell where rows came from. Pure; imports: standard
library, pyarrow, NumPy, errors.
"""

from __future__ import annotations

from batchweave.columns.array_types import ArrayType
from batchweave.columns.arrays_out import column_buffer, table_to_numpy
from batchweave.columns.lineage_columns import (
    check_lineage_columns,
    lineage_from_text,
    lineage_to_text,
)
from batchweave.columns.slices import slice_to_table
from batchweave.columns.storage import from_storage, to_storage
from batchweave.columns.storage_types import schema_from_text, schema_to_text, storage_schema

__all__ = [
    "ArrayType",
    "check_lineage_columns",
    "column_buffer",
    "from_storage",
    "lineage_from_text",
    "lineage_to_text",
    "schema_from_text",
    "schema_to_text",
    "slice_to_table",
    "storage_schema",
    "table_to_numpy",
    "to_storage",
]
