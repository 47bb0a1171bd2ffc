"""Iterators of PyTorch's DataLoader, as far as a `StreamDataset` has to know of them.

A worker process cannot know what the trainer has received, and a DataLoader tells its dataset
nothing in the process that trains. So this module stands in one place of torch: when an iterator
is made over a `StreamDataset`, it is told, refuses what would break the order, and, where there are
workers, becomes a subclass of its own class that counts what it hands out and has it taken out of
the workers' queue ahead of time. Iterators over other datasets are left as they are. Subclasses of
DataLoader, torchdata's ``StatefulDataLoader`` among them, are built on the same iterator and
covered by this.
Imports: standard library, torch, the core, results_ahead, worker_lanes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import dataloader

from batchweave.clock import Clock
from batchweave.connectors.results_ahead import ResultsAhead
from batchweave.connectors.worker_lanes import WorkerLanes
from batchweave.errors import InvalidInput


@runtime_checkable
class Observer(Protocol):
    """What a dataset is told of the iterators over it."""

    def open_lanes(self, workers: int) -> Lanes:
        """An iterator with workers is made: the lanes for them."""
        ...

    def loader_checked(self) -> None:
        """An iterator without workers is made, and takes what the dataset yields."""
        ...


class Lanes(Protocol):
    """What an iterator tells of its deliveries."""

    lanes: WorkerLanes
    clock: Clock

    def begin(self) -> None:
        """The workers run, and an iteration begins."""
        ...

    def received(self, element: Any, waited_s: float) -> None:
        """The trainer gets this, after so long."""
        ...


def check_loader(loader: Any) -> None:
    """Refuse options of a DataLoader that a stream cannot have.

    Raises:
        InvalidInput: ``batch_size`` is not None, or elements may come in any order.
    """
    if loader.batch_size is not None or loader.batch_sampler is not None:
        raise InvalidInput(
            f"DataLoader(batch_size={loader.batch_size!r}): an element of a StreamDataset is this "
            "rank's share of a global batch already, of the size that was published. Write "
            "DataLoader(dataset, batch_size=None)"
        )
    if loader.num_workers > 1 and not getattr(loader, "in_order", True):
        raise InvalidInput(
            "DataLoader(in_order=False) hands out steps in any order, so that neither the order "
            "nor the state would mean anything: leave in_order out"
        )


class _Observed:
    """Mixed into the class of one iterator with workers: it tells its dataset what it hands out."""

    _batchweave: Lanes
    _failure: BaseException | None = None
    _ahead: ResultsAhead | None = None
    _data_queue: Any
    _worker_result_queue: Any
    _persistent_workers: bool

    def __next__(self) -> Any:
        if self._failure is not None:
            raise self._failure  # torch would go on with the step after it
        clock = self._batchweave.clock
        began_s = clock.monotonic_s()
        try:
            element = super().__next__()  # type: ignore[misc]
        except StopIteration:
            raise
        except BaseException as error:
            self._failure = self._batchweave.lanes.failure or error
            if not self._persistent_workers:
                # Now, not when the traceback that holds on to this iterator is let go.
                self._shutdown_workers()
            if self._failure is error:
                raise
            raise self._failure from None
        self._batchweave.received(element, clock.monotonic_s() - began_s)
        return element

    def _reset(self, *args: Any, **options: Any) -> None:
        self._failure = None
        if self._data_queue is self._worker_result_queue:  # no thread takes and pins what comes
            self._data_queue = self._ahead = ResultsAhead(self._worker_result_queue)
        self._batchweave.begin()
        super()._reset(*args, **options)  # type: ignore[misc]

    def _shutdown_workers(self, exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        if exiting():  # no thread runs any more that could be waited for
            super()._shutdown_workers()  # type: ignore[misc]
            return
        # A worker that waits for a step would be waited for, and then terminated.
        self._batchweave.lanes.end_iteration()
        if self._ahead is not None:
            self._ahead.stop()
        try:
            super()._shutdown_workers()  # type: ignore[misc]
        finally:  # torch raises in whatever runs when it learns that a worker was killed
            if self._ahead is not None:
                self._ahead.close()
            self._batchweave.lanes.close()


_observed_kinds: dict[type, Any] = {}


def _observed(kind: type) -> Any:
    if kind not in _observed_kinds:
        bases: Any = (_Observed, kind)
        _observed_kinds[kind] = type(kind.__name__, bases, {"__module__": kind.__module__})
    return _observed_kinds[kind]


def _adopt(iterator: Any, loader: Any) -> None:
    dataset = loader.dataset
    if not isinstance(dataset, Observer):
        return
    try:
        check_loader(loader)
        if loader.num_workers == 0:
            dataset.loader_checked()
            return
        lanes = dataset.open_lanes(loader.num_workers)
    except BaseException:
        iterator._shutdown = True  # nothing was started that torch would have to stop
        raise
    iterator._batchweave = lanes
    iterator.__class__ = _observed(type(iterator))


def install() -> None:
    """Have iterators of DataLoaders tell a `StreamDataset` of themselves. Once is enough."""
    kind = dataloader._BaseDataLoaderIter
    if getattr(kind.__init__, "batchweave", False):
        return
    original = kind.__init__

    @functools.wraps(original)
    def made(self: Any, loader: Any) -> None:
        original(self, loader)
        _adopt(self, loader)

    made.batchweave = True  # type: ignore[attr-defined]
    kind.__init__ = made  # type: ignore[method-assign]
