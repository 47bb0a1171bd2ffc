"""Time and randomness, in one place, so that a simulation can own both.

No other module of BatchWeave reads a clock, sleeps or draws a random number. Clocks only decide
*how soon* something happens; correctness rests on versions, steps and generations.
Imports: standard library.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Clock(Protocol):
    """What BatchWeave asks of time."""

    def now_ms(self) -> int:
        """Wall-clock milliseconds since 1970 (UTC). May be skewed; shown to people only."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back, from an arbitrary origin."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after about that many seconds."""
        ...

    def token(self) -> str:
        """A new 32-digit hexadecimal string that nobody else has."""
        ...

    def random(self) -> random.Random:
        """A generator of the caller's own, seeded differently each time."""
        ...


def exiting() -> bool:
    """Whether the interpreter is on its way out and waits for the threads of pools to end.

    It refuses new work to any pool from then on, which is how a thread that pauses in one can tell.
    That no thread can be started is another error, and no sign of it.
    """
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(bool)
    except RuntimeError as error:
        return "shutdown" in str(error)
    return False


class SystemClock:
    """The real clock, the operating system's entropy."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            threading.Event().wait(seconds)

    def token(self) -> str:
        return uuid.uuid4().hex

    def random(self) -> random.Random:
        return random.Random(uuid.uuid4().int)
