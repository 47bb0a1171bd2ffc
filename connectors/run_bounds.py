"""Where a run begins and ends, the same on all ranks; and the checkpoint that it commits.

Imports: standard library, the core, agreement.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from batchweave.connectors import agreement
from batchweave.connectors.placement import Placement
from batchweave.errors import InvalidInput
from batchweave.stream import Stream

LATEST = "latest"
log = logging.getLogger("batchweave.torch")


class RunBounds:
    """A stream's first and last step for one run, asked of rank 0 where there is a process group.

    A process that was told its rank and world size is taken to stand alone: who says so need not
    make a dataset on every rank.
    """

    def __init__(self, stream: Stream, placement: Placement, consumer: str) -> None:
        self._stream = stream
        self._consumer = consumer
        self._several = placement.world_size > 1
        self._together = (
            placement.origin in ("device_mesh", "process_group") and agreement.in_group()
        )

    def first_step(self, start: int | str | None) -> int:
        """The step that ``start`` means.

        Raises:
            InvalidInput: it means none.
            CheckpointNotFound: there is no checkpoint of that ID.
            StreamError: rank 0 could not tell.
        """
        if start is None:
            return 0
        if isinstance(start, str):
            return self._decided(lambda: self._of_checkpoint(start), f"resolving start={start!r}")
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise InvalidInput(f"start is a step, a checkpoint's ID or 'latest', got {start!r}")
        return start

    def last_step(self, stop: int | None) -> int:
        """Where a run ends that does not follow: ``stop``, or the head as it is now if earlier."""
        return self._decided(lambda: self._of_head(stop), "reading the head")

    def _decided(self, question: Callable[[], int], what: str) -> int:
        return agreement.decided(question, what) if self._together else question()

    def _of_checkpoint(self, start: str) -> int:
        if start != LATEST:
            return self._stream.checkpoints.get(start).next_step
        latest = self._stream.checkpoints.latest(self._consumer)
        return 0 if latest is None else latest.next_step

    def _of_head(self, stop: int | None) -> int:
        head = self._stream.head()
        if self._several and not (head.sealed or self._together):
            log.warning(
                "%s is not sealed: without a process group, ranks that are made at different times "
                "end at different steps. Give them the same stop=",
                self._stream.name,
            )
        return head.next_step if stop is None else min(stop, head.next_step)


def commit_checkpoint(
    stream: Stream, checkpoint_id: str, next_step: int, consumer: str, group: Any
) -> None:
    """Register a checkpoint from all ranks of a group at once, or from a process alone.

    Raises:
        InvalidInput: the ranks' steps differ; on every rank, and nothing is registered.
        BatchWeaveError: registering failed; on every rank, with its reason on rank 0.
    """

    def register() -> int:
        registry = stream.checkpoints
        return registry.register(checkpoint_id, next_step=next_step, consumer=consumer).next_step

    if not agreement.in_group():
        register()
        return
    each = agreement.gathered(next_step, group)
    if len(set(each)) > 1:
        raise InvalidInput(
            f"checkpoint {checkpoint_id!r} was not registered: the ranks' next_step differ, "
            f"by rank {each}. Commit on all ranks after the same step"
        )
    agreement.decided(register, f"registering checkpoint {checkpoint_id!r}", group)
