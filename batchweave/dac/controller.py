"""The controller: a producer's pending batches and its turns, weighed against the calendar.

Imports: standard library, and the other modules of this package.
"""

from __future__ import annotations

from batchweave.dac.approach import Approach
from batchweave.dac.calendar import (
    TURN_AHEAD_US_MAX,
    Calendar,
    read_calendar,
    slot_at_or_after,
)
from batchweave.dac.pace import WINDOW_US_MIN, next_pace, slot_for
from batchweave.dac.protocol import MICROSECONDS, Claim, Outcome, Randomness, View
from batchweave.dac.settings import DacSettings
from batchweave.dac.table_clock import TableClock

# Bounds on retries: how many losses count, and how often it may be put off in a row: one time
# less for each loss, but once in any case.
_LOSSES_MAX = 12
_DEFERRALS_MAX = 4
# Waiting for the holder of the slot before, in eighths of a window.  More would hold the others up
# behind one that has left or stalls.
_PATIENCE_EIGHTHS = 3


class Controller:
    """Decides when one producer attempts a commit (`batchweave.dac` says how).

    Not thread-safe: one committer drives it.  All times are seconds of that process's monotonic
    clock.  The same settings, name, seed and calls give the same decisions.
    """

    def __init__(self, settings: DacSettings, name: str, rng: Randomness) -> None:
        self._settings = settings
        self._name = name
        self._rng = rng
        self._clock = TableClock(slot_for(int(settings.window_first_s * MICROSECONDS)))
        self._approach = Approach(self._clock)
        # What is pending.
        self._batches = 0
        self._size_bytes = 0
        self._oldest_s: float | None = None
        self._flush = False
        self._was_urgent = False
        # What the last heads showed.
        self._live = 1
        self._round_us = 0
        self._contended = False
        self._sparse = False
        self._turn_us = 0
        self._fresh = False
        # The attempt that is under way, and those before it.
        self._claim: Claim | None = None
        self._retry_us = 0
        self._measured_us: int | None = None
        self._took_us = 0
        self._losses = 0
        self._deferrals = 0
        self._began_s: float | None = None
        self._quiet_s = 0.0

    # -- what the caller tells -----------------------------------------------------------------

    def pending(self, batches: int, size_bytes: int, oldest_s: float | None) -> None:
        """State what waits for a commit, and when the oldest of it was published."""
        if batches < 0 or size_bytes < 0 or (batches > 0) != (oldest_s is not None):
            raise ValueError(
                "pending batches need a time of publication, none must have none: "
                f"batches={batches}, size_bytes={size_bytes}, oldest_s={oldest_s}"
            )
        self._batches = batches
        self._size_bytes = size_bytes
        self._oldest_s = oldest_s
        urgent = self._urgent()
        if batches == 0 or (urgent and not self._was_urgent and not self._losses):
            self._approach.drop()
        if batches == 0:
            self._flush = False
        self._was_urgent = urgent

    def flush(self) -> None:
        """Ask to have what is pending committed without waiting for freshness.

        Where the table is contended this keeps to the producer's turn, which is less than about
        a round away: jumping the queue would only take slots from others.
        """
        if self._batches and not self._flush:
            self._flush = True
            self._was_urgent = True
            if not self._losses:
                self._approach.drop()

    def attempted(self, outcome: Outcome, began_s: float, ended_s: float) -> None:
        """Tell how the attempt ended; `began_s` is when its head read began."""
        if self._claim is None or ended_s < began_s:
            raise ValueError(
                "an attempt must follow a claim and end after it began: "
                f"claim={self._claim}, began_s={began_s}, ended_s={ended_s}"
            )
        claim, self._claim = self._claim, None
        took_us = max(WINDOW_US_MIN, int((ended_s - began_s) * MICROSECONDS))
        self._measured_us = min(took_us, self._took_us or took_us)
        self._took_us = took_us
        self._fresh = False
        if outcome is Outcome.COMMITTED:
            self._losses = 0
            self._turn_us = claim.turn_us
            self._clock.slot_us = claim.pace.slot_us
            self._began_s = began_s
            self._flush = False
            self._approach.plan_us = None
        else:
            if outcome is Outcome.LOST:
                self._losses = min(self._losses + 1, _LOSSES_MAX)
                self._clock.doubt()
            self._live = max(2, self._live)
            self._aim(self._retry_us, ended_s)

    # -- what the caller asks ------------------------------------------------------------------

    def next_attempt_s(self, now_s: float) -> float | None:
        """When to read the head and call `begin`; `None` while nothing is pending."""
        if self._oldest_s is None:
            return None
        due_s = self._due_s(now_s)
        if self._approach.plan_us is None:
            if self._live == 1:
                return due_s
            self._aim(self._planned_us(now_s, due_s), now_s)
        assert self._approach.plan_us is not None
        return max(now_s, self._clock.local_s(self._approach.plan_us))

    def begin(self, view: View, now_s: float) -> Claim | None:
        """Decide, on a head just read, whether to go on with an attempt."""
        self._follow(view, now_s)
        clock = self._clock
        now_us = clock.table_us(now_s)
        if self._approach.looking and self._approach.looks_on(now_s):
            return None
        margin_us = clock.slot_us // 8
        calendar = read_calendar(view, self._name, now_us + margin_us, clock.slot_us)
        self._live = calendar.live
        if self._deferrals < max(1, _DEFERRALS_MAX - self._losses):
            better_us = self._better_us(view, calendar, now_us)
            if better_us is not None:
                self._deferrals += 1
                self._aim(better_us, now_s)
                return None
            late_us = (now_us + margin_us) % clock.slot_us - margin_us
            if calendar.late and 8 * late_us < _PATIENCE_EIGHTHS * clock.window_us:
                self._approach.plan_us = now_us + clock.step_us
                return None
        self._deferrals = 0
        self._retry_us = calendar.pick_us(now_us + clock.slot_us, self._losses + 1, self._rng)
        self._learn_quiet()
        pace = next_pace(view.pace, now_us, clock.slot_us, self._measured_us)
        self._claim = Claim(pace, self._booked_us(calendar, now_us))
        return self._claim

    # -- what is pending -----------------------------------------------------------------------

    def _urgent(self) -> bool:
        settings = self._settings
        return (
            self._flush
            or 4 * self._batches >= 3 * settings.pending_batches_max
            or 4 * self._size_bytes >= 3 * settings.pending_bytes_max
        )

    def _due_s(self, now_s: float) -> float:
        """When to begin so that the oldest batch lands in time, slots aside."""
        if self._urgent() or self._oldest_s is None:
            return now_s
        return max(now_s, self._oldest_s + max(0.0, self._settings.freshness_s - self._window_s()))

    def _window_s(self) -> float:
        return (self._measured_us or 0) / MICROSECONDS

    def _learn_quiet(self) -> None:
        """Average the time from an attempt that committed to the next batch."""
        if self._losses or self._began_s is None or self._oldest_s is None:
            return
        quiet_s = min(3600.0, max(0.0, self._oldest_s - self._began_s))
        self._quiet_s += (quiet_s - self._quiet_s) / 2 if self._quiet_s else quiet_s

    # -- when ----------------------------------------------------------------------------------

    def _follow(self, view: View, now_s: float) -> None:
        """Catch up with the table's clock, slots, and what it holds of this producer."""
        # Of an attempt that did not fit a slot the stamp is early: no reason to step back.
        fitted = self._took_us <= self._clock.slot_us
        self._clock.follow(view, now_s, maybe_ahead=self._losses > 1 and fitted)
        mine = view.producers.get(self._name)
        self._turn_us = mine.turn_us if mine is not None else 0

    def _aim(self, target_us: int, now_s: float) -> None:
        self._approach.aim(target_us, now_s, lost=self._losses > 0)

    def _own_slot(self) -> int:
        return slot_at_or_after(self._turn_us, self._clock.slot_us)

    def _planned_us(self, now_s: float, due_s: float) -> int:
        """The own turn where it is near enough; else a slot when the batch is due."""
        slot_us = self._clock.slot_us
        now_us = self._clock.table_us(now_s)
        due_us = self._clock.table_us(due_s)
        turn_us = self._own_slot() * slot_us
        near = self._contended or turn_us <= max(due_us, now_us + self._round_us)
        if near and turn_us >= now_us - slot_us // 4:
            return turn_us
        self._fresh = True
        return slot_at_or_after(due_us, slot_us) * slot_us

    def _better_us(self, view: View, calendar: Calendar, now_us: int) -> int | None:
        """When to try instead of now; `None` if now is right."""
        slot_us = calendar.slot_us
        margin_us = slot_us // 8
        first = (now_us + margin_us) // slot_us
        own = self._own_slot()
        if first == own:
            own_version = view.producers[self._name].version if self._turn_us else 0
            clear = calendar.taken.get(first, own_version) >= own_version
        else:
            last = (now_us + slot_us - 1 - margin_us) // slot_us
            clear = not any(index in calendar.taken for index in range(first, last + 1))
            if own == first + 1 and calendar.live > 1:
                return own * slot_us
            if clear and self._fresh:
                # The first try without a turn: only now is it known how many others do the same.
                self._fresh = False
                pick_us = self._unbooked_us(calendar, first * slot_us)
                return pick_us if pick_us > now_us else None
        return None if clear else calendar.pick_us(now_us, self._losses, self._rng)

    def _unbooked_us(self, calendar: Calendar, from_us: int) -> int:
        """The first slot to try without a turn: of the own place, or else a random one."""
        long_past = 0 < self._turn_us < from_us - calendar.places_us
        if calendar.crowded and (self._sparse or long_past):
            place_us = calendar.place_us(from_us)
            if place_us is not None:
                return place_us
        return calendar.pick_us(from_us, 0, self._rng)

    def _booked_us(self, calendar: Calendar, now_us: int) -> int:
        """The turn to announce: the first free slot at the end of the round, or when needed."""
        need_s = self._quiet_s + self._settings.freshness_s - self._window_s()
        need_us = max(0, int(need_s * MICROSECONDS))
        self._round_us = calendar.round_us
        self._contended = self._round_us >= need_us and calendar.live > 1
        from_us = now_us + min(max(need_us, self._round_us), TURN_AHEAD_US_MAX)
        self._sparse = calendar.sparse(need_us)
        place_us = calendar.place_us(from_us) if self._sparse else None
        return calendar.bookable_us(from_us) if place_us is None else place_us
