"""The facade: a named writer of a stream, as users hold it.

It checks what is published and hands it on. Imports: standard library, errors, events, clock,
settings, dac, table, parquet, batch, session, and the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from batchweave.batch import Position, check_slices, check_source, position_to_text
from batchweave.clock import Clock, SystemClock
from batchweave.dac import Controller, DacSettings
from batchweave.errors import BatchWeaveError, InvalidBatch
from batchweave.events import Listeners
from batchweave.producer.backlog import Backlog, Pending
from batchweave.producer.committer import Committer
from batchweave.producer.notices import Notices
from batchweave.producer.receipt import Receipt
from batchweave.producer.uploads import Uploads
from batchweave.session import Session
from batchweave.settings import ProducerSettings
from batchweave.table import Table


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
        listeners: Listeners | None = None,
    ) -> None:
        settings = settings or ProducerSettings()
        self._clock = clock or SystemClock()
        self._table = table
        policy = Controller(
            DacSettings(
                freshness_s=settings.freshness_s,
                pending_batches_max=settings.pending_batches_max,
                pending_bytes_max=settings.pending_bytes_max,
            ),
            name,
            self._clock.random(),
        )
        self._session = Session(
            table,
            name,
            clock=self._clock,
            position_bytes_inline_max=settings.position_bytes_inline_max,
        )
        self._session.open()  # the last thing that can fail: it fences whoever has the name now
        self._next_sequence = self._session.sequence + 1
        position = self._session.position
        self._has_position = position is not None
        self._mesh = table.mesh
        self._backlog = Backlog(name, table.name, position, settings, self._clock)
        self._uploads = Uploads(table, self._session, self._backlog, settings)
        self._notices = Notices(listeners, self._session, self._clock)
        self._committer = Committer(
            table, self._session, policy, self._backlog, self._notices, self._clock
        )
        self._notices.opened()
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
        with self._backlog.changed:
            return self._backlog.position

    @property
    def pending(self) -> int:
        """Batches published and not yet committed."""
        with self._backlog.changed:
            return len(self._backlog.pending)

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
        backlog = self._backlog
        backlog.check_open()
        sources = check_source(source, self._mesh.slices)
        data = check_slices(slices, sources, self._mesh, self._table.schema)
        position_text = position_to_text(position)
        if position_text is None and self._has_position:
            raise InvalidBatch(
                f"producer {self.name!r} has a position, and this batch has none: the next opener "
                "would start from the beginning and publish everything twice"
            )
        size = sum(one.table.nbytes for one in data)
        backlog.wait_for_room(size, timeout_s)
        with backlog.changed:
            backlog.check_open()
            pending = Pending(self._next_sequence, size, position_text, self._clock.monotonic_s())
            receipt = Receipt(pending, backlog)
            self._uploads.start(pending, data)
            self._next_sequence += 1
            self._has_position = position_text is not None
            backlog.append(pending)
        return receipt

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when all that was published is committed: exactly once, and durable.

        Raises:
            NotCommitted: the deadline passed; what is left stays pending, `flush` again to wait on.
            Fenced, StreamSealed: what is left will not be committed here.
            StoreFull, StoreDenied: the store refuses; what is left stays pending.
        """
        self._backlog.wait_for_commit(lambda: not self._backlog.pending, timeout_s, "flush")

    # -- closing ---------------------------------------------------------------------------

    def close(self, *, flush: bool = True, timeout_s: float | None = None) -> None:
        """Commit what is pending (unless ``flush=False``) and stop the threads.

        Closing twice is closing once. What was not committed is not in the stream: resume from
        `position`. Raises what `flush` raises, after the threads have stopped.
        """
        try:
            if flush and not self._backlog.closing and self._backlog.failure is None:
                self.flush(timeout_s)
        finally:
            self._stop()

    def _stop(self) -> None:
        if not self._backlog.close():
            return
        self._committer.join()
        self._uploads.close()
        outcome, left = self._last_look(), self.pending
        self._backlog.end(outcome)
        self._notices.closed(left)

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
        self._notices.error = self._notices.error or error
        self.close(flush=error is None)

    def __repr__(self) -> str:
        return f"Producer({self.name!r}, generation={self.generation}, stream={self._table.name!r})"
