"""A batch as PyTorch tensors: the shapes and dtypes that were published.

Needs the extra ``torch``; the core of BatchWeave never imports it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "batchweave.connectors.torch_tensors needs PyTorch: pip install 'batchweave[torch]'",
        name="torch",
    ) from error

from batchweave.batch import Batch
from batchweave.columns import column_buffer, table_to_numpy
from batchweave.errors import SchemaMismatch


def to_tensors(batch: Batch) -> dict[str, Any]:
    """The columns of a batch as tensors, shape ``(rows, ...)``, dtype as published.

    bfloat16 comes back as bfloat16. A list of tensors of different lengths comes back as a list of
    1-D tensors; columns that are no numbers (text, bytes, structs) as Python lists. Where a column
    is one chunk of numbers, the tensor shares its memory: treat it as read-only.
    """
    found: dict[str, Any] = {}
    for name in batch.table.column_names:
        try:
            found[name] = _tensor(batch, name)
        except SchemaMismatch:  # no fixed-width numbers: nothing that a tensor could hold
            values = table_to_numpy(batch.table.select([name]), batch.arrays)[name]
            found[name] = values.tolist() if isinstance(values, np.ndarray) else values
    return found


def _tensor(batch: Batch, name: str) -> torch.Tensor | list[torch.Tensor]:
    kind = batch.arrays.get(name)
    flat, lengths = column_buffer(batch.table[name], kind)
    tensor = _shared(flat)
    if kind is not None and kind.dtype == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    rows = batch.table.num_rows
    if kind is not None and kind.shape != (-1,):
        return tensor.reshape(rows, *kind.shape)
    if lengths is None:
        return tensor
    widths = [int(width) for width in lengths]
    if kind is None and len(set(widths)) <= 1:
        return tensor.reshape(rows, -1)
    return list(torch.split(tensor, widths))


def _shared(flat: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor over the array's memory. Torch knows no read-only memory, so numpy is gone round."""
    dtype = getattr(torch, flat.dtype.name)
    if flat.size == 0:
        return torch.empty(0, dtype=dtype)
    memory: Any = (ctypes.c_char * flat.nbytes).from_address(flat.ctypes.data)
    memory.keeps = flat  # alive as long as the tensor, which holds on to ``memory``
    return torch.frombuffer(memory, dtype=dtype)
