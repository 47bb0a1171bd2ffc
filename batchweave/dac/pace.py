"""The pace that all committers share: how window and slot follow what each of them measures.

Pure. Imports: standard library, protocol.
"""

from __future__ import annotations

from batchweave.dac.protocol import MICROSECONDS, Pace

# Bounds on what is believed of the table's state and of one's own measurements.
WINDOW_US_MIN = 100
WINDOW_US_MAX = 60 * MICROSECONDS
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


def slot_for(window_us: int) -> int:
    """The slot that a window is given at first: room for the window and its jitter."""
    return window_us * _SLOT_PERCENT // 100


def next_pace(seen: Pace, now_us: int, slot_us: int, measured_us: int | None) -> Pace:
    """The pace to write with a commit that begins at table time `now_us`.

    `measured_us` is the shorter one of the author's last two attempts, so that a single stall
    does not slow the whole table down; and one commit at most doubles a slot.
    """
    window_us = seen.window_us
    if measured_us is not None:
        measured_us = max(WINDOW_US_MIN, min(measured_us, WINDOW_US_MAX))
        window_us = _next_window(window_us, slot_us, measured_us)
    if window_us > 0:
        percent = 100 * slot_us // window_us
        if not _SLOT_PERCENT_MIN <= percent <= _SLOT_PERCENT_MAX:
            slot_us = slot_for(window_us)
    lands_us = now_us
    if measured_us is not None:
        # Not all of it: what is measured includes the answer; readers see a landing at the end
        # of a head read that they date by its beginning.  A stamp that they think lies ahead of
        # their own clock, though it does not, would drive the table clock ever further forward.
        lands_us += min(measured_us, slot_us) * 3 // 5
    return Pace(max(seen.clock_us + 1, lands_us), window_us, slot_us)


def _next_window(window_us: int, slot_us: int, measured_us: int) -> int:
    """The estimate after one more measurement; zero as estimate means that there is none yet."""
    if window_us <= 0:
        return measured_us
    if measured_us > window_us:
        fits = 100 * measured_us <= _OUTGROWN_PERCENT * slot_us
        divisor = _RISE_DIVISOR if fits else _OUTGROWN_DIVISOR
        return window_us - (window_us - min(measured_us, 2 * window_us)) // divisor
    far = 100 * measured_us < _FAR_PERCENT * window_us
    return window_us - (window_us - measured_us) // (_FAR_DIVISOR if far else _FALL_DIVISOR)
