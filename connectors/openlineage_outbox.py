"""The outbox: a bounded queue and the one daemon thread that empties it, come what may.

Putting never waits and never raises. What finds no room is dropped, and so is what cannot be sent:
both are counted, and said once. The thread is started by the first event, and after a fork the
child begins with an empty outbox of its own.
Imports: standard library, clock.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from batchweave.clock import Clock

PAUSE_S = 1.0

_log = logging.getLogger("batchweave.openlineage")

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """What became of the events so far: sent, refused by the transport, dropped, still waiting."""

    sent: int
    failed: int
    dropped: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Work:
    """What the thread does besides sending.

    ``next_s`` says when ``tell_due`` has something to put (monotonic; None for nothing), ``end`` is
    called when it stops, ``forget`` in a forked child.
    """

    next_s: Callable[[], float | None]
    tell_due: Callable[[], object]
    end: Callable[[], object]
    forget: Callable[[], object]


class Outbox(Generic[E]):
    """Events on their way out.

    ``send`` may block and may raise: only the thread calls it. ``describe`` makes of what it raised
    a text that may be logged. ``changed`` guards all of this, and what its owner puts under it.
    """

    def __init__(
        self,
        send: Callable[[E], object],
        work: Work,
        clock: Clock,
        *,
        events_max: int,
        describe: Callable[[Exception], str],
    ) -> None:
        self._send = send
        self._work = work
        self._clock = clock
        self._events_max = events_max
        self._describe = describe
        self._renew()
        _outboxes.add(self)

    def _renew(self) -> None:
        self.changed = threading.Condition()  # of a re-entrant lock: owners put while they hold it
        self._queue: deque[E] = deque()
        self._thread: threading.Thread | None = None
        self._sending = False
        self._closed = False
        self._sent = self._failed = self._dropped = 0

    def renew_in_child(self) -> None:
        """After a fork: what waited is the parent's to send, and its lock may be held for ever."""
        closed = self._closed
        self._renew()
        self._closed = closed
        self._work.forget()

    # -- putting ---------------------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether one more event would be taken. Holds the condition."""
        return not self._closed and len(self._queue) < self._events_max

    def put(self, event: E) -> None:
        """Queue an event, or drop it."""
        with self.changed:
            if not self.room or not self._started():
                self._drop(1)
                return
            self._queue.append(event)
            self.changed.notify_all()

    def wake(self) -> None:
        """Have the thread look again at when something is due."""
        with self.changed:
            if not self._closed and self._started():
                self.changed.notify_all()

    def stats(self) -> OutboxStats:
        """The counts so far."""
        with self.changed:
            waiting = len(self._queue) + self._sending
            return OutboxStats(self._sent, self._failed, self._dropped, waiting)

    # -- waiting and ending ----------------------------------------------------------------

    def drain(self, timeout_s: float) -> bool:
        """Wait until all is sent or given up, or the time is over; whether it is."""
        with self.changed:
            return self.changed.wait_for(
                lambda: not self._queue and not self._sending, timeout=max(0.0, timeout_s)
            )

    def close(self, timeout_s: float) -> bool:
        """Send what waits, as far as that goes in the time, and stop; whether all was sent."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        drained = self.drain(timeout_s)
        with self.changed:
            first, self._closed = not self._closed, True
            left = len(self._queue)
            self._queue.clear()
            if left:
                self._drop(left)
            self.changed.notify_all()
            thread, sums = self._thread, self.stats()
        if thread is not None:
            thread.join(max(0.0, deadline_s - self._clock.monotonic_s()))
        if first and (sums.failed or sums.dropped):
            _log.warning(
                "of the OpenLineage events, %d were sent, %d could not be sent, %d were dropped",
                sums.sent,
                sums.failed,
                sums.dropped,
            )
        return drained

    # -- the thread ------------------------------------------------------------------------

    def _started(self) -> bool:
        """Whether there is a thread, started if need be. Holds the condition."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="batchweave-openlineage", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system starts no more, or the program is at its end
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self.changed:
                event = self._next()
                if event is None:
                    break
                self._sending = True
            error = self._tried(event)
            with self.changed:
                self._sending = False
                self._sent += error is None
                self._failed += error is not None
                if error is not None and self._failed == 1:
                    _log.warning(
                        "an OpenLineage event could not be sent and is lost: %s. Commits go on; "
                        "further failures are counted, and said when the emitter is closed",
                        error,
                    )
                self.changed.notify_all()
        self._work.end()

    def _next(self) -> E | None:
        """Wait for an event; None when the outbox was closed. Holds the condition."""
        while not self._closed:
            due_s, now_s = self._work.next_s(), self._clock.monotonic_s()
            if due_s is not None and due_s <= now_s:
                self._tell_due()
            if self._queue:
                return self._queue.popleft()
            self.changed.wait(None if due_s is None else max(0.0, due_s - now_s))
        return None

    def _tell_due(self) -> None:
        """Put what is due into the queue; what fails in it is lost, and the thread goes on."""
        try:
            self._work.tell_due()
        except Exception as error:  # noqa: BLE001 - or no event would ever be sent again
            self._failed += 1
            _log.warning("an OpenLineage event could not be made and is lost: %r", error)
            self.changed.wait(PAUSE_S)  # it is due still

    def _tried(self, event: E) -> str | None:
        """Send; what to say if that failed."""
        try:
            self._send(event)
        except Exception as error:  # noqa: BLE001 - whatever a transport raises, the next event goes
            return self._describe(error)
        return None

    def _drop(self, count: int) -> None:
        if not self._dropped:
            _log.warning(
                "an OpenLineage event was dropped: %s. Commits go on; further ones are counted",
                "the emitter is closed" if self._closed else f"{self._events_max} wait already",
            )
        self._dropped += count


_outboxes: weakref.WeakSet[Outbox[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for outbox in list(_outboxes):
        outbox.renew_in_child()


os.register_at_fork(after_in_child=_after_fork)
