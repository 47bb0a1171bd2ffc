"""A producer: publishes global batches in the background, exactly once, in order.

``publish`` checks, takes a copy and returns; threads encode and upload the parts; one thread
commits. What the caller waits for is only room (bounded pending data) and, if it wants, a receipt.

* Every batch is committed in the order it was published, or not at all.
* A failing store is retried for as long as the producer is open; nothing pending is dropped.
  Whoever waits is told: `StoreFull` and `StoreDenied` at once, an outage when its deadline passes.
* A newer opener of the name fences this one: `Fenced`, for good.

Imports: standard library, errors, clock, settings, dac, table, parquet, batch, session.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from batchweave import dac
from batchweave.batch import (
    Position,
    check_slices,
    check_source,
    position_from_text,
    position_to_text,
)
from batchweave.clock import Clock, SystemClock, exiting
from batchweave.dac import CommitPolicy, Controller, DacSettings, View
from batchweave.errors import (
    BatchWeaveError,
    InvalidBatch,
    NotCommitted,
    PendingLimit,
    ProducerClosed,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from batchweave.parquet import EncodedPart, SliceData, encode
from batchweave.session import Session, Staged
from batchweave.settings import ProducerSettings
from batchweave.table import Committed, Lost, Outcome, Part, Table, Unknown

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 5.0
NUDGE_S = 1.0
PAUSE_MAX_S = 0.5
"""Longest sleep of a background thread between looks at whether the program goes on."""

T = TypeVar("T")


class Receipt:
    """A promise of a step for one published batch."""

    def __init__(self, sequence: int, producer: Producer) -> None:
        self.sequence = sequence
        self._producer = producer
        self._step: Future[int] = Future()

    def done(self) -> bool:
        """Whether the batch is committed (or will never be)."""
        return self._step.done()

    def step(self, timeout_s: float | None = None) -> int:
        """Wait for the commit and return the batch's step. Waiting asks for it, as `flush` does.

        Raises:
            NotCommitted: the deadline passed; the batch stays pending.
            Fenced, StreamSealed, ProducerClosed: it will not be committed here.
            StoreFull, StoreDenied: the store refuses; the batch stays pending.
        """
        self._producer._await(self._step.done, timeout_s, f"sequence {self.sequence}")
        try:
            return self._step.result(timeout=0)
        except BatchWeaveError as error:
            raise _again(error) from error

    def __repr__(self) -> str:
        step = self._step.result() if self._step.done() and not self._step.exception() else None
        return f"Receipt(sequence={self.sequence}, step={step})"


class _Pending:
    """A published batch on its way: its parts being uploaded, then staged."""

    def __init__(
        self, receipt: Receipt, size: int, position_text: str | None, since_s: float
    ) -> None:
        self.sequence = receipt.sequence
        self.bytes = size
        self.receipt = receipt
        self.position_text = position_text
        self.since_s = since_s
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


class Producer:
    """A named writer of one stream. Open it with `Stream.producer`, close it with ``with``.

    One thread publishes at a time. Opening the same name elsewhere fences this one.
    """

    def __init__(
        self,
        table: Table,
        name: str,
        settings: ProducerSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings or ProducerSettings()
        self._clock = clock or SystemClock()
        self._table = table
        self._policy: CommitPolicy = Controller(
            DacSettings(
                freshness_s=self._settings.freshness_s,
                pending_batches_max=self._settings.pending_batches_max,
                pending_bytes_max=self._settings.pending_bytes_max,
            ),
            name,
            self._clock.random(),
        )
        self._session = Session(
            table,
            name,
            clock=self._clock,
            position_bytes_inline_max=self._settings.position_bytes_inline_max,
        )
        self._session.open()  # the last thing that can fail: it fences whoever has the name now
        self._next_sequence = self._session.sequence + 1
        self._position = self._session.position
        self._has_position = self._position is not None
        self._mesh = table.mesh
        self._changed = threading.Condition()
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0
        self._failure: BatchWeaveError | None = None
        self._trouble: StoreError | None = None
        self._troubles = 0
        self._waits = 0
        self._nudged_s = 0.0
        self._closing = False
        self._ended = False
        self._flushes = 0
        self._pool = ThreadPoolExecutor(
            self._settings.upload_threads, thread_name_prefix=f"batchweave-upload-{name}"
        )
        self._committer = threading.Thread(
            target=self._commit_loop, name=f"batchweave-commit-{name}", daemon=True
        )
        self._committer.start()

    # -- what it is ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The producer's name."""
        return self._session.name

    @property
    def generation(self) -> int:
        """How often the name has been opened, this time included."""
        return self._session.generation

    @property
    def position(self) -> Position:
        """The position of the last committed batch, None before the first: where to resume."""
        with self._changed:
            return self._position

    @property
    def pending(self) -> int:
        """Batches published and not yet committed."""
        with self._changed:
            return len(self._pending)

    # -- publishing ------------------------------------------------------------------------

    def publish(
        self,
        slices: Sequence[Any],
        *,
        position: Position = None,
        source: Any = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Publish one global batch: one item a slice, in slice order.

        An item is a mapping of columns to NumPy arrays, torch tensors or lists (rows first), or
        an Arrow table. Arrays are copied: they may be reused right after. ``position`` becomes
        durable in the commit that makes the batch visible; a producer that has one gives one with
        every batch, because the last batch's is where it resumes. ``source`` says where the slices
        came from: one short text or JSON value, or a list with one for each slice.

        Returns:
            A receipt; its ``step()`` waits for the commit.

        Raises:
            InvalidBatch, SchemaMismatch: the batch is malformed; nothing was written.
            PendingLimit: no room among the pending batches within ``timeout_s``.
            Fenced, StreamSealed, ProducerClosed: this producer cannot publish any more.
            StoreFull, StoreDenied: the store refuses what is pending already.
        """
        self._check_open()
        sources = check_source(source, self._mesh.slices)
        data = check_slices(slices, sources, self._mesh, self._table.schema)
        position_text = position_to_text(position)
        if position_text is None and self._has_position:
            raise InvalidBatch(
                f"producer {self.name!r} has a position, and this batch has none: the next opener "
                "would start from the beginning and publish everything twice"
            )
        size = sum(one.table.nbytes for one in data)
        self._wait_for_room(size, timeout_s)
        with self._changed:
            self._check_open()
            receipt = Receipt(self._next_sequence, self)
            pending = _Pending(receipt, size, position_text, self._clock.monotonic_s())
            self._start(pending, data)
            self._next_sequence += 1
            self._has_position = position_text is not None
            self._pending.append(pending)
            self._pending_bytes += size
            self._changed.notify_all()
        return receipt

    def _start(self, pending: _Pending, data: list[SliceData]) -> None:
        try:
            self._submit(pending, data)
        except RuntimeError as error:  # the system starts no more threads
            for future in pending.uploads:
                future.cancel()
            raise PendingLimit(f"nothing was published, publish again: {error}") from error

    def _submit(self, pending: _Pending, data: list[SliceData]) -> None:
        sequence, text = pending.sequence, pending.position_text
        per_file = self._settings.slices_per_file
        for index, first in enumerate(range(0, len(data), per_file)):
            run = data[first : first + per_file]
            pending.uploads.append(self._pool.submit(self._upload, sequence, index, first, run))
        pending.position = self._pool.submit(
            self._retried, lambda: self._session.store_position(sequence, text)
        )
        for future in pending.futures():
            future.add_done_callback(self._notify)

    def _notify(self, future: Future[Any]) -> None:
        with self._changed:
            self._changed.notify_all()

    def _upload(
        self, sequence: int, index: int, first: int, data: list[SliceData]
    ) -> tuple[EncodedPart, Part, int]:
        encoded = encode(
            data,
            first,
            file_schema=self._table.file_schema,
            compression=self._settings.compression,
            compression_level=self._settings.compression_level,
        )
        part, version = self._retried(lambda: self._session.upload(sequence, index, encoded))
        return encoded, part, version

    def _retried(self, operation: Callable[[], T]) -> T:
        """Repeat a store operation until it works or the producer is closed or has failed."""
        wait_s = RETRY_FIRST_S
        while True:
            try:
                result = operation()
            except StoreError as error:
                self._note_trouble(error)
                self._pause(wait_s)
                wait_s = min(RETRY_MAX_S, wait_s * 2)
                with self._changed:
                    if self._closing or self._failure or exiting():
                        raise
            else:
                self._note_trouble(None)
                return result

    # -- waiting ---------------------------------------------------------------------------

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when all that was published is committed: exactly once, and durable.

        Raises:
            NotCommitted: the deadline passed; what is left stays pending, `flush` again to wait on.
            Fenced, StreamSealed: what is left will not be committed here.
            StoreFull, StoreDenied: the store refuses; what is left stays pending.
        """
        self._await(lambda: not self._pending, timeout_s, "flush")

    def _await(self, ready: Callable[[], bool], timeout_s: float | None, what: str) -> None:
        """Wait for a commit and ask for it meanwhile: nobody gains by waiting for company."""
        with self._changed:
            self._flushes += 1
            self._changed.notify_all()
        try:
            self._wait(ready, timeout_s, what)
        finally:
            with self._changed:
                self._flushes -= 1

    def _wait_for_room(self, size: int, timeout_s: float | None) -> None:
        limit_s = self._settings.publish_timeout_s if timeout_s is None else timeout_s

        def room() -> bool:
            return not self._pending or (
                len(self._pending) < self._settings.pending_batches_max
                and self._pending_bytes + size <= self._settings.pending_bytes_max
            )

        try:
            self._wait(room, limit_s, "publish")
        except NotCommitted as error:
            raise PendingLimit(
                f"{len(self._pending)} batches ({self._pending_bytes} bytes) of producer "
                f"{self.name!r} wait for their commit, no room came within {limit_s:g} s. {error}"
            ) from error

    def _wait(self, ready: Callable[[], bool], timeout_s: float | None, what: str) -> None:
        """Wait on the condition until ready; raise what stands in the way, or `NotCommitted`."""
        limit_s = self._settings.commit_timeout_s if timeout_s is None else timeout_s
        deadline_s = self._clock.monotonic_s() + limit_s
        with self._changed:
            seen = self._troubles
            if not ready():
                self._nudge()
            while not ready():
                if self._failure is not None:
                    raise _again(self._failure) from self._failure
                trouble = self._trouble
                if isinstance(trouble, (StoreFull, StoreDenied)) and self._troubles > seen:
                    raise _again(trouble) from trouble
                if self._ended:
                    raise ProducerClosed(f"producer {self.name!r} was closed before its commit")
                left_s = deadline_s - self._clock.monotonic_s()
                if left_s <= 0:
                    raise self._not_committed(what, limit_s)
                self._changed.wait(left_s)

    def _nudge(self) -> None:
        """Cut pauses after failures short, because somebody waits; at most once a second."""
        now_s = self._clock.monotonic_s()
        if now_s - self._nudged_s >= NUDGE_S:
            self._nudged_s = now_s
            self._waits += 1
            self._changed.notify_all()

    def _not_committed(self, what: str, limit_s: float) -> NotCommitted:
        said = f"the store last said: {self._trouble}" if self._trouble else "it goes on trying"
        return NotCommitted(
            f"{what}: {len(self._pending)} batches of producer {self.name!r} on "
            f"{self._table.name} are still pending after {limit_s:g} s; {said}"
        )

    # -- committing ------------------------------------------------------------------------

    def _commit_loop(self) -> None:
        wait_s = RETRY_FIRST_S
        try:
            while self._wait_for_turn():
                trouble = self._attempt()
                if trouble is not None:
                    self._pause(wait_s)
                    wait_s = min(RETRY_MAX_S, wait_s * 2)
                else:
                    wait_s = RETRY_FIRST_S
        except BatchWeaveError as error:
            self._fail(error)
        except BaseException as error:
            self._fail(ProducerClosed(f"the committing thread failed: {error!r}"), error)
            raise

    def _attempt(self) -> StoreError | None:
        """One turn of the controller: look at the head, and try if it says so."""
        began_s = self._clock.monotonic_s()
        outcome: Outcome | None = None
        claim: dac.Claim | None = None
        try:
            head = self._session.refresh()
            view = View(head.version, head.state.pace, head.state.producers)
            claim = self._policy.begin(view, began_s) if self._session.staged else None
            if claim is None:
                self._note_trouble(None)
                return None
            outcome = self._session.attempt(claim)
        except StoreError as error:
            outcome = Unknown(error)
        trouble = _as_store_error(outcome.cause) if isinstance(outcome, Unknown) else None
        if claim is not None:
            self._tell(outcome, began_s)
        self._note_trouble(trouble)
        if isinstance(outcome, Committed):
            self._table.tidy(outcome.head)
        return trouble

    def _tell(self, outcome: Outcome | None, began_s: float) -> None:
        ended = dac.Outcome.UNKNOWN
        if isinstance(outcome, Committed):
            ended = dac.Outcome.COMMITTED
        elif isinstance(outcome, Lost):
            ended = dac.Outcome.LOST
        self._policy.attempted(ended, began_s, self._clock.monotonic_s())

    def _wait_for_turn(self) -> bool:
        """Stage what is uploaded and wait for the controller; False when the producer closes."""
        with self._changed:
            while not self._closing:
                self._stage_uploaded()
                now_s = self._clock.monotonic_s()
                at_s = self._next_attempt_s(now_s)
                if at_s is not None and at_s <= now_s:
                    return True
                self._changed.wait(None if at_s is None else at_s - now_s)
            return False

    def _next_attempt_s(self, now_s: float) -> float | None:
        staged = self._session.staged
        oldest_s = self._pending[0].since_s if staged else None
        self._policy.pending(len(staged), sum(one.bytes for one in staged), oldest_s)
        if self._flushes:
            self._policy.flush()
        return self._policy.next_attempt_s(now_s)

    def _stage_uploaded(self) -> None:
        """Hand finished uploads to the session, in sequence order. Holds the condition."""
        known = {one.sequence for one in self._session.staged}
        for pending in self._pending:
            if pending.sequence in known:
                continue
            if not pending.uploaded():
                break
            if self._session.staged and pending.failed():
                break  # what is before it goes first; then its failure is raised here
            uploads = [future.result() for future in pending.uploads]
            staged = Staged(
                sequence=pending.sequence,
                encoded=tuple(encoded for encoded, _, _ in uploads),
                parts=tuple(part for _, part, _ in uploads),
                upload_version=min(version for _, _, version in uploads),
                position=pending.position.result(),
                done=self._landed,
            )
            self._pending_bytes += staged.bytes - pending.bytes
            pending.bytes = staged.bytes
            self._session.stage(staged)

    def _landed(self, step: int) -> None:
        """The oldest pending batch is committed at ``step``."""
        with self._changed:
            pending = self._pending.popleft()
            self._pending_bytes -= pending.bytes
            pending.receipt._step.set_result(step)
            self._position = position_from_text(pending.position_text)
            self._changed.notify_all()

    # -- trouble ---------------------------------------------------------------------------

    def _note_trouble(self, error: StoreError | None) -> None:
        with self._changed:
            if error is not None or self._trouble is not None:
                self._trouble = error
                self._troubles += 1
                self._changed.notify_all()

    def _fail(self, error: BatchWeaveError, cause: BaseException | None = None) -> None:
        with self._changed:
            error.__cause__ = cause
            self._failure = error
            for pending in self._pending:
                pending.receipt._step.set_exception(error)
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; a caller who begins to wait for it cuts this short."""
        until_s = self._clock.monotonic_s() + seconds
        with self._changed:
            waits = self._waits
            while not self._closing and self._waits == waits and not exiting():
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, PAUSE_MAX_S))

    def _check_open(self) -> None:
        with self._changed:
            if self._failure is not None:
                raise _again(self._failure) from self._failure
            if self._closing:
                raise ProducerClosed(f"producer {self.name!r} is closed: open it again to publish")

    # -- closing ---------------------------------------------------------------------------

    def close(self, *, flush: bool = True, timeout_s: float | None = None) -> None:
        """Commit what is pending (unless ``flush=False``) and stop the threads.

        Closing twice is closing once. What was not committed is not in the stream: resume from
        `position`. Raises what `flush` raises, after the threads have stopped.
        """
        try:
            if flush and not self._closing and self._failure is None:
                self.flush(timeout_s)
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._changed:
            already = self._closing
            self._closing = True
            self._changed.notify_all()
        if already:
            return
        self._committer.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        outcome = self._last_look()
        with self._changed:
            for pending in self._pending:
                if not pending.receipt.done():
                    pending.receipt._step.set_exception(
                        ProducerClosed(f"producer {self.name!r} was closed {outcome}")
                    )
            self._pending.clear()
            self._ended = True
            self._changed.notify_all()

    def _last_look(self) -> str:
        """Settle the last attempt if its answer was lost; what to say of batches that are left."""
        if not self._session.unsure:
            return "before the commit"
        try:
            self._session.refresh()
        except BatchWeaveError as error:
            return (
                "while the outcome of its last commit was unknown "
                f"({error}): open the name again to learn its position"
            )
        return "before the commit"

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush and close; after an exception of the caller's, close without flushing."""
        self.close(flush=error is None)

    def __repr__(self) -> str:
        return f"Producer({self.name!r}, generation={self.generation}, stream={self._table.name!r})"


def _again(error: BatchWeaveError) -> BatchWeaveError:
    """A fresh exception of the same class, so that each caller has a traceback of its own."""
    return type(error)(*error.args)


def _as_store_error(error: Exception) -> StoreError:
    return error if isinstance(error, StoreError) else StoreUnavailable(str(error))
