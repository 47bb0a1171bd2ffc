"""The approach: when to read the head next, on the way to an attempt that is planned.

Pure: it is told the time. Imports: standard library, table_clock.
"""

from __future__ import annotations

from batchweave.dac.table_clock import TableClock

# A look ends after so many reads, whether or not one of them showed a landing.
_LOOK_READS_MAX = 12


class Approach:
    """The planned attempt, and the look at the clock that may come before it.

    `plan_us` is the table time of the next head read, `None` while there is no plan.
    """

    def __init__(self, clock: TableClock) -> None:
        self.plan_us: int | None = None
        self.looking = False
        """Whether that read is to compare the clock, and not to attempt."""
        self._clock = clock
        self._target_us = 0
        self._looks = 0

    def drop(self) -> None:
        """Have no plan, and no look."""
        self.plan_us = None
        self.looking = False

    def aim(self, target_us: int, now_s: float, *, lost: bool) -> None:
        """Plan an attempt; if the clock was not compared lately, by way of a look.

        After an attempt that `lost` a look begins at once where there was no time for it before.
        """
        clock = self._clock
        self._target_us = self.plan_us = target_us
        now_us = clock.table_us(now_s)
        look_us = target_us - 2 * clock.slot_us + clock.window_us * 3 // 4
        if lost:
            look_us = max(now_us, look_us)
        self.looking = clock.stale(now_s) and now_us <= look_us < target_us
        if self.looking:
            self._looks = 0
            self.plan_us = look_us

    def looks_on(self, now_s: float) -> bool:
        """Plan what follows a look at the clock: another one, or (if there is time) the target."""
        clock = self._clock
        now_us = clock.table_us(now_s)
        self._looks += 1
        next_us = now_us + clock.step_us
        if not clock.landing_seen and self._looks < _LOOK_READS_MAX and next_us < self._target_us:
            self.plan_us = next_us
            return True
        self.looking = False
        clock.looked(now_s)
        self.plan_us = self._target_us
        return self._target_us > now_us + clock.slot_us // 8
