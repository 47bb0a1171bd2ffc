"""What the commit controller promises, alone and among many."""

from __future__ import annotations

import random
from typing import Any

import pytest

from batchweave.dac import (
    Controller,
    DacSettings,
    Outcome,
    Pace,
    View,
    next_pace,
)
from tests.bench import dac_model as model
from tests.bench import dac_simulation as bench

WINDOW_S = 0.05
WINDOW_US = 50_000
EMPTY = View(0, Pace(), {})


def controller(freshness_s: float = 1.0, **settings: Any) -> Controller:
    return Controller(DacSettings(freshness_s=freshness_s, **settings), "alone", random.Random(1))


def commit(policy: Controller, view: View, now_s: float, window_s: float = WINDOW_S) -> View:
    """One attempt that wins, and the view that it leaves."""
    claim = policy.begin(view, now_s)
    assert claim is not None
    policy.attempted(Outcome.COMMITTED, now_s, now_s + window_s)
    version = view.version + 1
    mine = model.Registered(version, 1, claim.turn_us)
    return View(version, claim.pace, {**view.producers, "alone": mine})


def busy_view(others: int, slot_us: int = 66_000) -> View:
    """A table whose `others` hold the slots after the next one, back to back."""
    pace = Pace(clock_us=slot_us, window_us=WINDOW_US, slot_us=slot_us)
    peers = {
        f"other-{index}": model.Registered(index + 1, 1, (index + 2) * slot_us)
        for index in range(others)
    }
    return View(10 * others, pace, peers)


def settled_simulation(producers: int, seed: int = 0, rounds: int = 15) -> model.Simulation:
    sim = model.Simulation(bench.dac_factory(0.1), seed)
    sim.join(producers)
    sim.run(rounds * producers * WINDOW_S)
    return sim


def test_nothing_pending_needs_no_attempt() -> None:
    assert controller().next_attempt_s(5.0) is None


def test_alone_a_commit_lands_at_the_freshness_target() -> None:
    policy = controller(freshness_s=1.0)
    policy.pending(1, 10, 100.0)
    view = commit(policy, EMPTY, 101.0)
    policy.pending(1, 10, 102.0)
    begin_s = policy.next_attempt_s(102.0)
    assert begin_s is not None
    assert begin_s == pytest.approx(103.0 - WINDOW_S)
    commit(policy, view, begin_s)


def test_alone_a_flush_is_immediate() -> None:
    policy = controller(freshness_s=30.0)
    policy.pending(1, 10, 100.0)
    assert policy.next_attempt_s(100.0) == 130.0
    policy.flush()
    assert policy.next_attempt_s(100.5) == 100.5


def test_a_flush_ends_with_the_commit_that_it_asked_for() -> None:
    policy = controller(freshness_s=30.0)
    policy.pending(1, 10, 100.0)
    policy.flush()
    commit(policy, EMPTY, 100.0)
    policy.pending(1, 10, 101.0)
    assert policy.next_attempt_s(101.0) == pytest.approx(131.0 - WINDOW_S)


@pytest.mark.parametrize(("batches", "size_bytes"), [(6, 10), (1, 750)])
def test_pending_near_a_limit_does_not_wait_for_freshness(batches: int, size_bytes: int) -> None:
    policy = controller(freshness_s=30.0, pending_batches_max=8, pending_bytes_max=1000)
    policy.pending(1, 10, 100.0)
    assert policy.next_attempt_s(100.0) == 130.0
    policy.pending(batches, size_bytes, 100.0)
    assert policy.next_attempt_s(101.0) == 101.0


def test_same_seed_and_same_calls_give_same_decisions() -> None:
    first, second = settled_simulation(16), settled_simulation(16)
    assert first.attempt_ends_s == second.attempt_ends_s
    assert first.probe_ends_s == second.probe_ends_s
    assert settled_simulation(16, seed=1).attempt_ends_s != first.attempt_ends_s


def test_a_slot_that_another_holds_is_left_alone_before_anything_is_written() -> None:
    view = busy_view(3)
    policy = controller(freshness_s=0.0)
    now_s = 2 * 66_000 / 1e6
    policy.pending(1, 10, now_s)
    policy.next_attempt_s(now_s)
    # The first read sets its clock to the table's, one slot before the slots that are held.
    policy.begin(view, now_s)
    assert policy.begin(view, now_s + 0.066) is None
    later_s = policy.next_attempt_s(now_s + 0.066)
    assert later_s is not None
    assert later_s > now_s + 0.066


def test_deferrals_in_a_row_are_bounded() -> None:
    policy = controller(freshness_s=0.0)
    now_s = 0.0
    view = busy_view(40)
    for _ in range(10):
        policy.pending(1, 10, now_s)
        policy.next_attempt_s(now_s)
        # Whenever it asks, the slot of the moment is held by another.
        if policy.begin(view, now_s) is not None:
            break
        now_s += 0.066
    else:
        pytest.fail("put off more than four times in a row")


def test_booked_turns_avoid_each_other_and_the_open_slots() -> None:
    sim = settled_simulation(16)
    slot_us = sim.pace.slot_us
    turns = [peer.turn_us for peer in sim.registered.values()]
    ahead = [turn // slot_us for turn in turns if turn > sim.pace.clock_us]
    assert len(ahead) >= 14
    assert len(set(ahead)) == len(ahead)
    assert all(index % 6 for index in ahead)


def test_waits_are_bounded_whatever_the_table_says() -> None:
    rng = random.Random(7)
    for _ in range(300):
        peers = {
            f"other-{index}": model.Registered(
                rng.randrange(1 << 40), rng.randrange(1 << 40), rng.randrange(1 << 60)
            )
            for index in range(rng.randrange(8))
        }
        pace = Pace(rng.randrange(1 << 60), rng.randrange(1 << 40), rng.randrange(1 << 40))
        policy = controller(freshness_s=1.0)
        policy.pending(1, 10, 50.0)
        policy.begin(View(rng.randrange(1 << 40), pace, peers), 50.0)
        wait_s = (policy.next_attempt_s(50.0) or 50.0) - 50.0
        assert 0.0 <= wait_s <= 3600.0


def test_a_lost_attempt_is_tried_again_and_an_unknown_one_too() -> None:
    for outcome in (Outcome.LOST, Outcome.UNKNOWN):
        policy = controller(freshness_s=30.0)
        policy.pending(1, 10, 100.0)
        assert policy.begin(EMPTY, 130.0) is not None
        policy.attempted(outcome, 130.0, 130.05)
        retry_s = policy.next_attempt_s(130.05)
        assert retry_s is not None
        assert 130.05 <= retry_s <= 135.0


def test_an_attempt_without_a_claim_is_refused() -> None:
    with pytest.raises(ValueError, match="must follow a claim"):
        controller().attempted(Outcome.LOST, 1.0, 2.0)


def test_pending_batches_need_a_time_of_publication() -> None:
    with pytest.raises(ValueError, match="time of publication"):
        controller().pending(1, 10, None)


@pytest.mark.parametrize(
    "field", ["freshness_s", "pending_batches_max", "pending_bytes_max", "window_first_s"]
)
def test_settings_out_of_range_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        DacSettings(**{field: -1})


def test_the_shared_window_follows_a_tenfold_growth_within_ten_commits() -> None:
    pace = Pace(0, 50_000, 66_000)
    for _ in range(10):
        pace = next_pace(pace, 0, pace.slot_us, 500_000)
    assert 500_000 <= pace.slot_us <= 1_000_000


def test_slots_stay_put_while_the_window_only_jitters() -> None:
    rng = random.Random(3)
    pace = Pace(0, 50_000, 66_000)
    seen = set()
    for _ in range(500):
        measured_us = min(rng.randrange(40_000, 60_000) for _ in range(2))
        pace = next_pace(pace, 0, pace.slot_us, measured_us)
        seen.add(pace.slot_us)
    assert len(seen) <= 2


def test_the_table_clock_never_runs_back() -> None:
    assert next_pace(Pace(5_000, 50_000, 66_000), 1_000, 66_000, None).clock_us == 5_001


def test_the_table_clock_does_not_outrun_the_producers_clocks() -> None:
    sim = settled_simulation(16)

    def ahead_s() -> float:
        last = max(sim.workers, key=lambda worker: sim.registered[worker.name].version)
        return sim.pace.clock_us / 1e6 - last.began_s

    sim.run(60.0)
    before_s = ahead_s()
    sim.run(660.0)
    # The fastest of the clocks gains up to 50 ppm, 30 ms in all.
    assert ahead_s() - before_s < 0.06


def test_one_stalled_read_does_not_drive_the_clock_forward() -> None:
    slot_us = 66_000
    policy = controller(freshness_s=0.0)
    policy.pending(1, 10, 0.0)
    view = View(10, Pace(slot_us, WINDOW_US, slot_us), {})
    claim = policy.begin(view, 0.0)
    assert claim is not None
    policy.attempted(Outcome.LOST, 0.0, WINDOW_S)
    # The read began at 1 s and shows a commit that landed a second later.
    stalled = View(11, Pace(slot_us + 2_000_000, WINDOW_US, slot_us), {})
    policy.begin(stalled, 1.0)
    claims = [policy.begin(View(12, stalled.pace, {}), 3.0 + 0.1 * step) for step in range(20)]
    clocks = [(claim.pace.clock_us, step) for step, claim in enumerate(claims) if claim]
    assert clocks
    for clock_us, step in clocks:
        assert clock_us <= slot_us + 3_000_000 + 100_000 * step + WINDOW_US


@pytest.mark.parametrize(
    "scenario",
    ["steady", "bursts", "doubling", "halving", "window-x10", "heavy-tail", "freeze"],
)
def test_sixteen_producers_stay_within_the_bounds(scenario: str) -> None:
    result = bench.simulate("dac", bench.SCENARIOS[scenario], 16, 0, 0.1, 20)
    assert result.misses() == []


def test_sixty_four_producers_reach_one_attempt_a_commit() -> None:
    result = bench.simulate("dac", bench.SCENARIOS["steady"], 64, 0, 0.1, 10)
    assert result.misses() == []
    assert result.settled.attempts_per_commit < 1.1
    assert result.settled.probes_per_commit < 1.25


def test_immediate_retry_breaks_the_bound_that_the_controller_keeps() -> None:
    result = bench.simulate("immediate", bench.SCENARIOS["steady"], 16, 0, 0.1, 20)
    assert "attempts" in result.misses()


def test_a_closed_form_interval_breaks_the_bound_that_the_controller_keeps() -> None:
    result = bench.simulate("closed-form", bench.SCENARIOS["steady"], 16, 0, 0.1, 20)
    assert "attempts" in result.misses()
