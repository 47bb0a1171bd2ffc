"""Search commits and retention for histories that break a promise, over simulated faults.

    python tests/bench/simulate.py --seeds 1000 --jobs 2 --table register --json out.json
    python tests/bench/simulate.py --replay 34 --table register
    python tests/bench/simulate.py --planted --table iceberg

A seed is a history: `--replay` shows it, whoever found it. Exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.simulation import planted, planted_retention
from tests.simulation.run import simulate

CHUNK = 10
PROGRESS_S = 10.0


@dataclass(slots=True)
class Summary:
    """What a search came to."""

    table: str
    start: int
    seeds: int = 0
    steps: int = 0
    commits: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    profiles: Counter[str] = field(default_factory=Counter)
    invariants: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: dict[str, Any]) -> None:
        """Count one more history."""
        self.seeds += 1
        self.steps += part["steps"]
        self.commits += part["commits"]
        self.cpu_s += part["cpu_s"]
        self.profiles[part["profile"]] += 1
        if part["violations"]:
            self.invariants.update({name for name, _ in part["violations"]})
            self.failures.append(part)

    def line(self) -> str:
        """The state of the search in one line."""
        return (
            f"{self.seeds} histories, {self.commits} commits, {self.steps} steps, "
            f"{len(self.failures)} broken, {self.seeds / max(self.wall_s, 1e-9):.1f}/s, "
            f"{1000 * self.cpu_s / max(self.seeds, 1):.1f} ms CPU each"
        )


def histories(job: tuple[int, int, str]) -> list[dict[str, Any]]:
    """Run a chunk of seeds."""
    first, count, table = job
    found = []
    for seed in range(first, first + count):
        before_s = time.process_time()
        result = simulate(seed, table)
        found.append(
            {
                "seed": seed,
                "profile": result.profile,
                "steps": result.steps,
                "commits": result.commits,
                "cpu_s": time.process_time() - before_s,
                "digest": result.digest,
                "violations": [(one.invariant, one.message) for one in result.violations],
            }
        )
    return found


def pin(cores: Any) -> None:
    """Keep a worker on one core: its threads take turns, so a second core only adds latency."""
    gc.set_threshold(50_000)  # histories are short, and leave little behind
    core = cores.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def chunks(start: int, seeds: int, table: str) -> Iterator[tuple[int, int, str]]:
    for first in range(start, start + seeds, CHUNK):
        yield first, min(CHUNK, start + seeds - first), table


def search(arguments: argparse.Namespace) -> Summary:
    """Run all seeds, report as they come."""
    summary = Summary(arguments.table, arguments.start)
    began_s = shown_s = time.monotonic()
    context = multiprocessing.get_context("spawn")
    cores = context.SimpleQueue()
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    for job in range(arguments.jobs):
        cores.put(available[job % len(available)])
    with context.Pool(arguments.jobs, initializer=pin, initargs=(cores,)) as pool:
        jobs = chunks(arguments.start, arguments.seeds, arguments.table)
        for part in pool.imap_unordered(histories, jobs):
            for one in part:
                summary.add(one)
                for invariant, message in one["violations"][:3]:
                    print(f"  {invariant}: {message}", flush=True)
            summary.wall_s = time.monotonic() - began_s
            if time.monotonic() - shown_s > PROGRESS_S:
                shown_s = time.monotonic()
                print(summary.line(), flush=True)
    return summary


def hunt_planted(table: str) -> dict[str, int | None]:
    """How many seeds each planted bug takes."""
    found: dict[str, int | None] = {}
    for bug in (*planted.planted, *planted_retention.planted):
        if table not in bug.kinds:
            continue
        caught = bug.hunt(table)
        found[bug.name] = caught[0] if caught else None
        what = f"{caught[0]:4d} seeds: {', '.join(caught[1].invariants())}" if caught else "missed"
        print(f"{bug.name:36} {what}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", choices=("iceberg", "register"), default="register")
    parser.add_argument("--replay", type=int, metavar="SEED", help="show one history")
    parser.add_argument("--planted", action="store_true", help="hunt the planted bugs instead")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        result = simulate(arguments.replay, arguments.table)
        print(result.report())
        print(f"history {result.digest}")
        return 0 if result.ok else 1
    if arguments.planted:
        found = hunt_planted(arguments.table)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=2) + "\n")
        return 1 if None in found.values() else 0
    summary = search(arguments)
    print(summary.line())
    for name, count in summary.invariants.most_common():
        print(f"  {count} broke {name}")
    if arguments.json:
        fields = {name: getattr(summary, name) for name in Summary.__slots__}
        arguments.json.write_text(json.dumps(fields, indent=2) + "\n")
    return 1 if summary.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
