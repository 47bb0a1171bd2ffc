"""Arrays without children, to their storage types and back: the leaves of nested columns.

Owns the change of each single value, dictionaries and runs included, and the bits of float16.
Values are never rounded, wrapped or truncated: what does not fit is an error. Pure; imports:
standard library, numpy, pyarrow, arrow_types and storage_types.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchweave.columns.arrow_types import number_dtype
from batchweave.columns.storage_types import storage_type

STRING_BYTES_MAX = 2**31 - 1


class TooLongError(ValueError):
    """A chunk holds more than 32-bit offsets or a small index can count; fewer rows may do."""


def encode(array: pa.Array, storage: pa.DataType) -> pa.Array:
    """One array without children, to its storage type."""
    kind = array.type
    if kind == storage:
        return array
    if pa.types.is_null(kind):
        return pa.nulls(len(array), storage)
    if pa.types.is_dictionary(kind):
        return encode(array.dictionary, storage).take(array.indices)
    if pa.types.is_run_end_encoded(kind):
        values = encode(array.values, storage)
        runs = pa.RunEndEncodedArray.from_arrays(array.run_ends, values)
        return pc.run_end_decode(runs.slice(array.offset, len(array)))
    if pa.types.is_float16(kind):
        return _with_values(array, storage, half_to_float(_values(array)))
    if _is_reinterpreted(kind):
        return array.view(storage)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        array = array.cast(pa.large_string() if storage == pa.string() else pa.large_binary())
    if array.type in (pa.large_string(), pa.large_binary()) and array.nbytes > STRING_BYTES_MAX:
        raise TooLongError(f"a column holds {STRING_BYTES_MAX} bytes a chunk, got {array.nbytes}")
    return array.cast(storage)


def _is_reinterpreted(kind: pa.DataType) -> bool:
    """Whether the 64-bit values are stored as they are, under another type."""
    if pa.types.is_timestamp(kind):
        return bool(kind.unit in ("ns", "us"))
    return bool(pa.types.is_duration(kind) or kind == pa.time64("ns"))


def decode(array: pa.Array, target: pa.DataType) -> pa.Array:
    """One array without children, from its storage type."""
    storage = storage_type(target, "")
    if array.type != storage:
        array = encode(array, storage)
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


def relay(array: pa.Array, target: pa.DataType) -> pa.Array:
    """One array without children, to another type that has the same storage type."""
    if array.type == target:
        return array
    if pa.types.is_temporal(target) and pa.types.is_temporal(array.type):
        return array.cast(target)
    return decode(encode(array, storage_type(target, "")), target)


def _dictionary(array: pa.Array, target: pa.DataType) -> pa.Array:
    encoded = array.dictionary_encode()
    values = encoded.dictionary
    try:
        indices = encoded.indices.cast(target.index_type)
    except pa.ArrowInvalid as error:
        raise TooLongError(f"{len(values)} values exceed the index of {target}") from error
    return pa.DictionaryArray.from_arrays(indices, decode(values, target.value_type))


def _runs(array: pa.Array, target: pa.DataType) -> pa.Array:
    index = target.run_end_type
    if len(array) > np.iinfo(number_dtype(index)).max:
        raise TooLongError(f"{len(array)} rows exceed the run ends of {target}")
    encoded = pc.run_end_encode(array, run_end_type=index)
    values = decode(encoded.values, target.value_type)
    return pa.RunEndEncodedArray.from_arrays(encoded.run_ends, values, type=target)


def _values(array: pa.Array) -> npt.NDArray[Any]:
    """The values of a fixed-width array, whatever stands in for nulls included; no copy."""
    dtype = number_dtype(array.type)
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
