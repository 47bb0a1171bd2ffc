"""Publishing what an assembler gives: from the producer's position to the end of the sources.

Imports: standard library, errors, producer, and the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchweave.assemble.assembler import Assembler, GlobalBatch
from batchweave.assemble.skips import Skips
from batchweave.errors import InvalidInput, SourceError
from batchweave.producer import Producer, Receipt
from batchweave.state import StreamState


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of `publish` did.

    Attributes:
        batches, rows, tokens: published and committed by this run.
        skips: what was left out, by all runs of this producer together.
        waiting: samples read that fill no batch: they are in the stream's future, not in it.
        last_step: the step of the last batch; None if there was none.
        ended: whether the sources ended; False where a limit did.
    """

    batches: int
    rows: int
    tokens: int
    skips: Skips
    waiting: int
    last_step: int | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. ``done`` is of all sources, 0.0 to 1.0, None if it cannot be known."""

    batches: int
    rows: int
    tokens: int
    done: float | None


def publish(
    assembler: Assembler,
    producer: Producer,
    *,
    batches_max: int | None = None,
    stop_step: int | None = None,
    head: Callable[[], StreamState] | None = None,
    progress: Callable[[Progress], None] | None = None,
    timeout_s: float | None = None,
) -> Report:
    """Publish batches until the sources end, resuming behind the producer's last committed one.

    Returns when all is committed. A producer that was killed goes on with the very next sample:
    its position holds the assembler's state. Waits where the stream cannot take more yet. A source
    that stops with an error does so after everything before it was committed.

    Args:
        assembler: a new one, not iterated yet.
        producer: open, with a position that an assembler made, or none.
        batches_max: publish so many at most.
        stop_step: publish only while the stream has fewer steps; needs ``head``, the stream's
            (`Stream.head`). Other producers' steps count; what they commit meanwhile may come on
            top.
        progress: is told after each batch that was handed to the producer.
        timeout_s: how long to wait for room, and for the last commit; the producer's settings
            say it otherwise.

    Raises:
        InvalidInput, InvalidSettings, SourceChanged: the position does not fit the assembler.
        InvalidSample, SourceCorrupted: a source has what cannot be used, and that is to stop.
        SchemaMismatch, InvalidBatch: the stream has other columns or another mesh.
        PendingLimit, NotCommitted, Fenced, StreamSealed, StoreError: as `Producer.publish` says.
    """
    if stop_step is not None and head is None:
        raise InvalidInput("a stop_step needs head=stream.head, to know how far the stream is")
    assembler.resume(producer.position)
    run = _Run(producer, timeout_s)
    limit = _Limit(run, batches_max, stop_step, head)
    batches = iter(assembler)
    ended = False
    try:
        while not limit.reached() and not ended:
            batch = next(batches, None)
            if batch is None:
                ended = True
                continue
            run.publish(batch)
            if progress is not None:
                progress(Progress(run.batches, run.rows, run.tokens, assembler.progress))
    except SourceError:
        producer.flush(timeout_s)
        raise
    producer.flush(timeout_s)
    return Report(
        batches=run.batches,
        rows=run.rows,
        tokens=run.tokens,
        skips=assembler.skips,
        waiting=assembler.waiting,
        last_step=run.last_step(),
        ended=ended,
    )


class _Run:
    """What this run has published."""

    def __init__(self, producer: Producer, timeout_s: float | None) -> None:
        self._producer = producer
        self._timeout_s = timeout_s
        self._last: Receipt | None = None
        self.batches = self.rows = self.tokens = 0

    def publish(self, batch: GlobalBatch) -> None:
        """Hand one batch to the producer; waits for room."""
        self._last = self._producer.publish(
            batch.slices, position=batch.position, source=batch.sources, timeout_s=self._timeout_s
        )
        self.batches += 1
        self.rows += batch.rows
        self.tokens += batch.tokens

    def settle(self) -> None:
        """Wait until all is committed."""
        self._producer.flush(self._timeout_s)

    def last_step(self) -> int | None:
        """The step of the last batch, once it is committed."""
        return None if self._last is None else self._last.step(self._timeout_s)


class _Limit:
    """Whether a run has published what it may."""

    def __init__(
        self,
        run: _Run,
        batches_max: int | None,
        stop_step: int | None,
        head: Callable[[], StreamState] | None,
    ) -> None:
        self._run = run
        self._batches_max = batches_max
        self._stop_step = stop_step
        self._head = head
        self._room = 0
        self._counted = 0

    def reached(self) -> bool:
        """True once the next batch would be one too many."""
        if self._batches_max is not None and self._run.batches >= self._batches_max:
            return True
        if self._stop_step is None or self._head is None:
            return False
        if self._run.batches - self._counted >= self._room:
            # The head is read only when all the room that it had last time is used up.
            self._run.settle()
            self._room = self._stop_step - self._head().next_step
            self._counted = self._run.batches
        return self._room <= 0
