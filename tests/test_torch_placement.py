"""Which share a training process reads: argument, DeviceMesh, process group, environment."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import batchweave as bw
from batchweave.connectors.placement import place

ALONE: dict[str, str] = {}


def device_mesh(index: int, **axes: int) -> Any:
    """What one process of a device mesh sees; the tests with processes use the real one."""
    sizes = list(axes.values())
    coordinates = list(itertools.product(*(range(size) for size in sizes)))
    return SimpleNamespace(
        mesh=torch.arange(len(coordinates)).reshape(sizes),
        mesh_dim_names=tuple(axes) or None,
        get_coordinate=lambda: list(coordinates[index]),
    )


def shares(mesh: bw.Mesh, data_axes: Any = None, **axes: int) -> list[tuple[int, ...]]:
    """The slices of every process of a device mesh, in the order of its ranks."""
    count = int(torch.tensor(list(axes.values())).prod())
    return [
        place(mesh, device_mesh=device_mesh(at, **axes), data_axes=data_axes).share.slices
        for at in range(count)
    ]


def test_the_first_of_argument_mesh_and_environment_counts() -> None:
    mesh = bw.Mesh(dp=4)
    variables = {"RANK": "3", "WORLD_SIZE": "4"}
    found = place(mesh, rank=1, world_size=2, environment=variables)
    assert (found.rank, found.world_size, found.origin) == (1, 2, "argument")
    on_mesh = place(mesh, device_mesh=device_mesh(1, dp=2), environment=variables)
    assert (on_mesh.rank, on_mesh.world_size, on_mesh.origin) == (1, 2, "device_mesh")
    by_environment = place(mesh, environment=variables)
    assert (by_environment.rank, by_environment.share.slices) == (3, (3,))
    assert by_environment.origin == "environment"
    nothing = place(mesh, environment=ALONE)
    assert (nothing.world_size, nothing.origin) == (1, "alone")


def test_tensor_and_pipeline_peers_share_their_slice() -> None:
    assert shares(bw.Mesh(dp=4), pp=2, dp=4, tp=2) == [
        (0,), (0,), (1,), (1,), (2,), (2,), (3,), (3,),
    ] * 2  # fmt: skip


def test_replicate_and_shard_axes_are_data_axes() -> None:
    found = shares(bw.Mesh(dp=8), dp_replicate=2, dp_shard=2, tp=2)
    assert found == [(0, 1), (0, 1), (2, 3), (2, 3), (4, 5), (4, 5), (6, 7), (6, 7)]


def test_axes_are_matched_by_name_whatever_their_order() -> None:
    mesh = bw.Mesh(dp=2, cp=2)
    assert shares(mesh, dp=2, cp=2) == [(0,), (1,), (2,), (3,)]
    assert shares(mesh, cp=2, dp=2) == [(0,), (2,), (1,), (3,)]
    assert shares(mesh, ranks=2) == [(0, 1), (2, 3)]  # one axis: all of it is data
    assert shares(mesh, cp=2) == [(0, 2), (1, 3)]
    assert shares(mesh, cp=2, tp=2) == [(0, 2), (0, 2), (1, 3), (1, 3)]


def test_other_names_are_said_with_data_axes() -> None:
    mesh = bw.Mesh(dp=4)
    with pytest.raises(bw.InvalidMesh, match="data_axes"):
        shares(mesh, replicate=2, shard=2)
    assert shares(mesh, ("replicate", "shard"), replicate=2, shard=2) == [(0,), (1,), (2,), (3,)]
    assert shares(mesh, ("shard",), replicate=2, shard=2) == [(0, 1), (2, 3), (0, 1), (2, 3)]
    with pytest.raises(bw.InvalidMesh, match="it has"):
        shares(mesh, ("nope",), replicate=2, shard=2)


def test_the_rows_of_a_slice_are_dealt_along_its_own_axes() -> None:
    share = place(bw.Mesh(dp=2, cp=2), device_mesh=device_mesh(7, dp=4, cp=2)).share
    assert (share.slices, share.part, share.parts) == ((3,), 1, 2)  # dp 3 of 4, cp 1 of 2
    peers = shares(bw.Mesh(dp=2), dp=2, cp=2)  # cp is no axis of the stream: its peers share
    assert peers == [(0,), (0,), (1,), (1,)]


def test_every_row_is_read_once_on_every_mesh() -> None:
    both = [{"dp": 1, "cp": 2}, {"dp": 2, "cp": 2}, {"dp": 4, "cp": 2}, {"cp": 4, "dp": 4}]
    for mesh in (bw.Mesh(dp=4), bw.Mesh(dp=2, cp=2)):
        for axes in [{"dp": 2}, {"dp": 4}, {"dp": 8}, *(both if len(mesh.axes) > 1 else [])]:
            count = int(torch.tensor(list(axes.values())).prod())
            read = [
                (number, row)
                for at in range(count)
                for share in [place(mesh, device_mesh=device_mesh(at, **axes)).share]
                for number in share.slices
                for row in share.rows(8)
            ]
            assert sorted(read) == [(number, row) for number in range(4) for row in range(8)]


def test_a_world_size_that_does_not_fit_says_which_do() -> None:
    with pytest.raises(bw.InvalidMesh, match=r"4 slices.* 3 ranks.*1, 2, 4.*multiple"):
        place(bw.Mesh(dp=4), rank=0, world_size=3)
    with pytest.raises(bw.InvalidMesh, match="3 ranks"):
        shares(bw.Mesh(dp=4), dp=3, tp=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 1}, "world_size=None"),
        ({"world_size": 2}, "rank=None"),
        ({"rank": "1", "world_size": 2}, "'1'"),
        ({"rank": 2, "world_size": 2}, "rank 2"),
        ({"rank": 0, "world_size": 1, "device_mesh": device_mesh(0, dp=1)}, "not both"),
        ({"data_axes": ["dp"]}, "device_mesh"),
        ({"environment": {"RANK": "0"}}, "WORLD_SIZE"),
        ({"environment": {"RANK": "a", "WORLD_SIZE": "2"}}, "'a'"),
    ],
)
def test_half_a_placement_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(bw.InvalidInput, match=said):
        place(bw.Mesh(dp=4), **options)
