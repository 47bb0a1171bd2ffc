"""How a commit's cost grows with history, against pyiceberg's own ``Table.append``.

    python tests/bench/commit_growth.py [--commits 10000] [--appends 400] [--json out.json]
    python tests/bench/commit_growth.py --catalog rest --commits 1000 --appends 0

One producer session commits one tiny batch at a time to a stream on a local folder: read nothing,
write one manifest and one list, compare-and-swap. Times are of the commit alone (no encoding, no
upload). ``Table.append`` appends one row at a time to a plain table in a SQLite catalog.
``--catalog`` is any kind of `tests.servers.catalogs`; its servers are started here, on loopback.
Ratios are taken within this run; goals: the last hundred commits at most 1.2 times the hundred
before commit 200 (1.25 on a catalog that is not ours), and at least 15 times faster than the last
of the appends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import load_catalog

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import batchweave as bw
from batchweave.clock import SystemClock
from batchweave.parquet import SliceData, encode
from batchweave.session import Session, Staged
from batchweave.table import Committed, Table
from tests.servers.catalogs import KINDS, running

SCHEMA = pa.schema([("tokens", pa.list_(pa.int32()))])
WINDOW = 100
GROWTH_MAX = 1.2
GROWTH_OTHERS_MAX = 1.25
FASTER_MIN = 15.0


def open_table(properties: Mapping[str, str]) -> Table:
    """The table of a new stream."""
    catalog = bw.load_catalog("bench", **properties)
    return catalog.create_stream("bench.growth", schema=SCHEMA, mesh=bw.Mesh(dp=1)).table


def commits(table: Table, count: int) -> Iterator[tuple[float, float]]:
    """Seconds of each commit, and of the upkeep after it."""
    session = Session(table, "p", clock=SystemClock(), position_bytes_inline_max=4096)
    session.open()
    rows = pa.table({"tokens": pa.array([[1, 2, 3]], pa.list_(pa.int32()))})
    encoded = encode(
        [SliceData(rows, {})],
        0,
        file_schema=table.file_schema,
        compression="zstd",
        compression_level=1,
    )
    for sequence in range(count):
        part, version = session.upload(sequence, 0, encoded)
        session.stage(Staged(sequence, (encoded,), (part,), version, None))
        began = time.perf_counter()
        outcome = session.attempt()
        ended = time.perf_counter()
        assert isinstance(outcome, Committed)
        table.tidy(outcome.head)
        yield ended - began, time.perf_counter() - ended


def appends(folder: str, count: int) -> list[float]:
    """Seconds of each ``Table.append`` of one row."""
    catalog = load_catalog(
        "append", type="sql", uri=f"sqlite:///{folder}/append.db", warehouse=f"file://{folder}"
    )
    catalog.create_namespace("bench")
    rows = pa.table({"tokens": pa.array([[1, 2, 3]], pa.list_(pa.int32()))})
    table = catalog.create_table("bench.append", rows.schema)
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        table.append(rows)
        seconds.append(time.perf_counter() - began)
    catalog.close()
    return seconds


def median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


def count_files(table: Table) -> dict[str, int]:
    """Files beside the data, by kind."""
    names = [info.path.rpartition("/")[2] for info in table.objects.list()]
    kinds = {"versions": ".json", "lists": "l-", "manifests": "m-"}
    return {
        kind: sum(name.endswith(mark) or name.startswith(mark) for name in names)
        for kind, mark in kinds.items()
    }


def main() -> int:
    """Print the table; exit 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--appends", type=int, default=400)
    parser.add_argument("--catalog", choices=KINDS, default="object-store")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"catalog": options.catalog, "commits": {}}
    with running() as servers, tempfile.TemporaryDirectory() as folder:
        times: list[tuple[float, float]] = []
        print(f"{'commits':>8} {'p50 ms':>8} {'p99 ms':>8} {'upkeep ms':>10}  metadata files")
        table = open_table(servers.properties(options.catalog, Path(folder)))
        for one in commits(table, options.commits):
            times.append(one)
            shown = len(times)
            if shown not in (200, options.commits) and shown % (options.commits // 10):
                continue
            recent = [commit for commit, _ in times[-WINDOW:]]
            upkeep = statistics.mean(tidy for _, tidy in times[-WINDOW:]) * 1000
            files = count_files(table)
            p99 = sorted(recent)[int(len(recent) * 0.99)] * 1000
            result["commits"][shown] = {"p50_ms": median_ms(recent), "files": files}
            row = f"{shown:8} {median_ms(recent):8.2f} {p99:8.2f} {upkeep:10.2f}  {files}"
            print(row, flush=True)
        appended = appends(folder, options.appends)
    start = median_ms([commit for commit, _ in times[WINDOW : 2 * WINDOW]])
    end = median_ms([commit for commit, _ in times[-WINDOW:]])
    goal = GROWTH_MAX if options.catalog == "object-store" else GROWTH_OTHERS_MAX
    result["growth"] = end / start
    print(f"growth {end / start:.2f} (goal <= {goal})")
    good = end / start <= goal
    if appended:
        append = median_ms(appended[-20:])
        result |= {"append_ms": append, "faster_than_append": append / end}
        print(
            f"Table.append at {options.appends}: p50 {append:.0f} ms; "
            f"{append / end:.1f} times a commit here (goal >= {FASTER_MIN:g})"
        )
        good = good and append / end >= FASTER_MIN
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
