"""Batches in step order: fetched ahead by a small pool of threads, handed out one by one.

Memory is bounded in batches and bytes. A failure is handed to the caller, never passed over.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NoReturn

from batchweave import clock as clocks
from batchweave.batch import Batch
from batchweave.clock import Clock, SystemClock
from batchweave.errors import StoreUnavailable, StreamCorrupted, StreamError
from batchweave.mesh import Share
from batchweave.pauses import Pauses
from batchweave.reader.checks import check_columns, check_range, check_share
from batchweave.reader.fetching import fetch_batch, fetch_bytes, fetch_threads
from batchweave.reader.lookout import RETRY_WAIT_S, Lookout
from batchweave.settings import ReaderSettings
from batchweave.table import BatchEntry, Table

KNOWN_MIN = 32
"""Steps known ahead of those being fetched; fewer start the next look into the metadata."""


class Reader:
    """An iterator of `Batch` in step order. Close it, or use ``with``, to stop its threads.

    Ends at ``stop``, at the end of a sealed stream, or at the head unless ``follow``; a reader that
    was closed ends too. One that failed is closed, and raises its failure again at every call.
    One thread takes the batches; any thread may close.

    Raises:
        InvalidInput: ``start`` or ``stop`` is not a whole number, or the range runs backwards.
        StepReclaimed: a step of the range is below the watermark.
        StoreUnavailable: the store failed for longer than ``store_timeout_s``.
        StreamCorrupted: the table or a file contradicts itself.
    """

    def __init__(
        self,
        table: Table,
        share: Share,
        *,
        start: int = 0,
        stop: int | None = None,
        follow: bool = False,
        columns: Sequence[str] | None = None,
        settings: ReaderSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        start, stop = check_range(start, stop)
        self._columns = check_columns(columns, table.schema)
        self._share = check_share(share, table.mesh)
        self._table = table
        self._settings = settings or ReaderSettings()
        self._next_step = start
        # Taken by name, not through the condition: only the lock itself is entered in one piece, so
        # that Ctrl-C never comes between taking it and being bound to give it back.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._known: deque[BatchEntry] = deque()
        self._ready: deque[tuple[BatchEntry, int, Future[Batch]]] = deque()
        self._ready_bytes = 0
        self._looking = False
        self._ended = False
        self._failure: BaseException | None = None
        clock = clock or SystemClock()
        self._pauses = Pauses(self._changed, clock)
        self._lookout = Lookout(
            table,
            start,
            stop,
            follow=follow,
            settings=self._settings,
            clock=clock,
            pauses=self._pauses,
        )
        self._pool = ThreadPoolExecutor(
            fetch_threads(table, self._settings) + 1,  # one to look ahead
            thread_name_prefix="batchweave-read",
        )
        with self._lock:
            self._fill()

    # -- the caller's side -----------------------------------------------------------------

    @property
    def next_step(self) -> int:
        """The step after the last batch handed out: where a new reader carries on."""
        return self._next_step

    def state_dict(self) -> dict[str, Any]:
        """``{"version": 1, "stream": …, "next_step": n}``: JSON, the same on all ranks."""
        return {"version": 1, "stream": self._table.name, "next_step": self._next_step}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        entry, size, future = self._oldest()
        try:
            batch = future.result()
            self._hand_out(entry, size)
        except Exception as error:  # noqa: BLE001 - raised again, whatever it is
            self._give_up(error)
        return batch

    def _oldest(self) -> tuple[BatchEntry, int, Future[Batch]]:
        """Wait for the next step to be on its way; raises what ended the reader."""
        with self._lock:
            while not self._ready and self._failure is None:
                if self._ended or self._pauses.ended:
                    raise StopIteration
                self._changed.wait()
            if self._ready:
                return self._ready[0]
            failure = self._failure
        assert failure is not None
        self.close()
        raise failure

    def _hand_out(self, entry: BatchEntry, size: int) -> None:
        """Move on by one step: the one that is due, or `StreamCorrupted`."""
        with self._lock:
            if entry.step != self._next_step:
                raise StreamCorrupted(
                    f"step {entry.step} of {self._table.name} came where step {self._next_step} "
                    "is due"
                )
            if self._ready:  # else closed meanwhile
                self._ready.popleft()
                self._ready_bytes -= size
            self._fill()
            self._next_step = entry.step + 1

    def _give_up(self, error: Exception) -> NoReturn:
        """Close and raise; where somebody closed the reader under the caller, just end."""
        with self._lock:
            if self._pauses.ended and isinstance(error, (CancelledError, StoreUnavailable)):
                raise StopIteration from None
            self._failure = error
        self.close()
        raise error

    def close(self) -> None:
        """Stop the threads. Closing twice is closing once; `next_step` stays readable."""
        with self._lock:
            self._pauses.ended = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._known.clear()
            self._ready.clear()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        pool = getattr(self, "_pool", None)
        if pool is not None and not self._pauses.ended:
            with self._lock:
                self._pauses.ended = True
                self._changed.notify_all()
            pool.shutdown(wait=False, cancel_futures=True)

    # -- looking ahead ---------------------------------------------------------------------

    def _fill(self) -> None:
        """Start what there is room for; `__next__` tells of a failure. Holds the lock."""
        if self._pauses.ended:
            return
        try:
            self._start_fetches()
            idle = not (self._looking or self._ended or self._failure)
            if idle and len(self._known) < KNOWN_MIN:
                self._pool.submit(self._look)
                self._looking = True
        except Exception as error:  # noqa: BLE001 - handed to the caller, whatever it is
            refused = isinstance(error, RuntimeError) and clocks.exiting()
            self._fail(self._exit_error() if refused else error)

    def _start_fetches(self) -> None:
        """Fetch known steps while there is room; one that could not be started stays known."""
        while self._known and self._has_room(size := fetch_bytes(self._known[0], self._share)):
            entry = self._known[0]
            future = self._pool.submit(self._fetch, entry)
            self._known.popleft()
            self._ready.append((entry, size, future))
            self._ready_bytes += size

    def _look(self) -> None:
        """Take the next steps from the metadata; waits for them if there are none yet."""
        found: list[BatchEntry] = []
        failure: BaseException | None = None
        try:
            while not (found or self._failure or self._pauses.over() or self._lookout.at_end()):
                found = self._lookout.look()
        except BaseException as error:  # noqa: BLE001 - as is; nobody reads this thread's future
            failure = error
        with self._lock:
            try:
                self._looked(found, failure)
            except BaseException as error:  # noqa: BLE001
                self._fail(error)
            finally:
                self._changed.notify_all()

    def _looked(self, found: list[BatchEntry], failure: BaseException | None) -> None:
        """Go on with what a look brought. Holds the lock."""
        self._looking = False
        self._known.extend(found)
        if failure is not None:
            self._fail(failure)
        elif not found:
            self._ended = self._lookout.at_end()
            if not self._ended:
                self._fail(self._exit_error())
        self._fill()

    def _fail(self, failure: BaseException) -> None:
        """Keep the first failure for the caller. Closed, nothing is one. Holds the lock."""
        if self._failure is None and not self._pauses.ended:
            self._failure = failure

    def _exit_error(self) -> StreamError:
        return StreamError(
            f"reading {self._table.name} stopped before its end: the program is exiting"
        )

    def _has_room(self, size: int) -> bool:
        if not self._ready:
            return True
        return (
            len(self._ready) < self._settings.prefetch_batches
            and self._ready_bytes + size <= self._settings.prefetch_bytes_max
        )

    def _fetch(self, entry: BatchEntry) -> Batch:
        return self._pauses.retried(
            lambda: fetch_batch(self._table, entry, self._share, self._columns),
            self._settings.store_timeout_s,
            RETRY_WAIT_S,
        )
