"""Lineage over a long history: how the time of each question grows with the steps.

    .venv/bin/python -m tests.bench.lineage [--steps 100000] [--json FILE]

The batches are made up, with one source each and four documents a slice: half of the steps are
live and told by the metadata alone, half are reclaimed and told by the ledger. Figures are seconds
at a tenth of the steps and at all of them, in one run. Exits with 1 where a question at all of
them takes more than ten times as long as at a tenth, and half as long again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa

import batchweave as bw
from batchweave.ledger import Origins
from batchweave.sql.lineage import Lineage
from batchweave.sql.lineage_answers import Answer
from batchweave.table import BatchEntry, Part, Table
from tests.bench.retention_growth import Writer

SCHEMA = pa.schema([("doc_id", pa.string()), ("tokens", pa.int32())])
BATCHES = 500
STEPS_A_SOURCE = 100
GROWTH_MAX = 15.0

QUESTIONS: dict[str, Callable[[Lineage, int], Answer]] = {
    "checkpoint": lambda asked, steps: asked.checkpoint("all"),
    "difference": lambda asked, steps: asked.difference("half", "all"),
    "source": lambda asked, steps: asked.source("part-3"),
    "sources like": lambda asked, steps: asked.source("part-*", "glob"),
}
RECORDED: dict[str, Callable[[Lineage, int], Answer]] = {
    "document": lambda asked, steps: asked.document("doc_id", f"doc-{steps // 4}-0"),
    "where": lambda asked, steps: asked.where("doc_id like 'doc-1%-2'"),
}
"""Asked of the reclaimed half: the files of the live one are made up, too."""


class Sourced(Writer):
    """Batches with a source in the metadata."""

    def _part(self, version: int, generation: int, sequence: int) -> Part:
        part = super()._part(version, generation, sequence)
        return replace(part, source=f"part-{sequence // STEPS_A_SOURCE}")


def _origins(table: Table, entry: BatchEntry, columns: tuple[str, ...]) -> Origins:
    documents = {"doc_id": [f"doc-{entry.step}-{at}" for at in range(4)]}
    return Origins((entry.parts[0].source,), (json.dumps(documents, separators=(",", ":")),))


def filled(folder: str, steps: int) -> bw.Stream:
    """A stream of so many steps, the first half of them reclaimed."""
    catalog = bw.load_catalog("bench", type="object-store", warehouse=folder)
    stream = catalog.create_stream(
        "demo.lineage", schema=SCHEMA, mesh=bw.Mesh(dp=1), lineage_columns=("doc_id",)
    )
    writer = Sourced(stream)
    for _ in range(steps // BATCHES):
        writer.commit(BATCHES)
    stream.checkpoints.register("half", next_step=steps // 2)
    with patch("batchweave.ledger.records.batch_origins", _origins):
        stream.reclaim(grace_s=1_000_000)
    stream.checkpoints.register("all", next_step=steps)
    return stream


def measured(stream: bw.Stream, steps: int) -> dict[str, float]:
    """Seconds of each question, with those of opening the session and of the picture."""
    found = {}
    for at, questions in ((None, QUESTIONS), (steps // 2, RECORDED)):
        began_s = time.perf_counter()
        with Lineage(stream, at) as asked:
            found["opening"] = time.perf_counter() - began_s
            for name, question in questions.items():
                began_s = time.perf_counter()
                answer = question(asked, steps)
                found[name] = time.perf_counter() - began_s
                assert answer.complete
                assert answer.to_arrow().num_rows
                began_s = time.perf_counter()
                answer.to_svg()
                found["picture"] = max(found.get("picture", 0), time.perf_counter() - began_s)
    return found


def main() -> int:
    """Print the table; exit 1 if a question grows faster than the steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = {}
    for steps in (options.steps // 10, options.steps):
        with tempfile.TemporaryDirectory() as folder:
            figures[steps] = measured(filled(folder, steps), steps)
    few, many = figures.values()
    print(
        f"{'question':<14} {'s at ' + str(options.steps // 10):>12} {'s at all':>10} {'times':>7}"
    )
    growth = {name: many[name] / few[name] for name in many}
    for name, times in growth.items():
        print(f"{name:<14} {few[name]:>12.2f} {many[name]:>10.2f} {times:>7.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0 if max(growth.values()) <= GROWTH_MAX else 1


if __name__ == "__main__":
    raise SystemExit(main())
