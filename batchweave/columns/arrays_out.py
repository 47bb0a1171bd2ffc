"""Arrow columns to arrays: what a reader gets back.

Owns `table_to_numpy` and `column_buffer`: the published arrays again, without a copy where memory
allows. Pure; imports: standard library, numpy, pyarrow, errors, arrow_types, leaf_arrays,
list_arrays, storage and array_types; ml_dtypes only where a column is to be its bfloat16.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from batchweave.columns.array_types import BFLOAT16, RAGGED, Array, ArrayType, Lengths
from batchweave.columns.arrow_types import MisfitError, is_list, list_levels, plain_type
from batchweave.columns.leaf_arrays import float_to_half
from batchweave.columns.list_arrays import list_items, list_lengths
from batchweave.columns.storage import relayout
from batchweave.errors import SchemaMismatch


def table_to_numpy(
    table: pa.Table, arrays: Mapping[str, ArrayType]
) -> dict[str, Array | list[Any]]:
    """The columns of a table in a stream's logical schema, as NumPy arrays where there is one.

    A column in ``arrays`` is exactly what was published: shape ``(rows, *shape)`` and dtype (in
    native byte order; bfloat16 as ``ml_dtypes.bfloat16``), or a list of 1-D arrays if it was such.
    Of the others, numbers and times without nulls are 1-D arrays (a null time is NaT), lists of
    equal lengths arrays of rank 2 and more, lists of numbers of different lengths a list of 1-D
    arrays (None for null); all else is a list of Python values. Times in a zone are in UTC.

    Where a column is one chunk of numbers no data is copied, and the array is read-only.

    Raises:
        SchemaMismatch: a column does not hold what its `ArrayType` says.
        ModuleNotFoundError: a bfloat16 column needs the package ``ml_dtypes``.
    """
    found: dict[str, Array | list[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            if name in arrays:
                found[name] = _published(column, arrays[name])
            else:
                found[name] = _plain(column)
        except MisfitError as error:
            raise SchemaMismatch(f"column {name!r}: {error}") from error
    return found


def column_buffer(
    column: pa.ChunkedArray, array_type: ArrayType | None = None
) -> tuple[Array, Lengths | None]:
    """The numbers of a column as one flat array, and how many of them each row has.

    The array is 1-D, in row order whatever the nesting, and read-only; it shares the column's
    memory if that is one chunk and not boolean. Its dtype is the column's, or the published one
    if ``array_type`` is given, except that bfloat16 comes as its bits in ``uint16``, for the
    caller to view as the type of their library. Lengths (int64, shape ``(rows,)``) are None for
    columns without lists. Reshape to ``(rows, *array_type.shape)``, or split by lengths.

    Raises:
        SchemaMismatch: the column has nulls, or values that are not fixed-width numbers.
    """
    try:
        if column.null_count:
            raise MisfitError(f"expected no null rows, got {column.null_count}")
        flat, lengths = _flat(column)
        return _restored(flat, array_type), lengths
    except MisfitError as error:
        raise SchemaMismatch(f"column of {column.type}: {error}") from error


def _restored(flat: Array, array_type: ArrayType | None) -> Array:
    if array_type is None or array_type.dtype == flat.dtype.name:
        return flat
    if flat.dtype == np.float32 and array_type.dtype == BFLOAT16:
        return (flat.view(np.uint32) >> 16).astype(np.uint16)
    if flat.dtype == np.float32 and array_type.dtype == "float16":
        return float_to_half(flat)
    if flat.dtype.kind == "M":
        return flat.astype(array_type.dtype)
    raise MisfitError(f"expected values of {array_type.dtype}, got {flat.dtype}")


def _plain_chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    """At least one chunk, in which all lists are plain and the values not encoded."""
    kind = plain_type(column.type)
    return relayout(column, kind).chunks or [pa.array([], kind)]


def _flat(column: pa.ChunkedArray) -> tuple[Array, Lengths | None]:
    leaves: list[Array] = []
    counts: list[Lengths] = []
    for chunk in _plain_chunks(column):
        leaf, lengths = _leaves(chunk)
        leaves.append(_numbers(leaf))
        counts.extend([] if lengths is None else [lengths])
    return _joined(leaves), _joined(counts) if counts else None


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _leaves(array: pa.Array) -> tuple[pa.Array, Lengths | None]:
    """The innermost values of a column and how many of them each row has; a null row has none."""
    counts: Lengths | None = None
    while is_list(array.type):
        lengths = list_lengths(array)
        if counts is None:
            counts = lengths
        else:
            if array.null_count:
                raise MisfitError("expected no null lists inside of lists")
            ends = np.concatenate(([0], np.cumsum(lengths)))
            counts = np.diff(ends[np.concatenate(([0], np.cumsum(counts)))])
        array = list_items(array)
    return array, counts


def _is_numeric(kind: pa.DataType) -> bool:
    types = pa.types
    clock = types.is_time(kind)
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(number or (types.is_temporal(kind) and not clock and not types.is_interval(kind)))


def _numbers(array: pa.Array) -> Array:
    """Numbers, booleans and times (NaT for null) as a NumPy array."""
    if not _is_numeric(array.type):
        raise MisfitError(f"expected fixed-width numbers, got values of {array.type}")
    times = pa.types.is_temporal(array.type)
    if array.null_count and not times:
        raise MisfitError(f"expected no null values, got {array.null_count}")
    copied = times or pa.types.is_boolean(array.type)
    return np.asarray(array.to_numpy(zero_copy_only=not copied))


def _published(column: pa.ChunkedArray, array_type: ArrayType) -> Array | list[Any]:
    if np.dtype(_numpy_name(array_type.dtype)).kind in "OSU":
        flat, lengths = _objects(column, array_type)
    else:
        flat, lengths = _flat(column)
        flat = _restored(flat, array_type)
        if array_type.dtype == BFLOAT16:
            flat = flat.view(_ml_dtypes().bfloat16)
    if array_type.shape == RAGGED:
        return _split(column, flat, lengths)
    shape = (len(column), *array_type.shape)
    if flat.size != math.prod(shape):
        raise MisfitError(f"expected an array of shape {shape}, got {flat.size} values")
    return flat.reshape(shape)


def _numpy_name(dtype: str) -> str:
    return "uint16" if dtype == BFLOAT16 else dtype


def _objects(column: pa.ChunkedArray, array_type: ArrayType) -> tuple[Array, Lengths | None]:
    parts = [_leaves(chunk) for chunk in _plain_chunks(column)]
    values = [value for leaf, _ in parts for value in _python(leaf)]
    counts = [lengths for _, lengths in parts if lengths is not None]
    flat = np.fromiter(values, dtype=object, count=len(values))
    return flat.astype(array_type.dtype), _joined(counts) if counts else None


def _ml_dtypes() -> ModuleType:
    try:
        return importlib.import_module("ml_dtypes")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "bfloat16 arrays need the package ml_dtypes: pip install ml_dtypes"
        ) from error


def _split(column: pa.ChunkedArray, flat: Array, lengths: Lengths | None) -> list[Any]:
    if lengths is None:
        if len(column):
            raise MisfitError(f"expected lists, got {column.type}")
        return []
    ends = np.cumsum(lengths).tolist()
    rows: list[Any] = [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    if column.null_count:
        valid = column.is_valid().to_pylist()
        return [row if here else None for row, here in zip(rows, valid, strict=True)]
    return rows


def _plain(column: pa.ChunkedArray) -> Array | list[Any]:
    """A column of which no array type is known."""
    levels, leaf = list_levels(column.type)
    if not _is_numeric(leaf):
        return _python(column)
    if isinstance(column.type, pa.FixedShapeTensorType) and column.null_count == 0:
        chunks = column.chunks or [pa.array([], column.type)]
        return _joined([chunk.to_numpy_ndarray() for chunk in chunks])
    try:
        flat, lengths = _flat(column)
        if lengths is None:
            return flat
        widths = _regular_widths(column, len(levels))
        if widths is not None:
            return flat.reshape((len(column), *widths))
        if len(levels) == 1:
            return _split(column, flat, lengths)
    except MisfitError:
        pass  # Nulls that no array can hold.
    return _python(column)


def _python(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """As Python values; without pandas Arrow has none for a time that counts nanoseconds."""
    try:
        return list(values.to_pylist())
    except ValueError as error:
        raise MisfitError(str(error)) from None


def _regular_widths(column: pa.ChunkedArray, depth: int) -> list[int] | None:
    """The common length of the lists at each level, or None where they differ or are null."""
    if column.null_count:
        return None
    widths = []
    arrays = _plain_chunks(column)
    for _ in range(depth):
        found: set[int] = set()
        for array in arrays:
            found.update(np.unique(list_lengths(array)).tolist())
        if len(found) > 1:
            return None
        widths.append(found.pop() if found else 0)
        arrays = [list_items(array) for array in arrays]
    return widths
