"""The receipt of one published batch. Imports: standard library, errors, backlog."""

from __future__ import annotations

from batchweave.errors import BatchWeaveError
from batchweave.producer.backlog import Backlog, Pending, again


class Receipt:
    """A promise of a step for one published batch."""

    def __init__(self, pending: Pending, backlog: Backlog) -> None:
        self.sequence = pending.sequence
        self._step = pending.step  # not the batch: a receipt may be kept for long
        self._backlog = backlog

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
        self._backlog.wait_for_commit(self._step.done, timeout_s, f"sequence {self.sequence}")
        try:
            return self._step.result(timeout=0)
        except BatchWeaveError as error:
            raise again(error) from error

    def __repr__(self) -> str:
        step = self._step.result() if self._step.done() and not self._step.exception() else None
        return f"Receipt(sequence={self.sequence}, step={step})"
