"""What the outside knows of a history: acknowledgements, observations, and the final table.

The invariants see nothing else.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from pyiceberg.exceptions import CommitStateUnknownException

from batchweave.batch import Position
from batchweave.errors import StoreError
from batchweave.ledger import LedgerRow, Place
from batchweave.retention import Policy
from batchweave.state import StreamState
from batchweave.table import BatchEntry, Change, Committed, Head, Outcome, Table, Unknown
from batchweave.testing.faults import WrappedTable
from tests.simulation.chronicle import Chronicle
from tests.simulation.content import Item
from tests.simulation.world import World

EXPECTED_CAUSES = (StoreError, CommitStateUnknownException)


@dataclass(frozen=True, slots=True)
class Published:
    """One batch that a producer's incarnation tried to publish, and the position it carries."""

    name: str
    generation: int
    sequence: int
    item: Item
    position: Position


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A receipt: the batch is committed at this step."""

    name: str
    generation: int
    sequence: int
    step: int
    at_us: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A producer's incarnation learnt that it is open: its generation, and where to resume."""

    name: str
    generation: int
    sequence: int
    position: Position
    version: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One step that a reader was given."""

    reader: str
    step: int
    producer: str
    sequence: int
    digests: tuple[str, ...]
    at_us: int


@dataclass(frozen=True, slots=True)
class SeenHead:
    """One head that an actor read or wrote."""

    actor: str
    version: int
    state: StreamState
    at_us: int


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A reader was told that its next step was reclaimed."""

    reader: str
    step: int
    at_us: int


@dataclass(frozen=True, slots=True)
class Registered:
    """A consumer was told that its checkpoint is registered."""

    consumer: str
    checkpoint_id: str
    next_step: int


@dataclass(frozen=True, slots=True)
class FinalRow:
    """One part of one batch in the final table, and the bytes that lie at its path, if any."""

    step: int
    producer: str
    sequence: int
    digest: str
    path: str
    first_slice: int
    slices: int
    data: bytes | None


@dataclass(slots=True)
class Final:
    """What the table holds at the end, read without the code under test where that is possible.

    ``former`` are the rows of steps that were reclaimed, ``recorded`` the ledger's.
    """

    version: int
    state: StreamState
    rows: list[FinalRow]
    entries: list[BatchEntry]
    errors: list[str]
    chronicle: Chronicle
    positions: dict[str, Position] = field(default_factory=dict)
    former: list[FinalRow] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    recorded: list[LedgerRow] = field(default_factory=list)
    recorded_to: Place = field(default_factory=Place)


@dataclass(slots=True)
class Record:
    """Everything that was acknowledged or seen in one history."""

    seed: int
    published: list[Published] = field(default_factory=list)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    flushed: list[tuple[str, int, int]] = field(default_factory=list)
    fenced: list[tuple[str, int]] = field(default_factory=list)
    shut_out: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    readers: list[str] = field(default_factory=list)
    turned_away: list[TurnedAway] = field(default_factory=list)
    heads: list[SeenHead] = field(default_factory=list)
    stale_heads: list[str] = field(default_factory=list)
    registered: list[Registered] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    policies: list[Policy] = field(default_factory=list)
    grace_us: int = 0
    foreign: dict[str, bytes] = field(default_factory=dict)
    swept_clean: bool = False
    sealed_at: list[int] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    exhausted: bool = False
    acknowledged_version: int = 0


class ObservedTable(WrappedTable):
    """A table as one actor uses it; what it reads and writes goes to the record."""

    def __init__(self, table: Table, record: Record, actor: str, world: World) -> None:
        super().__init__(table)
        self._record = record
        self._actor = actor
        self._world = world

    def head(self, known: Head | None = None) -> Head:
        floor = self._record.acknowledged_version
        head = self.inner.head(known)
        if known is None and head.version < floor:
            self._record.stale_heads.append(
                f"{self._actor} read version {head.version} after version {floor} was acknowledged"
            )
        if head is not known:
            self._see(head)
        return head

    def commit(self, base: Head, change: Change) -> Outcome:
        outcome = self.inner.commit(base, change)
        if isinstance(outcome, Committed):
            self._see(outcome.head)
            version = outcome.head.version
            self._record.acknowledged_version = max(self._record.acknowledged_version, version)
        elif isinstance(outcome, Unknown) and not isinstance(outcome.cause, EXPECTED_CAUSES):
            text = "".join(traceback.format_exception(outcome.cause))
            self._record.errors.append((self._actor, f"an unknown outcome without a cause: {text}"))
        return outcome

    def tidy(self, head: Head) -> None:
        try:
            self.inner.tidy(head)
        except Exception:
            text = traceback.format_exc()
            self._record.errors.append((self._actor, f"upkeep must not raise: {text}"))
            raise

    def _see(self, head: Head) -> None:
        self._record.heads.append(
            SeenHead(self._actor, head.version, head.state, self._world.now_us)
        )
