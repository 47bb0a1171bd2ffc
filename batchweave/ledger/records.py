"""Writing rows to the ledger's table exactly once, and reading them back.

Rows are published through a `batchweave.session.Session`: one caller, no threads but those that
read footers and rows ahead, and none at all where ``threads`` is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from batchweave.batch import check_slices, position_from_text, position_to_text
from batchweave.checkpoints import Checkpoint, listed
from batchweave.clock import Clock
from batchweave.commit import Retries, commit
from batchweave.errors import NotCommitted, ObjectNotFound, StoreUnavailable, StreamCorrupted
from batchweave.ledger.rows import MESH, SCHEMA, LedgerRow, Place, from_arrow, to_arrow
from batchweave.ledger.sources import Origins, batch_origins
from batchweave.parquet import encode
from batchweave.reader import fetch_slices
from batchweave.runs import runs
from batchweave.session import Session, Staged
from batchweave.state import StreamState, check_generation, next_chain
from batchweave.table import BatchEntry, Change, Committed, Head, Table, newer_head

SUFFIX = "__ledger"
PRODUCER = "reclaim"
ROWS_PER_BATCH = 2048
LINEAGE_BYTES_PER_BATCH = 64 << 20
READ_THREADS = 8
PLACE_BYTES_MAX = 4096
RETRIES = Retries()

T = TypeVar("T")
R = TypeVar("R")


class Ledger:
    """The ledger of one stream, over its own table."""

    def __init__(
        self,
        table: Table,
        of: str,
        clock: Clock,
        *,
        owner: str = "",
        threads: int = READ_THREADS,
    ) -> None:
        """``of`` is the stream's name, ``owner`` its table's identity: rows are under that alone.

        ``threads`` read footers and rows; 0 is the caller's own.
        """
        self.table = table
        self._of = of
        self._producer = _producer(owner)
        self._clock = clock
        self._threads = threads

    def place(self) -> Place:
        """How far the rows go that are durable."""
        known = self.table.head().state.producers.get(self._producer)
        return Place.from_position(position_from_text(known.position) if known else None)

    # -- writing ---------------------------------------------------------------------------

    def record(self, table: Table, state: StreamState, entries: Sequence[BatchEntry]) -> int:
        """Write the rows of those of the batches that have none; durable when it returns.

        ``entries`` are neighbours, with the first that the stream still had; ``state`` tells the
        checkpoints. Returns how many rows were written. A second caller at the same time fences
        this one.

        Raises:
            StreamCorrupted: rows of steps whose data is gone are missing, or so is a file.
            Fenced: another process records; its rows count.
            NotCommitted: the ledger's table could not be written.
        """
        if not self._missing(entries, self._retried(self.place)):
            return 0
        session = Session(
            self.table, self._producer, clock=self._clock, position_bytes_inline_max=PLACE_BYTES_MAX
        )
        session.open()
        place = Place.from_position(session.position)
        missing = self._missing(entries, place)
        try:
            for rows in _portions(self._rows(table, state, missing, place)):
                last = rows[-1]
                place = replace(
                    place, next_step=last.step + 1, chain=last.chain, record=last.record
                )
                self._publish(session, rows, place)
        except ObjectNotFound as error:
            now = self._retried(self.table.head).state
            check_generation(
                now, self._producer, session.generation
            )  # who took over may have swept it
            raise StreamCorrupted(
                f"a file of {self._of} that the table names is gone: {error}"
            ) from error
        return len(missing)

    def give_up(self, stop: int) -> Place:
        """Have the rows go on at ``stop``; that none come before it stays recorded for good.

        Nothing where they go as far. Whoever records at the same time is fenced.

        Raises:
            Fenced: another process records or does the same; it carries on.
            NotCommitted: the ledger's table could not be written.
        """
        session = Session(
            self.table, self._producer, clock=self._clock, position_bytes_inline_max=PLACE_BYTES_MAX
        )
        session.open()

        def plan(head: Head) -> Change | None:
            known = check_generation(head.state, self._producer, session.generation)
            place = Place.from_position(position_from_text(known.position))
            if place.next_step >= stop:
                return None
            position = position_to_text(place.across(stop).to_position())
            producers = {**head.state.producers, self._producer: replace(known, position=position)}
            return Change(replace(head.state, producers=producers))

        commit(self.table, plan, clock=self._clock, what=f"giving up rows before step {stop}")
        return self._retried(self.place)

    def _missing(self, entries: Sequence[BatchEntry], place: Place) -> list[BatchEntry]:
        """The batches from ``place`` on; there must be no gap between."""
        if entries and place.next_step < entries[0].step:
            raise StreamCorrupted(
                f"the ledger of {self._of} ends before step {place.next_step}, and the data is "
                f"gone below step {entries[0].step}: was {self.table.name} replaced? If its rows "
                "cannot be brought back, restart_ledger (batchweave ledger restart) goes on "
                "without them"
            )
        return [entry for entry in entries if entry.step >= place.next_step]

    def _rows(
        self, table: Table, state: StreamState, entries: Sequence[BatchEntry], place: Place
    ) -> Iterator[LedgerRow]:
        """The rows of batches that follow ``place``, with both hashes carried on."""
        checkpoints, columns = listed(state), state.lineage_columns

        def traced(entry: BatchEntry) -> tuple[BatchEntry, Origins]:
            return entry, self._retried(lambda: batch_origins(table, entry, columns))

        for entry, origins in self._each(traced, entries):
            row = _row(entry, origins, checkpoints, place.chain)
            place = place.after(row)
            yield replace(row, record=place.record)

    def _publish(self, session: Session, rows: Sequence[LedgerRow], after: Place) -> None:
        """Upload the rows and commit them together with the place behind them."""
        encoded = encode(
            check_slices([to_arrow(rows)], [None], MESH, SCHEMA),
            0,
            file_schema=self.table.file_schema,
            compression="zstd",
            compression_level=1,
        )
        sequence = session.sequence + 1
        part, version = self._retried(lambda: session.upload(sequence, 0, encoded))
        position = position_to_text(after.to_position())
        session.stage(Staged(sequence, (encoded,), (part,), version, position))
        self._retried(lambda: self._attempt(session))

    def _attempt(self, session: Session) -> None:
        """Commit what is staged, or say that it is not committed yet."""
        outcome = session.attempt()
        if isinstance(outcome, Committed):
            self.table.tidy(outcome.head)
        elif session.staged:
            raise StoreUnavailable(f"{self.table.name}: no commit yet, the last was {outcome}")

    # -- reading ---------------------------------------------------------------------------

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[LedgerRow]:
        """The rows of steps ``start`` to ``stop``, in step order."""

        def fetched(entry: BatchEntry) -> list[LedgerRow]:
            (whole,) = self._retried(lambda: fetch_slices(self.table, entry, [0]))
            return list(from_arrow(whole.table))

        for rows in self._each(fetched, self._retried(self._batches)):
            for row in rows:
                if start <= row.step and (stop is None or row.step < stop):
                    yield row

    def _batches(self) -> list[BatchEntry]:
        head = self.table.head()
        while True:
            try:
                return list(self.table.entries(head, 0, head.state.next_step))
            except (ObjectNotFound, FileNotFoundError):
                head = newer_head(self.table, head)

    # -- helpers ---------------------------------------------------------------------------

    def _each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """What the work makes of each item, in order and a little ahead."""
        if self._threads == 0:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(self._threads, thread_name_prefix="batchweave-ledger") as pool:
            for some in runs(items, self._threads * 4):
                yield from pool.map(work, some)

    def _retried(self, operation: Callable[[], T]) -> T:
        """Repeat while the store fails, within the bounds of `RETRIES`."""
        random, began_s = self._clock.random(), self._clock.monotonic_s()
        wait_s = RETRIES.wait_first_s
        for _ in range(RETRIES.attempts_max):
            try:
                return operation()
            except StoreUnavailable as error:
                cause = error
            if self._clock.monotonic_s() - began_s > RETRIES.seconds_max:
                break
            self._clock.sleep(random.uniform(0, wait_s))
            wait_s = min(RETRIES.wait_max_s, wait_s * 2)
        raise NotCommitted(
            f"recording batches of {self._of} in {self.table.name}: the store failed for "
            f"{self._clock.monotonic_s() - began_s:.1f} s and last said: {cause}"
        ) from cause


def is_left_over(ledger: Table, owner: str) -> bool:
    """Whether a ledger is that of a dropped stream of the same name, and not the owner's."""
    return any(name != _producer(owner) for name in ledger.head().state.producers)


def _portions(rows: Iterable[LedgerRow]) -> Iterator[list[LedgerRow]]:
    """Rows that are published together: bounded in number, and in what their lineage takes."""
    portion: list[LedgerRow] = []
    size = 0
    for row in rows:
        portion.append(row)
        size += sum(map(len, row.lineage or ()))
        if len(portion) >= ROWS_PER_BATCH or size >= LINEAGE_BYTES_PER_BATCH:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _producer(owner: str) -> str:
    return f"{PRODUCER}-{owner}" if owner else PRODUCER


def _row(
    entry: BatchEntry,
    origins: Origins,
    checkpoints: Sequence[Checkpoint],
    chain: str,
) -> LedgerRow:
    """The row of a batch that follows ``chain``, without the running hash of the rows."""
    digests = tuple(part.digest for part in entry.parts)
    covering = (one.id for one in checkpoints if one.next_step > entry.step)
    return LedgerRow(
        step=entry.step,
        producer=entry.producer,
        sequence=entry.sequence,
        committed_at_ms=entry.committed_at_ms,
        rows=entry.rows,
        bytes=entry.bytes,
        digests=digests,
        sources=origins.sources,
        checkpoint=next(covering, None),
        chain=next_chain(chain, entry.step, digests),
        version=entry.version,
        lineage=origins.lineage,
    )
