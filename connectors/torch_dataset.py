"""Training from a stream with PyTorch: `StreamDataset`.

A facade: who reads what is `placement`, what comes next `progress`, what a step becomes `elements`,
how worker processes are served `worker_lanes`, how DataLoaders are counted `loader_iterators`.
Imports: standard library, torch, the core, the modules named.
"""

from __future__ import annotations

import multiprocessing.context
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from batchweave.checkpoints import DEFAULT_CONSUMER
from batchweave.clock import Clock, SystemClock
from batchweave.connectors import loader_iterators, telemetry
from batchweave.connectors.disk_cache import DiskCache
from batchweave.connectors.element_iterators import ElementIterator, LoaderLanes, WorkerSide
from batchweave.connectors.elements import Collate, Element, ElementMaker, OnError, Transform
from batchweave.connectors.placement import Placement, place
from batchweave.connectors.progress import Progress
from batchweave.connectors.read_state import ReadState, check_readable
from batchweave.connectors.reading_options import check_options, refuse_habits
from batchweave.connectors.reading_stats import Counts, ReadingStats
from batchweave.connectors.run_bounds import RunBounds, commit_checkpoint
from batchweave.connectors.stream_source import StreamSource
from batchweave.errors import InvalidInput, StreamError
from batchweave.settings import MIB, ReaderSettings
from batchweave.stream import Stream

loader_iterators.install()


class StreamDataset(IterableDataset[Element]):
    """One element a step: this rank's share of the global batch, as a dict of tensors.

    Elements come in the stream's order, each step once, on any world size that divides the slices
    or is a multiple of them. `state_dict` counts what the trainer received, whatever was fetched
    ahead, also through a plain ``DataLoader(dataset, batch_size=None)`` with worker processes,
    forked or spawned, persistent or not, and through torchdata's ``StatefulDataLoader``. It is the
    same on all ranks. Iterating begins where the state says: after a ``break`` it goes on, after
    `load_state_dict` it resumes, and `seek` goes back.

    With numbers and no ``transform``, tensors share the memory of what was read: do not write into
    them, or copy them first.

    Args:
        stream: what to read.
        device_mesh: a ``torch.distributed.DeviceMesh``. Axes named like the stream's (``dp``, or
            ``dp_replicate`` and ``dp_shard``) hold different data; peers on all others, TP and PP,
            get the same. A mesh of one axis is all data. All ranks of the process group make the
            dataset, as they make a model.
        data_axes: names of the device mesh's data axes, where names do not tell.
        rank, world_size: this process's place among those that read different data. Without them
            and a device mesh, the process group says, then ``RANK`` and ``WORLD_SIZE``.
        start: a step, a checkpoint's ID, or ``"latest"``: where the furthest checkpoint of
            ``consumer`` resumes, step 0 if there is none. None is step 0.
        stop: the step to end before; None for the stream's end.
        follow: wait for steps that are not there yet, until the stream is sealed. If False, end at
            the step that was next when the dataset was made; all ranks of a process group take
            rank 0's.
        columns: the columns to read; None is all.
        transform: called with each row, see `ElementMaker`. A thread or worker process runs it.
        collate: puts the transformed rows together; by default they are stacked where they fit.
        on_error: ``"raise"`` ends the iteration at a row on which ``transform`` fails, ``"skip"``
            leaves such rows out and says so in the state.
        prefetch: steps fetched ahead, and as many made into elements.
        prefetch_bytes_max: bytes of either; one step is always allowed.
        decode_threads: threads that make elements where no worker processes do.
        stall_after_s: after how long without a new step a warning tells what is known of the
            producers; None for never.
        stall_error: raise `StreamStalled` instead.
        cache_dir, cache_bytes_max: a folder for fetched data, shared by the processes of a machine,
            and its size. None for no cache; local streams need none.
        consumer: the run's name among the stream's checkpoints.
        settings: how the reader polls and retries; ``prefetch`` wins over what it says of that.

    Raises:
        StreamError: rank 0 could not resolve ``start`` for all ranks.
        InvalidInput: an option out of its range, or one that a stream cannot have (``shuffle``).
        InvalidMesh: the slices cannot be dealt to that many ranks.
        CheckpointNotFound: ``start`` names no checkpoint.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        device_mesh: Any = None,
        data_axes: Sequence[str] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        start: int | str | None = None,
        stop: int | None = None,
        follow: bool = True,
        columns: Sequence[str] | None = None,
        transform: Transform | None = None,
        collate: Collate | None = None,
        on_error: OnError = "raise",
        prefetch: int = 4,
        prefetch_bytes_max: int = 256 * MIB,
        decode_threads: int = 2,
        stall_after_s: float | None = 300.0,
        stall_error: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes_max: int = 10 * 1024 * MIB,
        consumer: str = DEFAULT_CONSUMER,
        settings: ReaderSettings | None = None,
        clock: Clock | None = None,
        **habits: Any,
    ) -> None:
        super().__init__()
        refuse_habits(habits)
        check_options(
            stream, stop, columns, transform, collate, on_error, decode_threads, stall_after_s
        )
        self._name = stream.name
        self._maker = ElementMaker(transform, collate, on_error)
        self._placement = place(
            stream.mesh,
            rank=rank,
            world_size=world_size,
            device_mesh=device_mesh,
            data_axes=data_axes,
        )
        self._consumer = consumer
        self._clock = clock or SystemClock()
        self._counts = Counts()
        bounds = RunBounds(stream, self._placement, consumer)
        first = bounds.first_step(start)
        self._source: StreamSource | None = StreamSource(
            stream=stream,
            share=self._placement.share,
            stop=stop if follow else bounds.last_step(stop),
            columns=None if columns is None else list(columns),
            settings=replace(
                settings or ReaderSettings(),
                prefetch_batches=prefetch,
                prefetch_bytes_max=prefetch_bytes_max,
            ),
            decode_threads=decode_threads,
            stall_after_s=stall_after_s,
            stall_fatal=stall_error,
            counts=self._counts,
            cache=None if cache_dir is None else DiskCache(os.fspath(cache_dir), cache_bytes_max),
            clock=self._clock,
        )
        state = ReadState(self._name, first, skips=on_error == "skip")
        self._progress = Progress(state, self._counts)
        self._current: weakref.ref[ElementIterator | LoaderLanes] | None = None
        self._pending: LoaderLanes | None = None
        self._worker: WorkerSide | None = None
        telemetry.observe(self)

    # -- iterating -------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Element]:
        """The elements from the state's ``next_step`` on. A newer iterator voids the one before."""
        info = get_worker_info()
        if info is not None:
            return self._in_worker(info.id).begin()
        source = self._opened()
        self.close()
        token, first = self._progress.begin()
        ahead = source.open_at(first, self._maker)
        iterator = ElementIterator(ahead, self._progress, token, self._clock)
        self._current = weakref.ref(iterator)
        return iterator

    def __len__(self) -> int:
        """Steps of an iteration, where the stream's end is known: sealed, ``stop``, no ``follow``.

        Raises:
            TypeError: it is not known yet. (That is what Python expects of a length.)
        """
        source = self._opened()
        head = source.head()
        if not head.sealed and source.stop is None:
            raise TypeError(
                f"the length of {self._name} is not known: it grows until it is sealed. "
                "Bound the run with stop= or follow=False"
            )
        end = head.next_step if source.stop is None else source.stop
        if head.sealed:
            end = min(end, head.next_step)
        return max(0, end - self._progress.iteration_start)

    def __bool__(self) -> bool:
        return True  # else Python would ask for the length

    def close(self) -> None:
        """End the current iterator and its threads. The dataset can be iterated again."""
        current = None if self._current is None else self._current()
        if current is not None:
            current.close()
        self._current = None

    def __enter__(self) -> StreamDataset:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """``{"version": 1, "stream": …, "next_step": n}``: the first step not received yet.

        JSON, and the same on all ranks; with ``on_error="skip"``, the rows that this one left out
        as well. Valid at any time, also before the first iterator.
        """
        if self._worker is not None:
            return self._worker.state.to_dict()
        return self._progress.state.to_dict()

    def state_at(self, next_step: int) -> dict[str, Any]:
        """The state of a trainer that has received all steps below ``next_step`` and no more.

        For loops that look ahead: ``state_at(element.step + 1)``.
        """
        return replace(self._progress.state, next_step=next_step).to_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from a state, of any world size, with the next ``iter()``.

        Raises:
            InvalidInput: no state, another stream's, or beyond the stream's head.
            UnsupportedFormat: a newer BatchWeave wrote it.
            StepReclaimed: its data is gone.
        """
        skips = self._maker.on_error == "skip"
        state = ReadState.from_dict(state_dict, self._name, skips=skips)
        info = get_worker_info()
        if info is not None:  # torchdata restores each worker's own
            self._in_worker(info.id).load(state)
            return
        if state.lanes:
            raise InvalidInput(
                "the state is one worker's own: load it through its StatefulDataLoader, or take "
                "read_state.from_loader_state(loader_state)"
            )
        check_readable(state, self._opened().head())
        self._progress.load(state)

    def seek(self, step: int) -> None:
        """Read from another step with the next ``iter()``, for example from 0 for another pass.

        Raises:
            InvalidInput: beyond the stream's head.
            StepReclaimed: the step's data is gone.
        """
        self.load_state_dict(self.state_at(step))

    @property
    def next_step(self) -> int:
        """The first step that the trainer has not received."""
        return self._progress.state.next_step

    @property
    def iteration_start(self) -> int:
        """The step with which the newest iteration began."""
        return self._progress.iteration_start

    def commit_checkpoint(
        self, checkpoint_id: str, *, next_step: int | None = None, group: Any = None
    ) -> None:
        """Register a checkpoint in the stream, once the model's own is durable.

        All ranks of the process group call it. They compare their ``next_step``; if it is the same,
        rank 0 registers it, and all return when that is committed. Registering again is harmless.

        Args:
            checkpoint_id: what ``start=`` takes to resume from it.
            next_step: the first step that the model has not seen; by default the state's.
            group: the process group, the default one if None.

        Raises:
            InvalidInput: the ranks do not agree; on every rank, and nothing is registered.
            BatchWeaveError: registering failed; on every rank, with its reason on rank 0.
        """
        stream = self._opened().stream
        ours = self.next_step if next_step is None else next_step
        commit_checkpoint(stream, checkpoint_id, ours, self._consumer, group)

    # -- looking in ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._name

    @property
    def placement(self) -> Placement:
        """What this process reads of each global batch, and how that was found."""
        return self._placement

    def stats(self) -> ReadingStats:
        """What reading has cost so far."""
        counts, state = self._counts, self._progress.state
        current = None if self._current is None else self._current()
        return ReadingStats(
            steps=counts.steps,
            next_step=state.next_step,
            waited_s=counts.waited_s,
            bytes=counts.bytes,
            fetched_bytes=counts.fetched_bytes,
            requests=counts.requests,
            cache_hits=counts.cache_hits,
            cache_misses=counts.cache_misses,
            prefetched=0 if current is None else current.depth,
            skipped_rows=state.skipped_rows,
        )

    def __repr__(self) -> str:
        place = self._placement
        return f"StreamDataset({self._name!r}, rank {place.rank} of {place.world_size})"

    # -- DataLoader ------------------------------------------------------------------------

    def open_lanes(self, workers: int) -> LoaderLanes:
        """Called by the iterator of a DataLoader: it is about to start this many workers."""
        source = self._opened()
        self.close()
        lanes = LoaderLanes(workers, source, self._progress, self._clock, self._started)
        self._pending = lanes
        self._current = weakref.ref(lanes)
        return lanes

    def loader_checked(self) -> None:
        """Called by the iterator of a DataLoader without workers."""

    def _started(self) -> None:
        self._pending = None

    def _in_worker(self, worker: int) -> WorkerSide:
        if self._worker is None:
            if self._pending is None:
                raise StreamError(
                    "a worker process got a StreamDataset that its DataLoader does not know of, so "
                    "that what the trainer receives could not be counted. Give the dataset itself "
                    "to DataLoader (use transform= instead of wrapping it), or use num_workers=0"
                )
            self._worker = WorkerSide(
                self._pending.worker_end(worker),
                worker,
                self._pending.workers,
                self._maker,
                self._progress.state,
            )
        return self._worker

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned worker gets: no store, no credentials, only its lane."""
        state = dict.fromkeys(("_source", "_current", "_worker", "_clock", "_counts", "_pending"))
        state |= {
            "_name": self._name,
            "_maker": self._maker,
            "_placement": self._placement,
            "_consumer": self._consumer,
            "_progress": self._progress.state,
        }
        if multiprocessing.context.get_spawning_popen() is not None and self._pending is not None:
            state["_pending"] = self._pending.for_spawned()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clock, self._counts = SystemClock(), Counts()
        self._progress = Progress(state["_progress"], self._counts)

    # -- opening ---------------------------------------------------------------------------

    def _opened(self) -> StreamSource:
        if self._source is None:
            raise StreamError(
                f"this copy of the dataset of {self._name} was pickled: it carries no connection "
                "and serves a DataLoader's worker only. Make a StreamDataset here"
            )
        return self._source
