"""What the mesh promises: slices and coordinates are one to one, shares cover everything once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchweave import InvalidMesh, Mesh
from batchweave.mesh import SLICES_MAX, Share

AXES = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True),
    st.integers(1, 6),
    min_size=1,
    max_size=4,
)


def _worlds(slices: int) -> list[int]:
    """Every world size that the mesh must be able to serve, up to four ranks a slice."""
    divisors = [n for n in range(1, slices + 1) if slices % n == 0]
    return [*divisors, *(slices * n for n in (2, 3, 4))]


@given(AXES)
def test_coordinates_are_the_inverse_of_slice_of(axes: dict[str, int]) -> None:
    mesh = Mesh(**axes)
    seen = set()
    for index in range(mesh.slices):
        where = mesh.coordinates(index)
        assert list(where) == list(axes)
        assert mesh.slice_of(**where) == index
        seen.add(tuple(where.values()))
    assert len(seen) == mesh.slices


def test_the_last_axis_runs_fastest() -> None:
    mesh = Mesh(dp=8, cp=2)
    assert mesh.slices == 16
    assert [mesh.slice_of(dp=dp, cp=cp) for dp in range(8) for cp in range(2)] == list(range(16))
    assert mesh.coordinates(5) == {"dp": 2, "cp": 1}


@given(AXES, st.integers(1, 40), st.data())
def test_all_shares_together_are_every_row_of_every_slice_once(
    axes: dict[str, int], rows: int, data: st.DataObject
) -> None:
    mesh = Mesh(**axes)
    world_size = data.draw(st.sampled_from(_worlds(mesh.slices)))
    covered: Counter[tuple[int, int]] = Counter()
    lengths = set()
    for rank in range(world_size):
        share = mesh.share(rank, world_size)
        mine = [(index, row) for index in share.slices for row in share.rows(rows)]
        covered.update(mine)
        lengths.add(len(mine))
    assert covered == {(index, row): 1 for index in range(mesh.slices) for row in range(rows)}
    assert max(lengths) - min(lengths) <= 1


def test_ranks_in_order_read_rows_in_order() -> None:
    mesh = Mesh(dp=2, cp=3)
    for world_size in (1, 2, 3, 6, 12, 30):
        shares = [mesh.share(rank, world_size) for rank in range(world_size)]
        places = [(at, row) for share in shares for at in share.slices for row in share.rows(7)]
        assert places == [(at, row) for at in range(6) for row in range(7)]


@given(AXES, st.integers(1, 400))
def test_a_world_that_does_not_divide_is_refused_with_the_sizes_that_work(
    axes: dict[str, int], world_size: int
) -> None:
    mesh = Mesh(**axes)
    if mesh.slices % world_size == 0 or world_size % mesh.slices == 0:
        mesh.share(world_size - 1, world_size)
        return
    with pytest.raises(InvalidMesh) as refused:
        mesh.share(0, world_size)
    text = str(refused.value)
    assert f"{mesh.slices} slices" in text
    assert f"{world_size} ranks" in text
    divisors = [n for n in range(1, mesh.slices + 1) if mesh.slices % n == 0]
    assert f"({', '.join(map(str, divisors))})" in text
    assert "multiple" in text


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 2), (2, 2), (0, 0), (0, -1)])
def test_a_rank_outside_of_its_world_is_refused(rank: int, world_size: int) -> None:
    with pytest.raises(InvalidMesh, match=rf"rank {rank} .* world of {world_size}"):
        Mesh(dp=2).share(rank, world_size)


@given(AXES)
def test_json_and_back_is_the_same_mesh(axes: dict[str, int]) -> None:
    mesh = Mesh(**axes)
    back = Mesh.from_json(mesh.to_json())
    assert back == mesh
    assert hash(back) == hash(mesh)
    assert list(back.axes.items()) == list(axes.items())


def test_an_axis_may_have_any_lower_case_name() -> None:
    mesh = Mesh(**{"self": 2, "class": 3, "index": 1})
    assert mesh.slice_of(**{"self": 1, "class": 2, "index": 0}) == 5
    assert repr(mesh) == "Mesh(self=2, class=3, index=1)"


def test_the_order_of_axes_is_part_of_a_mesh() -> None:
    assert Mesh(dp=2, cp=3) != Mesh(cp=3, dp=2)


@pytest.mark.parametrize("text", ["", "4", "[4]", "null", '"dp"', '{"dp"', "{}", '{"dp": 1.5}'])
def test_text_that_is_no_mesh_is_refused(text: str) -> None:
    with pytest.raises(InvalidMesh):
        Mesh.from_json(text)


@pytest.mark.parametrize(
    ("axes", "named"),
    [
        ({}, "at least one axis"),
        ({"dp": 0}, "0"),
        ({"dp": -1}, "-1"),
        ({"dp": True}, "True"),
        ({"dp": 2.0}, "2.0"),
        ({"DP": 2}, "'DP'"),
        ({"d p": 2}, "'d p'"),
        ({"": 2}, "''"),
        ({"x" * 33: 2}, "x" * 33),
        ({"dp": SLICES_MAX, "cp": 2}, str(SLICES_MAX * 2)),
    ],
)
def test_a_bad_axis_is_refused_with_what_was_given(axes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidMesh, match=named):
        Mesh(**axes)


@pytest.mark.parametrize("indices", [{"dp": 1}, {"dp": 0, "cp": 2}, {"dp": 0, "tp": 0}, {}])
def test_coordinates_that_do_not_fit_are_refused(indices: dict[str, int]) -> None:
    with pytest.raises(InvalidMesh):
        Mesh(dp=2, cp=2).slice_of(**indices)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_slice_outside_of_the_mesh_is_refused_with_the_range(index: int) -> None:
    mesh = Mesh(dp=2, cp=2)
    with pytest.raises(InvalidMesh, match=f"slices 0 to 3, asked for {index}"):
        mesh.coordinates(index)
    with pytest.raises(InvalidMesh):
        mesh.check_slice(index)


def test_a_whole_share_has_all_rows() -> None:
    assert Share((3,)).rows(10) == range(10)
    assert [len(Share((0,), part, 3).rows(2)) for part in range(3)] == [0, 1, 1]
