"""What cannot be read is refused at the door, by name."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from batchweave.errors import InvalidInput, InvalidMesh, SchemaMismatch, StepReclaimed
from batchweave.mesh import Mesh, Share
from batchweave.table import Head


def whole_number(value: Any, what: str, error: type[InvalidInput] = InvalidInput) -> int:
    """The value as an int; raises ``error``, which names it, unless it is a whole number."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise error(f"{what} is a whole number, got {value!r}")


def check_range(start: Any, stop: Any) -> tuple[int, int | None]:
    """First and last step (exclusive) as ints; raises `InvalidInput` if they are no range."""
    start = whole_number(start, "start")
    stop = None if stop is None else whole_number(stop, "stop")
    if start < 0 or (stop is not None and stop < start):
        raise InvalidInput(f"steps are read from 0 up, got start={start}, stop={stop}")
    return start, stop


def check_share(share: Share, mesh: Mesh) -> Share:
    """The share with plain ints. `Mesh.share` makes good ones, but anybody can make one.

    Raises:
        InvalidMesh: no slice, one twice, one outside of the mesh, or a part that is not among its
            parts. Only one slice can be dealt in parts.
    """
    slices = tuple(whole_number(index, "a slice", InvalidMesh) for index in share.slices)
    part = whole_number(share.part, "a share's part", InvalidMesh)
    parts = whole_number(share.parts, "a share's number of parts", InvalidMesh)
    if not slices or len(set(slices)) < len(slices):
        raise InvalidMesh(f"give at least one slice, and each once, got {list(slices)!r}")
    for index in slices:
        mesh.check_slice(index)
    if not 0 <= part < parts:
        raise InvalidMesh(f"a share is part 0 to {parts - 1} of {parts}, got part {part}")
    if parts > 1 and len(slices) > 1:
        raise InvalidMesh(
            f"only one slice can be dealt in parts, got {len(slices)} slices in {parts} parts"
        )
    return Share(slices, part, parts)


def check_columns(columns: Sequence[str] | None, schema: pa.Schema) -> list[str] | None:
    """The columns asked for; raises `SchemaMismatch` for one that the stream does not have."""
    if columns is None:
        return None
    unknown = [name for name in columns if name not in schema.names]
    if unknown or not columns:
        raise SchemaMismatch(f"the stream has columns {schema.names}, asked for {list(columns)}")
    return list(columns)


def check_watermark(head: Head, step: int, name: str) -> None:
    """Raise `StepReclaimed` if the step's data is gone by policy."""
    if step < head.state.watermark:
        raise StepReclaimed(
            f"step {step} of {name} was reclaimed: its data is kept from step "
            f"{head.state.watermark} on"
        )
