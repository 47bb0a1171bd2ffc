"""A stream as one rank of a training run reads it: opened at any step, as often as needed.

Owns how the core's reader is set up for training: share, prefetch, cache, stall watch.
Imports: standard library, the core, disk_cache, lookahead, measured_table, reading_stats, stalls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from batchweave.batch import Batch
from batchweave.clock import Clock
from batchweave.connectors.disk_cache import DiskCache
from batchweave.connectors.lookahead import Lookahead
from batchweave.connectors.measured_table import MeasuredTable
from batchweave.connectors.reading_stats import Counts
from batchweave.connectors.stalls import StallWatch
from batchweave.mesh import Share
from batchweave.reader import Reader
from batchweave.settings import ReaderSettings
from batchweave.state import StreamState
from batchweave.stream import Stream

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSource:
    """Everything that reading needs but the step to begin with.

    ``stop`` bounds a run that does not follow: up to it, steps are waited for like in one that
    does, because another rank has seen them.
    """

    stream: Stream
    share: Share
    stop: int | None
    columns: Sequence[str] | None
    settings: ReaderSettings
    decode_threads: int
    stall_after_s: float | None
    stall_fatal: bool
    counts: Counts
    cache: DiskCache | None
    clock: Clock

    def open_at(self, step: int, make: Callable[[Batch], T]) -> Lookahead[T]:
        """What ``make`` makes of each batch from ``step`` on, ahead of time.

        Raises:
            StepReclaimed: the step's data is gone.
            StoreError: the table cannot be read.
        """
        counts = self.counts

        def counted(batch: Batch) -> T:
            counts.add(bytes=batch.table.nbytes)
            return make(batch)

        reader = Reader(
            MeasuredTable(self.stream.table, counts, self.cache),
            self.share,
            start=step,
            stop=None if self.stop is None else max(self.stop, step),
            follow=True,
            columns=self.columns,
            settings=self.settings,
            clock=self.clock,
        )
        watch = StallWatch(
            self.stream.name,
            after_s=self.stall_after_s,
            fatal=self.stall_fatal,
            next_step=lambda: reader.next_step,
            head=self.head,
            clock=self.clock,
        )
        return Lookahead(
            reader,
            counted,
            threads=self.decode_threads,
            depth=self.settings.prefetch_batches,
            bytes_max=self.settings.prefetch_bytes_max,
            watch=watch,
            clock=self.clock,
        )

    def head(self) -> StreamState:
        """The stream's state now."""
        return self.stream.head()
