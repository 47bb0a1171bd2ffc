"""Producers are killed at random moments on a store that loses answers: is all there, once?

    python tests/bench/exactly_once.py [--kills 100] [--producers 4] [--drop 0.05] [--json out.json]

Producer processes publish numbered items to a stream on a local S3 server (SeaweedFS), behind a
proxy that forwards writes and throws a share of the answers away. A random one is killed with
SIGKILL at a random moment and started again, as often as asked. At the end the table and the data
are read: steps are dense, each sequence of each producer is there once, its items are in order and
once, the durable position is that of the last item. Violations are printed, and their number is the
exit status (at most 1). Also printed: the time from a restart (the process is started; Python and
the libraries are imported in it) to the first new commit of that producer.
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
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

import batchweave as bw
from batchweave.batch import position_from_text

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.servers.proxy import Proxy
from tests.servers.seaweed import S3Server, running

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = pa.schema([("tokens", pa.list_(pa.int32()))])
STREAM = "bench.kills"
SETTINGS = bw.ProducerSettings(freshness_s=0.05, commit_timeout_s=60)
WORK = "import sys; from tests.bench.exactly_once import work; work(*sys.argv[1:])"
READY_S = 60.0
PAUSE_S = 0.01
ALIVE_S = 1.0


def work(properties: str, name: str) -> None:
    """A producer process: item after item from its durable position, until it is killed."""
    catalog = bw.load_catalog("s3", type="object-store", **json.loads(properties))
    with catalog.load_stream(STREAM).producer(name, SETTINGS) as producer:
        item = 0 if producer.position is None else int(str(producer.position)) + 1
        producer.publish([tokens(item)] * 2, position=item).step()
        print(time.monotonic(), flush=True)  # one clock for all processes of a machine
        while True:
            item += 1
            producer.publish([tokens(item)] * 2, position=item, source=f"{name} {item}")
            time.sleep(PAUSE_S)


def tokens(item: int) -> dict[str, object]:
    return {"tokens": np.full((2, 8), item, np.int32)}


@dataclass
class Report:
    """What a run found."""

    kills: int = 0
    seconds: float = 0.0
    batches: int = 0
    dropped: int = 0
    generations: int = 0
    restart_s: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


class Crew:
    """The producer processes."""

    def __init__(self, properties: dict[str, str], producers: int) -> None:
        self._properties = properties
        self.names = [f"p{index}" for index in range(producers)]
        self._running: dict[str, tuple[subprocess.Popen[str], float]] = {}
        self.restart_s: list[float] = []

    def start(self, name: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, json.dumps(self._properties), name],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._running[name] = (process, time.monotonic())

    def await_commit(self, name: str) -> None:
        """Wait for the first new commit of a process."""
        process, began_s = self._running[name]
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"producer {name} ended with {process.wait()}")
        self.restart_s.append(float(line) - began_s)

    def kill(self, name: str) -> None:
        process, _ = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)


def run(server: S3Server, kills: int, producers: int, drop: float, seed: int) -> Report:
    """Kill producers as often as asked, then look at what there is."""
    report = Report()
    began_s = time.monotonic()
    chance = random.Random(seed)
    bucket = server.bucket()
    with Proxy(server.port, seed) as proxy:
        properties = server.properties(bucket, endpoint=proxy.endpoint)
        catalog = bw.load_catalog("s3", type="object-store", **properties)
        catalog.create_stream(STREAM, schema=SCHEMA, mesh=bw.Mesh(dp=2))
        crew = Crew(properties, producers)
        try:
            proxy.set(drop=drop)
            for name in crew.names:
                crew.start(name)
            for _ in range(kills):
                victim = chance.choice(crew.names)
                if (
                    chance.random() < 0.75
                ):  # else while it starts, opens, or commits for the first time
                    crew.await_commit(victim)
                time.sleep(chance.uniform(0.0, ALIVE_S))
                crew.kill(victim)
                crew.start(victim)
                report.kills += 1
            for name in crew.names:
                crew.await_commit(name)
        finally:
            crew.stop()
        report.restart_s = crew.restart_s
        report.dropped = proxy.counts().get("dropped", 0)
    stream = bw.load_catalog("s3", type="object-store", **server.properties(bucket)).load_stream(
        STREAM
    )
    report.violations = violations(stream, report)
    report.seconds = time.monotonic() - began_s
    return report


def violations(stream: bw.Stream, report: Report) -> list[str]:
    """Everything in the table and the data that must not be; counts go into the report."""
    found = []
    head = stream.head()
    batches = list(stream.batches())
    report.batches = len(batches)
    report.generations = sum(one.generation for one in head.producers.values())
    if [batch.step for batch in batches] != list(range(head.next_step)):
        found.append(f"steps are not 0 to {head.next_step - 1}")
    for key, count in Counter((batch.producer, batch.sequence) for batch in batches).items():
        if count > 1:
            found.append(f"sequence {key[1]} of {key[0]} is there {count} times")
    items: list[list[int]] = []
    for index in range(2):
        rows = [batch.numpy()["tokens"] for batch in stream.read(slice=index)]
        items.append([int(one[0, 0]) for one in rows])
        found += [f"step {at} is mixed" for at, one in enumerate(rows) if len(np.unique(one)) != 1]
    if items[0] != items[1] or len(items[0]) != head.next_step:
        found.append("the slices of a step do not belong together")
    for name, state in head.producers.items():
        own = [batch for batch in batches if batch.producer == name]
        if [batch.sequence for batch in own] != list(range(len(own))):
            found.append(f"sequences of {name} are not 0 to {len(own) - 1}")
        if [items[0][batch.step] for batch in own] != list(range(len(own))):
            found.append(f"items of {name} are not each there once, in order")
        if position_from_text(state.position) != len(own) - 1:
            found.append(f"position of {name} is {state.position}, not that of its last item")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--drop", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with running() as server:
        report = run(server, options.kills, options.producers, options.drop, options.seed)
    restarts = report.restart_s
    print(
        f"{report.kills} kills of {options.producers} producers in {report.seconds:.0f} s: "
        f"{report.batches} batches, {report.generations} generations, "
        f"{report.dropped} answers lost"
    )
    print(
        f"restart to first commit: median {statistics.median(restarts):.2f} s, "
        f"max {max(restarts):.2f} s"
    )
    print(f"violations: {len(report.violations)}")
    for one in report.violations:
        print(f"  {one}")
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2))
    return 1 if report.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
