"""Publish and read against plain loops over the same Parquet bytes, as ratios within one run.

    python tests/bench/throughput.py [--repeats 5] [--batches 128] [--rows 8] [--json out.json]

With 64 rows a slice has 1 MiB, with 8 rows 128 KiB.

*Publish*: a producer on a local folder, against a loop that encodes the same slices to the same
Parquet bytes with as many threads and writes each to a file. *Read*: one rank's slice of every
step, against plain decoding of the same row groups with as many threads. Repeats are interleaved;
each ratio is that of one repeat, and the median is what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import batchweave as bw
from batchweave.batch import check_slices
from batchweave.parquet import encode
from batchweave.reader import fetch_threads

SCHEMA = pa.schema([("tokens", pa.list_(pa.int32()))])
SLICES, WIDTH = 8, 4096
ROWS = 8
GOAL = 0.8

Slices: TypeAlias = list[dict[str, npt.NDArray[np.int32]]]


def make_batch(random: np.random.Generator) -> Slices:
    """Rows of 4,096 tokens of a 50,000-word vocabulary over 8 slices."""
    return [
        {"tokens": random.integers(0, 50_000, (ROWS, WIDTH), dtype=np.int32)} for _ in range(SLICES)
    ]


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def publish(stream: bw.Stream, batches: list[Slices]) -> None:
    with stream.producer("p") as producer:
        for slices in batches:
            producer.publish(slices)


def plain_write(
    stream: bw.Stream, batches: list[Slices], folder: Path, settings: bw.ProducerSettings
) -> None:
    def one(number: int) -> None:
        data = check_slices(batches[number], [None] * SLICES, stream.mesh, SCHEMA)
        part = encode(
            data,
            0,
            file_schema=stream.table.file_schema,
            compression=settings.compression,
            compression_level=settings.compression_level,
        )
        (folder / f"{number}.parquet").write_bytes(part.data)

    with ThreadPoolExecutor(settings.upload_threads) as pool:
        list(pool.map(one, range(len(batches))))


def read(stream: bw.Stream, slice_index: int) -> None:
    for batch in stream.read(slice=slice_index):
        assert batch.table.num_rows == ROWS


def plain_read(paths: list[str], slice_index: int, threads: int) -> None:
    def one(path: str) -> int:
        return int(
            pq.ParquetFile(path)
            .read_row_group(slice_index, columns=["tokens"], use_threads=False)
            .num_rows
        )

    with ThreadPoolExecutor(threads) as pool:
        assert all(rows == ROWS for rows in pool.map(one, paths))


def repeat(number: int, count: int, catalog: bw.Catalog, folder: Path) -> dict[str, float]:
    """One interleaved round; seconds of each of the four."""
    random = np.random.default_rng(number)
    batches = [make_batch(random) for _ in range(count)]
    stream = catalog.create_stream(f"bench.r{number}", schema=SCHEMA, mesh=bw.Mesh(dp=SLICES))
    plain = folder / f"plain{number}"
    plain.mkdir()
    settings = bw.ProducerSettings()
    jobs = {
        "plain_write": lambda: plain_write(stream, batches, plain, settings),
        "publish": lambda: publish(stream, batches),
    }
    order = list(jobs) if number % 2 else list(jobs)[::-1]
    seconds = {name: timed(jobs[name]) for name in order}
    root = stream.table.objects.uri.removeprefix("file://")
    paths = [f"{root}/{batch.parts[0].path}" for batch in stream.batches()]
    threads = fetch_threads(stream.table, bw.ReaderSettings())

    def every_slice(work: Callable[[int], None]) -> Callable[[], None]:
        def run() -> None:
            for index in range(SLICES):
                work(index)

        return run

    reads = {
        "plain_read": every_slice(lambda index: plain_read(paths, index, threads)),
        "read": every_slice(lambda index: read(stream, index)),
    }
    order = list(reads) if number % 2 else list(reads)[::-1]
    return seconds | {name: timed(reads[name]) for name in order}


def main() -> int:
    """Print the table; exit 1 if a median ratio misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=128)
    parser.add_argument("--rows", type=int, default=8, help="rows of 4,096 tokens a slice")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    global ROWS
    ROWS = options.rows
    megabytes = options.batches * SLICES * ROWS * WIDTH * 4 / 1e6
    with tempfile.TemporaryDirectory() as folder:
        catalog = bw.load_catalog("bench", type="object-store", warehouse=f"{folder}/warehouse")
        repeat(0, 4, catalog, Path(folder))  # warm imports and caches
        rounds = [
            repeat(number, options.batches, catalog, Path(folder))
            for number in range(1, options.repeats + 1)
        ]
    results = {}
    for ours, theirs in (("publish", "plain_write"), ("read", "plain_read")):
        ratios = [one[theirs] / one[ours] for one in rounds]
        results[ours] = {
            "ratio_median": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "mb_per_s": megabytes / statistics.median(one[ours] for one in rounds),
            "plain_mb_per_s": megabytes / statistics.median(one[theirs] for one in rounds),
        }
    print(f"{options.batches} batches of {SLICES} x {ROWS} x {WIDTH} int32, {len(rounds)} repeats")
    print(f"{'':8} {'MB/s':>8} {'plain MB/s':>11} {'ratio':>7} {'min':>6} {'max':>6}   goal")
    for name, one in results.items():
        print(
            f"{name:8} {one['mb_per_s']:8.0f} {one['plain_mb_per_s']:11.0f} "
            f"{one['ratio_median']:7.2f} {one['ratio_min']:6.2f} {one['ratio_max']:6.2f}   "
            f">= {GOAL}"
        )
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, "results": results}, indent=2))
    return 0 if all(one["ratio_median"] >= GOAL for one in results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
