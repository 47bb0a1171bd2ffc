"""List and map arrays taken apart and put together: lengths, items, offsets, null rows.

Owns the difference between Arrow's kinds of lists, and how many items one chunk of them may hold.
Pure; imports: standard library, numpy, pyarrow, arrow_types, storage_types and leaf_arrays.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchweave.columns.arrow_types import inner_fields
from batchweave.columns.leaf_arrays import TooLongError, encode
from batchweave.columns.storage_types import storage_type

LIST_VALUES_MAX = 2**31 - 1


def list_lengths(array: pa.Array) -> npt.NDArray[np.int64]:
    """How many items each row of a list array holds; 0 for null rows."""
    if pa.types.is_list(array.type) and array.null_count == 0:
        return np.asarray(np.diff(array.offsets.to_numpy()), dtype=np.int64)
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def list_items(array: pa.Array) -> pa.Array:
    """The items of a list array's rows, one after another; those of null rows are left out.

    Zero-copy unless there are null rows or the list is a view. Where items must be copied, those
    of encoded and extension types come as their storage: Arrow cannot copy all of them.
    """
    contiguous = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if contiguous and array.null_count == 0:
        return array.flatten()
    return _copyable(array).flatten()


def _copyable(array: pa.Array) -> pa.Array:
    """The same values without extension types, dictionaries and runs, at any depth."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _copyable(array.storage)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return encode(array, storage_type(kind, ""))
    if not _has_uncopyable(kind):
        return array
    if pa.types.is_struct(kind):
        children = [_copyable(array.field(n)) for n in range(kind.num_fields)]
        pairs = zip(kind.fields, children, strict=True)
        fields = [field.with_type(child.type) for field, child in pairs]
        mask = null_mask(array, required=False)
        return pa.StructArray.from_arrays(children, fields=fields, mask=mask)
    if pa.types.is_map(kind):
        keys, items = _copyable(array.keys), _copyable(array.items)
        fields = [kind.key_field.with_type(keys.type), kind.item_field.with_type(items.type)]
        child = pa.StructArray.from_arrays([keys, items], fields=fields)
        plain, buffers = pa.map_(*fields), 2
    else:
        child = _copyable(array.values)
        plain, buffers = _list_of(kind, kind.value_field.with_type(child.type))
    own = array.buffers()[:buffers]
    return pa.Array.from_buffers(plain, len(array), own, offset=array.offset, children=[child])


def _has_uncopyable(kind: pa.DataType) -> bool:
    encoded = pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind)
    if encoded or isinstance(kind, pa.BaseExtensionType):
        return True
    return any(_has_uncopyable(field.type) for field in inner_fields(kind))


def _list_of(kind: pa.DataType, field: pa.Field) -> tuple[pa.DataType, int]:
    """The same kind of list of another field, and how many buffers such an array has."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size), 1
    if pa.types.is_list_view(kind):
        return pa.list_view(field), 3
    if pa.types.is_large_list_view(kind):
        return pa.large_list_view(field), 3
    return (pa.list_(field) if pa.types.is_list(kind) else pa.large_list(field)), 2


def offsets_of(
    lengths: npt.NDArray[np.int64], dtype: type[np.int32] | type[np.int64] = np.int32
) -> pa.Array:
    """Arrow offsets of rows of these lengths.

    Raises:
        ValueError: the sum exceeds 32 bits and ``dtype`` is int32.
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if dtype is np.int32 and offsets[-1] > LIST_VALUES_MAX:
        raise TooLongError(
            f"a list column holds {LIST_VALUES_MAX} values a chunk, got {offsets[-1]}"
        )
    return pa.array(offsets.astype(dtype, copy=False))


def map_entries(array: pa.Array) -> pa.Array:
    """A map array as a list array of key-value structs, which more kernels understand."""
    kind = array.type
    fields = [kind.key_field, kind.item_field]
    entries = pa.StructArray.from_arrays([array.keys, array.items], fields=fields)
    return pa.ListArray.from_buffers(
        pa.list_(entries.type),
        len(array),
        array.buffers()[:2],
        offset=array.offset,
        children=[entries],
    )


def null_mask(array: pa.Array, *, required: bool) -> pa.Array | None:
    """Where the array is null; None if it nowhere is, or if its new field is ``required``."""
    return None if required or array.null_count == 0 else array.is_null()
