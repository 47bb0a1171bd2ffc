"""What a commit controller and its caller say to each other: values and protocols, no decisions.

Imports: standard library.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

MICROSECONDS = 1_000_000
"""In a second: the table's state holds whole microseconds, so that all who read it agree."""


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
