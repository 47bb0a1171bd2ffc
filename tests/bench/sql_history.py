"""SQL over a long history: the first answer of ``batches``; what a question about a slice reads.

    .venv/bin/python tests/bench/sql_history.py history [--steps 100000]
    .venv/bin/python tests/bench/sql_history.py slice

``history`` makes up batches (commits and manifests are real, data files do not exist, so none can
be opened) and asks a stream that was just loaded, on Iceberg and Delta, as a multiple of asking a
stream of a hundred steps, and in seconds. ``slice`` counts the bytes of data files that
``samples where step = n and slice = k`` fetches from a local S3 server, over the slice's own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import batchweave as bw
from batchweave.sql.session import Session
from tests.bench import reader_cost
from tests.bench.retention_growth import NAME, SCHEMA, Writer
from tests.servers import seaweed
from tests.servers.proxy import Proxy

FORMATS = ("object-store", "delta")
QUESTIONS = (
    "from batches limit 1",
    "select count(*), sum(bytes) from batches",
    "from batches where step = 77",
    "from producers",
    "from commits order by steps desc limit 3",
    "from checkpoints",
)
REPEATS = 3


def history(steps: int) -> None:
    """Seconds from a loaded stream to an answer, after a few steps and after many."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in FORMATS:
            found: dict[tuple[int, str], float] = {}
            for count in (100, steps):
                catalog = bw.load_catalog("b", type=kind, warehouse=f"{folder}/{kind}-{count}")
                writer = Writer(catalog.create_stream(NAME, schema=SCHEMA, mesh=bw.Mesh(dp=1)))
                for done in range(0, count, 100):
                    writer.commit(min(100, count - done))
                stream = catalog.load_stream(NAME)
                stream.sql("select 1").fetchall()  # DuckDB and its extensions are loaded
                for question in QUESTIONS:
                    found[count, question] = _median_s(stream, question)
            for question in QUESTIONS:
                long = found[steps, question]
                ratio = long / found[100, question]
                print(
                    f"{kind:<13} {steps:>9,} steps: {long:6.2f} s, {ratio:6.1f} times: {question}"
                )


def _median_s(stream: bw.Stream, question: str) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        stream.sql(question).fetchall()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def slices() -> None:
    """Bytes of data files fetched for one slice, over its own."""
    with seaweed.running() as server, Proxy(server.port) as proxy:
        for kind in FORMATS:
            for count, kib in ((4, 1024), (64, 1024), (64, 128)):
                properties = server.properties(server.bucket(), endpoint=proxy.endpoint)
                catalog = bw.load_catalog("s3", type=kind, **properties)
                stream = catalog.create_stream(
                    "bench.tokens", schema=reader_cost.SCHEMA, mesh=bw.Mesh(dp=count)
                )
                reader_cost.publish(stream, 3, kib)
                one = "step = 1 and slice = 2"
                with Session(stream) as session:
                    (size,) = session.sql(f"select bytes from slices where {one}").fetchall()[0]
                    before = proxy.counts()["data_bytes_out"]
                    session.sql(f"from samples where {one}").fetchall()
                    read = proxy.counts()["data_bytes_out"] - before
                print(f"{kind:<13} {count} slices of {kib} KiB: {read / size:.3f} times its bytes")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("history", "slice"))
    parser.add_argument("--steps", type=int, default=100_000)
    options = parser.parse_args()
    if options.what == "history":
        history(options.steps)
    else:
        slices()


if __name__ == "__main__":
    main()
