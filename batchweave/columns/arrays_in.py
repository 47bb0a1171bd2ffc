"""Arrays to Arrow columns: NumPy arrays and torch tensors, whole or one a row.

Owns which dtypes and shapes a declared type takes, and the one copy into memory that Arrow owns.
Pure; imports: standard library, numpy, pyarrow, arrow_types, leaf_arrays, list_arrays, storage,
array_types and python_values. Torch and ml_dtypes are used only where the caller's own values bring
them in.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchweave.columns import list_arrays
from batchweave.columns.array_types import BFLOAT16, RAGGED, Array, ArrayType, Lengths
from batchweave.columns.arrow_types import (
    BINARIES,
    STRINGS,
    MisfitError,
    list_levels,
    number_dtype,
)
from batchweave.columns.leaf_arrays import half_to_float
from batchweave.columns.list_arrays import offsets_of
from batchweave.columns.python_values import check_python
from batchweave.columns.storage import relayout


@dataclass(frozen=True, slots=True)
class RawArray:
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


def _torch() -> ModuleType | None:
    """Torch, if the caller has it: without it there are no tensors."""
    return sys.modules.get("torch")


def is_array(value: object) -> bool:
    """Whether the value is a NumPy array or a tensor."""
    torch = _torch()
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def raw_array(value: Any) -> RawArray | None:
    """The array or tensor that this value is or converts to, or None if it is neither.

    Raises:
        MisfitError: it has masked values, or is a tensor that NumPy cannot read.
    """
    torch = _torch()
    if torch is not None and isinstance(value, torch.Tensor):
        return _raw_tensor(value, torch)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise MisfitError("got a masked NumPy array; hand over an Arrow array with nulls instead")
    if not isinstance(value, np.ndarray):
        arrow = hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__")
        if arrow or isinstance(value, np.generic) or not hasattr(value, "__array__"):
            return None
    data = np.asarray(value)
    if data.dtype.name == BFLOAT16:
        return RawArray(data.view(np.uint16), BFLOAT16, "numpy")
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    name = data.dtype.str.lstrip("|<>=") if data.dtype.kind in "SU" else data.dtype.name
    return RawArray(data, name, "numpy")


def _raw_tensor(value: Any, torch: Any) -> RawArray:
    name = str(value.dtype).removeprefix("torch.")
    try:
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        if name == BFLOAT16:
            return RawArray(tensor.view(torch.int16).numpy().view(np.uint16), name, "torch")
        return RawArray(tensor.numpy(), name, "torch")
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise MisfitError(
            f"expected a dense tensor of a type that NumPy has, or bfloat16, got {name} on "
            f"{value.device}: {error}"
        ) from error


def array_column(raw: RawArray, declared: pa.DataType) -> tuple[pa.ChunkedArray, ArrayType]:
    """One array, whose first dimension is rows, as a column and how it looked."""
    if raw.data.ndim == 0:
        raise MisfitError(f"expected rows as the first dimension, got {raw.described()}")
    levels, leaf = list_levels(declared)
    _check_fits(raw, declared, leaf)
    shape = raw.data.shape[1:]
    widths = _widths(raw, declared, levels)
    rows_max = max(1, list_arrays.LIST_VALUES_MAX // max(1, math.prod(widths)))
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


def _fits(raw: RawArray, leaf: pa.DataType) -> bool:
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
        return leaf in STRINGS
    fixed = pa.types.is_fixed_size_binary(leaf)
    if dtype.kind == "S":
        return leaf in BINARIES or bool(fixed and leaf.byte_width == dtype.itemsize)
    return dtype.kind == "O" and bool(leaf in STRINGS or leaf in BINARIES or fixed)


_NUMPY_NAMES = {
    pa.from_numpy_dtype(np.dtype(code)): np.dtype(code).name
    for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}


def _check_fits(raw: RawArray, declared: pa.DataType, leaf: pa.DataType) -> None:
    if _fits(raw, leaf):
        return
    hint = "hand it over as Arrow data"
    if raw.data.dtype.kind in "biuf" and leaf in _NUMPY_NAMES:
        name = _NUMPY_NAMES[leaf]
        hint = f".to(torch.{name})" if raw.kind == "torch" else f".astype(np.{name})"
        hint = f"if no value is lost by it, convert it first: {hint}"
    raise MisfitError(f"declared {declared}, got {raw.described()}; {hint}")


def _widths(raw: RawArray, declared: pa.DataType, levels: list[pa.DataType]) -> tuple[int, ...]:
    """The length of the lists at each level, refusing shapes that the column cannot take."""
    shape = raw.data.shape[1:]
    if isinstance(declared, pa.FixedShapeTensorType):
        order = declared.permutation
        if shape != tuple(declared.shape) or (order and order != sorted(order)):
            raise MisfitError(f"declared {declared}, got {raw.described()}")
    if len(shape) == len(levels):
        widths = shape
    elif len(levels) == 1 and len(shape) > 1:
        widths = (math.prod(shape),)
    else:
        hint = "; for rows of different lengths, hand over a list of 1-D arrays"
        raise MisfitError(
            f"declared {declared}, which takes an array of rank {len(levels) + 1}, "
            f"got {raw.described()}{hint * (len(levels) == 1)}"
        )
    for level, width in zip(levels, widths, strict=True):
        if pa.types.is_fixed_size_list(level) and level.list_size != width:
            raise MisfitError(f"declared {declared}, got {raw.described()}")
    return widths


def _listed(
    values: pa.Array, lengths: Lengths, level: pa.DataType, mask: pa.Array | None = None
) -> pa.Array:
    kind = pa.list_(level.value_field.with_type(values.type))
    return pa.ListArray.from_arrays(offsets_of(lengths), values, type=kind, mask=mask)


def ragged_column(rows: Sequence[Any], declared: pa.DataType) -> tuple[pa.ChunkedArray, ArrayType]:
    """A list of arrays, one a row; rows may be None, and differ in length if they are 1-D."""
    raws = [None if row is None else raw_array(row) for row in rows]
    present = [raw for raw in raws if raw is not None]
    first = present[0]
    if any(raw is None and row is not None for raw, row in zip(raws, rows, strict=True)):
        raise MisfitError("expected arrays in all rows, got arrays and other values")
    if {(raw.dtype, raw.kind, raw.data.ndim) for raw in present} != {
        (first.dtype, first.kind, first.data.ndim)
    }:
        found = sorted({raw.described() for raw in present})
        raise MisfitError(f"expected rows of one dtype and rank, got {', '.join(found[:4])}")
    if first.data.ndim != 1:
        return _stacked_column(present, len(rows), declared)
    levels, leaf = list_levels(declared)
    _check_fits(first, declared, leaf)
    if len(levels) != 1:
        raise MisfitError(f"declared {declared}, got a list of 1-D arrays")
    column = pa.chunked_array(_ragged_chunks(raws, first.dtype, levels[0], leaf))
    return relayout(column, declared), ArrayType(first.dtype, RAGGED, first.kind)


def _stacked_column(
    present: list[RawArray], rows: int, declared: pa.DataType
) -> tuple[pa.ChunkedArray, ArrayType]:
    shapes = sorted({raw.data.shape for raw in present})
    if len(shapes) > 1 or len(present) < rows:
        raise MisfitError(
            f"expected rows of one shape, as they are not 1-D, got {shapes[:4]} "
            f"and {rows - len(present)} of None"
        )
    first = present[0]
    stacked = np.stack([raw.data for raw in present])
    return array_column(RawArray(stacked, first.dtype, first.kind), declared)


def _ragged_chunks(
    raws: Sequence[RawArray | None], dtype: str, level: pa.DataType, leaf: pa.DataType
) -> list[pa.Array]:
    lengths = np.array([0 if raw is None else raw.data.size for raw in raws], dtype=np.int64)
    if lengths.sum() > list_arrays.LIST_VALUES_MAX and len(raws) > 1:
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
        return _copied(blocks, number_dtype(leaf), leaf)
    if kind == "f":
        if blocks[0].dtype == np.float16:
            blocks = [half_to_float(block) for block in blocks]
        return _copied(blocks, np.float32, leaf)
    flat = np.concatenate([block.reshape(-1) for block in blocks])
    if kind == "O":
        values = flat.tolist()
        check_python(values, leaf)
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
