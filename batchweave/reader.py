"""Reading: one share of every global batch, in step order, each once, from any point.

A small pool of threads looks up steps in the table's metadata, fetches and decodes; the caller
takes finished batches in step order. Memory is bounded in batches and bytes. The place is a step,
never a snapshot: expired metadata is re-read from the head.
Imports: standard library, pyarrow, errors, clock, settings, mesh, columns, objects, table, parquet,
batch.
"""

from __future__ import annotations

import itertools
import operator
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import pyarrow as pa

from batchweave.batch import Batch
from batchweave.clock import Clock, SystemClock, exiting
from batchweave.columns import ArrayType
from batchweave.errors import (
    InvalidInput,
    ObjectNotFound,
    SchemaMismatch,
    StepReclaimed,
    StoreDenied,
    StoreUnavailable,
    StreamCorrupted,
    StreamError,
)
from batchweave.mesh import Share
from batchweave.parquet import SliceData, decode, spans
from batchweave.settings import ReaderSettings
from batchweave.table import BatchEntry, Head, Part, Table

RETRY_WAIT_S = 0.2
PAUSE_MAX_S = 0.5
"""Longest sleep of a background thread between looks at whether anybody still waits."""
KNOWN_MIN = 32
"""Steps known ahead of those being fetched; fewer start the next look into the metadata."""
KNOWN_MAX = 256
"""Steps taken from the metadata in one look."""
WHOLE_FILE_SPANS = 3

T = TypeVar("T")


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
        start = whole_number(start, "start")
        stop = None if stop is None else whole_number(stop, "stop")
        if start < 0 or (stop is not None and stop < start):
            raise InvalidInput(f"steps are read from 0 up, got start={start}, stop={stop}")
        self._columns = _checked_columns(columns, table.schema)
        self._table = table
        self._share = share
        self._stop = stop
        self._follow = follow
        self._settings = settings or ReaderSettings()
        self._clock = clock or SystemClock()
        self._next_step = start
        self._changed = threading.Condition()
        self._known: deque[BatchEntry] = deque()
        self._ready: deque[tuple[BatchEntry, int, Future[Batch]]] = deque()
        self._ready_bytes = 0
        self._looking = False
        self._ended = False
        self._failure: BaseException | None = None
        self._closed = False
        self._head = table.head()
        check_watermark(self._head, start, table.name)
        self._entries: Iterator[BatchEntry] = iter(())
        self._looked_to = start
        self._failing_since_s: float | None = None
        self._pool = ThreadPoolExecutor(
            fetch_threads(table, self._settings) + 1,  # one to look ahead
            thread_name_prefix="batchweave-read",
        )
        with self._changed:
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
        with self._changed:
            while not self._ready and self._failure is None:
                if self._ended or self._closed:
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
        with self._changed:
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
        with self._changed:
            if self._closed and isinstance(error, (CancelledError, StoreUnavailable)):
                raise StopIteration from None
            self._failure = error
        self.close()
        raise error

    def close(self) -> None:
        """Stop the threads. Closing twice is closing once; `next_step` stays readable."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._changed:
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
        if not getattr(self, "_closed", True):
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self._pool.shutdown(wait=False, cancel_futures=True)

    # -- looking ahead ---------------------------------------------------------------------

    def _fill(self) -> None:
        """Start what there is room for; `__next__` tells of a failure. Holds the condition."""
        if self._closed:
            return
        try:
            self._start_fetches()
            idle = not (self._looking or self._ended or self._failure)
            if idle and len(self._known) < KNOWN_MIN:
                self._pool.submit(self._look)
                self._looking = True
        except Exception as error:  # noqa: BLE001 - handed to the caller, whatever it is
            refused = isinstance(error, RuntimeError) and exiting()
            self._fail(self._exit_error() if refused else error)

    def _start_fetches(self) -> None:
        """Fetch known steps while there is room; one that could not be started stays known."""
        while self._known and self._has_room(size := self._size(self._known[0])):
            entry = self._known[0]
            future = self._pool.submit(self._retried, lambda entry=entry: self._fetch(entry))
            self._known.popleft()
            self._ready.append((entry, size, future))
            self._ready_bytes += size

    def _look(self) -> None:
        """Take the next steps from the metadata; waits for them if there are none yet."""
        found: list[BatchEntry] = []
        failure: BaseException | None = None
        try:
            while not (found or self._failure or self._stopped() or self._at_end()):
                found = self._next_entries()
        except BaseException as error:  # noqa: BLE001 - as is; nobody reads this thread's future
            failure = error
        with self._changed:
            try:
                self._looked(found, failure)
            except BaseException as error:  # noqa: BLE001
                self._fail(error)
            finally:
                self._changed.notify_all()

    def _looked(self, found: list[BatchEntry], failure: BaseException | None) -> None:
        """Go on with what a look brought. Holds the condition."""
        self._looking = False
        self._known.extend(found)
        if failure is not None:
            self._fail(failure)
        elif not found:
            self._ended = self._at_end()
            if not self._ended:
                self._fail(self._exit_error())
        self._fill()

    def _fail(self, failure: BaseException) -> None:
        """Keep the first failure for the caller. Closed, nothing is one. Holds the condition."""
        if self._failure is None and not self._closed:
            self._failure = failure

    def _exit_error(self) -> StreamError:
        return StreamError(
            f"reading {self._table.name} stopped before its end: the program is exiting"
        )

    def _next_entries(self) -> list[BatchEntry]:
        """Up to `KNOWN_MAX` steps of the head known; if it has no more, a newer head's."""
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
            self._pause(self._settings.poll_interval_s)
            self._head = self._retried(lambda: self._table.head(self._head))
        check_watermark(self._head, self._looked_to, self._table.name)
        self._entries = self._table.entries(self._head, self._looked_to, self._end())
        return []

    def _wait_out(self, error: StoreUnavailable) -> None:
        """Pause before metadata is read again; raise after ``store_timeout_s`` without progress."""
        now_s = self._clock.monotonic_s()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        failing_s = now_s - self._failing_since_s
        if self._stopped() or failing_s > self._settings.store_timeout_s:
            raise error
        self._pause(RETRY_WAIT_S)

    def _end(self) -> int:
        known = self._head.state.next_step
        return known if self._stop is None else min(known, self._stop)

    def _at_end(self) -> bool:
        state = self._head.state
        if self._stop is not None and self._looked_to >= self._stop:
            return True
        return self._looked_to >= state.next_step and (state.sealed or not self._follow)

    def _renew_head(self) -> None:
        before = self._head.version
        self._head = self._retried(self._table.head)
        self._entries = iter(())
        if self._head.version == before:
            raise StreamCorrupted(
                f"metadata of {self._table.name} at version {before} names a file that is not there"
            )

    def _size(self, entry: BatchEntry) -> int:
        """Bytes to fetch for this share of a batch."""
        return sum(
            length
            for part, wanted in wanted_parts(entry, self._share.slices)
            for _, length in spans(part, wanted)
        )

    def _has_room(self, size: int) -> bool:
        if not self._ready:
            return True
        return (
            len(self._ready) < self._settings.prefetch_batches
            and self._ready_bytes + size <= self._settings.prefetch_bytes_max
        )

    def _stopped(self) -> bool:
        return self._closed or exiting()

    def _pause(self, seconds: float) -> None:
        until_s = self._clock.monotonic_s() + seconds
        with self._changed:
            while not self._stopped() and (left_s := until_s - self._clock.monotonic_s()) > 0:
                self._changed.wait(min(left_s, PAUSE_MAX_S))

    def _retried(self, operation: Callable[[], T]) -> T:
        """Repeat while the store is down, for at most ``store_timeout_s``."""
        began_s = self._clock.monotonic_s()
        while True:
            try:
                return operation()
            except StoreUnavailable:
                took_s = self._clock.monotonic_s() - began_s
                if self._stopped() or took_s > self._settings.store_timeout_s:
                    raise
            self._pause(RETRY_WAIT_S)

    # -- fetching --------------------------------------------------------------------------

    def _fetch(self, entry: BatchEntry) -> Batch:
        try:
            slices = fetch_slices(self._table, entry, self._share.slices, self._columns)
        except ObjectNotFound as error:
            check_watermark(self._table.head(), entry.step, self._table.name)
            raise StreamCorrupted(
                f"step {entry.step} of {self._table.name}: a file that the table names is gone: "
                f"{error}"
            ) from error
        return to_batch(entry, self._share, slices)


def fetch_threads(table: Table, settings: ReaderSettings) -> int:
    """Threads that fetch: local files only keep processors busy, so no more than there are."""
    local = table.objects.local_file("") is not None
    return min(settings.fetch_threads, os.cpu_count() or 1) if local else settings.fetch_threads


def fetch_slices(
    table: Table, entry: BatchEntry, slices: Sequence[int], columns: Sequence[str] | None = None
) -> list[SliceData]:
    """Fetch and decode slices of one batch: one round trip a part, for the data and the footer."""
    found: list[SliceData] = []
    for part, wanted in wanted_parts(entry, slices):
        found += decode(part, wanted, _source(table, part, wanted), table.schema, columns)
    return found


def _source(table: Table, part: Part, wanted: list[int]) -> Any:
    """What to decode from: the file itself where it is local, else its ranges, fetched at once."""
    local = table.objects.local_file(part.path)
    if local is not None:
        return _opened(local, part.path)
    needed = _requests(part, wanted)
    fetched = table.objects.get_ranges(part.path, needed)
    return {start: data for (start, _), data in zip(needed, fetched, strict=True)}


def _opened(local: str, path: str) -> Any:
    """The open file; what the system says against it is told in the store's errors."""
    try:
        return pa.OSFile(local)
    except FileNotFoundError:
        raise ObjectNotFound(f"no object at {path!r}") from None
    except (PermissionError, NotADirectoryError) as error:
        raise StoreDenied(f"the store refused {path!r}: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"the store failed on {path!r}: {error}") from error


def wanted_parts(entry: BatchEntry, slices: Sequence[int]) -> Iterator[tuple[Part, list[int]]]:
    """The parts that hold these slices, with the slices that each holds."""
    for part in entry.parts:
        wanted = [at for at in slices if part.first_slice <= at < part.first_slice + part.slices]
        if wanted:
            yield part, wanted


def _requests(part: Part, wanted: list[int]) -> list[tuple[int, int]]:
    """The ranges to fetch: those that are needed, or one over all if they are many or adjoin."""
    needed = spans(part, wanted)
    if len(needed) < WHOLE_FILE_SPANS:
        return needed
    start = needed[0][0]
    return [(start, part.bytes - start)]


def to_batch(entry: BatchEntry, share: Share, slices: Sequence[SliceData]) -> Batch:
    """Put decoded slices together as one rank's batch."""
    tables = [one.table for one in slices]
    if share.parts > 1:
        rows = share.rows(tables[0].num_rows)
        tables = [tables[0].slice(rows.start, len(rows))]
    return Batch(
        step=entry.step,
        table=tables[0] if len(tables) == 1 else pa.concat_tables(tables),
        slices=share.slices,
        producer=entry.producer,
        sequence=entry.sequence,
        committed_at_ms=entry.committed_at_ms,
        sources=tuple(one.source for one in slices),
        arrays=_common_arrays(slices),
    )


def _common_arrays(slices: Sequence[SliceData]) -> dict[str, ArrayType]:
    """Array types that all slices agree on: only those can be put together as one array."""
    first = slices[0].arrays
    return {
        name: kind
        for name, kind in first.items()
        if all(one.arrays.get(name) == kind for one in slices)
    }


def check_watermark(head: Head, step: int, name: str) -> None:
    """Raise `StepReclaimed` if the step's data is gone by policy."""
    if step < head.state.watermark:
        raise StepReclaimed(
            f"step {step} of {name} was reclaimed: its data is kept from step "
            f"{head.state.watermark} on"
        )


def whole_number(value: Any, what: str, error: type[InvalidInput] = InvalidInput) -> int:
    """The value as an int; raises ``error``, which names it, unless it is a whole number."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise error(f"{what} is a whole number, got {value!r}")


def _checked_columns(columns: Sequence[str] | None, schema: pa.Schema) -> list[str] | None:
    if columns is None:
        return None
    unknown = [name for name in columns if name not in schema.names]
    if unknown or not columns:
        raise SchemaMismatch(f"the stream has columns {schema.names}, asked for {list(columns)}")
    return list(columns)
