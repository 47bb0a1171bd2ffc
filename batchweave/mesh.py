"""The mesh: which slices a global batch has, and which of them belong to which rank.

Pure arithmetic. Imports: standard library and errors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from batchweave.errors import InvalidMesh

_AXIS = re.compile(r"[a-z][a-z0-9_]{0,31}")
SLICES_MAX = 65_536


class Mesh:
    """The named data axes that a global batch's slices are laid over.

    ``Mesh(dp=8, cp=2)`` has 16 slices; the last axis runs fastest, so
    ``slice = dp_index * 2 + cp_index``.

    Raises:
        InvalidMesh: no axis, a bad axis name, a size below one, or more than 65,536 slices.
    """

    __slots__ = ("_axes",)

    def __init__(self, /, **axes: int) -> None:
        if not axes:
            raise InvalidMesh("a mesh needs at least one axis, for example Mesh(dp=4)")
        for name, size in axes.items():
            if not _AXIS.fullmatch(name):
                raise InvalidMesh(
                    f"axis names are lower-case words of at most 32 characters, got {name!r}"
                )
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InvalidMesh(f"axis {name!r} needs a whole size of at least 1, got {size!r}")
        if math.prod(axes.values()) > SLICES_MAX:
            raise InvalidMesh(
                f"a mesh has at most {SLICES_MAX} slices, got {math.prod(axes.values())}"
            )
        self._axes = dict(axes)

    @property
    def axes(self) -> Mapping[str, int]:
        """Axis names and sizes, outermost first."""
        return dict(self._axes)

    @property
    def slices(self) -> int:
        """The number of slices of each global batch."""
        return math.prod(self._axes.values())

    def slice_of(self, /, **indices: int) -> int:
        """The slice at the given coordinates: one index for each axis.

        Raises:
            InvalidMesh: an axis is missing or unknown, or an index is out of range.
        """
        if set(indices) != set(self._axes):
            raise InvalidMesh(f"give one index for each of {list(self._axes)}, got {list(indices)}")
        position = 0
        for name, size in self._axes.items():
            if not 0 <= indices[name] < size:
                raise InvalidMesh(f"index {indices[name]} is outside of axis {name!r} ({size})")
            position = position * size + indices[name]
        return position

    def coordinates(self, slice_index: int) -> dict[str, int]:
        """The coordinates of a slice: the inverse of `slice_of`.

        Raises:
            InvalidMesh: the mesh has no such slice.
        """
        self.check_slice(slice_index)
        found: dict[str, int] = {}
        for name, size in reversed(self._axes.items()):
            slice_index, found[name] = divmod(slice_index, size)
        return {name: found[name] for name in self._axes}

    def check_slice(self, slice_index: int) -> None:
        """Raise `InvalidMesh` unless ``0 <= slice_index < slices``."""
        if not 0 <= slice_index < self.slices:
            raise InvalidMesh(f"{self} has slices 0 to {self.slices - 1}, asked for {slice_index}")

    def share(self, rank: int, world_size: int) -> Share:
        """The part of every global batch that one of ``world_size`` ranks reads.

        All ranks' shares together are the whole batch, once. With fewer ranks than slices a rank
        gets a run of neighbouring slices; with more, the rows of one slice are dealt among ranks.

        Raises:
            InvalidMesh: ``world_size`` neither divides the slices nor is a multiple of them.
        """
        if world_size < 1 or not 0 <= rank < world_size:
            raise InvalidMesh(f"rank {rank} is not within a world of {world_size}")
        if self.slices % world_size == 0:
            count = self.slices // world_size
            return Share(tuple(range(rank * count, (rank + 1) * count)))
        if world_size % self.slices == 0:
            parts = world_size // self.slices
            return Share((rank // parts,), part=rank % parts, parts=parts)
        raise InvalidMesh(
            f"{self.slices} slices of {self} cannot be dealt to {world_size} ranks: "
            f"the world size must divide {self.slices} "
            f"({', '.join(str(n) for n in self._divisors())}) or be a multiple of it"
        )

    def _divisors(self) -> list[int]:
        return [n for n in range(1, self.slices + 1) if self.slices % n == 0]

    def to_json(self) -> str:
        """``{"dp": 8, "cp": 2}``, axes in order."""
        return json.dumps(self._axes)

    @classmethod
    def from_json(cls, text: str) -> Mesh:
        """The inverse of `to_json`.

        Raises:
            InvalidMesh: the text is not a JSON object of sizes.
        """
        try:
            axes = json.loads(text)
        except ValueError:
            raise InvalidMesh(f"not a mesh: {text!r}") from None
        if not isinstance(axes, dict):
            raise InvalidMesh(f"not a mesh: {text!r}")
        return cls(**axes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and list(self._axes.items()) == list(other._axes.items())

    def __hash__(self) -> int:
        return hash(tuple(self._axes.items()))

    def __repr__(self) -> str:
        return f"Mesh({', '.join(f'{name}={size}' for name, size in self._axes.items())})"


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank reads of each global batch: whole slices, or one part of a slice's rows."""

    slices: tuple[int, ...]
    part: int = 0
    parts: int = 1

    def rows(self, row_count: int) -> range:
        """The rows of a slice of ``row_count`` rows that belong to this share.

        Parts are contiguous, differ in length by at most one row, and cover the slice.
        """
        return range(self.part * row_count // self.parts, (self.part + 1) * row_count // self.parts)
