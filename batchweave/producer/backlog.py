"""The backlog: batches on their way to the stream, what stands in their way, and who waits.

It owns the producer's only condition, ``changed``. Whatever callers, uploads and the committer tell
each other is held under it. Imports: standard library, errors, clock, pauses, settings, batch,
parquet, table.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from batchweave.batch import Position, position_from_text
from batchweave.clock import Clock
from batchweave.errors import (
    BatchWeaveError,
    NotCommitted,
    PendingLimit,
    ProducerClosed,
    StoreDenied,
    StoreError,
    StoreFull,
)
from batchweave.parquet import EncodedPart
from batchweave.pauses import Pauses
from batchweave.settings import ProducerSettings
from batchweave.table import Part

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 5.0
NUDGE_S = 1.0


class Pending:
    """A published batch on its way: its parts being uploaded, then staged."""

    def __init__(self, sequence: int, size: int, position_text: str | None, since_s: float) -> None:
        self.sequence = sequence
        self.bytes = size
        self.position_text = position_text
        self.since_s = since_s
        self.step: Future[int] = Future()
        self.uploads: list[Future[tuple[EncodedPart, Part, int]]] = []
        self.position: Future[str | None]

    def futures(self) -> list[Future[Any]]:
        """Everything that must be in the store before the batch can be committed."""
        return [*self.uploads, self.position]

    def uploaded(self) -> bool:
        """Whether all of it is in the store, or failed to get there."""
        return all(future.done() for future in self.futures())

    def failed(self) -> bool:
        """Whether something of it did not get there."""
        return any(future.exception() is not None for future in self.futures())


class Backlog:
    """What a producer has published and not yet seen committed, oldest first, and its limits.

    Its attributes change, and are read where they must agree, with ``changed`` held.
    """

    def __init__(
        self,
        name: str,
        stream: str,
        position: Position,
        settings: ProducerSettings,
        clock: Clock,
    ) -> None:
        self.changed = threading.Condition()
        self.pending: deque[Pending] = deque()
        self.position = position
        """That of the last committed batch."""
        self.failure: BatchWeaveError | None = None
        """Why nothing more will be committed here, once that is so."""
        self.closing = False
        self._name = name
        self._stream = stream
        self._settings = settings
        self._clock = clock
        self._pauses = Pauses(self.changed, self._clock)
        self._bytes = 0
        self._trouble: StoreError | None = None
        self._troubles = 0
        self._waits = 0
        self._nudged_s = 0.0
        self._ended = False
        self._flushes = 0

    # -- what is pending -------------------------------------------------------------------

    def append(self, pending: Pending) -> None:
        """Queue a batch whose uploads have begun. Holds the condition."""
        self.pending.append(pending)
        self._bytes += pending.bytes
        self.changed.notify_all()

    def resize(self, pending: Pending, size: int) -> None:
        """Count a batch with the bytes that it keeps now. Holds the condition."""
        self._bytes += size - pending.bytes
        pending.bytes = size

    def landed(self, step: int) -> None:
        """The oldest pending batch is committed at ``step``."""
        with self.changed:
            pending = self.pending.popleft()
            self._bytes -= pending.bytes
            pending.step.set_result(step)
            self.position = position_from_text(pending.position_text)
            self.changed.notify_all()

    def notify(self, future: Future[Any]) -> None:
        """An upload has ended."""
        with self.changed:
            self.changed.notify_all()

    # -- waiting ---------------------------------------------------------------------------

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for a commit. Holds the condition."""
        return self._flushes > 0

    def wait_for_commit(
        self, ready: Callable[[], bool], timeout_s: float | None, what: str
    ) -> None:
        """Wait for a commit and ask for it meanwhile: nobody gains by waiting for company."""
        with self.changed:
            self._flushes += 1
            self.changed.notify_all()
        try:
            self._wait(ready, timeout_s, what)
        finally:
            with self.changed:
                self._flushes -= 1

    def wait_for_room(self, size: int, timeout_s: float | None) -> None:
        """Wait until a batch of that many bytes is within the limits, or `PendingLimit`."""
        limit_s = self._settings.publish_timeout_s if timeout_s is None else timeout_s

        def room() -> bool:
            return not self.pending or (
                len(self.pending) < self._settings.pending_batches_max
                and self._bytes + size <= self._settings.pending_bytes_max
            )

        try:
            self._wait(room, limit_s, "publish")
        except NotCommitted as error:
            raise PendingLimit(
                f"{len(self.pending)} batches ({self._bytes} bytes) of producer "
                f"{self._name!r} wait for their commit, no room came within {limit_s:g} s. {error}"
            ) from error

    def _wait(self, ready: Callable[[], bool], timeout_s: float | None, what: str) -> None:
        """Wait on the condition until ready; raise what stands in the way, or `NotCommitted`."""
        limit_s = self._settings.commit_timeout_s if timeout_s is None else timeout_s
        deadline_s = self._clock.monotonic_s() + limit_s
        with self.changed:
            seen = self._troubles
            if not ready():
                self._nudge()
            while not ready():
                if self.failure is not None:
                    raise again(self.failure) from self.failure
                trouble = self._trouble
                if isinstance(trouble, (StoreFull, StoreDenied)) and self._troubles > seen:
                    raise again(trouble) from trouble
                if self._ended:
                    raise ProducerClosed(f"producer {self._name!r} was closed before its commit")
                left_s = deadline_s - self._clock.monotonic_s()
                if left_s <= 0:
                    raise self._not_committed(what, limit_s)
                self.changed.wait(left_s)

    def _nudge(self) -> None:
        """Cut pauses after failures short, because somebody waits; at most once a second."""
        now_s = self._clock.monotonic_s()
        if now_s - self._nudged_s >= NUDGE_S:
            self._nudged_s = now_s
            self._waits += 1
            self.changed.notify_all()

    def _not_committed(self, what: str, limit_s: float) -> NotCommitted:
        said = f"the store last said: {self._trouble}" if self._trouble else "it goes on trying"
        return NotCommitted(
            f"{what}: {len(self.pending)} batches of producer {self._name!r} on "
            f"{self._stream} are still pending after {limit_s:g} s; {said}"
        )

    def pause(self, seconds: float) -> None:
        """Wait before the next try; a caller who begins to wait for it cuts this short."""
        waits = self._waits
        self._pauses.pause(seconds, lambda: self.closing or self._waits != waits)

    # -- trouble ---------------------------------------------------------------------------

    def note_trouble(self, error: StoreError | None) -> None:
        """What the store said last, for those who wait; None when it works."""
        with self.changed:
            if error is not None or self._trouble is not None:
                self._trouble = error
                self._troubles += 1
                self.changed.notify_all()

    def fail(self, error: BatchWeaveError, cause: BaseException | None = None) -> None:
        """Nothing more will be committed here: tell everybody."""
        with self.changed:
            error.__cause__ = cause
            self.failure = error
            for pending in self.pending:
                pending.step.set_exception(error)
            self.changed.notify_all()

    def check_open(self) -> None:
        """Raise what keeps the producer from publishing, if anything does."""
        with self.changed:
            if self.failure is not None:
                raise again(self.failure) from self.failure
            if self.closing:
                raise ProducerClosed(f"producer {self._name!r} is closed: open it again to publish")

    # -- closing ---------------------------------------------------------------------------

    def close(self) -> bool:
        """Tell all threads to stop; whether this is the first time."""
        with self.changed:
            already = self.closing
            self.closing = True
            self.changed.notify_all()
        return not already

    def end(self, outcome: str) -> None:
        """All threads have stopped: give up what is left, and say when it was closed."""
        with self.changed:
            for pending in self.pending:
                if not pending.step.done():
                    pending.step.set_exception(
                        ProducerClosed(f"producer {self._name!r} was closed {outcome}")
                    )
            self.pending.clear()
            self._ended = True
            self.changed.notify_all()


def again(error: BatchWeaveError) -> BatchWeaveError:
    """A fresh exception of the same class, so that each caller has a traceback of its own."""
    return type(error)(*error.args)
