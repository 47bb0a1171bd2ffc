"""The facade: one stream, as users hold it. It delegates; it decides nothing.

Imports: everything before it in the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from batchweave.checkpoints import Checkpoints
from batchweave.clock import Clock, SystemClock
from batchweave.commit import commit
from batchweave.errors import InvalidMesh, StreamError
from batchweave.ledger import Ledger
from batchweave.mesh import Mesh, Share
from batchweave.producer import Producer
from batchweave.reader import Reader, whole_number
from batchweave.retention import Policy, ReclaimReport, Retention
from batchweave.settings import ProducerSettings, ReaderSettings
from batchweave.state import StreamState, seal
from batchweave.sweep import GRACE_S, Sweep, SweepReport
from batchweave.table import BatchEntry, Change, Head, Table


class Stream:
    """One stream of global batches. Get it from a catalog; share it between threads freely."""

    def __init__(
        self,
        table: Table,
        *,
        query: Callable[[Stream, str], Any],
        ledger: Callable[[bool], Table | None] = lambda create: None,
        clock: Clock | None = None,
    ) -> None:
        """``ledger`` loads the table of the stream's ledger, or creates it where asked to."""
        self._table = table
        self._query = query
        self._ledger_table = ledger
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

    def reclaim(
        self,
        *,
        keep_checkpoints: int | None = None,
        keep_steps: int = 0,
        grace_s: float = GRACE_S,
        dry_run: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> ReclaimReport:
        """Take steps out of the stream that no retained checkpoint needs.

        Of each consumer the ``keep_checkpoints`` furthest checkpoints are retained (None: all), and
        at least ``keep_steps`` steps. One commit removes the batches from the table, after their
        rows went to the `ledger`; their files are deleted by this or a later call (or `sweep`) once
        ``grace_s`` seconds have passed. Without any checkpoint nothing is reclaimed. Safe to repeat
        after a crash. ``dry_run`` tells what would go and changes nothing; ``progress`` is told the
        steps done and in all.

        Raises:
            InvalidInput, InvalidSettings: a limit is not a number that makes sense.
            Fenced: another process reclaims at the same time; it carries on.
            NotCommitted: the producers committed first each time, or the store failed.
        """
        retention = Retention(self._table, self._make_ledger, self._clock, progress=progress)
        policy = Policy(keep_checkpoints=keep_checkpoints, keep_steps=keep_steps)
        return retention.reclaim(policy, grace_s=grace_s, dry_run=dry_run)

    def sweep(
        self,
        *,
        grace_s: float = GRACE_S,
        dry_run: bool = False,
        deletes_per_s: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> SweepReport:
        """Delete files that no commit names, now or later, the ledger's among them.

        See `batchweave.sweep` for what makes it safe.

        Safe beside live producers, readers and another sweep. ``grace_s`` spares what was written
        (or reclaimed) less long ago, by the store's clock; ``progress`` is told files and bytes.

        Raises:
            InvalidSettings: a limit is not a number that makes sense.
            NotCommitted: the horizon could not be committed; nothing was deleted.
        """

        def swept(table: Table) -> SweepReport:
            sweep = Sweep(
                table,
                self._clock,
                grace_s=grace_s,
                deletes_per_s=deletes_per_s,
                progress=progress,
            )
            return sweep.run(dry_run=dry_run)

        report = swept(self._table)
        ledger = self._ledger_table(False)
        if ledger is None:
            return report
        own = swept(ledger)
        return replace(report, files=report.files + own.files, bytes=report.bytes + own.bytes)

    @property
    def ledger(self) -> Ledger | None:
        """One row for each batch that was reclaimed; None before the first reclaim."""
        table = self._ledger_table(False)
        return (
            None if table is None else Ledger(table, self.name, self._clock, owner=self._table.id)
        )

    def _make_ledger(self) -> Ledger:
        table = self._ledger_table(True)
        if table is None:
            raise StreamError(f"{self.name} was not opened through a catalog: it has no ledger")
        return Ledger(table, self.name, self._clock, owner=self._table.id)

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
