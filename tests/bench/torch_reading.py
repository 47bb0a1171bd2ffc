"""Training reads: data wait against a 50 ms step on S3, first batch after a long history, leaks.

    .venv/bin/python tests/bench/torch_reading.py wait      # share of the step time spent waiting
    .venv/bin/python tests/bench/torch_reading.py history   # first batch: 10,000 steps against 10
    .venv/bin/python tests/bench/torch_reading.py leaks     # threads, files, memory, 5,000 steps
    .venv/bin/python tests/bench/torch_reading.py product   # worlds x workers x fork and spawn
    .venv/bin/python tests/bench/torch_reading.py kills     # the GPT example killed, three times

Figures are ratios within one run; `history` and `leaks` take minutes.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import batchweave as bw
from batchweave.connectors.testing import check_resume, check_world_sizes, plain_loader
from batchweave.connectors.torch_dataset import StreamDataset
from tests.servers import seaweed
from tests.streams import catalog_at
from tests.torch_streams import numbered_stream

TOKENS = pa.schema([("tokens", pa.list_(pa.int32()))])
STEP_S = 0.05
PRODUCT = (
    ("fork", 0, (1, 2, 4, 8), 1),
    ("fork", 1, (1, 2, 4, 8), 1),
    ("fork", 3, (1, 2, 4, 8), 1),
    ("spawn", 1, (1, 2, 4, 8), 4),
    ("spawn", 3, (1, 8), 4),
)
"""How workers start, how many, on which world sizes, and every which state is restored: a spawned
worker imports torch first, so that all of it would take an hour on two cores."""


def token_stream(catalog: bw.Catalog, steps: int, *, rows: int, width: int, slices: int = 4) -> Any:
    """A sealed stream of random tokens."""
    stream = catalog.create_stream("bench.tokens", schema=TOKENS, mesh=bw.Mesh(dp=slices))
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 50_000, (rows, width), np.int32) for _ in range(8)]
    with stream.producer("p", bw.ProducerSettings(freshness_s=2.0)) as producer:
        for step in range(steps):
            at = step % 4
            producer.publish([{"tokens": tokens[at + n]} for n in range(slices)])
    stream.seal()
    return stream


def wait() -> None:
    """The share of the time that a trainer waits, its step being 50 ms of sleep."""
    with seaweed.running() as server:
        properties = server.properties(server.bucket())
        catalog = bw.load_catalog("s3", type="object-store", **properties)
        stream = token_stream(catalog, 240, rows=64, width=4096)  # 1 MiB a slice
        flat_out = StreamDataset(stream, rank=0, world_size=4)
        began = time.perf_counter()
        steps = sum(1 for _ in flat_out)
        took = time.perf_counter() - began
        print(f"the store delivers {steps / took:.0f} steps/s, training takes {1 / STEP_S:.0f}")
        for workers in (0, 2):
            options: Any = {"num_workers": workers} if workers else {}
            dataset = StreamDataset(stream, rank=0, world_size=4)
            waits, trained = [], 0.0
            for _ in DataLoader(dataset, batch_size=None, **options):
                waits.append(dataset.stats().waited_s)
                time.sleep(STEP_S)
                trained += STEP_S
            waited = waits[-1] - waits[0]
            print(
                f"{workers} workers: first batch {waits[0] * 1000:.0f} ms, then waited "
                f"{100 * waited / (waited + trained):.2f} % of {waited + trained:.1f} s; fetched "
                f"{dataset.stats().fetched_bytes / 2**20:.0f} MiB"
            )


def history() -> None:
    """Opening a dataset to its first batch, after 10,000 steps of history and after 10."""
    found: dict[int, list[float]] = {10: [], 10_000: []}
    with tempfile.TemporaryDirectory() as folder:
        for steps in found:
            token_stream(catalog_at(f"{folder}/{steps}"), steps, rows=4, width=64)
        for _, steps in itertools.product(range(7), found):
            began = time.perf_counter()
            stream = catalog_at(f"{folder}/{steps}").load_stream("bench.tokens")
            with StreamDataset(stream, rank=0, world_size=4, start=steps - 5) as dataset:
                next(iter(dataset))
            found[steps].append(time.perf_counter() - began)
    short, long = (statistics.median(found[steps]) for steps in (10, 10_000))
    print(f"first batch: {short * 1000:.0f} ms after 10 steps, {long * 1000:.0f} ms after 10,000")
    print(f"ratio {long / short:.2f}")


def leaks() -> None:
    """Threads, open files and memory while 5,000 steps are read, without and with workers."""
    with tempfile.TemporaryDirectory() as folder:
        stream = token_stream(catalog_at(folder), 5000, rows=8, width=512)
        for workers in (0, 2):
            options: Any = {"num_workers": workers} if workers else {}
            dataset = StreamDataset(stream, rank=0, world_size=4)
            for element in DataLoader(dataset, batch_size=None, **options):
                if element.step in (500, 2000, 3500, 4999):
                    print(f"{workers} workers, step {element.step}: {resources()}")
            print(f"{workers} workers, at the end: {resources()}")


def resources() -> str:
    """Threads, open files and resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        f"{threading.active_count()} threads, {len(os.listdir('/proc/self/fd'))} files, "
        f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.1f} MiB"
    )


def product() -> None:
    """Global batches and every state, over world sizes, workers, and how workers are started."""
    with tempfile.TemporaryDirectory() as folder:
        stream = numbered_stream(Path(folder), 7)

        def make(rank: int, world: int) -> StreamDataset:
            return StreamDataset(stream, rank=rank, world_size=world)

        reference = check_world_sizes(make, [1])
        for method, workers, worlds, every in PRODUCT:
            context: Any = {"multiprocessing_context": method} if workers else {}
            loader = plain_loader(num_workers=workers, **context)
            assert check_world_sizes(make, worlds, loader=loader) == reference
            for world in worlds:
                check_resume(
                    lambda world=world: make(world - 1, world),  # type: ignore[misc]
                    loader=loader,
                    every=every,
                )
            print(
                f"{method}, {workers} workers: worlds {', '.join(map(str, worlds))} equal, every "
                f"{'' if every == 1 else f'{every}th '}state restores",
                flush=True,
            )


def kills() -> None:
    """The example of a killed and resumed training, three times in a row."""
    from tests.test_torch_examples import check_kill_and_resume

    for number in range(3):
        with tempfile.TemporaryDirectory() as folder:
            check_kill_and_resume(Path(folder))
        print(f"run {number + 1}: hashes of all global batches and losses are equal")


if __name__ == "__main__":
    programs = {one.__name__: one for one in (wait, history, leaks, product, kills)}
    if len(sys.argv) != 2 or sys.argv[1] not in programs:
        raise SystemExit(__doc__)
    programs[sys.argv[1]]()
