"""Measure commit policies on simulated contention, and check DAC against its bounds.

    python tests/bench/dac_simulation.py --quick --check
    python tests/bench/dac_simulation.py --seeds 3 --n 4,16,64,256,1024 --baselines --json out.json

A round is N commit windows: the time that N producers need to commit one after another without
a gap.  N counts the producers that are live in the stretch that is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from batchweave.dac import CommitPolicy, Controller, DacSettings
from tests.bench.dac_baselines import BASELINES
from tests.bench.dac_model import Metrics, PolicyFactory, Simulation

WINDOW_S = 0.05
WINDOW_GROWN_S = 0.5
FRESHNESS_S = 0.1
COLD_ROUNDS = 5
RECOVERY_ROUNDS = 5
ATTEMPTS_COLD_MAX = 6.0
P99_ROUNDS_MAX = 2.5
JAIN_MIN = 0.98
SMALL_N = 64
DRAIN_ROUNDS_MAX = 10


def attempts_max(producers: int) -> float:
    return 1.2 if producers <= SMALL_N else 2.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A disturbance in mid-run and what the table looks like afterwards.

    `disturb` changes the simulation and returns how many producers are live from then on.
    """

    name: str
    disturb: Callable[[Simulation, int], int]
    start_share: float = 1.0
    window_after_s: float = WINDOW_S
    factors: tuple[float, ...] = (1.0,)
    fairness_s_min: float = 120.0


def undisturbed(_sim: Simulation, producers: int) -> int:
    return producers


def half_idle(sim: Simulation, producers: int) -> int:
    """Idle producers stay open and may come back at any time: the round keeps its length."""
    for worker in sim.workers[::2]:
        sim.idle(worker)
    return producers


def bursts(sim: Simulation, producers: int) -> int:
    sim.batches_each = 20
    return producers


def growing_window(sim: Simulation, producers: int) -> int:
    """From 50 to 500 ms in ten steps over five rounds."""
    for step in range(1, 11):
        sim.run(sim.now_s + producers * WINDOW_S / 2)
        sim.window_s = WINDOW_S + (WINDOW_GROWN_S - WINDOW_S) * step / 10
    return producers


def doubling(sim: Simulation, producers: int) -> int:
    sim.join(producers - len(sim.workers))
    return producers


def halving(sim: Simulation, producers: int) -> int:
    for worker in sim.workers[::2]:
        sim.crash(worker)
    return producers - len(sim.workers[::2])


def freezing(sim: Simulation, producers: int) -> int:
    """A tenth of the producers stands still for three rounds and wakes at one instant."""
    until_s = sim.now_s + 3 * producers * sim.window_s
    for worker in sim.workers[:: max(1, min(10, producers // 2))]:
        sim.freeze(worker, until_s)
    sim.run(until_s)
    return producers


def restarting(sim: Simulation, producers: int) -> int:
    """All processes start again at one instant, with the table as they left it."""
    for worker in sim.workers:
        sim.restart(worker)
    return producers


def stalling(sim: Simulation, producers: int) -> int:
    """From now on one window in a hundred takes ten times as long."""
    sim.stall_share = 0.01
    return producers


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("steady", undisturbed),
        Scenario("half-idle", half_idle),
        # One commit each in 20 s: fairness is counting noise over less than ten minutes.
        Scenario("bursts", bursts, fairness_s_min=600.0),
        Scenario("window-x10", growing_window, window_after_s=WINDOW_GROWN_S),
        Scenario("windows-1:3", undisturbed, factors=(0.5, 0.75, 1.0, 1.25, 1.5)),
        Scenario("doubling", doubling, start_share=0.5),
        Scenario("halving", halving),
        Scenario("heavy-tail", stalling),
        Scenario("freeze", freezing),
        Scenario("restart", restarting),
    )
}


@dataclass(frozen=True, slots=True)
class Result:
    """One run: the cold start, and the stretch from five rounds after the disturbance on."""

    policy: str
    scenario: str
    producers: int
    seed: int
    cold: Metrics
    settled: Metrics
    left_pending: int
    live: int
    freshness_s: float
    took_s: float

    def p99_rounds_max(self) -> float:
        """2.5 rounds; where a round is shorter than freshness, that and four windows."""
        floor_s = self.freshness_s + 4 * self.settled.round_s / max(1, self.live)
        return max(P99_ROUNDS_MAX, floor_s / self.settled.round_s)

    def misses(self) -> list[str]:
        """The bounds that this run breaks, in words."""
        limit = attempts_max(self.producers)
        checks = (
            (self.cold.attempts_per_commit <= ATTEMPTS_COLD_MAX, "cold attempts"),
            (self.settled.attempts_per_commit <= limit, "attempts"),
            (self.settled.p99_rounds <= self.p99_rounds_max(), "p99"),
            (self.settled.jain >= JAIN_MIN, "jain"),
            (self.left_pending == 0, "left pending"),
        )
        return [what for met, what in checks if not met]


def dac_factory(freshness_s: float) -> PolicyFactory:
    settings = DacSettings(freshness_s=freshness_s, pending_batches_max=1_000_000)

    def make(name: str, rng: random.Random) -> CommitPolicy:
        return Controller(settings, name, rng)

    return make


def baseline_factory(name: str, freshness_s: float) -> PolicyFactory:
    def make(_name: str, rng: random.Random) -> CommitPolicy:
        return BASELINES[name](rng, freshness_s, 0.1)

    return make


def simulate(
    policy: str, scenario: Scenario, producers: int, seed: int, freshness_s: float, rounds: int
) -> Result:
    """Cold start, disturbance, recovery, a measured stretch of `rounds`, then drain."""
    started = time.perf_counter()
    factory = dac_factory(freshness_s) if policy == "dac" else baseline_factory(policy, freshness_s)
    sim = Simulation(factory, seed, window_s=WINDOW_S)
    count = max(1, int(producers * scenario.start_share))
    sim.join(count, scenario.factors)
    round_s = count * WINDOW_S
    cold_end_s = COLD_ROUNDS * round_s
    settle_s = cold_end_s
    if scenario.disturb is not undisturbed:
        settle_s = max(2 * cold_end_s, 20.0)
    sim.run(settle_s)
    live = scenario.disturb(sim, producers)
    round_s = live * scenario.window_after_s
    if scenario.disturb is not undisturbed:
        settle_s = sim.now_s + RECOVERY_ROUNDS * round_s
    # Small rounds are shorter than the time between batches: at least two minutes.
    # The last three rounds are left out, because their batches may rightly be pending still.
    end_s = settle_s + max(rounds * round_s, 120.0)
    sim.run(end_s)
    settled = sim.measure(settle_s, end_s - 3 * round_s, round_s)
    if end_s - settle_s < scenario.fairness_s_min:
        # Only fairness is taken from the longer stretch, which would flatter what settles late.
        end_s = settle_s + scenario.fairness_s_min
        sim.run(end_s)
        longer = sim.measure(settle_s, end_s, round_s)
        settled = dataclasses.replace(settled, jain=longer.jain)
    cold = sim.measure(0.0, cold_end_s, count * WINDOW_S)
    sim.flush_all()
    sim.run(end_s + DRAIN_ROUNDS_MAX * round_s)
    took_s = time.perf_counter() - started
    left = sim.pending_batches()
    return Result(
        policy=policy,
        scenario=scenario.name,
        producers=producers,
        seed=seed,
        cold=cold,
        settled=settled,
        left_pending=left,
        live=live,
        freshness_s=freshness_s,
        took_s=took_s,
    )


HEADER = (
    f"{'policy':<14}{'scenario':<13}{'N':>5} | {'cold':>6} | {'attempts':>8}{'worst':>7}"
    f"{'probes':>8} | {'p50':>6}{'p99':>7}{'worst':>7} | {'Jain':>6}{'worst':>7} | {'left':>5}"
    "  bounds"
)


def table_row(results: list[Result]) -> str:
    """One aligned row: medians over the seeds, and the worst seed beside them."""
    first = results[0]
    settled = [result.settled for result in results]
    attempts = [metrics.attempts_per_commit for metrics in settled]
    p99 = [metrics.p99_rounds for metrics in settled]
    fair = [metrics.jain for metrics in settled]
    cold = max(result.cold.attempts_per_commit for result in results)
    probes = statistics.median(metrics.probes_per_commit for metrics in settled)
    p50 = statistics.median(metrics.p50_rounds for metrics in settled)
    left = max(result.left_pending for result in results)
    misses = sorted({miss for result in results for miss in result.misses()})
    return (
        f"{first.policy:<14}{first.scenario:<13}{first.producers:>5} | {cold:>6.2f} | "
        f"{statistics.median(attempts):>8.3f}{max(attempts):>7.3f}{probes:>8.3f} | "
        f"{p50:>6.2f}{statistics.median(p99):>7.2f}{max(p99):>7.2f} | "
        f"{statistics.median(fair):>6.3f}{min(fair):>7.3f} | {left:>5}"
        f"  {'met' if not misses else 'MISSED: ' + ', '.join(misses)}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each DAC case")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--n", default="4,16,64,256,1024", help="numbers of producers")
    parser.add_argument("--scenario", default="all", help=f"of: {', '.join(SCENARIOS)}")
    parser.add_argument("--rounds", type=int, default=20, help="rounds measured after settling")
    parser.add_argument("--freshness", type=float, default=FRESHNESS_S, help="target, seconds")
    parser.add_argument("--baselines", action="store_true", help="also run the baselines, steady")
    parser.add_argument("--baseline-n-max", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="N of 4, 16 and 64 only")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if DAC misses a bound")
    return parser.parse_args(arguments)


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Scenario, int, int]]:
    sizes = [4, 16, 64] if options.quick else [int(part) for part in options.n.split(",")]
    names = list(SCENARIOS) if options.scenario == "all" else options.scenario.split(",")
    for name in names:
        for size in sizes:
            yield "dac", SCENARIOS[name], size, options.seeds
    if options.baselines:
        for policy in BASELINES:
            for size in sizes:
                if size <= options.baseline_n_max:
                    yield policy, SCENARIOS["steady"], size, 1


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    everything: list[Result] = []
    print(f"window {WINDOW_S * 1e3:.0f} ms +-20 %, 1 batch/s each, freshness {options.freshness} s")
    print("cold: attempts a commit in the first five rounds, worst seed; p50, p99 in rounds")
    print(HEADER)
    for policy, scenario, size, seeds in cases(options):
        results = [
            simulate(policy, scenario, size, seed, options.freshness, options.rounds)
            for seed in range(options.first_seed, options.first_seed + seeds)
        ]
        everything += results
        print(table_row(results), flush=True)
    if options.json:
        rows = [dataclasses.asdict(result) | {"misses": result.misses()} for result in everything]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    missed = [result for result in everything if result.policy == "dac" and result.misses()]
    print(f"{len(missed)} of {sum(r.policy == 'dac' for r in everything)} DAC runs miss a bound")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
