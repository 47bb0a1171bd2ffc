"""Stalls: what a reader says when nothing new is published for too long.

Owns the one warning, and the error for those who ask for it. Imports: standard library, the core.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from batchweave.clock import Clock
from batchweave.errors import BatchWeaveError, StreamStalled
from batchweave.state import StreamState

log = logging.getLogger("batchweave.stalls")
PRODUCERS_NAMED = 8


class StallWatch:
    """Told how long somebody has waited for a step; warns once a stall, or raises.

    ``after_s`` of None never warns. ``next_step`` and ``head`` are asked only then.
    """

    def __init__(
        self,
        name: str,
        *,
        after_s: float | None,
        fatal: bool,
        next_step: Callable[[], int],
        head: Callable[[], StreamState],
        clock: Clock,
    ) -> None:
        self._name = name
        self._after_s = after_s
        self._fatal = fatal
        self._next_step = next_step
        self._head = head
        self._clock = clock
        self._told = False
        self._lock = threading.Lock()

    def sleep_s(self, waited_s: float) -> float:
        """How long may pass before the next `look`."""
        if self._after_s is None or self._told:
            return float("inf")
        return max(self._after_s - waited_s, 0.001)

    def look(self, waited_s: float) -> None:
        """Speak up if the wait is a stall.

        Raises:
            StreamStalled: it is, and stalls are errors here.
        """
        if self._after_s is None or waited_s < self._after_s:
            return
        with self._lock:
            if self._told:
                return
            self._told = True
        text = self._text(waited_s)
        if self._fatal:
            raise StreamStalled(text)
        log.warning("%s", text)

    def arrived(self) -> None:
        """A step came: the next stall is another one."""
        self._told = False

    def _text(self, waited_s: float) -> str:
        asked = (
            f"waited {waited_s:.0f} s for step {self._next_step()} of {self._name}, "
            "and it has not been published"
        )
        try:
            head = self._head()
        except BatchWeaveError as error:
            return f"{asked}; the table does not say why, it cannot be read: {error}"
        return f"{asked}; {describe(head, self._clock.now_ms())}"


def describe(head: StreamState, now_ms: int) -> str:
    """What a table knows of its producers, the one that committed last first."""
    if not head.producers:
        return (
            f"the stream ends at step {head.next_step} and no producer has opened it yet: start one"
        )
    latest = sorted(head.producers.items(), key=lambda item: -item[1].committed_at_ms)
    said = [
        f"{name} (last step {producer.step}, {_ago(now_ms - producer.committed_at_ms)})"
        if producer.step >= 0
        else f"{name} (opened, nothing published)"
        for name, producer in latest[:PRODUCERS_NAMED]
    ]
    more = len(latest) - len(said)
    return (
        f"the stream ends at step {head.next_step}; its producers: {', '.join(said)}"
        f"{f' and {more} more' if more else ''}. See whether they run; "
        "if nothing is to follow, seal the stream"
    )


def _ago(ms: int) -> str:
    return f"{max(ms, 0) / 1000:.0f} s ago by its clock"
