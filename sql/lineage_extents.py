"""From rows of SQL to the values of an answer. Pure: Arrow in, values out.

Imports: standard library, NumPy, pyarrow, mesh, lineage_answers, lineage_graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchweave.mesh import Mesh
from batchweave.sql.lineage_answers import SLICES, SOURCES, Extent, ProducerShare, SeenBy
from batchweave.sql.lineage_graph import End

STEPS = pa.schema(
    [
        ("step", pa.int64()),
        ("producer", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("reclaimed", pa.bool_()),
    ]
)
"""One row a step, in step order."""

ORIGINS = pa.schema([("step", pa.int64()), ("source", pa.string()), ("slices", pa.int64())])
"""One row for each step and each of its sources."""

FOUND = pa.schema([field for field in SLICES if field.name not in ("ranks", "seen_by")])
"""One row a slice that was found, before it is known who has read it."""


@dataclass(frozen=True, slots=True)
class Known:
    """A checkpoint with what is known of it; see `SeenBy`."""

    checkpoint: str
    consumer: str | None
    next_step: int
    registered: bool
    registered_at: datetime | None

    @property
    def end(self) -> End:
        """As the graph shows it."""
        if self.registered:
            return End(
                self.checkpoint, f"{self.consumer}, below step {self.next_step}", self.next_step
            )
        detail = f"dropped since, saw below step {self.next_step}"
        return End(self.checkpoint, detail, self.next_step)

    def has_seen(self, steps: npt.NDArray[np.int64]) -> SeenBy:
        """How many of some slices it has seen; ``steps`` are theirs, in order."""
        slices = int(np.searchsorted(steps, self.next_step))
        seen = steps[:slices]
        return SeenBy(
            self.checkpoint,
            self.consumer,
            self.next_step,
            self.registered,
            self.registered_at,
            first_step=int(seen[0]) if slices else None,
            last_step=int(seen[-1]) if slices else None,
            steps=len(np.unique(seen)),
            slices=slices,
        )

    def has_seen_below(self, stop: int, slices: int) -> SeenBy:
        """What it has seen of a whole stream of which the steps below ``stop`` are looked at."""
        steps = min(self.next_step, stop)
        return SeenBy(
            self.checkpoint,
            self.consumer,
            self.next_step,
            self.registered,
            self.registered_at,
            first_step=0 if steps else None,
            last_step=steps - 1 if steps else None,
            steps=steps,
            slices=steps * slices,
        )


def make_extent(start: int, stop: int, steps: pa.Table, origins: pa.Table) -> Extent:
    """What steps (in `STEPS`) and their sources (in `ORIGINS`) add up to."""
    by_producer = steps.group_by("producer").aggregate(
        [("step", "min"), ("step", "max"), ("step", "count"), ("rows", "sum"), ("bytes", "sum")]
    )
    producers = [
        ProducerShare(
            producer=one["producer"],
            first_step=one["step_min"],
            last_step=one["step_max"],
            batches=one["step_count"],
            rows=one["rows_sum"],
            bytes=one["bytes_sum"],
        )
        for one in by_producer.sort_by([("step_min", "ascending")]).to_pylist()
    ]
    return Extent(
        start,
        stop,
        reclaimed=pc.sum(steps["reclaimed"]).as_py() or 0,
        rows=pc.sum(steps["rows"]).as_py() or 0,
        bytes=pc.sum(steps["bytes"]).as_py() or 0,
        producers=tuple(producers),
        sources=_sources(steps, origins),
    )


def _sources(steps: pa.Table, origins: pa.Table) -> pa.Table:
    """The sources in the order of their first step. Rows count where a batch has one source."""
    if origins.num_rows == 0:
        return SOURCES.empty_table()
    of_step, place, sources = np.unique(
        origins["step"].to_numpy(), return_inverse=True, return_counts=True
    )
    rows = steps["rows"].take(pa.array(np.searchsorted(steps["step"].to_numpy(), of_step)))
    alone = pa.array((sources == 1)[place])
    own = pc.if_else(alone, rows.take(pa.array(place)), None)
    grouped = (
        origins.append_column("rows", own)
        .append_column("mixed", pc.invert(alone))
        .group_by("source")
        .aggregate(
            [
                *(("step", kind) for kind in ("min", "max", "count")),
                *((name, "sum") for name in ("slices", "rows")),
                ("mixed", "any"),
            ]
        )
        .sort_by([("step_min", "ascending"), ("step_max", "ascending"), ("source", "ascending")])
    )
    columns = ["source", "step_min", "step_max", "step_count", "slices_sum"]
    total = pc.if_else(grouped["mixed_any"], None, grouped["rows_sum"])
    arrays = [*(grouped[name] for name in columns), total]
    named = pa.Table.from_arrays(arrays, names=SOURCES.names)
    return named.cast(SOURCES)


def with_readers(
    found: pa.Table, known: Sequence[Known], mesh: Mesh, world_size: int | None
) -> pa.Table:
    """The slices that were found (in `FOUND`), with who has read them: in `SLICES`."""
    columns = {name: found[name] for name in found.column_names}
    columns["ranks"] = _ranks(found["slice"], mesh, world_size)
    columns["seen_by"] = _first_seen_by(found["step"].to_numpy(), known)
    return pa.table(columns).select(SLICES.names).cast(SLICES)


def _ranks(slices: pa.ChunkedArray, mesh: Mesh, world_size: int | None) -> pa.Array:
    """The ranks that read each slice: several where they share its rows."""
    kind = SLICES.field("ranks").type
    if world_size is None:
        return pa.nulls(len(slices), kind)
    first = mesh.share(0, world_size)
    readers = [
        [at // len(first.slices)]
        if first.parts == 1
        else list(range(at * first.parts, (at + 1) * first.parts))
        for at in range(mesh.slices)
    ]
    return pa.array(readers, kind).take(slices)


def _first_seen_by(steps: npt.NDArray[np.int64], known: Sequence[Known]) -> pa.Array:
    """The first checkpoint of each consumer that has seen each step."""
    ordered = sorted(known, key=lambda one: one.next_step)
    firsts: dict[str | None, str] = {}
    seen: list[list[str]] = [[]]
    for one in reversed(ordered):
        later = {name: first for name, first in firsts.items() if name != one.consumer}
        firsts = {one.consumer: one.checkpoint, **later}
        seen.append(list(firsts.values()))
    limits = np.array([one.next_step for one in ordered], np.int64)
    places = len(ordered) - np.searchsorted(limits, steps, side="right")
    return pa.array(seen, SLICES.field("seen_by").type).take(pa.array(places))
