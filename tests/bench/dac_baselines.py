"""Commit policies that DAC is measured against; none of them is part of the product.

All follow `batchweave.dac.CommitPolicy`.  They ignore the pace and the turns in the table's
state and carry them on unchanged, except `PhaseKeeping`, which shares its estimate of the window.
"""

from __future__ import annotations

import math
import random

from batchweave.dac import Claim, Outcome, Pace, View

MICROSECONDS = 1_000_000
LOSSES_MAX = 12
LIVE_ROUNDS = 3


class Baseline:
    """Remembers what is pending; a subclass says how long to wait after which outcome."""

    def __init__(self, rng: random.Random, freshness_s: float, window_first_s: float) -> None:
        self.rng = rng
        self.freshness_s = freshness_s
        self.window_s = window_first_s
        self.losses = 0
        self.live = 1
        self._batches = 0
        self._oldest_s: float | None = None
        self._not_before_s = -math.inf
        self._flush = False

    def pending(self, batches: int, size_bytes: int, oldest_s: float | None) -> None:
        self._batches = batches
        self._oldest_s = oldest_s

    def flush(self) -> None:
        self._flush = True

    def next_attempt_s(self, now_s: float) -> float | None:
        if not self._batches:
            return None
        return max(now_s, self._not_before_s)

    def begin(self, view: View, now_s: float) -> Claim | None:
        horizon = view.version - LIVE_ROUNDS * max(1, len(view.producers))
        self.live = max(1, sum(p.version >= horizon for p in view.producers.values()))
        return Claim(view.pace, 0)

    def attempted(self, outcome: Outcome, began_s: float, ended_s: float) -> None:
        self.window_s += (ended_s - began_s - self.window_s) / 8
        self.losses = 0 if outcome is Outcome.COMMITTED else self.losses + 1
        if outcome is Outcome.COMMITTED:
            self._not_before_s = self.after_success_s(began_s, ended_s)
        else:
            self._not_before_s = self.after_loss_s(began_s, ended_s)

    def after_success_s(self, began_s: float, ended_s: float) -> float:
        return began_s + self.freshness_s

    def after_loss_s(self, began_s: float, ended_s: float) -> float:
        return ended_s


class Immediate(Baseline):
    """Try again at once, as long as anything is pending."""

    def after_success_s(self, began_s: float, ended_s: float) -> float:
        return ended_s


class FixedInterval(Baseline):
    """One attempt an interval of 1 s, lost or not."""

    interval_s = 1.0

    def after_success_s(self, began_s: float, ended_s: float) -> float:
        return began_s + self.interval_s

    def after_loss_s(self, began_s: float, ended_s: float) -> float:
        return began_s + self.interval_s


class FullJitter(Baseline):
    """Exponential back-off with full jitter (AWS Architecture Blog, 2015)."""

    def after_loss_s(self, began_s: float, ended_s: float) -> float:
        cap_s = self.window_s * 2.0 ** min(self.losses, LOSSES_MAX)
        return ended_s + self.rng.uniform(0.0, cap_s)


class Aimd(Baseline):
    """The interval doubles on a loss and shrinks by one window on a success."""

    interval_s = 0.0

    def after_success_s(self, began_s: float, ended_s: float) -> float:
        self.interval_s = max(self.freshness_s, self.interval_s - self.window_s)
        return began_s + self.interval_s * self.rng.uniform(0.5, 1.5)

    def after_loss_s(self, began_s: float, ended_s: float) -> float:
        self.interval_s = min(600.0, 2.0 * max(self.interval_s, self.window_s))
        return ended_s + self.rng.uniform(0.0, self.interval_s)


class ClosedForm(Baseline):
    """T = (N - 1) L / -ln(1 - q), with random jitter; N from the state, L its own measure."""

    conflict_share = 0.3

    def interval_s(self) -> float:
        spacing_s = (self.live - 1) * self.window_s / -math.log(1.0 - self.conflict_share)
        return max(self.freshness_s, spacing_s)

    def after_success_s(self, began_s: float, ended_s: float) -> float:
        return began_s + self.interval_s() * self.rng.uniform(0.5, 1.5)

    def after_loss_s(self, began_s: float, ended_s: float) -> float:
        return ended_s + self.rng.uniform(0.0, self.window_s * 2.0 ** min(self.losses, 6))


class PhaseKeeping(Baseline):
    """T = 2 N L with a shared L; a success keeps its phase, a loser spreads over sqrt(N) L."""

    def __init__(self, rng: random.Random, freshness_s: float, window_first_s: float) -> None:
        super().__init__(rng, freshness_s, window_first_s)
        self.shared_s = window_first_s

    def begin(self, view: View, now_s: float) -> Claim | None:
        super().begin(view, now_s)
        shared_us = view.pace.window_us or int(self.window_s * MICROSECONDS)
        shared_us += int((self.window_s * MICROSECONDS - shared_us) / 16)
        self.shared_s = shared_us / MICROSECONDS
        return Claim(Pace(0, shared_us, 0), 0)

    def after_success_s(self, began_s: float, ended_s: float) -> float:
        return began_s + max(self.freshness_s, 2.0 * self.live * self.shared_s)

    def after_loss_s(self, began_s: float, ended_s: float) -> float:
        windows = max(math.sqrt(self.live) * 2.0, 2.0 ** min(self.losses, 5))
        return ended_s + self.rng.uniform(0.0, windows * self.shared_s)


BASELINES: dict[str, type[Baseline]] = {
    "immediate": Immediate,
    "fixed-1s": FixedInterval,
    "full-jitter": FullJitter,
    "aimd": Aimd,
    "closed-form": ClosedForm,
    "phase-keeping": PhaseKeeping,
}
