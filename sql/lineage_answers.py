"""What lineage answers: values that say what is live, what the ledger remembers, what is unknown.

Long lists are Arrow tables, short ones tuples. Every answer draws itself.
Imports: standard library, pyarrow, lineage_graph, lineage_drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from batchweave.sql.lineage_drawing import Listing, to_dot, to_html, to_svg
from batchweave.sql.lineage_graph import Graph, counted, range_text

LISTED_MAX = 200
"""Rows of a list that a page shows; ``to_arrow`` and ``to_dict`` have all."""

SOURCES = pa.schema(
    [
        ("source", pa.string()),
        ("first_step", pa.int64()),
        ("last_step", pa.int64()),
        ("batches", pa.int64()),
        ("slices", pa.int64()),
        ("rows", pa.int64()),
    ]
)
"""One row a source; ``source`` is null for slices whose producer gave none. ``rows`` is null where
a batch has several sources, as nothing but the data says how many rows each of them gave."""

SLICES = pa.schema(
    [
        ("step", pa.int64()),
        ("slice", pa.int32()),
        ("producer", pa.string()),
        ("sequence", pa.int64()),
        ("committed_at", pa.timestamp("us", tz="UTC")),
        ("source", pa.string()),
        ("rows", pa.int64()),
        ("ranks", pa.list_(pa.int32())),
        ("seen_by", pa.list_(pa.string())),
        ("reclaimed", pa.bool_()),
    ]
)
"""One row a slice that was found. ``rows`` is how many of its rows match, null where the data is
gone or was not needed; ``ranks`` those that read the slice, null where no world size was given;
``seen_by`` the first checkpoint of each consumer that has seen it: its later ones have too."""


@dataclass(frozen=True, slots=True)
class SeenBy:
    """A checkpoint that has seen something, and how much of it.

    ``registered`` is false for one that was dropped since and that the ledger remembers; then
    ``consumer`` is not known, and it has seen the steps below ``next_step`` at least.
    """

    checkpoint: str
    consumer: str | None
    next_step: int
    registered: bool
    registered_at: datetime | None
    first_step: int | None
    last_step: int | None
    steps: int
    slices: int


@dataclass(frozen=True, slots=True)
class ProducerShare:
    """What one producer published of a range of steps."""

    producer: str
    first_step: int
    last_step: int
    batches: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Extent:
    """What is in the steps from ``start`` up to, not including, ``stop``.

    ``reclaimed`` of them are told of by the ledger alone. ``sources`` is in `SOURCES`.
    """

    start: int
    stop: int
    reclaimed: int
    rows: int
    bytes: int
    producers: tuple[ProducerShare, ...]
    sources: pa.Table = field(repr=False)

    @property
    def steps(self) -> int:
        """How many steps: each is one batch."""
        return self.stop - self.start

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "first_step": self.start if self.steps else None,
            "last_step": self.stop - 1 if self.steps else None,
            "steps": self.steps,
            "reclaimed_steps": self.reclaimed,
            "batches": self.steps,
            "rows": self.rows,
            "bytes": self.bytes,
            "producers": [asdict(one) for one in self.producers],
            "sources": self.sources.to_pylist(),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What all answers have. ``stop`` is the first step that was not looked at.

    ``told`` says what is live and what is from the ledger, ``unasked`` what could not be answered,
    and why: what the answer holds is right, and there may be more. ``complete`` is whether there is
    none of that.
    """

    stream: str
    stop: int
    title: str
    told: str
    unasked: tuple[str, ...] = field(kw_only=True)
    graph: Graph = field(kw_only=True, repr=False)

    @property
    def complete(self) -> bool:
        """Whether nothing had to be left out."""
        return not self.unasked

    @property
    def caption(self) -> str:
        """What is live, what is from the ledger, and what could not be asked."""
        return " ".join([self.told, *self.unasked])

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it; times are ISO 8601."""
        found: dict[str, Any] = _plain(self._everything())
        return found

    def _everything(self) -> dict[str, Any]:
        return {
            "stream": self.stream,
            "next_step": self.stop,
            "question": self.title,
            "complete": self.complete,
            "unasked": list(self.unasked),
            "told": self.told,
            **self._found(),
            "graph": self.graph.to_dict(),
        }

    def to_arrow(self) -> pa.Table:
        """The longest list of the answer."""
        raise NotImplementedError

    def to_dot(self) -> str:
        """The graph for Graphviz."""
        return to_dot(self.graph, self.title, self.caption)

    def to_svg(self) -> str:
        """The graph as a picture of its own."""
        return to_svg(self.graph, self.title, self.caption)

    def to_html(self, rows_max: int | None = LISTED_MAX) -> str:
        """The graph and the lists, each of at most so many rows, on one page of its own."""
        listings = list(self.listings(rows_max))
        return to_html(self.graph, self.title, self.caption, self.unasked, listings)

    def listings(self, rows_max: int | None = LISTED_MAX) -> Iterator[Listing]:
        """The answer as tables for people, each of at most so many rows."""
        raise NotImplementedError

    def _found(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class CheckpointLineage(Answer):
    """What one checkpoint has seen."""

    checkpoint: SeenBy
    seen: Extent

    def to_arrow(self) -> pa.Table:
        """Its sources, in `SOURCES`."""
        return self.seen.sources

    def listings(self, rows_max: int | None = LISTED_MAX) -> Iterator[Listing]:
        yield from extent_listings(self.seen, "", rows_max)

    def _found(self) -> dict[str, Any]:
        return {"checkpoint": asdict(self.checkpoint), "seen": self.seen.to_dict()}


@dataclass(frozen=True, slots=True)
class Difference(Answer):
    """What two checkpoints have not both seen.

    A checkpoint has seen all steps below its own, so one of ``only_a`` and ``only_b`` is empty.
    """

    a: SeenBy
    b: SeenBy
    only_a: Extent
    only_b: Extent

    @property
    def differs(self) -> Extent:
        """The one that is not empty, if any."""
        return self.only_a if self.only_a.steps else self.only_b

    def to_arrow(self) -> pa.Table:
        """The sources of what one of them has not seen, in `SOURCES`."""
        return self.differs.sources

    def listings(self, rows_max: int | None = LISTED_MAX) -> Iterator[Listing]:
        for one, other, extent in (
            (self.b, self.a, self.only_b),
            (self.a, self.b, self.only_a),
        ):
            what = f"{one.checkpoint} saw and {other.checkpoint} did not"
            if extent.steps:
                yield from extent_listings(extent, f" that {what}", rows_max)
            else:
                yield Listing(f"There is no step that {what}")

    def _found(self) -> dict[str, Any]:
        return {
            "a": asdict(self.a),
            "b": asdict(self.b),
            "only_a": self.only_a.to_dict(),
            "only_b": self.only_b.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Occurrences(Answer):
    """Where something was found: slices (in `SLICES`), and the checkpoints that have seen them.

    ``near_sources`` is how many sources have the text inside, where none is what was asked for.
    """

    world_size: int | None
    slices: pa.Table = field(repr=False)
    checkpoints: tuple[SeenBy, ...]
    steps: int
    reclaimed_steps: int
    near_sources: int = 0

    def to_arrow(self) -> pa.Table:
        """The slices, in `SLICES`."""
        return self.slices

    def listings(self, rows_max: int | None = LISTED_MAX) -> Iterator[Listing]:
        yield _checkpoint_listing(self, rows_max)
        if self.slices.num_rows:
            yield _slice_listing(self, rows_max)

    def _found(self) -> dict[str, Any]:
        return {
            "world_size": self.world_size,
            "steps": self.steps,
            "reclaimed_steps": self.reclaimed_steps,
            "near_sources": self.near_sources,
            "checkpoints": [asdict(one) for one in self.checkpoints],
            "slices": self.slices.to_pylist(),
        }


def extent_listings(extent: Extent, which: str, rows_max: int | None) -> Iterator[Listing]:
    """Totals, producers and sources of an extent."""
    if not extent.steps:
        yield Listing("It has seen no step")
        return
    steps = range_text(extent.start, extent.stop - 1).capitalize()
    size = f"{counted(extent.rows, 'row')}, {counted(extent.bytes, 'byte')}"
    yield Listing(f"{steps}{which}: {_told_by(extent)}, {size}")
    yield _listing(
        "Producers",
        ("producer", "batches", "steps", "rows", "bytes"),
        [
            (one.producer, one.batches, _steps_text(asdict(one)), one.rows, one.bytes)
            for one in extent.producers[:rows_max]
        ],
        len(extent.producers),
    )
    yield _listing(
        "Sources",
        ("batches", "slices", "steps", "rows", "source"),
        [
            (one["batches"], one["slices"], _steps_text(one), one["rows"], _named(one["source"]))
            for one in extent.sources.slice(0, rows_max).to_pylist()
        ],
        extent.sources.num_rows,
    )


def _told_by(extent: Extent) -> str:
    """``8 steps, all live``, ``8 steps, 3 of them from the ledger``."""
    steps = counted(extent.steps, "step")
    every = "" if extent.steps == 1 else "all "
    if not extent.reclaimed:
        return f"{steps}, {every}live"
    if extent.reclaimed == extent.steps:
        return f"{steps}, {every}from the ledger"
    return f"{steps}, {extent.reclaimed:,} of them from the ledger"


def _named(source: str | None) -> str:
    return "(none given)" if source is None else source


def _steps_text(one: Mapping[str, Any]) -> str:
    first, last = one["first_step"], one["last_step"]
    return str(first) if first == last else f"{first} to {last}"


def _checkpoint_listing(found: Occurrences, rows_max: int | None) -> Listing:
    checkpoints = found.checkpoints
    if not checkpoints:
        if found.near_sources:
            return Listing("No checkpoint was looked for: no source is what was asked for")
        where = "" if found.complete else " in what could be asked"
        return Listing(f"No checkpoint has seen it{where}")
    dropped = not all(one.registered for one in checkpoints)
    return _listing(
        "Checkpoints that have seen it"
        + ("" if found.complete else ", in what could be asked")
        + (" (the ledger remembers those that were dropped)" if dropped else ""),
        ("checkpoint", "consumer", "next step", "found in", "steps", "registered"),
        [
            (
                one.checkpoint,
                one.consumer,
                one.next_step,
                counted(one.steps, "step"),
                _steps_text(asdict(one)),
                "yes" if one.registered else "dropped",
            )
            for one in checkpoints[:rows_max]
        ],
        len(checkpoints),
        count=False,
    )


def _slice_listing(found: Occurrences, rows_max: int | None) -> Listing:
    """The slices; who tells of them only where some are reclaimed."""
    with_ranks = found.world_size is not None
    columns = ["step", "slice", "ranks", "producer", "rows", "seen by", "from", "source"]
    rows = [
        (
            one["step"],
            one["slice"],
            _ranks_text(one["ranks"]) if with_ranks else None,
            one["producer"],
            one["rows"],
            ", ".join(one["seen_by"]) or "none",
            ("ledger" if one["reclaimed"] else "table") if found.reclaimed_steps else None,
            _named(one["source"]),
        )
        for one in found.slices.slice(0, rows_max).to_pylist()
    ]
    return _listing("Slices", columns, rows, found.slices.num_rows, ("ranks", "from"))


def _ranks_text(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _listing(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | int | None]],
    total: int,
    optional: Sequence[str] = (),
    *,
    count: bool = True,
) -> Listing:
    """A listing of ``total`` rows, without those columns of which no row says anything."""
    kept = [
        at
        for at, name in enumerate(columns)
        if name not in ("rows", *optional) or any(row[at] is not None for row in rows)
    ]
    return Listing(
        f"{title}: {total:,}" if count else title,
        [columns[at] for at in kept],
        [[row[at] for at in kept] for row in rows],
        more=total - len(rows),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.isoformat() if isinstance(value, datetime) else value
