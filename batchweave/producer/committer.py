"""The committer: one thread that stages what is uploaded and attempts commits when DAC says so.

Imports: standard library, errors, clock, dac, table, session, backlog, notices.
"""

from __future__ import annotations

import threading

from batchweave import dac
from batchweave.clock import Clock
from batchweave.errors import BatchWeaveError, ProducerClosed, StoreError, StoreUnavailable
from batchweave.producer.backlog import RETRY_FIRST_S, RETRY_MAX_S, Backlog
from batchweave.producer.notices import Notices
from batchweave.session import Session, Staged
from batchweave.table import Committed, Lost, Outcome, Table, Unknown


class Committer:
    """Drives the session and the controller, both from its own thread only while it runs.

    It ends when the backlog closes, or at the first error that is for good, which it leaves there.
    """

    def __init__(
        self,
        table: Table,
        session: Session,
        policy: dac.CommitPolicy,
        backlog: Backlog,
        notices: Notices,
        clock: Clock,
    ) -> None:
        self._table = table
        self._session = session
        self._policy = policy
        self._backlog = backlog
        self._notices = notices
        self._clock = clock
        self._thread = threading.Thread(
            target=self._commit_loop, name=f"batchweave-commit-{session.name}", daemon=True
        )

    def start(self) -> None:
        """Begin to commit."""
        self._thread.start()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()

    # -- attempts --------------------------------------------------------------------------

    def _commit_loop(self) -> None:
        wait_s = RETRY_FIRST_S
        try:
            while self._wait_for_turn():
                trouble = self._attempt()
                if trouble is not None:
                    self._backlog.pause(wait_s)
                    wait_s = min(RETRY_MAX_S, wait_s * 2)
                else:
                    wait_s = RETRY_FIRST_S
        except BatchWeaveError as error:
            self._fail(error)
        except BaseException as error:
            self._fail(ProducerClosed(f"the committing thread failed: {error!r}"), error)
            raise

    def _fail(self, error: BatchWeaveError, cause: BaseException | None = None) -> None:
        self._notices.failed(cause or error)
        self._backlog.fail(error, cause)

    def _attempt(self) -> StoreError | None:
        """One turn of the controller: look at the head, and try if it says so."""
        began_s = self._clock.monotonic_s()
        outcome: Outcome | None = None
        claim: dac.Claim | None = None
        try:
            head = self._session.refresh()
            view = dac.View(head.version, head.state.pace, head.state.producers)
            claim = self._policy.begin(view, began_s) if self._session.staged else None
            if claim is None:
                self._backlog.note_trouble(None)
                return None
            outcome = self._session.attempt(claim)
        except StoreError as error:
            outcome = Unknown(error)
        trouble = _as_store_error(outcome.cause) if isinstance(outcome, Unknown) else None
        if claim is not None:
            self._tell(outcome, began_s)
        self._backlog.note_trouble(trouble)
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

    # -- turns -----------------------------------------------------------------------------

    def _wait_for_turn(self) -> bool:
        """Stage what is uploaded and wait for the controller; False when the producer closes."""
        backlog = self._backlog
        with backlog.changed:
            while not backlog.closing:
                self._stage_uploaded()
                now_s = self._clock.monotonic_s()
                at_s = self._next_attempt_s(now_s)
                if at_s is not None and at_s <= now_s:
                    return True
                backlog.changed.wait(None if at_s is None else at_s - now_s)
            return False

    def _next_attempt_s(self, now_s: float) -> float | None:
        """When the controller wants to try. Holds the condition."""
        staged = self._session.staged
        oldest_s = self._backlog.pending[0].since_s if staged else None
        self._policy.pending(len(staged), sum(one.bytes for one in staged), oldest_s)
        if self._backlog.awaited:
            self._policy.flush()
        return self._policy.next_attempt_s(now_s)

    def _stage_uploaded(self) -> None:
        """Hand finished uploads to the session, in sequence order. Holds the condition."""
        known = {one.sequence for one in self._session.staged}
        for pending in self._backlog.pending:
            if pending.sequence in known:
                continue
            if not pending.uploaded():
                break
            if self._session.staged and pending.failed():
                break  # what is before it goes first; then its failure is raised here
            uploads = [future.result() for future in pending.uploads]
            parts = tuple(part for _, part, _ in uploads)
            staged = Staged(
                sequence=pending.sequence,
                encoded=tuple(encoded for encoded, _, _ in uploads),
                parts=parts,
                upload_version=min(version for _, _, version in uploads),
                position=pending.position.result(),
                done=self._notices.before(self._backlog.landed, pending.sequence, parts),
            )
            self._backlog.resize(pending, staged.bytes)
            self._session.stage(staged)


def _as_store_error(error: Exception) -> StoreError:
    return error if isinstance(error, StoreError) else StoreUnavailable(str(error))
