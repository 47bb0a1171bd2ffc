"""The graph of an answer: sources, producers, ranges of steps, checkpoints, and what flows between.

Pure: made of the rows of an answer, drawn by `lineage_drawing`. A column of it has a bounded number
of nodes; those that do not fit are put together in one, which says how many they are.
Imports: standard library, NumPy, pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Kind: TypeAlias = Literal["source", "producer", "steps", "checkpoint"]
KINDS: tuple[Kind, ...] = ("source", "producer", "steps", "checkpoint")
NODES_MAX = 12
"""Nodes of one kind; a picture with more is not read."""


@dataclass(frozen=True, slots=True)
class Node:
    """A box of the graph. ``more`` is how many things it stands for that did not fit, else 0.

    ``reclaimed``, of steps alone, tells whether their data is gone.
    """

    id: str
    kind: Kind
    label: str
    detail: str = ""
    more: int = 0
    reclaimed: bool = False


@dataclass(frozen=True, slots=True)
class Edge:
    """A connection of two nodes, by their IDs; ``steps`` is how many steps it carries."""

    start: str
    end: str
    steps: int


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order of `KINDS`, and the edges from each kind to the next."""

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()

    def of(self, kind: Kind) -> tuple[Node, ...]:
        """The nodes of one kind, from top to bottom."""
        return tuple(node for node in self.nodes if node.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "nodes": [asdict(node) for node in self.nodes],
            "edges": [asdict(edge) for edge in self.edges],
        }


@dataclass(frozen=True, slots=True)
class End:
    """A checkpoint as the graph shows it: it has seen all steps below ``next_step``."""

    id: str
    detail: str
    next_step: int


def build_graph(
    steps: pa.Table, origins: pa.Table, ends: Sequence[End], nodes_max: int = NODES_MAX
) -> Graph:
    """The graph of steps into checkpoints. Neighbouring steps are one range.

    ``steps`` has ``step`` (in order), ``producer`` and ``reclaimed``; ``origins`` has ``step`` and
    ``source``, a row for each source of a step, and none where they are not known. A range ends
    where its data is gone, and where a checkpoint is that has not seen what follows.
    """
    if steps.num_rows == 0:
        return Graph(tuple(_end_nodes(ends, nodes_max)))
    at = steps["step"].to_numpy()
    gone = pc.cast(steps["reclaimed"], pa.int8()).to_numpy().astype(bool)
    ranges = _Ranges.of(at, gone, [end.next_step for end in ends], nodes_max)
    sources = _Names.of(origins["source"], nodes_max)
    producers = _Names.of(steps["producer"], nodes_max)
    of_steps = producers.places(steps["producer"])
    of_origins = of_steps[np.searchsorted(at, origins["step"].to_numpy())]
    edges = [
        *_edges("source", sources.places(origins["source"]), "producer", of_origins),
        *_edges("producer", of_steps, "steps", ranges.places(at)),
        *_into_ends(ranges, ends, nodes_max),
    ]
    nodes = [
        *sources.nodes("source", "sources", "no source given"),
        *producers.nodes("producer", "producers", "unknown"),
        *ranges.nodes(),
        *_end_nodes(ends, nodes_max),
    ]
    return Graph(tuple(nodes), tuple(edges))


def joined(graph: Graph, node: Node, edges: Iterable[Edge]) -> Graph:
    """The graph with one more node, before the others of its kind."""
    at = KINDS.index(node.kind)
    before = [one for one in graph.nodes if KINDS.index(one.kind) < at]
    after = [one for one in graph.nodes if KINDS.index(one.kind) >= at]
    return Graph((*before, node, *after), (*graph.edges, *edges))


def node_id(kind: Kind, place: int) -> str:
    """The ID of the node of a kind at a place: 0, 1, … from the top."""
    return f"{kind}-{place}"


def counted(number: int, what: str) -> str:
    """``1 step``, ``2 steps``, ``12,345 steps``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def range_text(first: int, last: int) -> str:
    """``step 5``, or ``steps 5 to 9``."""
    return f"step {first}" if first == last else f"steps {first} to {last}"


@dataclass(frozen=True, slots=True)
class _Names:
    """Sources or producers: those that carry most have a node each, the others share one."""

    kept: pa.Array
    steps: list[int]
    more: int
    steps_of_more: int

    @classmethod
    def of(cls, names: pa.ChunkedArray, nodes_max: int) -> _Names:
        counts = pc.value_counts(names.combine_chunks())
        values, steps = counts.field("values"), counts.field("counts").to_numpy()
        order = np.argsort(-steps, kind="stable")
        if len(order) > nodes_max:
            kept, rest = order[: nodes_max - 1], order[nodes_max - 1 :]
        else:
            kept, rest = order, order[:0]
        return cls(
            values.take(pa.array(kept)), steps[kept].tolist(), len(rest), int(steps[rest].sum())
        )

    def places(self, names: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """The place of each name's node."""
        found = pc.fill_null(pc.index_in(names, value_set=self.kept), len(self.kept))
        places: npt.NDArray[np.int64] = found.to_numpy().astype(np.int64)
        return places

    def nodes(self, kind: Kind, plural: str, unnamed: str) -> list[Node]:
        found = [
            Node(
                node_id(kind, place),
                kind,
                unnamed if name is None else name,
                counted(steps, "step"),
            )
            for place, (name, steps) in enumerate(
                zip(self.kept.to_pylist(), self.steps, strict=True)
            )
        ]
        if self.more:
            label = f"and {self.more:,} more {plural}"
            place = node_id(kind, len(found))
            found.append(Node(place, kind, label, counted(self.steps_of_more, "step"), self.more))
        return found


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Runs of neighbouring steps: the longest have a node each, the others share one."""

    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    reclaimed: npt.NDArray[np.bool_]
    place: npt.NDArray[np.int64]
    kept: int

    @classmethod
    def of(
        cls,
        steps: npt.NDArray[np.int64],
        reclaimed: npt.NDArray[np.bool_],
        next_steps: Sequence[int],
        nodes_max: int,
    ) -> _Ranges:
        seen_by = np.searchsorted(np.unique(np.array(next_steps, np.int64)), steps, side="right")
        new = np.ones(len(steps), bool)
        new[1:] = (np.diff(steps) != 1) | (np.diff(seen_by) != 0) | np.diff(reclaimed)
        begins = np.flatnonzero(new)
        ends = np.append(begins[1:], len(steps)) - 1
        kept = min(len(begins), nodes_max)
        if len(begins) > nodes_max:
            kept = nodes_max - 1
        longest = np.sort(np.argsort(begins - ends, kind="stable")[:kept])
        place = np.full(len(begins), kept, np.int64)
        place[longest] = np.arange(kept)
        return cls(steps[begins], steps[ends], reclaimed[begins], place, kept)

    def places(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The place of each step's node."""
        return self.place[np.searchsorted(self.first, steps, side="right") - 1]

    def nodes(self) -> list[Node]:
        found = []
        for at in np.flatnonzero(self.place < self.kept):
            first, last, gone = int(self.first[at]), int(self.last[at]), bool(self.reclaimed[at])
            detail = f"{counted(last - first + 1, 'step')}, {'from the ledger' if gone else 'live'}"
            place = node_id("steps", int(self.place[at]))
            found.append(Node(place, "steps", range_text(first, last), detail, reclaimed=gone))
        rest = self.place == self.kept
        if rest.any():
            more = int(rest.sum())
            steps = int((self.last - self.first + 1)[rest].sum())
            gone = bool(self.reclaimed[rest].all())
            partly = "from the ledger" if gone else "partly from the ledger"
            where = partly if self.reclaimed[rest].any() else "live"
            place, label = node_id("steps", self.kept), f"and {more:,} more ranges"
            detail = f"{counted(steps, 'step')}, {where}"
            found.append(Node(place, "steps", label, detail, more, reclaimed=gone))
        return found


def _edges(
    left: Kind, starts: npt.NDArray[np.int64], right: Kind, ends: npt.NDArray[np.int64]
) -> list[Edge]:
    """One edge for each pair of places that occurs, with how often it does."""
    base = int(ends.max(initial=0)) + 1
    pairs, counts = np.unique(starts * base + ends, return_counts=True)
    return [
        Edge(node_id(left, pair // base), node_id(right, pair % base), count)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)
    ]


def _shown_ends(ends: Sequence[End], nodes_max: int) -> tuple[Sequence[End], Sequence[End]]:
    if len(ends) <= nodes_max:
        return ends, ()
    return ends[: nodes_max - 1], ends[nodes_max - 1 :]


def _end_nodes(ends: Sequence[End], nodes_max: int) -> list[Node]:
    shown, rest = _shown_ends(ends, nodes_max)
    found = [
        Node(node_id("checkpoint", place), "checkpoint", end.id, end.detail)
        for place, end in enumerate(shown)
    ]
    if rest:
        label = f"and {len(rest):,} more checkpoints"
        detail = f"up to step {max(end.next_step for end in rest) - 1}"
        place = node_id("checkpoint", len(shown))
        found.append(Node(place, "checkpoint", label, detail, len(rest)))
    return found


def _into_ends(ranges: _Ranges, ends: Sequence[End], nodes_max: int) -> list[Edge]:
    """Each range flows into every checkpoint that has seen it: none has seen a part of one."""
    shown, rest = _shown_ends(ends, nodes_max)
    limits = [end.next_step for end in shown]
    if rest:
        limits.append(max(end.next_step for end in rest))
    lengths = ranges.last - ranges.first + 1
    found = []
    for place, limit in enumerate(limits):
        seen = np.bincount(ranges.place, np.where(ranges.last < limit, lengths, 0))
        for start in np.flatnonzero(seen):
            edge = Edge(
                node_id("steps", int(start)), node_id("checkpoint", place), int(seen[start])
            )
            found.append(edge)
    return found
