"""How a background thread waits: for its time, or until nobody needs it any more.

A thread that slept through the end of its owner, or of the program, would hold that up.
Imports: standard library, clock, errors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from batchweave import clock as clocks
from batchweave.clock import Clock
from batchweave.errors import StoreUnavailable

PAUSE_MAX_S = 0.5
"""Longest sleep between looks at whether anybody still waits."""

T = TypeVar("T")


def _never() -> bool:
    return False


class Pauses:
    """Pauses that end early with the owner or the program.

    Attributes:
        ended: set by the owner, who then notifies ``changed``, the condition that is waited on.
    """

    def __init__(self, changed: threading.Condition, clock: Clock) -> None:
        self.ended = False
        self._changed = changed
        self._clock = clock

    def over(self) -> bool:
        """Whether the owner has ended or the program is on its way out."""
        return self.ended or clocks.exiting()

    def pause(self, seconds: float, cut_short: Callable[[], bool] = _never) -> None:
        """Wait so long, or until it is over, or until ``cut_short()`` at a notification."""
        until_s = self._clock.monotonic_s() + seconds
        with self._changed:
            while not (cut_short() or self.over()):
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0:
                    return
                self._changed.wait(min(left_s, PAUSE_MAX_S))

    def retried(self, operation: Callable[[], T], limit_s: float, wait_s: float) -> T:
        """Repeat while the store is down, for at most ``limit_s``; raises what it said last."""
        began_s = self._clock.monotonic_s()
        while True:
            try:
                return operation()
            except StoreUnavailable:
                if self.over() or self._clock.monotonic_s() - began_s > limit_s:
                    raise
            self.pause(wait_s)
