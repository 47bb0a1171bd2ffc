"""Where the nodes and lines of a graph stand in a picture, and how they look.

Columns from left to right, each centred; a line is as wide as the steps that it carries, beside the
others of its node, in an order that lets few of them cross. Pure.
Imports: standard library, lineage_graph.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from batchweave.sql.lineage_graph import KINDS, Edge, Graph, Kind, Node

LABEL_LENGTH_MAX = 40


@dataclass(frozen=True, slots=True)
class Look:
    """Colours of a kind of node: dark text on a light fill, at least seven to one."""

    fill: str
    line: str
    text: str


LOOKS: dict[str, Look] = {
    "source": Look("#e6f5f2", "#2a9d8f", "#134e48"),
    "producer": Look("#ecebfb", "#6c63d8", "#332c86"),
    "live": Look("#e5f0fd", "#2f7fd6", "#123f73"),
    "ledger": Look("#fdf1dc", "#d08a16", "#6b4304"),
    "checkpoint": Look("#e8f6e6", "#4d9d45", "#1f4f1a"),
    "more": Look("#f3f4f6", "#9aa1ac", "#3b424d"),
}


def look_of(node: Node) -> Look:
    """How a node looks."""
    if node.kind == "steps":
        return LOOKS["ledger" if node.reclaimed else "live"]
    return LOOKS["more" if node.more else node.kind]


def printable(text: str) -> str:
    """The text, with everything that has no shape of its own written out as an escape."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else json.dumps(sign)[1:-1] for sign in text)


def shortened(text: str, length: int = LABEL_LENGTH_MAX) -> str:
    """A label that fits into a box."""
    return text if len(text) <= length else text[: length - 1] + "…"


MARGIN = 36
HEADER = 104
COLUMN_GAP = 132
NODE_GAP = 16
NODE_HEIGHT = 46
EDGE_WIDTH_MIN, EDGE_WIDTH_MAX = 1.5, 20.0
EDGE_GAP = 2.0
NODE_WIDTH_MIN = 132
SIGN_WIDTH = 7.1


@dataclass(slots=True)
class Box:
    """Where a node stands."""

    node: Node
    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.top + self.height / 2


@dataclass(frozen=True, slots=True)
class Line:
    """Where an edge runs: from the right side of one box to the left side of another."""

    edge: Edge
    width: float
    start: tuple[float, float]
    end: tuple[float, float]
    look: Look


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything placed; sizes are in pixels."""

    boxes: dict[str, Box]
    lines: list[Line]
    columns: dict[Kind, float]
    width: float
    height: float


def lay_out(graph: Graph) -> Layout:
    """Place the columns beside each other, each centred, and the lines at their nodes' sides."""
    widths = _edge_widths(graph)
    columns = {kind: list(graph.of(kind)) for kind in KINDS if graph.of(kind)}
    _untangle(columns, graph.edges)
    heights = {node.id: _height(node, graph.edges, widths) for node in graph.nodes}
    tall = max((_stacked(nodes, heights) for nodes in columns.values()), default=NODE_HEIGHT)
    boxes: dict[str, Box] = {}
    lefts: dict[Kind, float] = {}
    left = float(MARGIN)
    for kind, nodes in columns.items():
        lefts[kind] = left
        width = max(_box_width(node) for node in nodes)
        top = HEADER + (tall - _stacked(nodes, heights)) / 2
        for node in nodes:
            boxes[node.id] = Box(node, left, top, width, heights[node.id])
            top += heights[node.id] + NODE_GAP
        left += width + COLUMN_GAP
    right = left - COLUMN_GAP + MARGIN if columns else 2.0 * MARGIN
    return Layout(boxes, _lines(graph.edges, boxes, widths), lefts, right, HEADER + tall)


def _edge_widths(graph: Graph) -> dict[Edge, float]:
    heaviest = max((edge.steps for edge in graph.edges), default=1)
    return {
        edge: max(EDGE_WIDTH_MIN, EDGE_WIDTH_MAX * edge.steps / heaviest) for edge in graph.edges
    }


def _height(node: Node, edges: Sequence[Edge], widths: dict[Edge, float]) -> float:
    sides = (
        [widths[edge] + EDGE_GAP for edge in edges if edge.end == node.id],
        [widths[edge] + EDGE_GAP for edge in edges if edge.start == node.id],
    )
    return max(NODE_HEIGHT, *(sum(side) + 8 for side in sides))


def _stacked(nodes: Sequence[Node], heights: dict[str, float]) -> float:
    return sum(heights[node.id] for node in nodes) + NODE_GAP * (len(nodes) - 1)


def _box_width(node: Node) -> float:
    longest = max(
        text_width(shortened(printable(node.label))), 0.88 * text_width(printable(node.detail))
    )
    return max(NODE_WIDTH_MIN, longest + 30)


def text_width(text: str) -> float:
    """About how wide a label is: East Asian signs take two places."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return SIGN_WIDTH * (len(text) + wide * 0.8)


def _untangle(columns: dict[Kind, list[Node]], edges: Sequence[Edge]) -> None:
    """Order producers and sources as what they flow into; steps and checkpoints stay in theirs."""
    for kind in ("producer", "source"):
        nodes = columns.get(kind)
        if not nodes:
            continue
        below = [one for column in columns.values() for one in column]
        places = {node.id: at for at, node in enumerate(below)}
        columns[kind] = sorted(
            nodes, key=lambda node: (bool(node.more), _centre(node, edges, places))
        )


def _centre(node: Node, edges: Sequence[Edge], places: dict[str, int]) -> float:
    out = [(places[edge.end], edge.steps) for edge in edges if edge.start == node.id]
    total = sum(steps for _, steps in out)
    return sum(place * steps for place, steps in out) / total if total else 0.0


def _lines(edges: Sequence[Edge], boxes: dict[str, Box], widths: dict[Edge, float]) -> list[Line]:
    """Lines side by side at each node, in the order of their other ends, so that few cross."""
    starts = _ports(edges, boxes, widths, outgoing=True)
    ends = _ports(edges, boxes, widths, outgoing=False)
    found = []
    for edge in edges:
        left, right = boxes[edge.start], boxes[edge.end]
        start = (left.left + left.width, starts[edge])
        end = (right.left, ends[edge])
        found.append(Line(edge, widths[edge], start, end, look_of(left.node)))
    return sorted(found, key=lambda line: -line.width)


def _ports(
    edges: Sequence[Edge], boxes: dict[str, Box], widths: dict[Edge, float], *, outgoing: bool
) -> dict[Edge, float]:
    sides: dict[str, list[Edge]] = {}
    for edge in edges:
        sides.setdefault(edge.start if outgoing else edge.end, []).append(edge)
    found = {}
    for name, own in sides.items():
        own.sort(key=lambda edge: boxes[edge.end if outgoing else edge.start].middle)
        taken = sum(widths[edge] + EDGE_GAP for edge in own) - EDGE_GAP
        at = boxes[name].middle - taken / 2
        for edge in own:
            found[edge] = at + widths[edge] / 2
            at += widths[edge] + EDGE_GAP
    return found
