"""Graphs as DOT, as SVG and as a page of HTML: drawn here, so that nothing has to be installed.

All text of users is escaped, and what cannot be printed is written out; nothing is fetched and no
script runs.
Imports: standard library, lineage_graph, lineage_layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from batchweave.sql.lineage_graph import KINDS, Graph, Kind, Node, counted
from batchweave.sql.lineage_layout import (
    HEADER,
    LOOKS,
    MARGIN,
    Box,
    Layout,
    Line,
    lay_out,
    look_of,
    printable,
    shortened,
)

HEADINGS: dict[Kind, str] = {
    "source": "Sources",
    "producer": "Producers",
    "steps": "Steps",
    "checkpoint": "Checkpoints",
}
INK, FAINT, PAPER = "#1c2430", "#5b6472", "#ffffff"
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"


# -- DOT ---------------------------------------------------------------------------------------


def to_dot(graph: Graph, title: str, caption: str) -> str:
    """The graph for Graphviz."""
    lines = [
        "digraph lineage {",
        "  rankdir=LR;",
        f"  label={_quoted(title + chr(10) + caption)};",
        '  labelloc="t";',
        '  node [shape="box", style="rounded,filled", fontname="Helvetica"];',
    ]
    for kind in KINDS:
        nodes = graph.of(kind)
        lines += [f"  {_quoted(node.id)} [{_attributes(node)}];" for node in nodes]
        if nodes:
            same = "; ".join(_quoted(node.id) for node in nodes)
            lines.append(f"  {{ rank=same; {same}; }}")
    heaviest = max((edge.steps for edge in graph.edges), default=1)
    for edge in graph.edges:
        width = 1 + 4 * edge.steps / heaviest
        lines.append(
            f"  {_quoted(edge.start)} -> {_quoted(edge.end)} "
            f'[label="{edge.steps}", penwidth={width:.2f}];'
        )
    return "\n".join([*lines, "}", ""])


def _attributes(node: Node) -> str:
    look = look_of(node)
    label = f"{node.label}\n{node.detail}" if node.detail else node.label
    return (
        f'label={_quoted(label)}, fillcolor="{look.fill}", color="{look.line}", '
        f'fontcolor="{look.text}"'
    )


def _quoted(text: str) -> str:
    """A DOT string: a line break is one of the label, everything else stands for itself."""
    lines = (printable(line) for line in text.split("\n"))
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'


# -- SVG ---------------------------------------------------------------------------------------


def to_svg(graph: Graph, title: str, caption: str) -> str:
    """The graph as a picture; `caption` says below the title what is live and what is recorded."""
    layout = lay_out(graph)
    title, caption = printable(title), printable(caption)
    wanted = max(9.6 * len(title), 520.0) + 2 * MARGIN
    width = max(layout.width, min(wanted, 1200))
    shift = (width - layout.width) / 2
    captions = _wrapped(caption, int((width - 2 * MARGIN) / 6.6))
    legend_top = layout.height + 34
    height = legend_top + 26 + 18 * len(captions) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" font-family="{FONT}">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(caption)}</desc>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        _text(MARGIN, 42, shortened(title, int((width - 2 * MARGIN) / 9.6)), 18, INK, weight=600),
        f'<g transform="translate({shift:.1f} 0)">',
        *(
            _text(left, HEADER - 18, HEADINGS[kind].upper(), 11, FAINT, weight=600, spacing=0.8)
            for kind, left in layout.columns.items()
        ),
        *(_path(line, layout) for line in layout.lines),
        *(_box(box) for box in layout.boxes.values()),
        "</g>",
        *_legend(graph, legend_top),
        *(
            _text(MARGIN, legend_top + 34 + 18 * at, line, 12, FAINT)
            for at, line in enumerate(captions)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(
    left: float,
    top: float,
    text: str,
    size: int,
    colour: str,
    *,
    weight: int = 400,
    spacing: float = 0,
) -> str:
    spaced = f' letter-spacing="{spacing}"' if spacing else ""
    return (
        f'<text x="{left:.1f}" y="{top:.1f}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}"{spaced}>{escape(text)}</text>'
    )


def _path(line: Line, layout: Layout) -> str:
    (x, y), (end_x, end_y) = line.start, line.end
    bend = (end_x - x) / 2
    edge = line.edge
    names = [printable(layout.boxes[name].node.label) for name in (edge.start, edge.end)]
    return (
        f'<path d="M{x:.1f} {y:.1f}C{x + bend:.1f} {y:.1f} {end_x - bend:.1f} {end_y:.1f} '
        f'{end_x:.1f} {end_y:.1f}" fill="none" stroke="{line.look.line}" '
        f'stroke-width="{line.width:.1f}" stroke-opacity="0.38">'
        f"<title>{escape(' → '.join(names))}: {escape(counted(edge.steps, 'step'))}</title></path>"
    )


def _box(box: Box) -> str:
    node, look = box.node, look_of(box.node)
    dashed = ' stroke-dasharray="5 3"' if node.reclaimed or node.more else ""
    label, detail = printable(node.label), printable(node.detail)
    whole = f"{label}: {detail}" if detail else label
    top = box.middle + (-3 if detail else 5)
    parts = [
        f"<g><title>{escape(whole)}</title>",
        f'<rect x="{box.left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="8" fill="{look.fill}" stroke="{look.line}" '
        f'stroke-width="1.4"{dashed}/>',
        _text(box.left + 14, top, shortened(label), 13, look.text, weight=600),
    ]
    if detail:
        parts.append(_text(box.left + 14, top + 17, detail, 11, look.text))
    return "".join([*parts, "</g>"])


def _legend(graph: Graph, top: float) -> list[str]:
    """What the colours of the steps mean."""
    found = []
    left = float(MARGIN)
    kinds = {node.reclaimed for node in graph.of("steps")}
    for gone, name, text in (
        (False, "live", "live: the data is in the table"),
        (True, "ledger", "from the ledger: the data is reclaimed"),
    ):
        if gone not in kinds:
            continue
        look, dashed = LOOKS[name], ' stroke-dasharray="5 3"' if gone else ""
        found.append(
            f'<rect x="{left:.1f}" y="{top - 1:.1f}" width="16" height="12" rx="3" '
            f'fill="{look.fill}" stroke="{look.line}" stroke-width="1.4"{dashed}/>'
        )
        found.append(_text(left + 24, top + 9.5, text, 12, INK))
        left += 24 + 6.6 * len(text) + 28
    return found


def _wrapped(text: str, length: int) -> list[str]:
    """Lines of at most so many signs, broken at spaces where there are any."""
    lines = [""]
    for word in text.split(" "):
        while len(word) > length:
            lines.append(word[:length])
            word = word[length:]
        if len(lines[-1]) + len(word) + 1 > length:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [line for line in lines if line]


# -- HTML --------------------------------------------------------------------------------------

STYLE = f"""
body {{ font: 14px/1.5 {FONT}; color: {INK}; background: #f6f7f9; margin: 0; padding: 32px; }}
main {{ max-width: 1200px; margin: 0 auto; }}
figure {{ margin: 0 0 24px; padding: 8px; background: {PAPER}; border: 1px solid #e1e4e8;
  border-radius: 12px; overflow-x: auto; }}
figure svg {{ display: block; margin: 0 auto; }}
h2 {{ font-size: 15px; margin: 28px 0 8px; }}
table {{ border-collapse: collapse; background: {PAPER}; border: 1px solid #e1e4e8; width: 100%; }}
th, td {{ text-align: left; padding: 6px 12px; border-top: 1px solid #edeff2;
  vertical-align: top; overflow-wrap: anywhere; }}
th {{ color: {FAINT}; font-weight: 600; border-top: 0; white-space: nowrap; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
p.note {{ border-left: 4px solid {LOOKS["ledger"].line}; background: {LOOKS["ledger"].fill};
  color: {LOOKS["ledger"].text}; padding: 8px 14px; margin: 8px 0; }}
"""


@dataclass(frozen=True, slots=True)
class Listing:
    """A table of a page. Numbers stand at the right; None is what is not known.

    ``more`` is how many rows there are besides these.
    """

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str | int | None]] = ()
    more: int = 0


def to_html(
    graph: Graph,
    title: str,
    caption: str,
    notes: Sequence[str] = (),
    listings: Sequence[Listing] = (),
) -> str:
    """The picture with notes and tables on one page that needs nothing else."""
    body = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">",
        f"<title>{escape(printable(title))}</title>",
        f"<style>{STYLE}</style></head><body><main>",
        *(f'<p class="note">{escape(printable(note))}</p>' for note in notes),
        f"<figure>{to_svg(graph, title, caption)}</figure>",
    ]
    for listing in listings:
        body += _listing(listing)
    return "\n".join([*body, "</main></body></html>", ""])


def _listing(listing: Listing) -> Iterable[str]:
    yield f"<h2>{escape(printable(listing.title))}</h2>"
    if not listing.columns:
        return
    right = [
        any(isinstance(row[at], int) for row in listing.rows) for at in range(len(listing.columns))
    ]
    yield f"<table><thead>{_row('th', listing.columns, right)}</thead><tbody>"
    for row in listing.rows:
        yield _row("td", row, right)
    yield "</tbody></table>"
    if listing.more:
        yield f"<p>… {listing.more:,} more</p>"


def _row(tag: str, cells: Sequence[str | int | None], right: Sequence[bool]) -> str:
    found = (
        f"<{tag}{' class=number' if number else ''}>"
        f"{escape('-' if one is None else printable(str(one)))}</{tag}>"
        for one, number in zip(cells, right, strict=True)
    )
    return f"<tr>{''.join(found)}</tr>"
