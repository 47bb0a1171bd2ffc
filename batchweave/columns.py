"""Column values: what a user hands over as one slice, and what a reader gets back.

Owns the checks and conversions between arrays (NumPy, torch, Arrow, Python lists) and Arrow columns
of a stream's logical schema. How those are stored is `batchweave.storage_types`, whose functions
stand here too. Pure; imports: standard library, numpy, pyarrow, errors and storage_types. Torch and
ml_dtypes are used only where the caller's own values bring them in.

The first dimension of an array is rows. An array of rank 1 is a scalar column. One of rank r > 1 is
a column of lists: nested r - 1 deep if the column is declared so, else one flat list a row in C
order, whose shape `ArrayType` remembers. bfloat16 is held in ``float`` columns, each value exact.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from types import ModuleType
from typing import Any, Literal, TypeAlias
from uuid import UUID  # noqa: TID251 - the class, not the generators

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchweave import storage_types
from batchweave.errors import SchemaMismatch
from batchweave.storage_types import (
    check_nulls,
    float_to_half,
    from_storage,
    half_to_float,
    is_list,
    list_items,
    list_lengths,
    offsets_of,
    relayout,
    schema_from_text,
    schema_to_text,
    storage_schema,
    to_storage,
)

__all__ = [
    "ArrayType",
    "column_buffer",
    "from_storage",
    "schema_from_text",
    "schema_to_text",
    "slice_to_table",
    "storage_schema",
    "table_to_numpy",
    "to_storage",
]

Array: TypeAlias = npt.NDArray[Any]
Lengths: TypeAlias = npt.NDArray[np.int64]

BFLOAT16 = "bfloat16"
RAGGED = (-1,)

_STRINGS = (pa.string(), pa.large_string(), pa.string_view())
_BINARIES = (pa.binary(), pa.large_binary(), pa.binary_view())


@dataclass(frozen=True, slots=True)
class ArrayType:
    """How the array of a column looked when it was published.

    ``dtype`` is the name of a NumPy or torch dtype (``"int64"``, ``"bfloat16"``, ``"U5"``),
    ``shape`` the shape without rows; ``(-1,)`` is a list of 1-D arrays, one a row, of any length.
    """

    dtype: str
    shape: tuple[int, ...]
    kind: Literal["numpy", "torch"]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return {"dtype": self.dtype, "shape": list(self.shape), "kind": self.kind}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArrayType:
        """The inverse of `to_dict`.

        Raises:
            SchemaMismatch: a key is missing or a value is of another type.
        """
        dtype, shape, kind = (values.get(key) for key in ("dtype", "shape", "kind"))
        whole = isinstance(shape, list) and all(type(n) is int and n >= -1 for n in shape)
        if not isinstance(dtype, str) or not whole or kind not in ("numpy", "torch"):
            raise SchemaMismatch(f"expected dtype, shape and kind of an array, got {dict(values)}")
        return cls(dtype, tuple(shape or ()), "torch" if kind == "torch" else "numpy")


class _MisfitError(ValueError):
    """A value does not fit its column; the caller adds which slice and which column."""


@dataclass(frozen=True, slots=True)
class _Raw:
    """An array or tensor as a native-endian NumPy array that shares its memory where possible.

    bfloat16 stands as its bits in uint16, so that nothing here needs a package that knows it.
    """

    data: Array
    dtype: str
    kind: Literal["numpy", "torch"]

    def described(self) -> str:
        """For messages: what was handed over."""
        noun = "torch tensor" if self.kind == "torch" else "NumPy array"
        return f"a {noun} of {self.dtype} with shape {self.data.shape}"


# ---- in: one slice to an Arrow table ----


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
        except _MisfitError as error:
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
    raw = _raw(value)
    if raw is not None:
        if raw.data.dtype == object and any(_is_array(item) for item in raw.data.flat):
            return _ragged_column(list(raw.data), declared)
        return _array_column(raw, declared)
    if isinstance(value, list | tuple):
        if any(_is_array(item) for item in value):
            return _ragged_column(value, declared)
        return _python_column(value, declared), None
    if hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__"):
        return _arrow_column(pa.chunked_array(value), declared), None
    raise _MisfitError(f"expected an array or a list for {declared}, got {type(value).__name__}")


# ---- Arrow columns ----


def _arrow_column(value: pa.Array | pa.ChunkedArray, declared: pa.DataType) -> pa.ChunkedArray:
    if not _same_values(value.type, declared):
        raise _MisfitError(f"declared {declared}, got Arrow data of {value.type}; cast it first")
    return relayout(value, declared)


def _same_values(found: pa.DataType, declared: pa.DataType) -> bool:
    """Whether two types hold the same values, at most laid out differently."""
    if found == declared:
        return True
    extensions = isinstance(found, pa.BaseExtensionType), isinstance(declared, pa.BaseExtensionType)
    if any(extensions):
        return False
    for family in (_STRINGS, _BINARIES):
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


# ---- arrays and tensors ----


def _torch() -> ModuleType | None:
    """Torch, if the caller has it: without it there are no tensors."""
    return sys.modules.get("torch")


def _is_array(value: object) -> bool:
    torch = _torch()
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def _raw(value: Any) -> _Raw | None:
    torch = _torch()
    if torch is not None and isinstance(value, torch.Tensor):
        return _raw_tensor(value, torch)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise _MisfitError("got a masked NumPy array; hand over an Arrow array with nulls instead")
    if not isinstance(value, np.ndarray):
        arrow = hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__")
        if arrow or isinstance(value, np.generic) or not hasattr(value, "__array__"):
            return None
    data = np.asarray(value)
    if data.dtype.name == BFLOAT16:
        return _Raw(data.view(np.uint16), BFLOAT16, "numpy")
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    name = data.dtype.str.lstrip("|<>=") if data.dtype.kind in "SU" else data.dtype.name
    return _Raw(data, name, "numpy")


def _raw_tensor(value: Any, torch: Any) -> _Raw:
    name = str(value.dtype).removeprefix("torch.")
    try:
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        if name == BFLOAT16:
            return _Raw(tensor.view(torch.int16).numpy().view(np.uint16), name, "torch")
        return _Raw(tensor.numpy(), name, "torch")
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise _MisfitError(
            f"expected a dense tensor of a type that NumPy has, or bfloat16, got {name} on "
            f"{value.device}: {error}"
        ) from error


def _list_levels(declared: pa.DataType) -> tuple[list[pa.DataType], pa.DataType]:
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


def _fits(raw: _Raw, leaf: pa.DataType) -> bool:
    """Whether values of the array's dtype are held by the Arrow type, each exactly."""
    if raw.dtype == BFLOAT16:
        return bool(leaf == pa.float32())
    dtype = raw.data.dtype
    if dtype.kind in "biuf" and dtype.itemsize <= 8:
        half = dtype == np.float16 and leaf == pa.float32()
        return bool(half or leaf == pa.from_numpy_dtype(dtype))
    if dtype.kind in "Mm":
        unit, count = np.datetime_data(dtype)
        if count != 1 or unit not in ("D", "s", "ms", "us", "ns"):
            return False
        if unit == "D":
            return dtype.kind == "M" and bool(pa.types.is_date(leaf))
        if dtype.kind == "m":
            return bool(leaf == pa.duration(unit))
        return leaf in (pa.timestamp(unit), pa.timestamp(unit, "UTC"))
    if dtype.kind == "U":
        return leaf in _STRINGS
    fixed = pa.types.is_fixed_size_binary(leaf)
    if dtype.kind == "S":
        return leaf in _BINARIES or bool(fixed and leaf.byte_width == dtype.itemsize)
    return dtype.kind == "O" and bool(leaf in _STRINGS or leaf in _BINARIES or fixed)


def _check_fits(raw: _Raw, declared: pa.DataType, leaf: pa.DataType) -> None:
    if _fits(raw, leaf):
        return
    hint = "hand it over as Arrow data"
    if raw.data.dtype.kind in "biuf" and leaf in _NUMPY_NAMES:
        name = _NUMPY_NAMES[leaf]
        hint = f".to(torch.{name})" if raw.kind == "torch" else f".astype(np.{name})"
        hint = f"if no value is lost by it, convert it first: {hint}"
    raise _MisfitError(f"declared {declared}, got {raw.described()}; {hint}")


_NUMPY_NAMES = {
    pa.from_numpy_dtype(np.dtype(code)): np.dtype(code).name
    for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}


def _array_column(raw: _Raw, declared: pa.DataType) -> tuple[pa.ChunkedArray, ArrayType]:
    if raw.data.ndim == 0:
        raise _MisfitError(f"expected rows as the first dimension, got {raw.described()}")
    levels, leaf = _list_levels(declared)
    _check_fits(raw, declared, leaf)
    shape = raw.data.shape[1:]
    widths = _widths(raw, declared, levels)
    rows_max = max(1, storage_types.LIST_VALUES_MAX // max(1, math.prod(widths)))
    chunks = []
    for start in range(0, len(raw.data), rows_max) or (0,):
        block = raw.data[start : start + rows_max]
        values = _leaf_array([block], raw.dtype, leaf)
        for depth in reversed(range(len(widths))):
            rows = len(block) * math.prod(widths[:depth])
            lengths = np.full(rows, widths[depth], dtype=np.int64)
            values = _listed(values, lengths, levels[depth])
        chunks.append(values)
    column = relayout(pa.chunked_array(chunks), declared)
    return column, ArrayType(raw.dtype, shape, raw.kind)


def _widths(raw: _Raw, declared: pa.DataType, levels: list[pa.DataType]) -> tuple[int, ...]:
    """The length of the lists at each level, refusing shapes that the column cannot take."""
    shape = raw.data.shape[1:]
    if isinstance(declared, pa.FixedShapeTensorType):
        order = declared.permutation
        if shape != tuple(declared.shape) or (order and order != sorted(order)):
            raise _MisfitError(f"declared {declared}, got {raw.described()}")
    if len(shape) == len(levels):
        widths = shape
    elif len(levels) == 1 and len(shape) > 1:
        widths = (math.prod(shape),)
    else:
        hint = "; for rows of different lengths, hand over a list of 1-D arrays"
        raise _MisfitError(
            f"declared {declared}, which takes an array of rank {len(levels) + 1}, "
            f"got {raw.described()}{hint * (len(levels) == 1)}"
        )
    for level, width in zip(levels, widths, strict=True):
        if pa.types.is_fixed_size_list(level) and level.list_size != width:
            raise _MisfitError(f"declared {declared}, got {raw.described()}")
    return widths


def _listed(
    values: pa.Array, lengths: Lengths, level: pa.DataType, mask: pa.Array | None = None
) -> pa.Array:
    kind = pa.list_(level.value_field.with_type(values.type))
    return pa.ListArray.from_arrays(offsets_of(lengths), values, type=kind, mask=mask)


def _ragged_column(rows: Sequence[Any], declared: pa.DataType) -> tuple[pa.ChunkedArray, ArrayType]:
    """A list of arrays, one a row; rows may be None, and differ in length if they are 1-D."""
    raws = [None if row is None else _raw(row) for row in rows]
    present = [raw for raw in raws if raw is not None]
    first = present[0]
    if any(raw is None and row is not None for raw, row in zip(raws, rows, strict=True)):
        raise _MisfitError("expected arrays in all rows, got arrays and other values")
    if {(raw.dtype, raw.kind, raw.data.ndim) for raw in present} != {
        (first.dtype, first.kind, first.data.ndim)
    }:
        found = sorted({raw.described() for raw in present})
        raise _MisfitError(f"expected rows of one dtype and rank, got {', '.join(found[:4])}")
    if first.data.ndim != 1:
        return _stacked_column(present, len(rows), declared)
    levels, leaf = _list_levels(declared)
    _check_fits(first, declared, leaf)
    if len(levels) != 1:
        raise _MisfitError(f"declared {declared}, got a list of 1-D arrays")
    column = pa.chunked_array(_ragged_chunks(raws, first.dtype, levels[0], leaf))
    return relayout(column, declared), ArrayType(first.dtype, RAGGED, first.kind)


def _stacked_column(
    present: list[_Raw], rows: int, declared: pa.DataType
) -> tuple[pa.ChunkedArray, ArrayType]:
    shapes = sorted({raw.data.shape for raw in present})
    if len(shapes) > 1 or len(present) < rows:
        raise _MisfitError(
            f"expected rows of one shape, as they are not 1-D, got {shapes[:4]} "
            f"and {rows - len(present)} of None"
        )
    first = present[0]
    stacked = np.stack([raw.data for raw in present])
    return _array_column(_Raw(stacked, first.dtype, first.kind), declared)


def _ragged_chunks(
    raws: Sequence[_Raw | None], dtype: str, level: pa.DataType, leaf: pa.DataType
) -> list[pa.Array]:
    lengths = np.array([0 if raw is None else raw.data.size for raw in raws], dtype=np.int64)
    if lengths.sum() > storage_types.LIST_VALUES_MAX and len(raws) > 1:
        half = len(raws) // 2
        first = _ragged_chunks(raws[:half], dtype, level, leaf)
        return first + _ragged_chunks(raws[half:], dtype, level, leaf)
    blocks = [raw.data for raw in raws if raw is not None]
    null = [raw is None for raw in raws]
    mask = pa.array(null) if any(null) else None
    return [_listed(_leaf_array(blocks, dtype, leaf), lengths, level, mask)]


def _leaf_array(blocks: Sequence[Array], dtype: str, leaf: pa.DataType) -> pa.Array:
    """All values of the blocks, in C order, copied into one Arrow array of a type that fits."""
    if not blocks:
        return pa.array([], leaf)
    if dtype == BFLOAT16:
        return _widened(blocks, leaf)
    kind = blocks[0].dtype.kind
    if kind in "Mm":
        return _times(blocks, leaf)
    if kind in "iu" or (kind == "f" and leaf != pa.float32()):
        return _copied(blocks, leaf.to_pandas_dtype(), leaf)
    if kind == "f":
        if blocks[0].dtype == np.float16:
            blocks = [half_to_float(block) for block in blocks]
        return _copied(blocks, np.float32, leaf)
    flat = np.concatenate([block.reshape(-1) for block in blocks])
    if kind == "O":
        values = flat.tolist()
        _check_python(values, leaf)
        return pa.array(values, leaf)
    return pa.array(flat, leaf)


def _fixed_width(buffer: pa.Buffer, count: int, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, count, [None, buffer])


def _copied(blocks: Sequence[Array], dtype: npt.DTypeLike, kind: pa.DataType) -> pa.Array:
    """One copy, straight into memory that Arrow owns."""
    buffer, flat = _allocated(blocks, dtype)
    at = 0
    for block in blocks:
        np.copyto(flat[at : at + block.size].reshape(block.shape), block, casting="no")
        at += block.size
    return _fixed_width(buffer, len(flat), kind)


def _allocated(blocks: Sequence[Array], dtype: npt.DTypeLike) -> tuple[pa.Buffer, Array]:
    count = sum(block.size for block in blocks)
    buffer = pa.allocate_buffer(count * np.dtype(dtype).itemsize)
    return buffer, np.ndarray((count,), dtype, buffer=buffer)


def _widened(blocks: Sequence[Array], kind: pa.DataType) -> pa.Array:
    """The bits of bfloat16 as those of float32: the upper half of each word."""
    buffer, flat = _allocated(blocks, np.uint32)
    at = 0
    for block in blocks:
        part = flat[at : at + block.size].reshape(block.shape)
        np.left_shift(block, 16, out=part, dtype=np.uint32)
        at += block.size
    return _fixed_width(buffer, len(flat), kind)


def _times(blocks: Sequence[Array], leaf: pa.DataType) -> pa.Array:
    """datetime64 and timedelta64; NaT is null."""
    flat = np.concatenate([block.reshape(-1) for block in blocks])
    missing = np.isnat(flat)
    mask = missing if missing.any() else None
    counts = flat.view(np.int64)  # `concatenate` has copied, so Arrow may keep this memory.
    if not pa.types.is_date(leaf):
        return pa.array(counts, pa.int64(), mask=mask).view(leaf)
    days = pa.array(counts, pa.int64(), mask=mask).cast(pa.int32()).view(pa.date32())
    return days.cast(leaf)


# ---- Python lists ----


def _python_column(values: Sequence[Any], declared: pa.DataType) -> pa.ChunkedArray:
    """A list of Python values. Arrow would truncate some of them silently; here they are refused.

    A Python float may be rounded to the precision of a ``float`` or ``halffloat`` column.
    """
    values = list(values)
    _check_python(values, declared)
    column = pa.array(values, _plain_type(declared, _wide), from_pandas=False)
    return relayout(column, declared)


def _wide(kind: pa.DataType) -> pa.DataType:
    """A type that Arrow builds from Python values, with all that they carry; see `relayout`."""
    if pa.types.is_timestamp(kind) and kind.unit in ("s", "ms"):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit in ("s", "ms"):
        return pa.duration("us")
    if pa.types.is_time32(kind):
        return pa.time64("us")
    return pa.date32() if pa.types.is_date64(kind) else kind


def _plain_type(
    kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType] = lambda kind: kind
) -> pa.DataType:
    """The type of the same values in plain lists, without extensions, dictionaries or runs."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type, leaf)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _plain_type(kind.value_type, leaf)

    def plain(field: pa.Field) -> pa.Field:
        return field.with_type(_plain_type(field.type, leaf))

    if is_list(kind):
        return pa.list_(plain(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([plain(field) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_field), plain(kind.item_field), kind.keys_sorted)
    return leaf(kind)


def _check_python(values: Sequence[Any], declared: pa.DataType) -> None:
    """Refuse Python values of another kind than the declared type, at any depth."""
    present = [value for value in values if value is not None]
    kinds = set(map(type, present))
    if isinstance(declared, pa.BaseExtensionType):
        _check_python(present, declared.storage_type)
    elif pa.types.is_dictionary(declared) or pa.types.is_run_end_encoded(declared):
        _check_python(present, declared.value_type)
    elif is_list(declared):
        _expect(kinds, (list, tuple, np.ndarray), declared)
        _check_python(list(chain.from_iterable(present)), declared.value_type)
    elif pa.types.is_map(declared):
        _expect(kinds, (dict, list, tuple), declared)
        pairs = [pair for value in present for pair in _pairs(value)]
        _check_python([key for key, _ in pairs], declared.key_type)
        _check_python([item for _, item in pairs], declared.item_type)
    elif pa.types.is_struct(declared):
        _expect(kinds, (dict,), declared)
        extra = set(chain.from_iterable(present)) - set(declared.names)
        if extra:
            raise _MisfitError(f"declared {declared}, got fields {sorted(map(str, extra))}")
        for field in declared.fields:
            _check_python([value.get(field.name) for value in present], field.type)
    else:
        _check_python_leaves(present, kinds, declared)


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, dict) else value


def _expect(kinds: set[type], allowed: tuple[type, ...], declared: pa.DataType) -> None:
    for kind in sorted(kinds, key=str):
        if not issubclass(kind, allowed) or (kind is bool and bool not in allowed):
            names = ", ".join(one.__name__ for one in allowed)
            raise _MisfitError(f"declared {declared}, which takes {names}, got {kind.__name__}")


def _check_python_leaves(present: Sequence[Any], kinds: set[type], declared: pa.DataType) -> None:
    types = pa.types
    if types.is_boolean(declared):
        _expect(kinds, (bool, np.bool_), declared)
    elif types.is_integer(declared):
        _expect(kinds, (int, np.integer), declared)
    elif types.is_floating(declared):
        _expect(kinds, (float, int, np.floating), declared)
        _check_range(present, declared)
    elif types.is_decimal(declared):
        _expect(kinds, (Decimal, int), declared)
    elif declared in _STRINGS:
        _expect(kinds, (str,), declared)
    elif declared in _BINARIES:
        _expect(kinds, (bytes, bytearray, memoryview), declared)
    elif types.is_fixed_size_binary(declared):
        _expect(kinds, (bytes, bytearray, memoryview, UUID), declared)
    elif types.is_temporal(declared):
        _check_python_times(present, kinds, declared)


def _check_range(present: Sequence[Any], declared: pa.DataType) -> None:
    """Rounding is what a narrower float means, but a finite value must not become infinite."""
    largest = float(np.finfo(declared.to_pandas_dtype()).max)
    for value in present:
        if math.isfinite(value) and abs(value) > largest:
            raise _MisfitError(f"declared {declared}, got {value!r}, which is out of its range")


def _check_python_times(present: Sequence[Any], kinds: set[type], declared: pa.DataType) -> None:
    """Exactly these classes: a subclass (pandas has some) may carry what Arrow would drop."""
    types = pa.types
    if types.is_timestamp(declared):
        wanted: type = datetime
    elif types.is_date(declared):
        wanted = date
    else:
        wanted = timedelta if types.is_duration(declared) else time
    if kinds - {wanted}:
        found = sorted(kind.__name__ for kind in kinds - {wanted})
        raise _MisfitError(f"declared {declared}, which takes {wanted.__name__}, got {found}")
    if wanted in (datetime, time):
        zoned = types.is_timestamp(declared) and declared.tz is not None
        for value in present:
            if (value.tzinfo is not None) != zoned:
                state = "with" if zoned else "without"
                raise _MisfitError(f"declared {declared}, expected values {state} tzinfo")


# ---- out: an Arrow table to arrays ----


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
        except _MisfitError as error:
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
            raise _MisfitError(f"expected no null rows, got {column.null_count}")
        flat, lengths = _flat(column)
        return _restored(flat, array_type), lengths
    except _MisfitError as error:
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
    raise _MisfitError(f"expected values of {array_type.dtype}, got {flat.dtype}")


def _plain_chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    """At least one chunk, in which all lists are plain and the values not encoded."""
    kind = _plain_type(column.type)
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
                raise _MisfitError("expected no null lists inside of lists")
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
        raise _MisfitError(f"expected fixed-width numbers, got values of {array.type}")
    times = pa.types.is_temporal(array.type)
    if array.null_count and not times:
        raise _MisfitError(f"expected no null values, got {array.null_count}")
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
        raise _MisfitError(f"expected an array of shape {shape}, got {flat.size} values")
    return flat.reshape(shape)


def _numpy_name(dtype: str) -> str:
    return "uint16" if dtype == BFLOAT16 else dtype


def _objects(column: pa.ChunkedArray, array_type: ArrayType) -> tuple[Array, Lengths | None]:
    parts = [_leaves(chunk) for chunk in _plain_chunks(column)]
    values = [value for leaf, _ in parts for value in leaf.to_pylist()]
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
            raise _MisfitError(f"expected lists, got {column.type}")
        return []
    ends = np.cumsum(lengths).tolist()
    rows: list[Any] = [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    if column.null_count:
        valid = column.is_valid().to_pylist()
        return [row if here else None for row, here in zip(rows, valid, strict=True)]
    return rows


def _plain(column: pa.ChunkedArray) -> Array | list[Any]:
    """A column of which no array type is known."""
    levels, leaf = _list_levels(column.type)
    if not _is_numeric(leaf):
        return list(column.to_pylist())
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
    except _MisfitError:
        pass  # Nulls that no array can hold.
    return list(column.to_pylist())


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
