"""The facade: one stream, as users hold it. It delegates; it decides nothing.

Imports: everything before it in the core.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from batchweave.checkpoints import Checkpoints
from batchweave.clock import Clock, SystemClock
from batchweave.commit import commit
from batchweave.errors import InvalidMesh, StreamError, StreamNotFound
from batchweave.events import Listener, Listeners
from batchweave.ledger import (
    Ledger,
    LedgerRestart,
    Place,
    is_sound,
    lost_rows,
    restart,
    telling_the_way_out,
)
from batchweave.mesh import Mesh, Share
from batchweave.producer import Producer
from batchweave.reader import Reader, whole_number
from batchweave.retention import Policy, ReclaimReport, Retention
from batchweave.settings import ProducerSettings, ReaderSettings
from batchweave.state import StreamState, seal
from batchweave.sweep import GRACE_S, Sweep, SweepReport
from batchweave.table import BatchEntry, Change, Head, Table


class Analysis(Protocol):
    """What answers questions about a stream's history."""

    def sql(self, stream: Stream, query: str, parameters: Any, at: Any) -> Any:
        """As `Stream.sql`."""
        ...

    def audit(self, stream: Stream, **options: Any) -> Any:
        """As `Stream.audit`."""
        ...

    def lineage(self, stream: Stream, at: Any) -> Any:
        """As `Stream.lineage`."""
        ...


class Stream:
    """One stream of global batches. Get it from a catalog; share it between threads freely."""

    def __init__(
        self,
        table: Table,
        *,
        analysis: Analysis,
        ledger: Callable[..., Table | None] = lambda create, discard=False: None,
        clock: Clock | None = None,
    ) -> None:
        """``ledger`` loads the table of the stream's ledger, or creates it where asked to."""
        self._table = table
        self._analysis = analysis
        self._ledger_table = ledger
        self._ledger_kept: Table | None = None
        self._clock = clock or SystemClock()
        self._listeners = Listeners()

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
    def lineage_columns(self) -> tuple[str, ...]:
        """Columns that say of a row where it came from, as declared; reads the head."""
        return self.head().lineage_columns

    @property
    def table(self) -> Table:
        """The table behind the stream, for tools that need more than the facade gives."""
        return self._table

    @property
    def checkpoints(self) -> Checkpoints:
        """The registry of model checkpoints: register, drop, list, latest, get."""
        return Checkpoints(self._table, self._clock, self._listeners)

    def head(self) -> StreamState:
        """The stream's state at the newest version: next step, producers, checkpoints, sealed."""
        return self._table.head().state

    def producer(self, name: str, settings: ProducerSettings | None = None) -> Producer:
        """Open a producer under a name. Every earlier opener of the name is fenced.

        Raises:
            InvalidName: the name cannot be used.
            StreamSealed: nothing can be published any more.
        """
        return Producer(self._table, name, settings, self._clock, self._listeners)

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

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have ``listener`` called with each `batchweave.events.StreamEvent` from now on.

        It hears of what is done through this object: producers that are opened later, checkpoints,
        reclaims. It must return at once; what it raises is logged and changes nothing. What is
        returned, called, ends it.
        """
        return self._listeners.add(listener)

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
        retention = Retention(
            self._table,
            self._make_ledger,
            self._clock,
            progress=progress,
            listeners=self._listeners,
        )
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
        ledger = self._opened_ledger(create=False)
        if ledger is None:
            return report
        own = swept(ledger)
        return replace(report, files=report.files + own.files, bytes=report.bytes + own.bytes)

    @property
    def ledger(self) -> Ledger | None:
        """One row for each batch that was reclaimed; None before the first reclaim."""
        table = self._opened_ledger(create=False)
        return (
            None if table is None else Ledger(table, self.name, self._clock, owner=self._table.id)
        )

    def restart_ledger(self, *, discard: bool = False, dry_run: bool = False) -> LedgerRestart:
        """Give up the rows that the `ledger` has lost, so that `reclaim` goes on without them.

        Only for a ledger that cannot be brought back. It goes on at the watermark, keeps the rows
        that it has, and records which steps have none; the stream's chain begins anew there. So
        what verifies the ledger says from which step on the history is proven. ``discard`` deletes
        the ledger's table first, for one whose rows cannot be read; one whose rows
        verify is kept all the same. A table that cannot be opened
        at all is deleted by nobody: move it away first. ``dry_run`` tells what would be given up
        and changes nothing. Safe to repeat after a crash.

        Raises:
            InvalidInput: no row is missing.
            StreamCorrupted, StoreError: the ledger's table cannot be opened.
            Fenced: another process reclaims or does the same; it carries on.
            NotCommitted: the producers committed first each time, or the store failed.
        """
        head = self._table.head()
        with telling_the_way_out(self.name):
            ledger = self.ledger
            place = Place() if ledger is None else ledger.place()
            if discard and ledger is not None:
                discard = not is_sound(ledger, place)
                place = Place() if discard else place
        plan = replace(lost_rows(place, head, self.name), discarded=discard)
        if dry_run:
            return plan
        if discard:
            self._ledger_kept = self._ledger_table(True, discard=True)
            plan = replace(lost_rows(Place(), self._table.head(), self.name), discarded=True)
        gaps = restart(self._table, self._make_ledger(), plan.stop, self._clock).gaps
        return replace(plan, dry_run=False, gaps=gaps)

    def _make_ledger(self) -> Ledger:
        table = self._opened_ledger(create=True)
        if table is None:
            raise StreamError(f"{self.name} was not opened through a catalog: it has no ledger")
        return Ledger(table, self.name, self._clock, owner=self._table.id)

    def _opened_ledger(self, *, create: bool) -> Table | None:
        """The ledger's table, loaded once and again when it was dropped."""
        if self._ledger_kept is not None:
            with contextlib.suppress(StreamNotFound):
                self._ledger_kept.head()
                return self._ledger_kept
        self._ledger_kept = self._ledger_table(create)
        return self._ledger_kept

    def sql(
        self,
        query: str,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        at: Any = None,
    ) -> Any:
        """Ask the stream's history with DuckDB; returns a relation.

        Views: ``samples`` (all live rows), ``batches`` (one row a step, live and reclaimed),
        ``slices``, ``parts``, ``sources``, ``commits``, ``producers``, ``checkpoints``,
        ``consumers``, ``ledger`` and more, see ``sql/views``. The query sees one version.
        ``parameters`` are bound to its ``$name`` or ``?``. ``at`` is an older moment: a step, a
        datetime, or ``checkpoint:ID``, ``version:N``, ``snapshot:ID``, ``time:ISO``.

        Raises:
            InvalidSettings: no valid query, or one that would load an extension.
            InvalidInput, CheckpointNotFound: there is no such moment.
            StoreDenied, StoreUnavailable: what it reads cannot be read.
        """
        return self._analysis.sql(self, query, parameters, at)

    def audit(self, **options: Any) -> Any:
        """Check the stream's promises in its own metadata; returns a report with ``.ok``.

        Options and report are those of `batchweave.sql.audit.audit`: ``deep=True`` reads all data
        files again, ``only=`` names audits, ``folder=`` adds audits of your own.
        """
        return self._analysis.audit(self, **{"clock": self._clock, **options})

    def lineage(self, at: Any = None) -> Any:
        """What checkpoints have seen, and what has seen a source or document.

        Returns a `batchweave.sql.lineage.Lineage`, at the head or at an older moment.
        """
        return self._analysis.lineage(self, at)

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
