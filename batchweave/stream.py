"""The facade: one stream, as users hold it. It delegates; it decides nothing.

Imports: everything before it in the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from batchweave.checkpoints import Checkpoints
from batchweave.clock import Clock, SystemClock
from batchweave.commit import commit
from batchweave.errors import InvalidMesh
from batchweave.mesh import Mesh, Share
from batchweave.producer import Producer
from batchweave.reader import Reader, whole_number
from batchweave.settings import ProducerSettings, ReaderSettings
from batchweave.state import StreamState, seal
from batchweave.table import BatchEntry, Change, Head, Table


class Stream:
    """One stream of global batches. Get it from a catalog; share it between threads freely."""

    def __init__(
        self,
        table: Table,
        *,
        query: Callable[[Stream, str], Any],
        clock: Clock | None = None,
    ) -> None:
        self._table = table
        self._query = query
        self._clock = clock or SystemClock()

    @property
    def name(self) -> str:
        """``namespace.name``."""
        return self._table.name

    @property
    def schema(self) -> pa.Schema:
        """The schema of the users' columns, as it was declared."""
        return self._table.schema

    @property
    def mesh(self) -> Mesh:
        """The data axes that each global batch's slices are laid over."""
        return self._table.mesh

    @property
    def table(self) -> Table:
        """The table behind the stream, for tools that need more than the facade gives."""
        return self._table

    @property
    def checkpoints(self) -> Checkpoints:
        """The registry of model checkpoints: register, drop, list, latest, get."""
        return Checkpoints(self._table, self._clock)

    def head(self) -> StreamState:
        """The stream's state at the newest version: next step, producers, checkpoints, sealed."""
        return self._table.head().state

    def producer(self, name: str, settings: ProducerSettings | None = None) -> Producer:
        """Open a producer under a name. Every earlier opener of the name is fenced.

        Raises:
            InvalidName: the name cannot be used.
            StreamSealed: nothing can be published any more.
        """
        return Producer(self._table, name, settings, self._clock)

    def read(
        self,
        slice: int | Sequence[int] | Share | None = None,  # noqa: A002 - the field's own word
        start: int = 0,
        stop: int | None = None,
        follow: bool = False,
        columns: Sequence[str] | None = None,
        settings: ReaderSettings | None = None,
    ) -> Reader:
        """Read one slice (or several, or all) of steps ``start`` to ``stop``, in order.

        ``follow`` waits for steps that are not there yet, until the stream is sealed. Give a
        `Share` (`Mesh.share`) to read what a rank of a given world size reads.

        Raises:
            InvalidMesh: no such slice, none at all, or one twice.
            InvalidInput: ``start`` or ``stop`` is not a step.
            StepReclaimed: the data of ``start`` is gone.
        """
        return Reader(
            self._table,
            self._share(slice),
            start=start,
            stop=stop,
            follow=follow,
            columns=columns,
            settings=settings,
            clock=self._clock,
        )

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[BatchEntry]:
        """Who published which step, when and where: metadata only, no data file is opened."""
        head = self._table.head()
        start = max(start, head.state.watermark)
        end = head.state.next_step if stop is None else min(stop, head.state.next_step)
        return self._table.entries(head, start, end)

    def seal(self) -> None:
        """End the stream: readers stop after its last step, nothing can be published any more.

        Commits a new version, so that every writer sees it. Sealing twice is sealing once.
        """

        def plan(head: Head) -> Change | None:
            return None if head.state.sealed else Change(seal(head.state))

        commit(self._table, plan, clock=self._clock, what="sealing")

    def sql(self, query: str) -> Any:
        """Ask the stream's history with DuckDB; returns a relation.

        Views: ``samples`` (all rows, with step, slice, producer, …), ``batches`` (one row a step)
        and ``producers``.
        """
        return self._query(self, query)

    def _share(self, wanted: int | Sequence[int] | Share | None) -> Share:
        if isinstance(wanted, Share):
            share = wanted
        elif wanted is None:
            share = Share(tuple(range(self.mesh.slices)))
        else:
            share = Share(
                tuple(whole_number(index, "a slice", InvalidMesh) for index in _each(wanted))
            )
        if not share.slices or len(set(share.slices)) < len(share.slices):
            raise InvalidMesh(f"give at least one slice, and each once, got {wanted!r}")
        for index in share.slices:
            self.mesh.check_slice(index)
        return share

    def __repr__(self) -> str:
        return f"Stream({self.name!r}, {self.mesh})"


def _each(wanted: int | Sequence[int]) -> Iterable[Any]:
    """The slices asked for, unchecked: text is one wrong slice, not several characters."""
    if isinstance(wanted, Iterable) and not isinstance(wanted, (str, bytes)):
        return wanted
    return (wanted,)
