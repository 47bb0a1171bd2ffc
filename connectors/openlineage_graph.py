"""The picture of emitted events: which jobs read and wrote which datasets, as Graphviz DOT.

For a look at an event file without a lineage service. Imports: standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

STEPS = "batchweave_steps"
LINES_MAX = 8
"""Of an edge's checkpoints, only those furthest ahead are named."""

_Steps: TypeAlias = dict[str, tuple[int, int, int]]  # what was done: first, last, how many


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The events of a file that OpenLineage's file transport appended to, one a line."""
    lines = Path(path).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def to_dot(events: Iterable[Mapping[str, Any]]) -> str:
    """Jobs as boxes, datasets as cylinders, with the steps on the edges; sorted, so stable."""
    jobs: dict[str, str] = {}
    datasets: set[str] = set()
    edges: dict[tuple[str, str], _Steps] = {}
    for event in events:
        job = f"{event['job']['namespace']}/{event['job']['name']}"
        jobs[job] = _last_state(jobs.get(job), str(event.get("eventType", "")))
        for side in ("inputs", "outputs"):
            for dataset in event.get(side) or ():
                name = f"{dataset['namespace']}/{dataset['name'].lstrip('/')}"
                datasets.add(name)
                edge = (name, job) if side == "inputs" else (job, name)
                edges.setdefault(edge, {})
                _count(edges[edge], dataset, side)
    lines = ["digraph lineage {", "  rankdir=LR;"]
    lines += [
        f"  {_quoted('job ' + job)} [shape=box, label={_quoted(job + chr(10) + state)}];"
        for job, state in sorted(jobs.items())
    ]
    lines += [
        f"  {_quoted('dataset ' + name)} [shape=cylinder, label={_quoted(name)}];"
        for name in sorted(datasets)
    ]
    for (source, target), said in sorted(edges.items()):
        ends = ("job ", "dataset ") if source in jobs else ("dataset ", "job ")
        label = f" [label={_quoted(_label(said))}]" if said else ""
        lines.append(f"  {_quoted(ends[0] + source)} -> {_quoted(ends[1] + target)}{label};")
    return "\n".join([*lines, "}", ""])


def _last_state(known: str | None, state: str) -> str:
    """What became of a job's latest run: an end is not undone by news that come after it."""
    return known if known is not None and state in ("RUNNING", "OTHER") else state


def _count(known: _Steps, dataset: Mapping[str, Any], side: str) -> None:
    """Add what one event says of steps to what is known of its edge."""
    facet = (dataset.get("inputFacets" if side == "inputs" else "outputFacets") or {}).get(STEPS)
    if not facet or not facet.get("ranges"):
        return
    what = (
        f"{facet['action']} by {facet['checkpoint']}" if "checkpoint" in facet else facet["action"]
    )
    first, last = facet["ranges"][0]["first"], facet["ranges"][-1]["last"]
    steps = sum(one["last"] - one["first"] + 1 for one in facet["ranges"])
    before = known.get(what, (first, last, 0))
    known[what] = (min(before[0], first), max(before[1], last), before[2] + steps)


def _label(known: _Steps) -> str:
    lines = [
        f"{what}: {steps} steps, {first} to {last}"
        for what, (first, last, steps) in sorted(known.items(), key=lambda one: (one[1][1], one[0]))
    ]
    more = len(lines) - LINES_MAX
    return "\n".join(lines if more <= 0 else [f"… {more} more", *lines[-LINES_MAX:]])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
