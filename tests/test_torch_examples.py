"""The training examples run, and a killed run that goes on elsewhere trains on the same batches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIME_S_MAX = 280
QUIET = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def torchrun(ranks: int, *arguments: str) -> subprocess.Popen[str]:
    """``torchrun`` on this machine, in a process group of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=QUIET,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def gpt(folder: Path, ranks: int, steps: int) -> subprocess.Popen[str]:
    """The GPT example on so many ranks, up to a step."""
    options = ["--folder", str(folder), "--steps", str(steps), "--published-steps", "40"]
    return torchrun(ranks, str(ROOT / "examples" / "train_gpt.py"), *options)


def done(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=TIME_S_MAX)
    assert process.returncode == 0, said


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a launcher and its ranks, which have process groups of their own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    ranks = [int(pid) for pid in children.read_text().split()]
    assert ranks
    for pid in [process.pid, *ranks]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def lines(folder: Path) -> list[dict[str, Any]]:
    """What was trained so far, in the order of time."""
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def check_kill_and_resume(folder: Path) -> None:
    """Kill a run on 2 ranks with SIGKILL, go on with 4, then with 1; compare with a quiet run."""
    quiet, killed = folder / "quiet", folder / "killed"
    reference = gpt(quiet, 2, 16)
    victim = gpt(killed, 2, 30)
    deadline = time.monotonic() + TIME_S_MAX
    while len(lines(killed)) < 7:
        assert time.monotonic() < deadline, "the run does not get on"
        assert victim.poll() is None, victim.communicate()[1]
        time.sleep(0.02)
    kill_all(victim)
    done(reference)
    reached = lines(killed)[-1]["step"]
    first, second = max(12, reached + 2), max(16, reached + 4)
    done(gpt(killed, 4, first))
    done(gpt(killed, 1, second))
    if second > 16:
        done(gpt(quiet, 2, second))
    wanted = {line["step"]: line for line in lines(quiet)}
    found = lines(killed)
    assert {line["ranks"] for line in found} == {1, 2, 4}
    assert sorted({line["step"] for line in found}) == list(range(second))
    again = [line["step"] for line in found if line["ranks"] > 2]
    assert again == list(range(again[0], first))  # from the last checkpoint, without a gap
    for line in found:
        assert line["batch"] == wanted[line["step"]]["batch"]
        assert line["loss"] == pytest.approx(wanted[line["step"]]["loss"], rel=1e-4)


@pytest.mark.timeout(900)  # eight processes that import torch, twice
def test_a_killed_training_goes_on_with_other_ranks_on_the_same_batches(tmp_path: Path) -> None:
    check_kill_and_resume(tmp_path)


def test_images_are_decoded_in_the_transform(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "train_captions.py")]
    ran = subprocess.run(
        [*command, "--folder", str(tmp_path), "--steps", "12"],
        capture_output=True,
        text=True,
        timeout=TIME_S_MAX,
        check=False,
        env=QUIET,
    )
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    assert said[0].startswith("published 24 steps of ")
    assert said[-1].startswith("trained to step 12")
    again = subprocess.run(
        [*command, "--folder", str(tmp_path), "--steps", "14"],
        capture_output=True,
        text=True,
        timeout=TIME_S_MAX,
        check=False,
        env=QUIET,
    )
    assert again.returncode == 0, again.stderr
    assert "step 12:" in again.stdout
    assert "step 11:" not in again.stdout
