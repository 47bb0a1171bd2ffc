"""The iterators of a `StreamDataset`: in the process that trains, and on both sides of a worker.

Imports: standard library, the core, elements, lookahead, progress, read_state, stream_source,
worker_lanes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from batchweave.clock import Clock
from batchweave.connectors.elements import Element, ElementMaker
from batchweave.connectors.lookahead import Lookahead
from batchweave.connectors.progress import Progress
from batchweave.connectors.read_state import ReadState
from batchweave.connectors.stream_source import StreamSource
from batchweave.connectors.worker_lanes import WorkerEnd, WorkerLanes
from batchweave.errors import InvalidInput


class ElementIterator:
    """Elements in the process that trains, counted as they are handed out."""

    def __init__(
        self, ahead: Lookahead[Element], progress: Progress, token: int, clock: Clock
    ) -> None:
        self._ahead = ahead
        self._progress = progress
        self._token = token
        self._clock = clock

    def __iter__(self) -> Iterator[Element]:
        return self

    def __next__(self) -> Element:
        began_s = self._clock.monotonic_s()
        try:
            element = next(self._ahead)
        except StopIteration:
            self._progress.check(self._token)  # ended, or closed by a newer iterator
            raise
        waited_s = self._clock.monotonic_s() - began_s
        self._progress.received(self._token, element.step, element.skipped, waited_s)
        return element

    @property
    def depth(self) -> int:
        """Elements that are ready."""
        return self._ahead.depth

    def close(self) -> None:
        """End it and its threads."""
        self._ahead.close()


class LoaderLanes:
    """One DataLoader iterator with workers, in the process that trains."""

    def __init__(
        self,
        workers: int,
        source: StreamSource,
        progress: Progress,
        clock: Clock,
        workers_run: Callable[[], None],
    ) -> None:
        self.workers = workers
        self.clock = clock
        self.lanes = WorkerLanes(workers, source.open_at, self._first_known)
        self._progress = progress
        self._workers_run = workers_run
        self._token = 0

    def begin(self) -> None:
        """The workers run, and an iteration begins where the state says."""
        self._workers_run()
        self._token, first = self._progress.begin()
        self.lanes.begin(first)

    def received(self, element: Any, waited_s: float) -> None:
        """The trainer gets this: an element, or what a ``collate_fn`` made of one."""
        ours = isinstance(element, Element)
        step, skipped = (element.step, element.skipped) if ours else (None, ())
        self._progress.received(self._token, step, skipped, waited_s)

    @property
    def depth(self) -> int:
        """Batches that wait for a worker."""
        return self.lanes.depth

    def close(self) -> None:
        """End the iteration; workers that wait for a step find its end."""
        self.lanes.end_iteration()

    def worker_end(self, worker: int) -> WorkerEnd:
        """A forked worker's own end, taken in that worker; all else is closed there."""
        ends = self.lanes.worker_ends
        others = [end for at, end in enumerate(ends) if at != worker]
        return WorkerEnd(ends[worker], [*others, *self.lanes.ends])

    def for_spawned(self) -> SpawnedEnds:
        """What a spawned worker needs of this, while the worker is being started."""
        return SpawnedEnds(tuple(self.lanes.worker_ends))

    def _first_known(self, first: int) -> None:
        self._progress.started(self._token, first)


@dataclass(frozen=True, slots=True)
class SpawnedEnds:
    """The workers' ends of all lanes, as a spawned worker inherits them."""

    ends: tuple[socket.socket, ...]

    @property
    def workers(self) -> int:
        """How many there are."""
        return len(self.ends)

    def worker_end(self, worker: int) -> WorkerEnd:
        """The worker's own; the others are closed."""
        others = [end for at, end in enumerate(self.ends) if at != worker]
        return WorkerEnd(self.ends[worker], others)


class WorkerSide:
    """A dataset in a worker process: elements of every ``workers``-th step."""

    def __init__(
        self, end: WorkerEnd, worker: int, workers: int, maker: ElementMaker, state: ReadState
    ) -> None:
        self._end = end
        self._worker = worker
        self._workers = workers
        self._maker = maker
        self._resumed: int | None = None
        self.state = replace(state, lanes=workers)
        """Of this worker's lane: what torchdata saves, and restores into as many workers."""

    def load(self, state: ReadState) -> None:
        """Go on, with the next iteration, where this worker's lane was.

        Raises:
            InvalidInput: the state is not of a run with as many workers.
        """
        if state.lanes != self._workers:
            raise InvalidInput(
                f"the worker's state is of a run with {state.lanes} workers, this one has "
                f"{self._workers}: use as many, or load the dataset's own state instead"
            )
        self.state = state
        self._resumed = state.next_step

    def begin(self) -> Iterator[Element]:
        """Begin an iteration."""
        start = self._end.begin(self._resumed)
        if self._resumed is None and start is not None:
            self.state = replace(self.state, next_step=start + self._worker)
        self._resumed = None
        return self._elements()

    def _elements(self) -> Iterator[Element]:
        while (batch := self._end.take()) is not None:
            step = batch.step
            try:
                element = self._maker(batch)
            finally:
                self.state = replace(self.state, next_step=step + self._workers)
            self.state = replace(
                self.state.received(step, element.skipped), next_step=step + self._workers
            )
            yield element
