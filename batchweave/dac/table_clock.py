"""The table's clock: one producer's idea of the table time, and of the slots that it is cut into.

Pure: it is told the time. Imports: standard library, protocol, pace.
"""

from __future__ import annotations

import math

from batchweave.dac.pace import WINDOW_US_MAX
from batchweave.dac.protocol import MICROSECONDS, View

# How often the clock is compared by looks (at 100 ppm of drift clocks part by 2 ms in 20 s), and
# after how long it is not trusted any more.
_LOOK_EVERY_S = 20.0
_CLOCK_KEPT_S = 300.0
# Between looks, and how far a single read may move the clock: a quarter of a window.
_STEP_DIVISOR = 4


class TableClock:
    """Table time from local time, kept to what the commits of all producers say.

    `slot_us` and `window_us` are those of the last head read; before the first, the caller's guess
    and zero.
    """

    def __init__(self, slot_us: int) -> None:
        self.slot_us = slot_us
        self.window_us = 0
        self.landing_seen = False
        """Whether the last head read shows a commit that landed right before it."""
        self._offset_us: int | None = None
        self._shown_us = 0
        self._read_version = 0
        self._read_us = 0
        self._looked_s = -math.inf

    @property
    def step_us(self) -> int:
        """A quarter of a window: from one read to the next, where several follow each other."""
        return self.window_us // _STEP_DIVISOR

    def table_us(self, now_s: float) -> int:
        """The table time at a local time."""
        return int(now_s * MICROSECONDS) + (self._offset_us or 0)

    def local_s(self, table_us: int) -> float:
        """The local time at a table time."""
        return (table_us - (self._offset_us or 0)) / MICROSECONDS

    def follow(self, view: View, now_s: float, *, maybe_ahead: bool) -> None:
        """Catch up with the table's time and slots, by a head whose read began at `now_s`.

        `maybe_ahead` lets a landing that was seen set the clock back too.
        """
        local_us = int(now_s * MICROSECONDS)
        self.window_us = view.pace.window_us
        least_us = view.pace.clock_us - local_us
        most_us = view.pace.clock_us - self._read_us
        before_us = self._offset_us
        if before_us is None or local_us - self._read_us > _CLOCK_KEPT_S * MICROSECONDS:
            self._offset_us = before_us = self._shown_us = least_us
            self.doubt()
        moved = view.version > self._read_version
        self.landing_seen = moved and most_us - least_us <= self.window_us // 2
        if self.landing_seen and maybe_ahead:
            before_us = min(most_us, before_us)
        # One read that stalled shows commits that landed long after it began, and would drive the
        # clocks of all forward: a greater step is made only when two reads in a row show it.
        believed_us = max(self._shown_us, before_us + self.step_us)
        self._offset_us = max(min(least_us, believed_us), before_us)
        self._shown_us = least_us
        self._read_version = view.version
        self._read_us = local_us
        if view.pace.slot_us > 0:
            self.slot_us = min(view.pace.slot_us, 2 * WINDOW_US_MAX)

    def stale(self, now_s: float) -> bool:
        """Whether it is time to compare the clock with a landing."""
        return now_s >= self._looked_s + _LOOK_EVERY_S

    def looked(self, now_s: float) -> None:
        """It was compared, as well as could be."""
        self._looked_s = now_s

    def doubt(self) -> None:
        """Have it compared before the next attempt."""
        self._looked_s = -math.inf
