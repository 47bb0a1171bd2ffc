"""Eight producer processes on one stream on S3: batches a second, wasted attempts, fair shares.

    python tests/bench/contention.py [--seconds 20] [--producers 8] [--json out.json] [--check]

All publish small batches (one slice of 4 rows x 64 int32) as fast as they are let, on a local S3
server (SeaweedFS), in three ways, one after the other:

* ``dac``: the producer as it is; batches wait for their turn and share commits.
* ``at_once``: the same sessions, tables and files, but each batch is committed as soon as it is
  uploaded, and retried at once when the commit is lost.
* ``append``: pyiceberg's ``Table.append`` with its own retries, on a SQLite catalog (the cheapest
  compare-and-swap there is), data and metadata on the same S3 server.

What counts happens within the measured seconds, after a warm-up. An attempt is one compare-and-swap
tried. The S3 server settles rivals for one key with a lock that it polls once a second; the
requests therefore pass a proxy that lets conditional writes of one key queue, so that losing costs
a round trip, as on S3. ``--direct`` leaves the proxy out (and flatters us). ``--latency-ms`` holds
back every write's answer, as a distant store does.
Goals, as ratios within one run: at least 4 times the batches of ``at_once`` and 10 times those of
``append``, at most 1.5 attempts a commit, no producer below half the mean share.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import queue
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyiceberg.catalog import Catalog as IcebergCatalog
from pyiceberg.catalog import load_catalog as load_pyiceberg_catalog
from pyiceberg.exceptions import CommitFailedException

import batchweave as bw
from batchweave.batch import check_slices
from batchweave.clock import SystemClock
from batchweave.parquet import encode
from batchweave.producer import Producer
from batchweave.session import Session, Staged
from batchweave.table import Change, Committed, Head, Outcome, Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.servers import seaweed
from tests.servers.proxy import Proxy

SCHEMA = pa.schema([("tokens", pa.list_(pa.int32()))])
ROWS, WIDTH = 4, 64
STREAM = "bench.contention"
AT_ONCE_MIN, APPEND_MIN, ATTEMPTS_MAX, SHARE_MIN = 4.0, 10.0, 1.5, 0.5
START_S = 120.0
ERRORS_MAX = 5


@dataclass
class Tally:
    """What one process did within the measured seconds."""

    begins_s: float
    ends_s: float
    name: str = ""
    batches: int = 0
    commits: int = 0
    attempts: int = 0
    total: int = 0
    attempt_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def count(self, began_s: float, batches: int) -> None:
        """One attempt; ``batches`` it committed, 0 if it did not."""
        self.total += batches
        if self.begins_s <= time.monotonic() < self.ends_s:
            self.attempts += 1
            self.commits += batches > 0
            self.batches += batches
            self.attempt_ms.append(round((time.monotonic() - began_s) * 1000, 1))

    def running(self) -> bool:
        return time.monotonic() < self.ends_s and len(self.errors) < ERRORS_MAX


class CountingTable:
    """A table that counts its commits."""

    def __init__(self, table: Table, tally: Tally) -> None:
        self._table, self._tally = table, tally

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def commit(self, base: Head, change: Change) -> Outcome:
        began_s = time.monotonic()
        outcome = self._table.commit(base, change)
        added = len(change.added)
        if added:
            self._tally.count(began_s, added if isinstance(outcome, Committed) else 0)
        return outcome


def batch(number: int) -> dict[str, Any]:
    return {"tokens": np.full((ROWS, WIDTH), number, np.int32)}


def dac(name: str, properties: dict[str, str], ready: Callable[[], Tally]) -> Tally:
    stream = bw.load_catalog("s3", type="object-store", **properties).load_stream(STREAM)
    tally = Tally(0, 0)
    counting: Any = CountingTable(stream.table, tally)
    # One upload at a time, as in the other ways: what is compared is how batches are committed.
    producer = Producer(counting, name, bw.ProducerSettings(upload_threads=1))
    begun = ready()
    tally.begins_s, tally.ends_s, number = begun.begins_s, begun.ends_s, 0
    while tally.running():
        with contextlib.suppress(bw.PendingLimit):
            producer.publish([batch(number)], position=number, timeout_s=1)
            number += 1
    producer.close(flush=False)
    return tally


def at_once(name: str, properties: dict[str, str], ready: Callable[[], Tally]) -> Tally:
    stream = bw.load_catalog("s3", type="object-store", **properties).load_stream(STREAM)
    tally = Tally(0, 0)
    counting: Any = CountingTable(stream.table, tally)
    session = Session(counting, name, clock=SystemClock(), position_bytes_inline_max=4096)
    session.open()
    begun = ready()
    tally.begins_s, tally.ends_s, sequence = begun.begins_s, begun.ends_s, 0
    while tally.running():
        slices = check_slices([batch(sequence)], [None], stream.mesh, SCHEMA)
        encoded = encode(
            slices,
            0,
            file_schema=stream.table.file_schema,
            compression="zstd",
            compression_level=1,
        )
        part, version = session.upload(sequence, 0, encoded)
        session.stage(Staged(sequence, (encoded,), (part,), version, str(sequence)))
        sequence += 1
        while session.staged and tally.running():
            outcome = session.attempt()
            if isinstance(outcome, Committed):
                stream.table.tidy(outcome.head)
    return tally


def append(name: str, properties: dict[str, str], ready: Callable[[], Tally]) -> Tally:
    catalog = open_sqlite(properties)
    tally = Tally(0, 0)
    commit_table = catalog.commit_table

    def counted(*arguments: Any, **named: Any) -> Any:
        began_s = time.monotonic()
        try:
            response = commit_table(*arguments, **named)
        except Exception:
            tally.count(began_s, 0)
            raise
        tally.count(began_s, 1)
        return response

    catalog.commit_table = counted  # type: ignore[method-assign]  # that is how it is counted
    table = catalog.load_table(STREAM)
    begun = ready()
    tally.begins_s, tally.ends_s, number = begun.begins_s, begun.ends_s, 0
    while tally.running():
        rows = pa.table({"tokens": pa.array(list(batch(number)["tokens"]), SCHEMA[0].type)})
        try:
            table.append(rows)
            number += 1
        except CommitFailedException:
            table.refresh()
    return tally


def open_sqlite(properties: dict[str, str]) -> IcebergCatalog:
    return load_pyiceberg_catalog("sqlite", type="sql", **properties)


logging.getLogger("pyiceberg").setLevel(logging.ERROR)  # it tells of every retry
WAYS = {"dac": dac, "at_once": at_once, "append": append}


def work(
    way: str,
    name: str,
    properties: dict[str, str],
    times: tuple[float, float],
    barrier: Barrier,
    results: multiprocessing.Queue[Tally],
) -> None:
    """One producer process."""

    def ready() -> Tally:
        barrier.wait(START_S)
        begins_s = time.monotonic() + times[0]
        return Tally(begins_s, begins_s + times[1])

    tally = Tally(0, 0)
    try:
        tally = WAYS[way](name, properties, ready)
    except Exception as error:  # noqa: BLE001 - told by the parent
        tally.errors.append(f"{type(error).__name__}: {error}"[:500])
        barrier.abort()
    tally.name = name
    results.put(tally)


def run(
    way: str, properties: dict[str, str], producers: int, times: tuple[float, float]
) -> list[Tally]:
    """All producers at the same time; returns what each of them counted."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(producers)
    results: multiprocessing.Queue[Tally] = context.Queue()
    processes = [
        context.Process(
            target=work,
            args=(way, f"p{index}", properties, times, barrier, results),
            daemon=True,
        )
        for index in range(producers)
    ]
    for process in processes:
        process.start()
    tallies: list[Tally] = []
    with contextlib.suppress(queue.Empty):
        while len(tallies) < producers:
            tallies.append(results.get(timeout=START_S + sum(times) + 60))
    for process in processes:
        process.join(10)
        process.kill()
    return sorted(tallies, key=lambda one: one.name)


def summary(tallies: list[Tally], producers: int, seconds: float) -> dict[str, Any]:
    shares = [one.batches for one in tallies] + [0] * (producers - len(tallies))
    batches, commits = sum(shares), sum(one.commits for one in tallies)
    squares = sum(share * share for share in shares)
    took = sorted(ms for one in tallies for ms in one.attempt_ms) or [0.0]
    return {
        "batches_per_s": batches / seconds,
        "commits_per_s": commits / seconds,
        "attempts_per_commit": sum(one.attempts for one in tallies) / max(1, commits),
        "batches_per_commit": batches / max(1, commits),
        "share_min": min(shares) * producers / max(1, batches),
        "jain": batches * batches / (producers * squares) if squares else 0.0,
        "attempt_ms_median": took[len(took) // 2],
        "attempt_ms_p99": took[len(took) * 99 // 100],
        "errors": [error for one in tallies for error in one.errors],
        "producers": [asdict(one) for one in tallies],
    }


def check(properties: dict[str, str], tallies: list[Tally]) -> None:
    """What was counted is in the table, at least."""
    state = bw.load_catalog("s3", type="object-store", **properties).load_stream(STREAM).head()
    for one in tallies:
        assert state.producers[one.name].sequence + 1 >= one.total, one.name


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    results = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(seaweed.running())
        endpoint = server.endpoint
        if not options.direct:
            proxy = stack.enter_context(Proxy(server.port))
            proxy.set(queue=True)
            if options.latency_ms:
                proxy.set(delay=1.0, delay_s=options.latency_ms / 1000)
            endpoint = proxy.endpoint
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for way in options.only or WAYS:
            properties = server.properties(server.bucket(), endpoint=endpoint)
            if way == "append":
                properties["uri"] = f"sqlite:///{folder}/catalog.db"
                catalog = open_sqlite(properties)
                catalog.create_namespace("bench")
                table = catalog.create_table(STREAM, SCHEMA)
                with table.transaction() as transaction:
                    transaction.set_properties(
                        {"commit.retry.num-retries": "100", "commit.retry.min-wait-ms": "10"}
                    )
            else:
                local = bw.load_catalog("s3", type="object-store", **properties)
                local.create_stream(STREAM, schema=SCHEMA, mesh=bw.Mesh(dp=1))
            tallies = run(way, properties, options.producers, (options.warm, options.seconds))
            results[way] = summary(tallies, options.producers, options.seconds)
            if way != "append":
                check(properties, tallies)
            show(way, results[way])
    return results


def show(way: str, one: dict[str, Any]) -> None:
    print(
        f"{way:8} {one['batches_per_s']:9.1f} {one['commits_per_s']:9.1f} "
        f"{one['attempts_per_commit']:9.2f} {one['batches_per_commit']:9.1f} "
        f"{one['share_min']:9.2f} {one['jain']:6.3f} {one['attempt_ms_median']:8.0f} "
        f"{one['attempt_ms_p99']:8.0f}",
        flush=True,
    )
    for error in one["errors"]:
        print(f"  {error}")


def misses(results: dict[str, dict[str, Any]]) -> list[str]:
    """The goals that were not reached, in words."""
    found = []
    ours = results.get("dac")
    if ours is None:
        return ["dac was not measured"]
    for way, least in (("at_once", AT_ONCE_MIN), ("append", APPEND_MIN)):
        if way in results:
            ratio = ours["batches_per_s"] / max(1e-9, results[way]["batches_per_s"])
            print(f"{ratio:.1f} times the batches of {way} (goal {least:g})")
            if ratio < least:
                found.append(f"{ratio:.1f} times {way} is below {least:g}")
    if ours["attempts_per_commit"] > ATTEMPTS_MAX:
        found.append(f"{ours['attempts_per_commit']:.2f} attempts a commit, goal {ATTEMPTS_MAX}")
    if ours["share_min"] < SHARE_MIN:
        found.append(f"the smallest share is {ours['share_min']:.2f} of the mean, goal {SHARE_MIN}")
    return [*found, *ours["errors"]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--producers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm", type=float, default=5.0)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--only", choices=list(WAYS), action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 on a missed goal")
    options = parser.parse_args()
    print(
        f"{options.producers} processes, {options.seconds:g} s after {options.warm:g} s,"
        f" batches of {ROWS} x {WIDTH} int32"
    )
    columns = ["batches/s", "commits/s", "attempts", "batches", "min share"]
    print(f"{'':8} " + " ".join(f"{name:>9}" for name in columns) + "   Jain   CAS ms   p99 ms")
    print(f"{'':28} {'/commit':>9} {'/commit':>9} {'of mean':>9}")
    results = measure(options)
    found = misses(results)
    for miss in found:
        print(f"missed: {miss}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    return 1 if options.check and found else 0


if __name__ == "__main__":
    sys.exit(main())
