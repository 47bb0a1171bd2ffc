"""Producers, consumers, reclaims and sweeps run at once and are killed at random: is all kept?

    python tests/bench/retention_soak.py [--minutes 10] [--kind object-store-s3|rest|delta-s3 ...]

Real processes on a local S3 server (or any kind of `tests.servers.catalogs`): producers publish
numbered items as fast as they can, consumers read everything from their last checkpoint on and
register new ones at steps of their own, one process reclaims and another sweeps every few seconds
with a short grace period. A random one gets SIGKILL every few seconds and is started again.

At the end: each consumer has read every step from 0 on with the right content, `check_stream` holds
of what is live, the ledger's rows and the live batches make one chain, other engines read the head
and every tag as our reader does, and the files in the store stayed within 1.3 times what is live
and what the grace period holds: more only while a killed sweep was on its way back. Violations are
printed; the exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import batchweave as bw
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.ledger import verify_rows
from batchweave.paths import DATA, upload_version
from batchweave.state import next_chain
from batchweave.sweep import RESOLUTION_MS
from batchweave.testing import check_stream, fingerprint, fingerprint_of_rows
from batchweave.testing.engines import DELTA_ENGINES, ICEBERG_ENGINES, store_properties
from tests.servers.catalogs import KINDS, running

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = pa.schema([("item", pa.int64()), ("payload", pa.binary())])
STREAM = "bench.soak"
MESH = bw.Mesh(dp=2)
PRODUCER_SETTINGS = bw.ProducerSettings(freshness_s=0.2, pending_batches_max=64)
CONSUMERS = {"fast": 60, "slow": 175}
"""Consumers, and after how many steps each registers a checkpoint."""

PAYLOAD_BYTES = 64 * 1024
GRACE_S = 5.0
EVERY_S = 2.0
SAMPLE_S = 5.0
KILL_S = (2.0, 8.0)
READY_S = 120.0
STORED_MAX = 1.3
SETTLE_S = 60.0
"""How long a killed sweep may take to be back and done, Python's start on a busy machine included.
"""
WORK = "import sys; from tests.bench.retention_soak import work; work(*sys.argv[1:])"


# -- the processes that are killed -------------------------------------------------------------


def work(properties: str, role: str, name: str, log: str, window: str) -> None:
    """One process, until it is killed. It prints a line as soon as it has done something."""
    stream = bw.load_catalog("soak", **json.loads(properties)).load_stream(STREAM)
    if role == "producer":
        produce(stream, name)
    elif role == "consumer":
        consume(stream, name, Path(log))
    else:
        maintain(stream, role, int(window))


def produce(stream: bw.Stream, name: str) -> None:
    """Item after item from the durable position: an item's number is its batch's sequence."""
    with stream.producer(name, PRODUCER_SETTINGS) as producer:
        item = 0 if producer.position is None else int(str(producer.position)) + 1
        producer.publish(content(name, item), position=item, source=f"{name} {item}").step(READY_S)
        ready()
        while True:
            item += 1
            producer.publish(content(name, item), position=item, source=f"{name} {item}")


def content(name: str, item: int) -> list[dict[str, list[Any]]]:
    """What a producer makes of an item: bytes that cannot be compressed, the same each time."""
    chance = random.Random(f"{name} {item}")
    return [
        {"item": [item], "payload": [chance.randbytes(PAYLOAD_BYTES)]} for _ in range(MESH.slices)
    ]


def consume(stream: bw.Stream, name: str, log: Path) -> None:
    """Read from the last checkpoint on; note what was read before a new checkpoint says so."""
    found = stream.checkpoints.latest(name)
    assert found is not None, f"consumer {name} has lost its checkpoints"
    start = found.next_step
    with stream.read(start=start, follow=True) as reader:
        for batch in reader:
            slices = content(batch.producer, batch.sequence)
            if batch.table.to_pydict() != {
                key: [value for one in slices for value in one[key]] for key in SCHEMA.names
            }:
                raise AssertionError(f"{name}: step {batch.step} does not hold its item")
            ahead = batch.step + 1
            if ahead - start < CONSUMERS[name]:
                continue
            with log.open("a") as file:
                file.write(f"{start} {ahead}\n")
            stream.checkpoints.register(f"{name}-{ahead}", next_step=ahead, consumer=name)
            start = ahead
            ready()


def maintain(stream: bw.Stream, role: str, window: int) -> None:
    """Reclaim, or sweep, every few seconds."""
    while True:
        try:
            if role == "reclaim":
                stream.reclaim(keep_checkpoints=2, keep_steps=window, grace_s=GRACE_S)
            else:
                stream.sweep(grace_s=GRACE_S)
        except (bw.Fenced, bw.NotCommitted) as error:
            print(f"again: {error}", file=sys.stderr, flush=True)
        ready()
        time.sleep(EVERY_S)


def ready() -> None:
    print("ready", flush=True)


class Crew:
    """All processes. One that ends by itself is a violation."""

    def __init__(self, properties: Mapping[str, str], folder: Path, window: int, size: int) -> None:
        self._properties = json.dumps(dict(properties))
        self._folder = folder
        self._window = window
        self.roles = {f"p{index}": "producer" for index in range(size)}
        self.roles |= dict.fromkeys(CONSUMERS, "consumer")
        self.roles |= {"reclaim": "reclaim", "sweep": "sweep"}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.violations: list[str] = []

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def start(self, name: str) -> None:
        arguments = [self.roles[name], name, str(self.log(name)), str(self._window)]
        with (
            self._out(name).open("wb") as out,
            self._folder.joinpath(f"{name}.err").open("ab") as err,
        ):
            self._running[name] = subprocess.Popen(
                [sys.executable, "-c", WORK, self._properties, *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=out,
                stderr=err,
            )

    def is_ready(self, name: str) -> bool:
        """Whether a process has done something since it was started."""
        return self._out(name).stat().st_size > 0

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        elif process.returncode:
            said = self._folder.joinpath(f"{name}.err").read_text(errors="replace")
            self.violations.append(f"{name} ended by itself:\n{said[-1500:]}")
        process.wait()

    def revive(self) -> None:
        """Start again who ended by itself, and note it."""
        for name, process in list(self._running.items()):
            if process.poll() is not None:
                self.kill(name)
                self.start(name)

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def _out(self, name: str) -> Path:
        return self._folder / f"{name}.out"


# -- what is looked at while they run ----------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Bytes in the store at one moment, by why they are there."""

    at_s: float
    live: int
    held: int
    overdue: int
    orphaned: int

    @property
    def ratio(self) -> float:
        """What is stored against what should be: live, or within its grace period."""
        wanted = self.live + self.held
        return (wanted + self.overdue + self.orphaned) / wanted if wanted else 1.0

    @property
    def of_live(self) -> float:
        return self.ratio * (self.live + self.held) / self.live if self.live else 1.0


class Storage:
    """Samples of the files in the store: live, within their grace period, or due to go."""

    def __init__(self, stream: bw.Stream) -> None:
        self._stream = stream
        self._steps: dict[str, int] = {}
        self._seen: set[int] = set()
        self._next = 0
        self.samples: list[Sample] = []

    def sample(self) -> None:
        """Take one: the state first, the listing last, so that nothing that went is live."""
        table = self._stream.table
        head = table.head()
        state = head.state
        self._next = max(self._next, state.watermark)
        for entry in table.entries(head, self._next, state.next_step):
            self._steps |= {part.path: entry.step for part in entry.parts}
        self._next = state.next_step
        pending = {int(name) for name in state.reclaims}
        self._seen |= {*pending, state.watermark}
        released = max((one for one in self._seen if one not in pending), default=0)
        files = [info for info in table.objects.list(DATA) if upload_version(info.path) is not None]
        now_ms = max((info.modified_ms for info in files), default=0)
        live = held = overdue = orphaned = 0
        for info in files:
            step = self._steps.get(info.path)
            if step is None:  # not committed, or later than the head that was read
                young = info.modified_ms > now_ms - GRACE_S * 1000 - RESOLUTION_MS
                held += info.size if young else 0
                orphaned += 0 if young else info.size
            elif step >= state.watermark:
                live += info.size
            elif step >= released:
                held += info.size
            else:
                overdue += info.size
        self.samples.append(Sample(time.monotonic(), live, held, overdue, orphaned))

    @property
    def worst(self) -> Sample:
        return max(self.samples, key=lambda one: one.ratio)

    def above_s(self) -> float:
        """The longest time in a row that too much was stored."""
        longest, since_s = 0.0, None
        for one in self.samples:
            if one.ratio <= STORED_MAX:
                since_s = None
                continue
            since_s = one.at_s if since_s is None else since_s
            longest = max(longest, one.at_s - since_s)
        return longest


@dataclass
class Report:
    """What a run found."""

    kind: str
    seconds: float = 0.0
    kills: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    watermark: int = 0
    versions: int = 0
    stored_max: float = 0.0
    stored_median: float = 0.0
    stored_of_live_median: float = 0.0
    above_s: float = 0.0
    worst: dict[str, float] = field(default_factory=dict)
    stored_end: float = 0.0
    metadata_files: int = 0
    ledger_rows: int = 0
    tags: int = 0
    engines: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def run(
    kind: str, properties: dict[str, str], minutes: float, producers: int, window: int, seed: int
) -> Report:
    """Let them run and die for so long, then look at what there is."""
    report, chance = Report(kind), random.Random(seed)
    catalog = bw.load_catalog("soak", **properties)
    stream = catalog.create_stream(STREAM, schema=SCHEMA, mesh=MESH)
    for name in CONSUMERS:
        stream.checkpoints.register(f"{name}-0", next_step=0, consumer=name)
    storage = Storage(stream)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        crew = Crew(properties, Path(folder), window, producers)
        began_s = time.monotonic()
        try:
            for name in crew.roles:
                crew.start(name)
            _rampage(crew, storage, chance, began_s + minutes * 60, report)
        finally:
            crew.stop()
        report.seconds = time.monotonic() - began_s
        report.violations += crew.violations
        report.violations += _read_by_all(crew, stream)
    report.violations += _stored(storage, report)
    report.violations += verdict(stream, properties, report)
    return report


def _rampage(
    crew: Crew, storage: Storage, chance: random.Random, until_s: float, report: Report
) -> None:
    """Kill and restart. Mostly who was at work; else while it starts or restores."""
    kill_s = sample_s = time.monotonic() + KILL_S[1]
    victim = chance.choice(list(crew.roles))
    while time.monotonic() < until_s:
        time.sleep(0.1)
        crew.revive()
        if time.monotonic() >= sample_s:
            storage.sample()
            sample_s = time.monotonic() + SAMPLE_S
        if time.monotonic() < kill_s or not (crew.is_ready(victim) or chance.random() < 0.005):
            continue
        crew.kill(victim)
        crew.start(victim)
        report.kills[victim] = report.kills.get(victim, 0) + 1
        kill_s = time.monotonic() + chance.uniform(*KILL_S)
        victim = chance.choice(list(crew.roles))


def _stored(storage: Storage, report: Report) -> Iterator[str]:
    """How much was stored; more than it should be only as long as a killed sweep needs to return.

    Steps go in lots, so a sample may fall into their deletion, or that may have been killed.
    """
    if not storage.samples:
        yield "storage was never looked at"
        return
    worst = storage.worst
    report.stored_max = worst.ratio
    report.worst = {key: value for key, value in asdict(worst).items() if key != "at_s"}
    report.stored_median = statistics.median(one.ratio for one in storage.samples)
    report.stored_of_live_median = statistics.median(one.of_live for one in storage.samples)
    report.above_s = storage.above_s()
    if report.above_s > SETTLE_S:
        yield f"for {report.above_s:.0f} s the store held more than it should, at worst {worst}"


def _read_by_all(crew: Crew, stream: bw.Stream) -> Iterator[str]:
    """Each consumer's notes cover every step up to its last checkpoint."""
    for name in CONSUMERS:
        due, log = 0, crew.log(name)
        for line in log.read_text().splitlines() if log.exists() else []:
            start, stop = map(int, line.split())
            if start > due:
                yield f"{name} never read the steps {due} to {start}"
            due = max(due, stop)
        latest = stream.checkpoints.latest(name)
        if latest is None or latest.next_step > due:
            yield f"{name}'s last checkpoint is {latest}, it read up to {due}"
        if due == 0:
            yield f"{name} read nothing"


def verdict(stream: bw.Stream, properties: Mapping[str, str], report: Report) -> Iterator[str]:
    """What must hold when all are dead: first as they left it, then after a last clean-up."""
    report.steps, report.versions = stream.head().next_step, stream.table.head().version
    yield from _whole(stream)
    time.sleep(GRACE_S + 2)
    stream.reclaim(keep_checkpoints=2, grace_s=GRACE_S)
    time.sleep(GRACE_S + 2)
    stream.sweep(grace_s=GRACE_S)
    report.watermark = stream.head().watermark
    yield from _whole(stream)
    live = sum(entry.bytes for entry in stream.batches())
    files = [info for info in stream.table.objects.list() if not info.path.startswith(DATA)]
    stored = [
        one for one in stream.table.objects.list(DATA) if upload_version(one.path) is not None
    ]
    report.metadata_files = len(files)
    report.stored_end = sum(info.size for info in stored) / live if live else 0.0
    if report.stored_end != 1.0:
        yield f"after the last sweep the store holds {report.stored_end:.3f} times what is live"
    yield from _ledger(stream, report)
    yield from _engines(stream, properties, report)


def _whole(stream: bw.Stream) -> Iterator[str]:
    try:
        check_stream(stream)
    except AssertionError as error:
        yield str(error)


def _ledger(stream: bw.Stream, report: Report) -> Iterator[str]:
    """Rows from step 0 on without a gap, and one chain from there to the head."""
    head, ledger = stream.head(), stream.ledger
    if ledger is None or not head.watermark:
        yield "nothing was reclaimed"
        return
    rows = list(ledger.read())
    report.ledger_rows = len(rows)
    try:
        place = verify_rows(rows)
    except bw.StreamCorrupted as error:
        yield f"ledger: {error}"
        return
    if place != ledger.place() or place.next_step < head.watermark:
        yield f"the ledger ends at {place.next_step}, its state says {ledger.place().next_step}"
    wrong = [row.step for row in rows if row.sources != (f"{row.producer} {row.sequence}",)]
    if wrong:
        yield f"ledger: the sources of steps {wrong[:10]} are not those of their items"
    chain = rows[head.watermark - 1].chain
    for entry in stream.batches():
        chain = next_chain(chain, entry.step, [part.digest for part in entry.parts])
    if chain != head.chain:
        yield "the chain over ledger and live batches does not end in the head's"


def _engines(stream: bw.Stream, properties: Mapping[str, str], report: Report) -> Iterator[str]:
    """Other engines read the head as our reader does; pyiceberg reads each tag whole."""
    wanted, store = fingerprint(stream), store_properties(properties)
    iceberg = isinstance(stream.table, IcebergTable)
    handle = stream.table.head().detail.handle if iceberg else None
    location = handle.metadata_location if handle else stream.table.objects.uri
    for name, engine in (ICEBERG_ENGINES if iceberg else DELTA_ENGINES).items():
        report.engines.append(name)
        try:
            if fingerprint_of_rows(engine(location, store), stream) != wanted:
                yield f"{name} reads other rows than our reader"
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is told
            yield f"{name} cannot read the table: {type(error).__name__}: {error}"
    if handle is None:
        return
    state = stream.head()
    tags = {tag: ref for tag, ref in handle.metadata.refs.items() if tag != "main"}
    report.tags = len(tags)
    if set(tags) != {f"checkpoint-{name}" for name in state.checkpoints}:
        yield f"the tags {sorted(tags)} are not those of the checkpoints"
    for tag, ref in tags.items():
        rows = handle.scan(snapshot_id=ref.snapshot_id, selected_fields=("step", "item")).to_arrow()
        steps = rows["step"].to_pylist()
        if sorted(set(steps)) != list(range(state.watermark, max(steps, default=-1) + 1)):
            yield f"pyiceberg does not read {tag} whole"


def show(report: Report) -> None:
    kills = ", ".join(f"{name} {count}" for name, count in sorted(report.kills.items()))
    print(
        f"{report.kind}: {report.seconds:.0f} s, {sum(report.kills.values())} kills ({kills})\n"
        f"  {report.steps} steps in {report.versions} versions, watermark {report.watermark}, "
        f"{report.ledger_rows} ledger rows, {report.metadata_files} metadata files\n"
        f"  stored / (live + within grace): median {report.stored_median:.2f}, "
        f"max {report.stored_max:.2f}, above {STORED_MAX:g} for {report.above_s:.0f} s at most, "
        f"at the end {report.stored_end:.2f}; stored / live: median "
        f"{report.stored_of_live_median:.2f}; worst {report.worst}\n"
        f"  read by {', '.join(report.engines)}; {report.tags} tags read whole\n"
        f"  violations: {len(report.violations)}",
        flush=True,
    )
    for one in report.violations:
        print(f"    {one}")


def main() -> int:
    """Run each kind; exit 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=["object-store-s3"])
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument("--window", type=int, default=600, help="newest steps that are kept")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")
    reports = []
    with running() as servers, tempfile.TemporaryDirectory() as folder:
        for kind in options.kind:
            properties = servers.properties(kind, Path(folder))
            report = run(
                kind, properties, options.minutes, options.producers, options.window, options.seed
            )
            reports.append(report)
            show(report)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in reports], indent=2))
    return 1 if any(one.violations for one in reports) else 0


if __name__ == "__main__":
    raise SystemExit(main())
