"""Which steps come next: the table's metadata, read ahead and read again as it grows.

The place is a step, never a snapshot: metadata that was cleaned up meanwhile is re-read from the
head. One thread at a time uses a lookout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

from batchweave.clock import Clock
from batchweave.errors import ObjectNotFound, StoreUnavailable, StreamCorrupted
from batchweave.pauses import Pauses
from batchweave.reader.checks import check_watermark
from batchweave.settings import ReaderSettings
from batchweave.table import BatchEntry, Table

RETRY_WAIT_S = 0.2
KNOWN_MAX = 256
"""Steps taken from the metadata in one look."""

T = TypeVar("T")


class Lookout:
    """Entries of steps from ``start`` on, to ``stop``, the seal, or (unless ``follow``) the head.

    Raises:
        StepReclaimed: ``start`` is below the watermark.
    """

    def __init__(
        self,
        table: Table,
        start: int,
        stop: int | None,
        *,
        follow: bool,
        settings: ReaderSettings,
        clock: Clock,
        pauses: Pauses,
    ) -> None:
        self._table = table
        self._stop = stop
        self._follow = follow
        self._settings = settings
        self._clock = clock
        self._pauses = pauses
        self._head = table.head()
        check_watermark(self._head, start, table.name)
        self._entries: Iterator[BatchEntry] = iter(())
        self._looked_to = start
        self._failing_since_s: float | None = None

    def at_end(self) -> bool:
        """Whether no step of the range follows those that were found."""
        state = self._head.state
        if self._stop is not None and self._looked_to >= self._stop:
            return True
        return self._looked_to >= state.next_step and (state.sealed or not self._follow)

    def look(self) -> list[BatchEntry]:
        """Up to `KNOWN_MAX` next steps of the known head; none after taking up a newer head.

        Waits for the poll interval before it asks for a newer one.

        Raises:
            StepReclaimed: the next step was reclaimed meanwhile.
            StoreUnavailable: the store has failed for ``store_timeout_s``.
            StreamCorrupted: a step is missing, or metadata that the head names.
        """
        try:
            found = list(itertools.islice(self._entries, KNOWN_MAX))
        except (ObjectNotFound, FileNotFoundError):
            self._renew_head()  # the head's metadata was cleaned up while we read
            found = []
        except StoreUnavailable as error:
            self._wait_out(error)
            found = []
        if found:
            self._failing_since_s = None
            self._looked_to = found[-1].step + 1
            return found
        if self._looked_to >= self._head.state.next_step:
            self._pauses.pause(self._settings.poll_interval_s)
            self._head = self._retried(lambda: self._table.head(self._head))
        check_watermark(self._head, self._looked_to, self._table.name)
        if self._looked_to < self._end():  # else a look at an idle stream would read a manifest
            self._entries = self._table.entries(self._head, self._looked_to, self._end())
        return []

    def _end(self) -> int:
        known = self._head.state.next_step
        return known if self._stop is None else min(known, self._stop)

    def _wait_out(self, error: StoreUnavailable) -> None:
        """Pause before metadata is read again; raise after ``store_timeout_s`` without progress."""
        now_s = self._clock.monotonic_s()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        failing_s = now_s - self._failing_since_s
        if self._pauses.over() or failing_s > self._settings.store_timeout_s:
            raise error
        self._pauses.pause(RETRY_WAIT_S)

    def _renew_head(self) -> None:
        before = self._head.version
        self._head = self._retried(self._table.head)
        self._entries = iter(())
        if self._head.version == before:
            raise StreamCorrupted(
                f"metadata of {self._table.name} at version {before} names a file that is not there"
            )

    def _retried(self, operation: Callable[[], T]) -> T:
        return self._pauses.retried(operation, self._settings.store_timeout_s, RETRY_WAIT_S)
