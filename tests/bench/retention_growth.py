"""A million steps with retention: do metadata and commits at the end cost what they did early?

    python tests/bench/retention_growth.py [--steps 1000000] [--batches 200] [--json out.json]

One writer commits many batches at a time to a stream on a local folder, registers a checkpoint
after each thousand steps and reclaims what the last five do not need, as a training run does. The
batches are made up: commits and manifests are real, their data files do not exist, and so the
ledger's rows, real as well, are given a source that is not read from a file. Printed are bytes and
files of metadata, and medians of commits, reclaims and loadings since the line before. Compared are
the first steps after 10,000 with as many at the end: upkeep runs in turns, so the most metadata
within them counts. Goals: the stream's metadata at most 1.25 times, a commit at most 1.25 times.
The ledger keeps one row a batch for good, so its data grows; its metadata is shown beside.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import batchweave as bw
from batchweave.ledger import Origins
from batchweave.paths import data_path
from batchweave.state import Numbered, append, check_generation
from batchweave.table import BatchEntry, Change, Committed, Part, Table

SCHEMA = pa.schema([("tokens", pa.list_(pa.int32()))])
NAME = "bench.months"
PRODUCER = "p"
EARLY_STEPS = 10_000
CHECKPOINT_EVERY = 1_000
KEPT = 5
WINDOW = (KEPT - 1) * CHECKPOINT_EVERY
GROWTH_MAX = 1.25
PART_BYTES = 1 << 20


@dataclass(frozen=True)
class Figures:
    """What a stream of so many steps costs. Times are medians since the last time it was asked."""

    steps: int
    metadata_bytes: int
    metadata_files: int
    ledger_metadata_bytes: int
    ledger_metadata_files: int
    ledger_data_bytes: int
    manifests: int
    commit_ms: float
    upkeep_ms: float
    reclaim_ms: float
    load_ms: float


class Writer:
    """A producer without a producer's thread: it commits made-up batches, as many as it likes."""

    def __init__(self, stream: bw.Stream) -> None:
        self._table = stream.table
        with stream.producer(PRODUCER):
            pass
        self._head = self._table.head()
        self.commit_s: list[float] = []
        self.upkeep_s: list[float] = []

    def commit(self, count: int) -> float:
        """Append ``count`` batches in one commit, based on the newest version; its seconds."""
        head = self._table.head(self._head)
        state = head.state
        generation = state.producers[PRODUCER].generation
        first = check_generation(state, PRODUCER, generation).sequence + 1
        now_ms = time.time_ns() // 1_000_000
        added = tuple(
            BatchEntry(state.next_step + at, PRODUCER, first + at, now_ms,
                       (self._part(head.version, generation, first + at),))
            for at in range(count)
        )  # fmt: skip
        after = append(
            state,
            PRODUCER,
            generation,
            [Numbered(one.sequence, (one.parts[0].digest,)) for one in added],
            version=head.version + 1,
            now_ms=now_ms,
        )
        began_s = time.perf_counter()
        outcome = self._table.commit(head, Change(after, added))
        ended_s = time.perf_counter()
        assert isinstance(outcome, Committed)
        self._table.tidy(outcome.head)
        self.commit_s.append(ended_s - began_s)
        self.upkeep_s.append(time.perf_counter() - ended_s)
        self._head = outcome.head
        return ended_s - began_s

    def _part(self, version: int, generation: int, sequence: int) -> Part:
        digest = hashlib.sha256(str(sequence).encode()).hexdigest()
        path = data_path(version, PRODUCER, generation, sequence, 0, digest[:32])
        columns = (PART_BYTES, *[4] * (_leaf_count(self._table) - 1))
        return Part(path, digest, 0, 1, 64, PART_BYTES + 4096, (4,), PART_BYTES, columns)


def _leaf_count(table: Table) -> int:
    """Leaf columns of the stream's files: one a field, as `SCHEMA` nests nothing but a list."""
    return len(table.file_schema)


def measure(
    catalog: bw.Catalog, stream: bw.Stream, writer: Writer, reclaims: list[float]
) -> Figures:
    """Count what there is, and start the medians anew."""
    began_s = time.perf_counter()
    for _ in range(5):
        head = catalog.load_stream(NAME).table.head()
    load_s = (time.perf_counter() - began_s) / 5
    ledger = catalog.load_stream(NAME + "__ledger").table
    own, theirs = _metadata(stream.table), _metadata(ledger)
    found = Figures(
        steps=head.state.next_step,
        metadata_bytes=sum(own),
        metadata_files=len(own),
        ledger_metadata_bytes=sum(theirs),
        ledger_metadata_files=len(theirs),
        ledger_data_bytes=sum(info.size for info in ledger.objects.list("data")),
        manifests=len(head.detail.metadata.current_snapshot().manifests(head.detail.handle.io)),
        commit_ms=statistics.median(writer.commit_s) * 1000,
        upkeep_ms=statistics.mean(writer.upkeep_s) * 1000,
        reclaim_ms=statistics.median(reclaims) * 1000,
        load_ms=load_s * 1000,
    )
    for times in (writer.commit_s, writer.upkeep_s, reclaims):
        times.clear()
    return found


def _metadata(table: Table) -> list[int]:
    return [info.size for info in table.objects.list() if not info.path.startswith("data/")]


@dataclass
class Span:
    """A run of steps that is compared: the most metadata within it, and all commit times."""

    first: int
    last: int
    metadata_bytes: int = 0
    commit_s: list[float] = field(default_factory=list)

    def note(self, done: int, stream: bw.Stream, commit_s: float) -> None:
        if self.first < done <= self.last:
            self.commit_s.append(commit_s)
            if done % CHECKPOINT_EVERY == 0:
                self.metadata_bytes = max(self.metadata_bytes, sum(_metadata(stream.table)))


def show(figures: Figures) -> None:
    print(
        f"{figures.steps:>9,} {figures.metadata_bytes / 1e6:>8.2f} {figures.metadata_files:>6} "
        f"{figures.manifests:>6} {figures.commit_ms:>8.1f} {figures.upkeep_ms:>8.1f} "
        f"{figures.reclaim_ms:>9.0f} {figures.load_ms:>7.1f} "
        f"{figures.ledger_metadata_bytes / 1e6:>10.2f} {figures.ledger_metadata_files:>6} "
        f"{figures.ledger_data_bytes / 1e6:>8.1f}",
        flush=True,
    )


def run(folder: str, steps: int, batches: int, spans: tuple[Span, ...]) -> list[Figures]:
    """Write, checkpoint and reclaim; the figures at ten points and at the early one."""
    catalog = bw.load_catalog("bench", type="object-store", warehouse=folder)
    stream = catalog.create_stream(NAME, schema=SCHEMA, mesh=bw.Mesh(dp=1))
    writer, reclaims, found = Writer(stream), list[float](), list[Figures]()
    shown = {EARLY_STEPS, steps, *range(steps // 10, steps, steps // 10)}
    for done in range(batches, steps + 1, batches):
        commit_s = writer.commit(batches)
        if done % CHECKPOINT_EVERY == 0:
            stream.checkpoints.register(f"step-{done}", next_step=done)
            began_s = time.perf_counter()
            report = stream.reclaim(keep_checkpoints=KEPT, grace_s=0)
            reclaims.append(time.perf_counter() - began_s)
            assert report.watermark == max(CHECKPOINT_EVERY, done - WINDOW)
        for span in spans:
            span.note(done, stream, commit_s)
        if done in shown:
            found.append(measure(catalog, stream, writer, reclaims))
            show(found[-1])
    return found


def main() -> int:
    """Print the table; exit 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=200, help="batches a commit")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(
        f"{'steps':>9} {'meta MB':>8} {'files':>6} {'manif.':>6} {'commit ms':>9} {'upkeep':>7} "
        f"{'reclaim ms':>10} {'load ms':>7} {'ledger MB':>9} {'files':>6} {'rows MB':>8}"
    )
    made_up = patch(
        "batchweave.ledger.records.batch_origins",
        lambda table, entry, columns: Origins(("made up",)),
    )
    steps = options.steps
    early, late = Span(EARLY_STEPS, 2 * EARLY_STEPS), Span(steps - EARLY_STEPS, steps)
    with tempfile.TemporaryDirectory() as folder, made_up:
        found = run(folder, steps, options.batches, (early, late))
    size = late.metadata_bytes / early.metadata_bytes
    commit = statistics.median(late.commit_s) / statistics.median(early.commit_s)
    print(
        f"metadata {early.metadata_bytes / 1e6:.1f} MB and {late.metadata_bytes / 1e6:.1f} MB: "
        f"{size:.2f} times; commit {commit:.2f} times (goals <= {GROWTH_MAX:g})"
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=2))
    return 0 if max(size, commit) <= GROWTH_MAX else 1


if __name__ == "__main__":
    raise SystemExit(main())
