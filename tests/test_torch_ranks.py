"""Ranks as processes of one process group: they agree, and no step is lost or doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import batchweave as bw
from tests.torch_streams import ROWS, SLICES, numbered_stream

TIME_S_MAX = 240


def ran(scenario: str, folder: Path) -> Any:
    """What a scenario of `tests.torch_ranks` found."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.torch_ranks", scenario, str(folder)],
        capture_output=True,
        text=True,
        timeout=TIME_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_goes_on_with_2_then_8_then_2_then_1_ranks(tmp_path: Path) -> None:
    numbered_stream(tmp_path / "warehouse", 15)
    phases = ran("elastic", tmp_path)
    rows = []
    for ranks in phases:
        for shares in zip(*ranks, strict=True):  # all ranks had as many steps
            rows += [name for share in shares for name in share]
    assert rows == [
        f"{step}/{at}/{row}" for step in range(15) for at in range(SLICES) for row in range(ROWS)
    ]


def test_ranks_of_a_live_stream_end_at_the_step_where_it_was_sealed(tmp_path: Path) -> None:
    numbered_stream(tmp_path / "warehouse", 3, sealed=False)
    assert ran("live", tmp_path) == [list(range(9))] * 2


def test_ranks_agree_or_all_refuse(tmp_path: Path) -> None:
    stream = numbered_stream(tmp_path / "warehouse", 3, sealed=False)
    ranks = ran("agreed", tmp_path)
    assert len({str(one["bounded"]) for one in ranks}) == 1
    assert [one["torn"] for one in ranks] == [ranks[0]["torn"]] * 4
    assert "by rank [3, 3, 3, 2]" in ranks[0]["torn"]
    assert [one["from checkpoint"] for one in ranks] == [2] * 4
    assert [one["missing"] for one in ranks] == ["CheckpointNotFound"] + ["StreamError"] * 3
    assert [one["mesh"] for one in ranks] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    state = {"version": 1, "stream": "demo.tokens", "next_step": 2}
    assert [one["dcp"] for one in ranks] == [state] * 4
    assert [one.id for one in stream.checkpoints.list()] == ["whole"]
    assert isinstance(stream, bw.Stream)
