"""The hash chain over a stream's whole history: ledger first, then the live batches. No I/O.

Unlike `batchweave.ledger.verify_rows`, which stops at the first row that does not fit, this goes on
and names every one. Imports: the core.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchweave.ledger import LedgerRow, Place, next_record
from batchweave.state import next_chain

TRIED_MAX = 8
"""How many of the stored hashes before it a row may follow, where the row before was changed."""


@dataclass(frozen=True, slots=True)
class Break:
    """A step at which the history does not hold together, with both hashes where there are two."""

    step: int
    problem: str
    expected: str | None = None
    found: str | None = None


def ledger_breaks(
    rows: Iterable[LedgerRow], stop: int, end: Place | None
) -> tuple[list[Break], Place]:
    """What is wrong with the rows, which come in step order and must go to ``stop`` at least.

    ``end`` is where the ledger's own state says that they end, None where it holds no rows; steps
    whose rows were given up (`batchweave.ledger.restart`) have none. Returns also the place behind
    the last row below ``stop``, as the rows have it.
    """
    found: list[Break] = []
    gaps = dict(() if end is None else end.gaps)
    place = at_stop = Place().past(gaps)
    before = [place.record]  # more than one only behind a row that was changed
    for row in rows:
        if row.step < place.next_step:
            found.append(Break(row.step, "has two rows in the ledger"))
            continue
        lost = row.step - place.next_step
        found += _no_rows(place.next_step, row.step)
        chain = next_chain(place.chain, row.step, row.digests)
        records = [next_record(one, row) for one in before]
        fits = row.record in records and (len(before) > 1 or row.chain == chain)
        if fits or lost:  # what follows a lost row has nothing to be held against
            before = []
        else:
            found.append(_changed(row, records[0], chain))
        behind = Place(row.step + 1, row.chain, row.record)
        place = behind.past(gaps)
        before = [row.record, *before][:TRIED_MAX] if place is behind else [place.record]
        at_stop = place if row.step < stop else at_stop
    found += _no_rows(place.next_step, stop)
    if end is not None and place.next_step == end.next_step and place != end:
        found.append(
            Break(
                place.next_step - 1,
                "the ledger does not end in the hash that its state holds",
                end.record,
                place.record,
            )
        )
    return found, at_stop


def _no_rows(start: int, stop: int) -> list[Break]:
    return [Break(step, "has no row in the ledger") for step in range(start, stop)]


def _changed(row: LedgerRow, record: str, chain: str) -> Break:
    if row.record != record:
        return Break(row.step, "its row in the ledger was changed", record, row.record)
    return Break(row.step, "its row in the ledger breaks the chain", chain, row.chain)


def live_breaks(
    batches: Iterable[tuple[int, Sequence[str]]], start: int, stop: int, before: str, chain: str
) -> list[Break]:
    """What keeps the live batches from leading from the chain ``before`` them to ``chain``.

    ``batches`` are steps with the digests of their parts, in step order. Where the chain breaks is
    not known, as live batches carry none: the first step that is missing is named, or else the run.
    """
    at, lost = start, None
    now = before
    for step, digests in batches:
        if step != at and lost is None:
            lost = min(at, step)
        at = step + 1
        now = next_chain(now, step, digests)
    if lost is None and at < stop:
        lost = at
    if now == chain:
        return []
    if lost is not None:
        return [Break(lost, "the chain breaks here: the step is not there once", chain, now)]
    what = f"the batches of steps {start} to {stop - 1}" if stop > start else "the ledger's rows"
    return [Break(start, f"{what} do not lead to the stream's chain", chain, now)]
