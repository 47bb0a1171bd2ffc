"""Checkpoints of training runs: which steps a model has seen, kept in the stream itself.

A registered checkpoint says: the run ``consumer`` can restart from it, and then asks for
``next_step`` and what follows. Retention keeps those steps. Registering and dropping are commits
like any other: each is a new version of the table, atomic, and safe to repeat.
Imports: standard library, errors, events, clock, state, table, commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import SupportsIndex

from batchweave.clock import Clock, SystemClock
from batchweave.commit import commit
from batchweave.errors import CheckpointNotFound
from batchweave.events import CheckpointDropped, CheckpointRegistered, Listeners
from batchweave.state import (
    CheckpointState,
    StreamState,
    check_name,
    drop_checkpoint,
    register_checkpoint,
)
from batchweave.table import Change, Head, Table

DEFAULT_CONSUMER = "default"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A registered checkpoint of a training run.

    ``next_step`` is the first step that the model has not consumed; ``registered_at_ms`` is the
    registering machine's clock, for people.
    """

    id: str
    next_step: int
    consumer: str
    registered_at_ms: int


class Checkpoints:
    """The checkpoint registry of one stream. Get it as ``stream.checkpoints``."""

    def __init__(
        self, table: Table, clock: Clock | None = None, listeners: Listeners | None = None
    ) -> None:
        self._table = table
        self._clock = clock or SystemClock()
        self._listeners = Listeners() if listeners is None else listeners

    def register(
        self, checkpoint_id: str, *, next_step: SupportsIndex, consumer: str = DEFAULT_CONSUMER
    ) -> Checkpoint:
        """Record that a durable model checkpoint has consumed all steps below ``next_step``.

        Call it after the model checkpoint is durable: what it still needs is kept from then on.
        Registering the same again changes nothing and returns what stands.

        Raises:
            InvalidName: the ID or the consumer's name cannot be used.
            InvalidInput: ``next_step`` is no step, or lies beyond the stream's head.
            StepReclaimed: the data from ``next_step`` on is no longer whole.
            CheckpointExists: the ID stands for another step or consumer.
            NotCommitted: others committed first, or the store failed, for too long.
        """
        made = False

        def plan(head: Head) -> Change | None:
            nonlocal made
            now_ms, version = self._clock.now_ms(), head.version + 1
            after = register_checkpoint(
                head.state, checkpoint_id, next_step, consumer, now_ms, version
            )
            made = made or after is not head.state
            return None if after is head.state else Change(after)

        what = f"registering checkpoint {checkpoint_id!r}"
        head = commit(self._table, plan, clock=self._clock, what=what)
        registered = head.state.checkpoints[checkpoint_id]
        if made and self._listeners.present:
            self._listeners.tell(registration(self._table.name, checkpoint_id, registered))
        return _checkpoint(checkpoint_id, registered)

    def drop(self, checkpoint_id: str) -> bool:
        """Forget a checkpoint, so that retention need not keep its steps.

        Returns whether it was there: dropping twice is dropping once. Deletes no data.

        Raises:
            InvalidName: no checkpoint can have that ID.
            NotCommitted: others committed first, or the store failed, for too long.
        """
        check_name(checkpoint_id, "checkpoint")
        found: CheckpointState | None = None

        def plan(head: Head) -> Change | None:
            nonlocal found
            after = drop_checkpoint(head.state, checkpoint_id)
            found = head.state.checkpoints.get(checkpoint_id, found)
            return None if after is head.state else Change(after)

        what = f"dropping checkpoint {checkpoint_id!r}"
        head = commit(self._table, plan, clock=self._clock, what=what)
        if found is not None and self._listeners.present:
            now_ms = self._clock.now_ms()
            self._listeners.tell(
                dropping(self._table.name, checkpoint_id, found, head.version, now_ms)
            )
        return found is not None

    def list(self, consumer: str | None = None) -> list[Checkpoint]:
        """All registered checkpoints, or one consumer's, by ``next_step`` and then by age."""
        return listed(self._table.head().state, consumer)

    def latest(self, consumer: str | None = None) -> Checkpoint | None:
        """The checkpoint that is furthest ahead; None where none is registered."""
        found = self.list(consumer)
        return found[-1] if found else None

    def get(self, checkpoint_id: str) -> Checkpoint:
        """One checkpoint by its ID.

        Raises:
            InvalidName: no checkpoint can have that ID.
            CheckpointNotFound: none has it.
        """
        check_name(checkpoint_id, "checkpoint")
        known = self._table.head().state.checkpoints
        if checkpoint_id not in known:
            raise CheckpointNotFound(
                f"{self._table.name} has no checkpoint {checkpoint_id!r}; it has: "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        return _checkpoint(checkpoint_id, known[checkpoint_id])

    def __repr__(self) -> str:
        return f"Checkpoints({self._table.name!r})"


def listed(state: StreamState, consumer: str | None = None) -> list[Checkpoint]:
    """The checkpoints of a state, by ``next_step`` and then by age."""
    found = [
        _checkpoint(name, one)
        for name, one in state.checkpoints.items()
        if consumer is None or one.consumer == consumer
    ]
    return sorted(found, key=lambda one: (one.next_step, one.registered_at_ms, one.id))


def registration(stream: str, name: str, state: CheckpointState) -> CheckpointRegistered:
    """The event of a registration; the same one whenever it is made of the same checkpoint."""
    return CheckpointRegistered(
        stream=stream,
        version=state.version,
        at_ms=state.registered_at_ms,
        checkpoint=name,
        consumer=state.consumer,
        next_step=state.next_step,
    )


def dropping(
    stream: str, name: str, state: CheckpointState, version: int, at_ms: int
) -> CheckpointDropped:
    """The event of a checkpoint that is no longer there at ``version``."""
    return CheckpointDropped(
        stream=stream,
        version=version,
        at_ms=at_ms,
        checkpoint=name,
        consumer=state.consumer,
        next_step=state.next_step,
    )


def _checkpoint(name: str, state: CheckpointState) -> Checkpoint:
    return Checkpoint(name, state.next_step, state.consumer, state.registered_at_ms)
