"""How the array of a column looked: what a stream remembers to give back the same.

Owns `ArrayType` and the names that both ways of arrays share. Pure; imports: standard library,
numpy and errors.

The first dimension of an array is rows. An array of rank 1 is a scalar column. One of rank r > 1 is
a column of lists: nested r - 1 deep if the column is declared so, else one flat list a row in C
order, whose shape `ArrayType` remembers. bfloat16 is held in ``float`` columns, each value exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from batchweave.errors import SchemaMismatch

Array: TypeAlias = npt.NDArray[Any]
Lengths: TypeAlias = npt.NDArray[np.int64]
BFLOAT16 = "bfloat16"
RAGGED = (-1,)


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
