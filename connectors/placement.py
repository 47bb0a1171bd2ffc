"""Where a training process stands among those that share a global batch, and so what it reads.

Owns the order of precedence: an argument, a DeviceMesh, the process group, the environment.
Imports: standard library, the core; torch only as the caller hands it in.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchweave.errors import InvalidInput, InvalidMesh
from batchweave.mesh import Mesh, Share


@dataclass(frozen=True, slots=True)
class Placement:
    """A place among the processes that read different data.

    Attributes:
        rank: the place, from 0. Peers that train on the same data (TP, PP) have the same one.
        world_size: how many different places there are.
        share: what this place reads of every global batch.
        origin: ``"argument"``, ``"device_mesh"``, ``"process_group"``, ``"environment"`` or
            ``"alone"``.
    """

    rank: int
    world_size: int
    share: Share
    origin: str


def place(
    mesh: Mesh,
    *,
    rank: int | None = None,
    world_size: int | None = None,
    device_mesh: Any = None,
    data_axes: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Placement:
    """Find this process's place: the first of the ways in `Placement.origin` that there is.

    Raises:
        InvalidInput: half of rank and world size, two ways at once, or values that are no numbers.
        InvalidMesh: the slices cannot be dealt to that many places, or no axis is a data axis.
    """
    if (rank is None) != (world_size is None):
        raise InvalidInput(
            f"rank and world_size belong together, got rank={rank!r}, world_size={world_size!r}"
        )
    if rank is not None and device_mesh is not None:
        raise InvalidInput("give rank and world_size, or device_mesh: not both")
    if data_axes is not None and device_mesh is None:
        raise InvalidInput(f"data_axes={list(data_axes)} names axes of a device_mesh: give one")
    if rank is not None and world_size is not None:
        return _linear(mesh, _whole(rank, "rank"), _whole(world_size, "world_size"), "argument")
    if device_mesh is not None:
        return _on_device_mesh(mesh, device_mesh, data_axes)
    group = _process_group()
    if group is not None:
        return _linear(mesh, *group, "process_group")
    variables = os.environ if environment is None else environment
    if "RANK" in variables or "WORLD_SIZE" in variables:
        return _linear(mesh, *_from_environment(variables), "environment")
    return _linear(mesh, 0, 1, "alone")


def _linear(mesh: Mesh, rank: int, world_size: int, origin: str) -> Placement:
    return Placement(rank, world_size, mesh.share(rank, world_size), origin)


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{what} is a whole number, got {value!r}")
    return value


def _process_group() -> tuple[int, int] | None:
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.get_rank(), dist.get_world_size()


def _from_environment(variables: Mapping[str, str]) -> tuple[int, int]:
    found = {name: variables.get(name) for name in ("RANK", "WORLD_SIZE")}
    try:
        return int(found["RANK"] or ""), int(found["WORLD_SIZE"] or "")
    except ValueError:
        raise InvalidInput(
            f"the environment's RANK and WORLD_SIZE must both be whole numbers, got {found}; "
            "correct them, or give rank and world_size"
        ) from None


# -- device meshes -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Axis:
    """A data axis of a device mesh: its name, size, and this process's index on it."""

    name: str
    size: int
    index: int


def _on_device_mesh(mesh: Mesh, device_mesh: Any, data_axes: Sequence[str] | None) -> Placement:
    axes = _axes(device_mesh)
    chosen = _data_axes(mesh, axes, data_axes)
    groups = {name: _of_stream_axis(name, chosen) for name in mesh.axes}
    ordered = [axis for group in groups.values() for axis in group]
    ordered += [axis for axis in chosen if axis not in ordered]
    rank, world_size = _flat(ordered)
    if len(ordered) == sum(len(group) for group in groups.values()):
        share = _by_axis(mesh, groups)
        if share is not None:
            return Placement(rank, world_size, share, "device_mesh")
    return _linear(mesh, rank, world_size, "device_mesh")


def _axes(device_mesh: Any) -> list[_Axis]:
    """All axes; one without names gets the number of its dimension."""
    coordinate = device_mesh.get_coordinate()
    sizes = tuple(device_mesh.mesh.shape)
    names = device_mesh.mesh_dim_names or tuple(str(at) for at in range(len(sizes)))
    if coordinate is None:
        raise InvalidMesh(
            f"this process is not part of the device mesh {dict(zip(names, sizes, strict=True))}: "
            "only its members read the stream"
        )
    return [
        _Axis(str(name), int(size), int(index))
        for name, size, index in zip(names, sizes, coordinate, strict=True)
    ]


def _data_axes(mesh: Mesh, axes: list[_Axis], wanted: Sequence[str] | None) -> list[_Axis]:
    """The axes along which data differs: those named, else those named like the stream's."""
    names = [axis.name for axis in axes]
    if wanted is not None:
        unknown = [name for name in wanted if name not in names]
        if unknown or not wanted or len(set(wanted)) < len(wanted):
            raise InvalidMesh(
                f"data_axes={list(wanted)}: name each of the device mesh's data axes once; "
                f"it has {names}"
            )
        return [axis for name in wanted for axis in axes if axis.name == name]
    if len(axes) == 1:
        return axes
    found = [axis for name in mesh.axes for axis in _of_stream_axis(name, axes)]
    if not found:
        raise InvalidMesh(
            f"none of the device mesh's axes {names} is named like one of {mesh}: say which of "
            f"them hold different data, for example data_axes=({names[0]!r},)"
        )
    return found


def _of_stream_axis(name: str, axes: list[_Axis]) -> list[_Axis]:
    """The device axes that divide a stream's axis: ``dp``, else ``dp_replicate``, ``dp_shard``…"""
    exact = [axis for axis in axes if axis.name == name]
    return exact or [axis for axis in axes if axis.name.startswith(f"{name}_")]


def _flat(axes: Sequence[_Axis]) -> tuple[int, int]:
    """Index and size of several axes taken as one, the last running fastest."""
    index, size = 0, 1
    for axis in axes:
        index, size = index * axis.size + axis.index, size * axis.size
    return index, size


def _by_axis(mesh: Mesh, groups: Mapping[str, list[_Axis]]) -> Share | None:
    """Deal each axis of the stream by itself: whole slices, or the rows of one.

    None where some axes would need the one and some the other, or one does not divide.
    """
    sizes = mesh.axes
    places = {name: _flat(groups[name]) for name in sizes}
    if all(sizes[name] % extent == 0 for name, (_, extent) in places.items()):
        runs = [
            range(index * sizes[name] // extent, (index + 1) * sizes[name] // extent)
            for name, (index, extent) in places.items()
        ]
        return Share(
            tuple(
                mesh.slice_of(**dict(zip(sizes, indices, strict=True)))
                for indices in itertools.product(*runs)
            )
        )
    if any(extent % sizes[name] for name, (_, extent) in places.items()):
        return None
    part, parts, indices = 0, 1, {}
    for name, (index, extent) in places.items():
        each = extent // sizes[name]
        indices[name], inner = divmod(index, each)
        part, parts = part * each + inner, parts * each
    return Share((mesh.slice_of(**indices),), part=part, parts=parts)
