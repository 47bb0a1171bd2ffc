"""Reading: one share of every global batch, in step order, each once, from any point.

One scout thread finds new steps in the table's metadata and hands them to a small pool that
fetches and decodes; the caller takes finished batches in step order. Memory is bounded in batches
and bytes. The place is a step, never a snapshot: expired metadata is re-read from the head.
Imports: standard library, pyarrow, errors, clock, settings, mesh, columns, objects, table, parquet,
batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa

from batchweave.batch import Batch
from batchweave.clock import Clock, SystemClock
from batchweave.columns import ArrayType
from batchweave.errors import (
    InvalidInput,
    ObjectNotFound,
    SchemaMismatch,
    StepReclaimed,
    StoreUnavailable,
    StreamCorrupted,
)
from batchweave.mesh import Share
from batchweave.parquet import SliceData, decode, spans
from batchweave.settings import ReaderSettings
from batchweave.table import BatchEntry, Head, Part, Table

RETRY_WAIT_S = 0.2
WHOLE_FILE_SPANS = 3

T = TypeVar("T")


class Reader:
    """An iterator of `Batch` in step order. Close it, or use ``with``, to stop its threads.

    Ends at ``stop``, at the end of a sealed stream, or at the head unless ``follow``.

    Raises:
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
        self._ready: deque[tuple[BatchEntry, int, Future[Batch]]] = deque()
        self._ready_bytes = 0
        self._ended = False
        self._failure: Exception | None = None
        self._closed = False
        self._head = table.head()
        check_watermark(self._head, start, table.name)
        self._pool = ThreadPoolExecutor(
            self._settings.prefetch_batches, thread_name_prefix="batchweave-read"
        )
        self._scout = threading.Thread(
            target=self._run, args=(start,), name="batchweave-scout", daemon=True
        )
        self._scout.start()

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
        with self._changed:
            while not self._ready:
                if self._failure is not None:
                    raise self._failure
                if self._ended or self._closed:
                    raise StopIteration
                self._changed.wait()
            entry, size, future = self._ready[0]
        try:
            batch = future.result()
        except BaseException:
            self.close()
            raise
        with self._changed:
            if self._ready and self._ready[0][2] is future:
                self._ready.popleft()
                self._ready_bytes -= size
            self._next_step = entry.step + 1
            self._changed.notify_all()
        return batch

    def close(self) -> None:
        """Stop the threads. Closing twice is closing once; `next_step` stays readable."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._scout:
            self._scout.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._changed:
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

    # -- the scout's side ------------------------------------------------------------------

    def _run(self, step: int) -> None:
        try:
            while not self._closed:
                step = self._submit_known(step)
                if self._at_end(step):
                    break
                self._pause(self._settings.poll_interval_s)
                self._head = self._retried(lambda: self._table.head(self._head))
        except Exception as error:  # noqa: BLE001 - handed to the caller, whatever it is
            with self._changed:
                self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _at_end(self, step: int) -> bool:
        state = self._head.state
        if self._stop is not None and step >= self._stop:
            return True
        return step >= state.next_step and (state.sealed or not self._follow)

    def _submit_known(self, step: int) -> int:
        """Submit all steps from ``step`` that the known head has; return the next one."""
        while not self._closed:
            end = self._head.state.next_step
            end = end if self._stop is None else min(end, self._stop)
            if step >= end:
                return step
            check_watermark(self._head, step, self._table.name)
            try:
                for entry in self._table.entries(self._head, step, end):
                    if not self._submit(entry):
                        return step
                    step = entry.step + 1
            except (ObjectNotFound, FileNotFoundError):
                self._renew_head()  # the head's metadata was cleaned up while we read
            except StoreUnavailable:
                self._retried(lambda: self._table.head())
        return step

    def _renew_head(self) -> None:
        before = self._head.version
        self._head = self._retried(lambda: self._table.head())
        if self._head.version == before:
            raise StreamCorrupted(
                f"metadata of {self._table.name} at version {before} names a file that is not there"
            )

    def _submit(self, entry: BatchEntry) -> bool:
        size = sum(
            length
            for part, wanted in wanted_parts(entry, self._share.slices)
            for _, length in spans(part, wanted)
        )
        with self._changed:
            while not self._closed and not self._has_room(size):
                self._changed.wait()
            if self._closed:
                return False
            future = self._pool.submit(self._retried, lambda: self._fetch(entry))
            self._ready.append((entry, size, future))
            self._ready_bytes += size
            self._changed.notify_all()
        return True

    def _has_room(self, size: int) -> bool:
        if not self._ready:
            return True
        return (
            len(self._ready) < self._settings.prefetch_batches
            and self._ready_bytes + size <= self._settings.prefetch_bytes_max
        )

    def _pause(self, seconds: float) -> None:
        until_s = self._clock.monotonic_s() + seconds
        with self._changed:
            while not self._closed and (left_s := until_s - self._clock.monotonic_s()) > 0:
                self._changed.wait(left_s)

    def _retried(self, operation: Callable[[], T]) -> T:
        """Repeat while the store is down, for at most ``store_timeout_s``."""
        began_s = self._clock.monotonic_s()
        while True:
            try:
                return operation()
            except StoreUnavailable:
                if (
                    self._closed
                    or self._clock.monotonic_s() - began_s > self._settings.store_timeout_s
                ):
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


def fetch_slices(
    table: Table, entry: BatchEntry, slices: Sequence[int], columns: Sequence[str] | None = None
) -> list[SliceData]:
    """Fetch and decode slices of one batch: one round trip a part, for the data and the footer."""
    found: list[SliceData] = []
    for part, wanted in wanted_parts(entry, slices):
        needed = _requests(part, wanted)
        fetched = table.objects.get_ranges(part.path, needed)
        ranges = {start: data for (start, _), data in zip(needed, fetched, strict=True)}
        found += decode(part, wanted, ranges, table.schema, columns)
    return found


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


def _checked_columns(columns: Sequence[str] | None, schema: pa.Schema) -> list[str] | None:
    if columns is None:
        return None
    unknown = [name for name in columns if name not in schema.names]
    if unknown or not columns:
        raise SchemaMismatch(f"the stream has columns {schema.names}, asked for {list(columns)}")
    return list(columns)
