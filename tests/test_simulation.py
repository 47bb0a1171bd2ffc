"""Commits and retention keep their promises in every simulated history; the simulator can tell.

`tests/bench/simulate.py` runs the same histories in any number, and replays a seed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchweave.catalogs import versions
from batchweave.clock import SystemClock
from batchweave.state import CheckpointState
from batchweave.table import Change, Committed, Head, Table, Unknown
from tests.simulation import planted, planted_retention
from tests.simulation.planting import Planted
from tests.simulation.run import simulate
from tests.simulation.tables import NAME, Iceberg, in_memory

ROOT = Path(__file__).resolve().parent.parent
REGISTER_SEEDS = range(120)
ICEBERG_SEEDS = range(8)


def _broken(kind: str, seeds: range) -> list[str]:
    results = (simulate(seed, kind) for seed in seeds)
    return [result.report(lines_max=400) for result in results if not result.ok]


def test_every_promise_holds_in_every_history_of_the_register() -> None:
    broken = _broken("register", REGISTER_SEEDS)
    assert not broken, broken[0]


def test_every_promise_holds_in_every_history_of_an_iceberg_table() -> None:
    broken = _broken("iceberg", ICEBERG_SEEDS)
    assert not broken, broken[0]


@pytest.mark.parametrize(("kind", "seed"), [("register", 3), ("register", 7), ("iceberg", 5)])
def test_a_seed_is_a_history(kind: str, seed: int) -> None:
    first, second = simulate(seed, kind), simulate(seed, kind)
    assert first.history == second.history
    assert first.digest == second.digest


def test_a_seed_is_the_same_history_in_another_process() -> None:
    """Also where strings hash differently."""
    script = "from tests.simulation.run import simulate; print(simulate(11, 'iceberg').digest)"
    other = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == simulate(11, "iceberg").digest


def test_a_version_written_by_a_sleeper_is_no_base_for_its_neighbour_in_the_same_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both slept while their bases were cleaned up: what one writes must not serve the other."""
    monkeypatch.setattr(versions, "VERSIONS_KEPT", 4)
    which = Iceberg()
    objects = in_memory(which.first_objects())

    def opened(process: dict[str, Any]) -> Table:
        return which.open(objects, SystemClock(), process)

    def registered(base: Head, name: str) -> Change:
        checkpoints = {**base.state.checkpoints, name: CheckpointState(0)}
        return Change(replace(base.state, checkpoints=checkpoints))

    process: dict[str, Any] = {}
    others: dict[str, Any] = {}
    first, second, awake = opened(process), opened(process), opened(others)
    before = first.head()
    awake.commit(awake.head(), registered(awake.head(), "between"))
    after = second.head()
    for number in range(12):
        head = awake.head()
        assert isinstance(awake.commit(head, registered(head, f"later-{number}")), Committed)
    catalog = others["catalog"]
    catalog.clean_versions(catalog.load_table(NAME))

    assert isinstance(first.commit(before, registered(before, "first")), Unknown)
    assert isinstance(second.commit(after, registered(after, "second")), Unknown)
    assert not {"first", "second"} & set(awake.head().state.checkpoints)


def _hunts() -> list[tuple[Planted, str]]:
    bugs = [*planted.planted, *planted_retention.planted]
    return [(bug, kind) for bug in bugs for kind in bug.kinds if kind in bug.tested]


@pytest.mark.parametrize(
    ("bug", "kind"), _hunts(), ids=[f"{bug.name}-{kind}" for bug, kind in _hunts()]
)
def test_a_planted_bug_is_caught(
    bug: Planted, kind: str, record_property: Callable[[str, object], None]
) -> None:
    found = bug.hunt(kind)
    assert found is not None, f"{bug.name} got away in {bug.seeds_max} seeds"
    seeds, result = found
    record_property("seeds", seeds)
    print(f"{bug.name} on {kind}: {seeds} seeds, {', '.join(result.invariants())}")
    assert ">>" in result.report(), "the history marks what matters"
