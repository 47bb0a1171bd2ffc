"""DAC, Decentralized Adaptive Commit: when a producer tries a commit.

This module owns one decision and nothing else.  It has no clock, does no I/O, starts no threads
and draws randomness only from a generator that is handed in, so that the producer and the
simulation (`tests/bench/dac_simulation.py`) drive the same code.  It imports the standard library
only.  The idea of a commit controller without a coordinator is that of the BatchWeave paper
(arXiv 2605.09994); the protocol below is our own.

The problem.  An attempt reads the head, writes, and ends in a compare-and-swap: the window L.
It loses if anyone commits within its window.  If N producers attempt at random, each once in an
interval T, an attempt loses with q = 1 - exp(-(N - 1) L / T), so low waste needs a T of many
times N L, and retries at once cost N attempts a commit.  But losing is not what limits the
table: the first of several rivals always commits, so up to 1 / L commits a second get through
(unlike ALOHA, which collapses), and one commit carries all that is pending.  What the controller
decides is therefore how fresh batches are and how many requests are wasted, not throughput.

The protocol is reservation ALOHA over the table itself.  Every commit announces, for its
producer, when that producer will try next: its turn.  Everyone reads the turns with the head that
an attempt reads anyway, and together they are a calendar.

* Table clock.  Turns need a common clock, and wall clocks may be skewed.  Each commit carries
  `clock_us`, its author's estimate of the table time at which it lands.  It is
  set 3/5 of a window after the head read began, which is before the landing also as seen by readers
  that date what they read by the beginning of their read.  A reader knows that it is now at least
  that late and moves its own offset forward to it, never back (as in Lamport's clocks), so that
  all keep to the one that is ahead; by more than a quarter of a window only if two reads in a row
  show it, because one may have stalled.  That bound is loose for a producer that
  always reads long after a commit, so some turns are preceded by a look: head reads, a quarter
  of a window apart, until one commit is seen to land.  A producer that lost twice in a row takes
  its time from such a landing also where this means to step back (unless its last attempt did not
  fit a slot, as then such stamps are early): it may be ahead of all others,
  and as long as it does not commit, they cannot follow.
* Waiting for the one before.  An attempt whose head read shows that the slot before its own is
  booked and its holder not yet seen reads again a little later, for up to 3/8 of a window, before
  it writes.  So slots need not fit the longest window, and clocks need not agree to the end.
* Slots.  Time is cut into slots of `slot_us`, 1.32 windows: room for a window and its jitter.
  A turn is the beginning of a slot.  `window_us` is a smoothed estimate of the window that every
  committer updates with what it measured itself.  `slot_us` follows it in rare steps, because
  each step moves the slots under turns that are already announced.
* Turns.  A producer that commits books the first free slot that is neither sooner than it has
  something to say (the time of its next batch, plus freshness, less a window) nor sooner than one
  round: (live producers + recent joiners) slots.  With all slots in use this is round robin, at
  T = 1.32 * 6/5 * N * window_us, about 1.65 N L.  A batch waits for at most one round: p99 is
  about T + L, and since turns do not overlap, nearly every attempt commits.
* Open slots.  Every sixth slot is never booked.  Newcomers, and producers that lost an attempt
  or let a turn pass, pick at random among the next m free slots: m is one more than the others
  that let a turn pass, and doubles with each loss after the first, up to about twice the number
  of these and of recent joiners (as many are likely to come still).  Where U of them spread over
  m slots, U / m attempts make one commit, and slots are still not wasted.
  All this ends within one and a half rounds.  The round leaves room
  for twice as many joiners as came in the last one, so membership grows by half with every round.
* Places.  Who commits once in 2 to 20 rounds (bursts) seldom says in time when it will be ready.
  Its first try without a turn, and the turns it books, take the slots of its place: its rank by
  name among the producers whose turn is ahead or passed within eight rounds, modulo their number.
  All read the same ranks, so that those who come at once go one after another, each within a
  round.  So do all whose turn passed more than a round ago.  Among fewer than eight it is not
  worth the wait.  Those that left only lengthen this round, until they are forgotten.
* Giving way.  An attempt begins with a head read.  If that shows the slot to belong to another,
  the attempt is put off before anything is written: a probe, which costs a head read.  After
  four probes in a row, one less for each loss, it goes ahead regardless: waiting is bounded.

Leaving needs no message: a turn that passes unused is free, and about a round later its producer
no longer counts.  Alone, no slots are kept: a commit lands when the oldest batch reaches the
freshness target.  When contention makes the target unreachable, contention wins.

What it needs in the table's state: three integers in all (`Pace`) and one for each producer
(`turn_us`), written with each commit as `begin` returned them.  They are hints: a wrong or
missing one costs attempts or freshness, and never safety, which rests on the compare-and-swap.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "Claim",
    "CommitPolicy",
    "Controller",
    "DacSettings",
    "Outcome",
    "Pace",
    "Peer",
    "Randomness",
    "View",
    "next_pace",
]

_MICROSECONDS = 1_000_000

# One slot in six stays open: strays and newcomers get in within a few slots also among four
# producers, and it costs a fifth of a round.  With one in eight, losers wait too long there.
_OPEN_EVERY = 6
# A slot starts at 1.32 windows, and is kept while it is between 1.22 and 1.55 of them.
_SLOT_PERCENT = 132
_SLOT_PERCENT_MIN = 122
_SLOT_PERCENT_MAX = 155
# A longer window than thought moves the estimate eight times as fast as a shorter one: it
# settles above the middle of what is measured, because slots should fit most windows.  A window
# of more than one and a half slots counts by half at once: the table has become slower.
_RISE_DIVISOR = 8
_FALL_DIVISOR = 64
# Unless it is far shorter: many that start at once measure windows of each other's making.
_FAR_PERCENT = 40
_FAR_DIVISOR = 8
_OUTGROWN_DIVISOR = 2
_OUTGROWN_PERCENT = 150
# Bounds on retries: how far a loser spreads, and how often it may be put off in a row: one
# time less for each loss, but once in any case.
_PICK_SLOTS_MAX = 4096
_LOSSES_MAX = 12
_DEFERRALS_MAX = 4
# Places: those whose turn passed within eight rounds have one.  They are of use where a producer
# commits every 2 to 20 rounds.  Before, turns alone do; beyond, and among a few, rivals are rare.
_PLACE_ROUNDS = 8
_PLACES_MIN = 8
_SPARSE_ROUNDS_MIN = 2
_SPARSE_ROUNDS_MAX = 20
# A producer whose turn passed counts as live for 1.2 rounds more: most losers are back sooner,
# and those that left should not hold up the others.
_LIVE_PERCENT = 120
_LIVE_SLOTS_MIN = 16
# A round also leaves room for those that are still to come: twice as many as came in the last one.
_JOINERS_EXPECTED = 2
# Waiting for the holder of the slot before, in eighths of a window, and how long a step is.  More
# would hold the others up behind one that has left or stalls.
_PATIENCE_EIGHTHS = 3
_STEP_DIVISOR = 4
# Looks: how often (at 100 ppm of drift clocks part by 2 ms in 20 s), how many reads at most,
# and after how long a clock is not trusted any more.
_LOOK_EVERY_S = 20.0
_LOOK_READS_MAX = 12
_CLOCK_KEPT_S = 300.0
# Bounds on what is believed of the table's state and of one's own measurements.
_WINDOW_US_MIN = 100
_WINDOW_US_MAX = 60 * _MICROSECONDS
_TURN_AHEAD_US_MAX = 3600 * _MICROSECONDS


class Outcome(enum.Enum):
    """How an attempt ended; `UNKNOWN` if that could not be found out."""

    COMMITTED = "committed"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Pace:
    """What all committers share, as the last commit left it; zeros in a new table."""

    clock_us: int = 0
    window_us: int = 0
    slot_us: int = 0


class Peer(Protocol):
    """What the table's state says of one producer; zero as turn means none."""

    @property
    def version(self) -> int: ...
    @property
    def opened_version(self) -> int: ...
    @property
    def turn_us(self) -> int: ...


@dataclass(frozen=True, slots=True)
class View:
    """A head just read, as far as the controller looks at it; it keeps no reference to it."""

    version: int
    pace: Pace
    producers: Mapping[str, Peer]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the commit must write into the table's state: the pace and the producer's turn."""

    pace: Pace
    turn_us: int


class Randomness(Protocol):
    """The one source of chance; a `random.Random` is one."""

    def randrange(self, start: int, stop: int, /) -> int: ...


class CommitPolicy(Protocol):
    """What drives commits; `Controller` is the one in use, others exist to compare with it.

    The caller states what is pending, sleeps until `next_attempt_s` (asking again after each
    publish or flush), reads the head and calls `begin`.  `None` means: write nothing, ask
    `next_attempt_s` again.  A claim means: write it with the commit, then call `attempted`.
    """

    def pending(self, batches: int, size_bytes: int, oldest_s: float | None) -> None:
        """State what waits for a commit, and when the oldest of it was published."""

    def flush(self) -> None:
        """Ask to have what is pending committed without waiting for freshness."""

    def next_attempt_s(self, now_s: float) -> float | None:
        """When to read the head and call `begin`; `None` while nothing is pending."""

    def begin(self, view: View, now_s: float) -> Claim | None:
        """Decide, on a head just read, whether to go on with an attempt."""

    def attempted(self, outcome: Outcome, began_s: float, ended_s: float) -> None:
        """Tell how the attempt ended; `began_s` is when its head read began."""


@dataclass(frozen=True, slots=True)
class DacSettings:
    """What a user may set.

    freshness_s: how old a batch may be when its commit lands, as long as the table has room.
        1 s: a training step seldom needs less, and each commit costs requests and metadata.
    pending_batches_max, pending_bytes_max: the producer's own limits.  From three quarters of
        either on, the freshness target is not waited for.  64 batches and 256 MiB are small
        next to a preprocessing worker's memory.
    window_first_s: the commit window assumed in a table without any measurement.  0.1 s lies
        between a local store and S3 Standard; it is replaced by the first attempt's duration.
    """

    freshness_s: float = 1.0
    pending_batches_max: int = 64
    pending_bytes_max: int = 256 * 1024 * 1024
    window_first_s: float = 0.1

    def __post_init__(self) -> None:
        checks = (
            ("freshness_s", self.freshness_s, 0.0, 3600.0),
            ("pending_batches_max", self.pending_batches_max, 1, 1_000_000),
            ("pending_bytes_max", self.pending_bytes_max, 1, 1 << 50),
            ("window_first_s", self.window_first_s, 0.0001, 60.0),
        )
        for name, value, least, most in checks:
            if not least <= value <= most:
                raise ValueError(f"{name} must be between {least} and {most}: {value}")


@dataclass(frozen=True, slots=True)
class _Calendar:
    """The slots that others hold, and how many others want one."""

    taken: dict[int, int]
    """Slot index -> the version at which its holder last committed."""
    waiting: int
    """Others that let their turn pass in about the last round."""
    joined: int
    """Others that opened within about the last round."""
    place: int
    """The own rank by name among the `places`."""
    places: int
    """This producer and all others with a turn that is ahead or passed not too long ago."""
    late: bool
    """The holder of the slot before this one has not been seen to commit in it."""

    @property
    def live(self) -> int:
        return len(self.taken) + self.waiting + 1


def _slot_at_or_after(time_us: int, slot_us: int) -> int:
    return -(-time_us // slot_us)


def _read_calendar(view: View, name: str, now_us: int, slot_us: int) -> _Calendar:
    taken: dict[int, int] = {}
    lapsed_us: list[int] = []
    joined = 0
    late = False
    place = 0
    places = 1
    opened_since = view.version - len(view.producers)
    current_us = now_us - now_us % slot_us - slot_us
    before_us = current_us - slot_us
    oldest_us = now_us - _PLACE_ROUNDS * (len(view.producers) + _LIVE_SLOTS_MIN) * slot_us
    believed_us = now_us + _TURN_AHEAD_US_MAX
    for peer_name, peer in view.producers.items():
        if peer_name == name:
            continue
        turn_us = peer.turn_us
        if peer.opened_version >= opened_since:
            joined += 1
        if oldest_us < turn_us <= believed_us:
            places += 1
            place += peer_name < name
        if turn_us > current_us:
            if turn_us <= believed_us:
                index = _slot_at_or_after(turn_us, slot_us)
                taken[index] = min(peer.version, taken.get(index, peer.version))
        elif turn_us > oldest_us:
            lapsed_us.append(turn_us)
            if turn_us > before_us:
                late = True
    waiting = _count_waiting(lapsed_us, now_us, slot_us, len(taken))
    return _Calendar(taken, waiting, joined, place, places, late)


def _count_waiting(lapsed_us: list[int], now_us: int, slot_us: int, taken: int) -> int:
    """Those whose turn passed within a round of as many producers as are counted so far."""
    waiting = 0
    for turn_us in sorted(lapsed_us, reverse=True):
        slots = max(_LIVE_SLOTS_MIN, _LIVE_PERCENT * (taken + waiting + 1) // 100)
        if now_us - turn_us > slots * slot_us:
            break
        waiting += 1
    return waiting


def next_pace(seen: Pace, now_us: int, slot_us: int, measured_us: int | None) -> Pace:
    """The pace to write with a commit that begins at table time `now_us`.

    `measured_us` is the shorter one of the author's last two attempts, so that a single stall
    does not slow the whole table down; and one commit at most doubles a slot.
    """
    window_us = seen.window_us
    if measured_us is not None:
        measured_us = max(_WINDOW_US_MIN, min(measured_us, _WINDOW_US_MAX))
        if window_us <= 0:
            window_us = measured_us
        elif measured_us > window_us:
            fits = 100 * measured_us <= _OUTGROWN_PERCENT * slot_us
            divisor = _RISE_DIVISOR if fits else _OUTGROWN_DIVISOR
            window_us += -((window_us - min(measured_us, 2 * window_us)) // divisor)
        else:
            far = 100 * measured_us < _FAR_PERCENT * window_us
            window_us -= (window_us - measured_us) // (_FAR_DIVISOR if far else _FALL_DIVISOR)
    if window_us > 0:
        percent = 100 * slot_us // window_us
        if not _SLOT_PERCENT_MIN <= percent <= _SLOT_PERCENT_MAX:
            slot_us = window_us * _SLOT_PERCENT // 100
    lands_us = now_us
    if measured_us is not None:
        # Not all of it: what is measured includes the answer; readers see a landing at the end
        # of a head read that they date by its beginning.  A stamp that they think lies ahead of
        # their own clock, though it does not, would drive the table clock ever further forward.
        lands_us += min(measured_us, slot_us) * 3 // 5
    return Pace(max(seen.clock_us + 1, lands_us), window_us, slot_us)


class Controller:
    """Decides when one producer attempts a commit (see the module's text for how).

    Not thread-safe: one committer drives it.  All times are seconds of that process's monotonic
    clock.  The same settings, name, seed and calls give the same decisions.
    """

    def __init__(self, settings: DacSettings, name: str, rng: Randomness) -> None:
        self._settings = settings
        self._name = name
        self._rng = rng
        self._batches = 0
        self._size_bytes = 0
        self._oldest_s: float | None = None
        self._flush = False
        self._was_urgent = False
        self._offset_us: int | None = None
        self._shown_us = 0
        self._slot_us = int(settings.window_first_s * _MICROSECONDS) * _SLOT_PERCENT // 100
        self._measured_us: int | None = None
        self._took_us = 0
        self._live = 1
        self._round_us = 0
        self._contended = False
        self._sparse = False
        self._turn_us = 0
        self._plan_us: int | None = None
        self._looking = False
        self._target_us = 0
        self._landing_seen = False
        self._looks = 0
        self._read_version = 0
        self._read_us = 0
        self._fresh = False
        self._looked_s = -math.inf
        self._window_us = 0
        self._retry_us = 0
        self._claim: Claim | None = None
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
            self._replan()
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
                self._replan()

    def attempted(self, outcome: Outcome, began_s: float, ended_s: float) -> None:
        """Tell how the attempt ended; `began_s` is when its head read began."""
        if self._claim is None or ended_s < began_s:
            raise ValueError(
                "an attempt must follow a claim and end after it began: "
                f"claim={self._claim}, began_s={began_s}, ended_s={ended_s}"
            )
        claim, self._claim = self._claim, None
        took_us = max(_WINDOW_US_MIN, int((ended_s - began_s) * _MICROSECONDS))
        self._measured_us = min(took_us, self._took_us or took_us)
        self._took_us = took_us
        self._fresh = False
        if outcome is Outcome.COMMITTED:
            self._losses = 0
            self._turn_us = claim.turn_us
            self._slot_us = claim.pace.slot_us
            self._began_s = began_s
            self._flush = False
            self._plan_us = None
        else:
            if outcome is Outcome.LOST:
                self._losses = min(self._losses + 1, _LOSSES_MAX)
                self._looked_s = -math.inf
            self._live = max(2, self._live)
            self._approach(self._retry_us, ended_s)

    # -- what the caller asks ------------------------------------------------------------------

    def next_attempt_s(self, now_s: float) -> float | None:
        """When to read the head and call `begin`; `None` while nothing is pending."""
        if self._oldest_s is None:
            return None
        due_s = self._due_s(now_s)
        if self._plan_us is None:
            if self._live == 1:
                return due_s
            self._approach(self._planned_us(now_s, due_s), now_s)
        assert self._plan_us is not None
        return max(now_s, self._local_s(self._plan_us))

    def begin(self, view: View, now_s: float) -> Claim | None:
        """Decide, on a head just read, whether to go on with an attempt."""
        self._follow(view, now_s)
        now_us = self._table_us(now_s)
        if self._looking and self._looks_on(now_s):
            return None
        margin_us = self._slot_us // 8
        calendar = _read_calendar(view, self._name, now_us + margin_us, self._slot_us)
        self._live = calendar.live
        if self._deferrals < max(1, _DEFERRALS_MAX - self._losses):
            better_us = self._better_us(view, calendar, now_us)
            if better_us is not None:
                self._deferrals += 1
                self._approach(better_us, now_s)
                return None
            late_us = (now_us + margin_us) % self._slot_us - margin_us
            if calendar.late and 8 * late_us < _PATIENCE_EIGHTHS * self._window_us:
                self._plan_us = now_us + self._window_us // _STEP_DIVISOR
                return None
        self._deferrals = 0
        self._retry_us = self._pick_us(calendar, now_us + self._slot_us, self._losses + 1)
        self._learn_quiet()
        pace = next_pace(view.pace, now_us, self._slot_us, self._measured_us)
        self._claim = Claim(pace, self._booked_us(calendar, now_us))
        return self._claim

    # -- time ----------------------------------------------------------------------------------

    def _table_us(self, now_s: float) -> int:
        return int(now_s * _MICROSECONDS) + (self._offset_us or 0)

    def _local_s(self, table_us: int) -> float:
        return (table_us - (self._offset_us or 0)) / _MICROSECONDS

    def _follow(self, view: View, now_s: float) -> None:
        """Catch up with the table's clock, slots, and what it holds of this producer."""
        local_us = int(now_s * _MICROSECONDS)
        self._window_us = view.pace.window_us
        least_us = view.pace.clock_us - local_us
        most_us = view.pace.clock_us - self._read_us
        before_us = self._offset_us
        if before_us is None or local_us - self._read_us > _CLOCK_KEPT_S * _MICROSECONDS:
            self._offset_us = before_us = self._shown_us = least_us
            self._looked_s = -math.inf
        moved = view.version > self._read_version
        self._landing_seen = moved and most_us - least_us <= self._window_us // 2
        if self._landing_seen and self._losses > 1 and self._took_us <= self._slot_us:
            before_us = min(most_us, before_us)
        # One read that stalled shows commits that landed long after it began, and would drive the
        # clocks of all forward: a greater step is made only when two reads in a row show it.
        believed_us = max(self._shown_us, before_us + self._window_us // _STEP_DIVISOR)
        self._offset_us = max(min(least_us, believed_us), before_us)
        self._shown_us = least_us
        self._read_version = view.version
        self._read_us = local_us
        if view.pace.slot_us > 0:
            self._slot_us = min(view.pace.slot_us, 2 * _WINDOW_US_MAX)
        mine = view.producers.get(self._name)
        self._turn_us = mine.turn_us if mine is not None else 0

    def _window_s(self) -> float:
        return (self._measured_us or 0) / _MICROSECONDS

    def _replan(self) -> None:
        self._plan_us = None
        self._looking = False

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

    def _learn_quiet(self) -> None:
        """Average the time from an attempt that committed to the next batch."""
        if self._losses or self._began_s is None or self._oldest_s is None:
            return
        quiet_s = min(3600.0, max(0.0, self._oldest_s - self._began_s))
        self._quiet_s += (quiet_s - self._quiet_s) / 2 if self._quiet_s else quiet_s

    def _approach(self, target_us: int, now_s: float) -> None:
        """Plan an attempt; if the clock was not compared lately, by way of a look."""
        self._target_us = self._plan_us = target_us
        now_us = self._table_us(now_s)
        look_us = target_us - 2 * self._slot_us + self._window_us * 3 // 4
        if self._losses:
            look_us = max(now_us, look_us)
        stale = now_s >= self._looked_s + _LOOK_EVERY_S
        self._looking = stale and now_us <= look_us < target_us
        if self._looking:
            self._looks = 0
            self._plan_us = look_us

    def _looks_on(self, now_s: float) -> bool:
        """Plan what follows a look at the clock: another one, or (if there is time) the target."""
        now_us = self._table_us(now_s)
        self._looks += 1
        next_us = now_us + self._window_us // _STEP_DIVISOR
        if not self._landing_seen and self._looks < _LOOK_READS_MAX and next_us < self._target_us:
            self._plan_us = next_us
            return True
        self._looking = False
        self._looked_s = now_s
        self._plan_us = self._target_us
        return self._target_us > now_us + self._slot_us // 8

    # -- slots ---------------------------------------------------------------------------------

    def _own_slot(self) -> int:
        return _slot_at_or_after(self._turn_us, self._slot_us)

    def _planned_us(self, now_s: float, due_s: float) -> int:
        """The own turn where it is near enough; else a slot when the batch is due."""
        now_us = self._table_us(now_s)
        due_us = self._table_us(due_s)
        turn_us = self._own_slot() * self._slot_us
        near = self._contended or turn_us <= max(due_us, now_us + self._round_us)
        if near and turn_us >= now_us - self._slot_us // 4:
            return turn_us
        self._fresh = True
        return _slot_at_or_after(due_us, self._slot_us) * self._slot_us

    def _better_us(self, view: View, calendar: _Calendar, now_us: int) -> int | None:
        """When to try instead of now; `None` if now is right."""
        slot_us = self._slot_us
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
        return None if clear else self._pick_us(calendar, now_us, self._losses)

    def _unbooked_us(self, calendar: _Calendar, from_us: int) -> int:
        """The first slot to try without a turn: of the own place, or else a random one."""
        places_us = calendar.places * self._slot_us
        long_past = 0 < self._turn_us < from_us - places_us
        if calendar.places >= _PLACES_MIN and (self._sparse or long_past):
            index = self._place_slot(calendar, from_us)
            if index not in calendar.taken:
                return index * self._slot_us
        return self._pick_us(calendar, from_us, 0)

    def _place_slot(self, calendar: _Calendar, from_us: int) -> int:
        first = _slot_at_or_after(from_us, self._slot_us)
        return first + (calendar.place - first) % calendar.places

    def _pick_us(self, calendar: _Calendar, from_us: int, losses: int) -> int:
        """A random one of the next free slots; more of them the more attempts were lost."""
        likely = 1 + 2 * (calendar.waiting + calendar.joined) + calendar.live // 4
        among = min((1 + calendar.waiting) << max(0, losses - 1), likely, _PICK_SLOTS_MAX)
        first = _slot_at_or_after(from_us, self._slot_us)
        unbooked_to = first + calendar.live
        reach = (calendar.live + _JOINERS_EXPECTED * calendar.joined) * 3 // 2
        reach = min(max(_OPEN_EVERY, reach), 2 * _PICK_SLOTS_MAX)
        choices: list[int] = []
        for index in range(first, first + reach):
            if index in calendar.taken or (index >= unbooked_to and index % _OPEN_EVERY):
                continue
            choices.append(index)
            if len(choices) == among:
                break
        if not choices:
            return (first + reach) * self._slot_us
        return choices[self._rng.randrange(0, len(choices))] * self._slot_us

    def _booked_us(self, calendar: _Calendar, now_us: int) -> int:
        """The turn to announce: the first free slot at the end of the round, or when needed."""
        need_s = self._quiet_s + self._settings.freshness_s - self._window_s()
        need_us = max(0, int(need_s * _MICROSECONDS))
        slots = calendar.live + _JOINERS_EXPECTED * calendar.joined
        self._round_us = slots * _OPEN_EVERY // (_OPEN_EVERY - 1) * self._slot_us
        self._contended = self._round_us >= need_us and calendar.live > 1
        wait_us = min(max(need_us, self._round_us), _TURN_AHEAD_US_MAX)
        places_us = calendar.places * self._slot_us
        self._sparse = (
            calendar.places >= _PLACES_MIN
            and _SPARSE_ROUNDS_MIN * places_us <= need_us <= _SPARSE_ROUNDS_MAX * places_us
        )
        if self._sparse:
            index = self._place_slot(calendar, now_us + wait_us)
            if index not in calendar.taken:
                return index * self._slot_us
        index = _slot_at_or_after(now_us + wait_us, self._slot_us)
        for _ in range(2 * len(calendar.taken) + 2):
            if index % _OPEN_EVERY and index not in calendar.taken:
                break
            index += 1
        return index * self._slot_us
