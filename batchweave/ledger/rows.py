"""The ledger's rows: what they hold, and how each hangs on the one before. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

import pyarrow as pa

from batchweave.errors import StreamCorrupted
from batchweave.mesh import Mesh
from batchweave.state import CHAIN_START, next_chain

MESH = Mesh(dp=1)
SCHEMA = pa.schema(
    [
        ("batch_step", pa.int64()),
        ("batch_producer", pa.string()),
        ("batch_sequence", pa.int64()),
        ("batch_committed_at", pa.timestamp("us", tz="UTC")),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("digests", pa.list_(pa.string())),
        ("sources", pa.list_(pa.string())),
        ("checkpoint", pa.string()),
        ("chain", pa.string()),
        ("version", pa.int64()),
        ("lineage", pa.list_(pa.string())),
        ("record", pa.string()),
    ]
)
"""One row a batch. ``digests`` are those of its parts in order, ``sources`` one a slice (or one for
all), ``checkpoint`` is the first that covers it among those registered when the row was written,
``chain`` the stream's running hash behind the batch, ``version`` that of the table whose commit
published it (0 where that is not known), ``record`` the running hash of the rows up to this one.
``lineage`` has one text a slice, in order: a JSON object with the distinct values of each lineage
column (see `batchweave.ledger.sources.lineage_text`); null where the stream declares none.

A reader that does not know the last two would read the others as they are, as it takes columns by
name, and would find the first row's ``record`` wrong, as it cannot hash what it does not read."""

RECORD_START = hashlib.sha256(b"batchweave ledger 1").hexdigest()


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What the ledger keeps of one global batch."""

    step: int
    producer: str
    sequence: int
    committed_at_ms: int
    rows: int
    bytes: int
    digests: tuple[str, ...]
    sources: tuple[str | None, ...]
    checkpoint: str | None
    chain: str
    version: int = 0
    lineage: tuple[str, ...] | None = None
    record: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """How far the ledger goes: the next step, and both running hashes before it.

    ``gaps`` are the runs of steps, first and stop, whose rows were lost and given up (see
    `batchweave.ledger.restart`): up to the last of them nothing can be proven.
    """

    next_step: int = 0
    chain: str = CHAIN_START
    record: str = RECORD_START
    gaps: tuple[tuple[int, int], ...] = field(default=(), compare=False)

    @staticmethod
    def from_position(position: Any) -> Place:
        """What a producer's durable position says."""
        if not position:
            return Place()
        gaps = tuple((first, stop) for first, stop in position.get("gaps", ()))
        return Place(**{**position, "gaps": gaps})

    def to_position(self) -> dict[str, Any]:
        """The inverse of `from_position`."""
        found = asdict(self)
        return found if self.gaps else {name: found[name] for name in found if name != "gaps"}

    def after(self, row: LedgerRow) -> Place:
        """The place behind a row that follows this one, by the row's own content."""
        chain = next_chain(self.chain, row.step, row.digests)
        return replace(
            self, next_step=row.step + 1, chain=chain, record=next_record(self.record, row)
        )

    def across(self, stop: int) -> Place:
        """The place at ``stop``, where the rows go on of which those between are given up."""
        gap = (self.next_step, stop)
        record = hashlib.sha256(json.dumps([self.record, "lost", *gap]).encode()).hexdigest()
        return Place(stop, chain_from(stop), record, (*self.gaps, gap))

    def past(self, gaps: Mapping[int, int]) -> Place:
        """The place behind the gap that begins here, if one does; ``gaps`` are first to stop."""
        place = self
        while place.next_step in gaps:
            place = place.across(gaps[place.next_step])
        return place


def chain_from(step: int) -> str:
    """Where the stream's chain begins again behind steps that nothing is known of any more."""
    return hashlib.sha256(f"batchweave chain 1 from step {step}".encode()).hexdigest()


def next_record(record: str, row: LedgerRow) -> str:
    """The running hash over all rows: of the one before, and of everything in this one."""
    text = json.dumps([record, *astuple(replace(row, record=""))], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def verify_rows(rows: Iterable[LedgerRow], gaps: Sequence[tuple[int, int]] = ()) -> Place:
    """Check the rows against each other from step 0 on, and return where they end.

    What they end in must equal `Ledger.place`, and its chain must lead on to the stream's head.
    ``gaps`` are those that `Ledger.place` has: steps whose rows were given up.

    Raises:
        StreamCorrupted: names the first row that is missing, doubled, swapped or changed.
    """
    stops = dict(gaps)
    place = Place().past(stops)
    for row in rows:
        if row.step != place.next_step:
            what = "has no row" if row.step > place.next_step else "has two rows"
            raise StreamCorrupted(f"step {min(place.next_step, row.step)} {what} in the ledger")
        place = place.after(row)
        if (row.chain, row.record) != (place.chain, place.record):
            raise StreamCorrupted(f"the ledger's row of step {row.step} was changed")
        place = place.past(stops)
    return place


def to_arrow(rows: Sequence[LedgerRow]) -> pa.Table:
    """Rows as a table in `SCHEMA`."""
    columns = [
        [row.step for row in rows],
        [row.producer for row in rows],
        [row.sequence for row in rows],
        [row.committed_at_ms * 1000 for row in rows],
        [row.rows for row in rows],
        [row.bytes for row in rows],
        [row.digests for row in rows],
        [row.sources for row in rows],
        [row.checkpoint for row in rows],
        [row.chain for row in rows],
        [row.version for row in rows],
        [row.lineage for row in rows],
        [row.record for row in rows],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def from_arrow(table: pa.Table) -> Iterator[LedgerRow]:
    """The inverse of `to_arrow`."""
    for row in table.to_pylist():
        yield LedgerRow(
            step=row["batch_step"],
            producer=row["batch_producer"],
            sequence=row["batch_sequence"],
            committed_at_ms=round(row["batch_committed_at"].timestamp() * 1000),
            rows=row["rows"],
            bytes=row["bytes"],
            digests=tuple(row["digests"]),
            sources=tuple(row["sources"]),
            checkpoint=row["checkpoint"],
            chain=row["chain"],
            version=row["version"],
            lineage=None if row["lineage"] is None else tuple(row["lineage"]),
            record=row["record"],
        )
