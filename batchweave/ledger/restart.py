"""Going on without rows that are lost for good: an operator's act, recorded in the ledger.

A reclaim refuses to go past steps that have neither data nor a row, since nobody could tell any
more what they held. Where the rows cannot be brought back, this has the ledger go on at the
watermark. The stream's chain cannot be followed across the steps that are lost, so it begins anew
at the watermark, with a hash that says so, and goes on over the live batches: one commit to the
stream. Then the ledger notes the gap, and verifies from there on. Both are the same whoever does
them and however often, so a crash between leaves nothing but the same call to repeat.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from batchweave.clock import Clock
from batchweave.commit import commit
from batchweave.errors import (
    BatchWeaveError,
    InvalidInput,
    ObjectNotFound,
    StoreUnavailable,
    StreamCorrupted,
)
from batchweave.ledger.records import Ledger
from batchweave.ledger.rows import Place, chain_from, verify_rows
from batchweave.state import next_chain
from batchweave.table import Change, Head, Table


@dataclass(frozen=True, slots=True)
class LedgerRestart:
    """What is given up, or (dry) would be: the steps ``first`` to ``stop``, without it.

    They have no row and no data. ``gaps`` are all runs of such steps, this one included, and
    ``discarded`` says that the ledger's table was deleted with the rows that it still had.
    """

    stream: str
    dry_run: bool
    first: int
    stop: int
    gaps: tuple[tuple[int, int], ...]
    discarded: bool = False

    @property
    def steps(self) -> int:
        """How many steps are given up."""
        return self.stop - self.first


@contextlib.contextmanager
def telling_the_way_out(name: str) -> Iterator[None]:
    """A ledger that cannot be opened is told with what to do about it.

    It is deleted by nobody here: what cannot be read may be somebody else's, or be read tomorrow.
    """
    try:
        yield
    except BatchWeaveError as error:
        error.add_note(
            f"if the ledger of {name} is damaged for good: move its table's folder away, and where "
            "the catalog has a list of tables take it out of that too; then restart the ledger"
        )
        raise


def is_sound(ledger: Ledger, place: Place) -> bool:
    """Whether all rows up to ``place`` are there and verify. Reads them all.

    Raises:
        StoreUnavailable, StoreDenied, NotCommitted: the store does not say.
    """
    try:
        return verify_rows(ledger.read(), place.gaps) == place
    except (StreamCorrupted, ObjectNotFound):
        return False


def lost_rows(place: Place, head: Head, name: str) -> LedgerRestart:
    """What a restart would give up.

    Raises:
        InvalidInput: every step whose data is gone has a row.
    """
    stop = head.state.watermark
    if place.next_step >= stop:
        raise InvalidInput(
            f"the ledger of {name} has rows up to step {place.next_step}, and data is gone below "
            f"step {stop} only: nothing is missing, so there is nothing to give up"
        )
    gap = (place.next_step, stop)
    return LedgerRestart(name, True, *gap, (*place.gaps, gap))


def restart(table: Table, ledger: Ledger, stop: int, clock: Clock) -> Place:
    """Give up the rows before ``stop``, the stream's watermark; return where the ledger goes on.

    Raises:
        Fenced: another process does it at the same time, or reclaims; it carries on.
        NotCommitted: the producers committed first each time, or the store failed.
    """
    _chain_anew(table, stop, clock)
    return ledger.give_up(stop)


def _chain_anew(table: Table, stop: int, clock: Clock) -> None:
    at, chain = stop, chain_from(stop)

    def plan(head: Head) -> Change | None:
        nonlocal at, chain
        if head.state.watermark != stop:
            return None  # another has done this, and reclaimed since
        try:
            for entry in table.entries(head, at, head.state.next_step):
                digests = tuple(part.digest for part in entry.parts)
                at, chain = entry.step + 1, next_chain(chain, entry.step, digests)
        except (ObjectNotFound, FileNotFoundError) as error:
            raise StoreUnavailable(f"a newer version has replaced {error}") from error
        return None if head.state.chain == chain else Change(replace(head.state, chain=chain))

    commit(table, plan, clock=clock, what=f"beginning the chain anew at step {stop}")
