"""What surrounds the elements: stalls, the local cache, figures, metrics, bounded memory."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import batchweave as bw
from batchweave.clock import SystemClock
from batchweave.connectors.disk_cache import DiskCache
from batchweave.connectors.lookahead import Lookahead
from batchweave.connectors.stalls import StallWatch, describe
from batchweave.connectors.torch_dataset import StreamDataset
from tests.servers.seaweed import S3Server
from tests.torch_streams import SCHEMA, alone, no_threads_left, numbered, numbered_stream, steps_of

WAIT_S_MAX = 60


# -- stalls ------------------------------------------------------------------------------------


def test_a_stall_is_told_once_with_what_is_known_of_the_producers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = numbered_stream(tmp_path, 2, sealed=False)
    dataset = alone(stream, stall_after_s=0.1)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(steps_of(dataset)))
    told = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: told.set()  # type: ignore[method-assign]
    logging.getLogger("batchweave.stalls").addHandler(handler)
    try:
        with no_threads_left():
            thread.start()
            assert told.wait(WAIT_S_MAX)
            stream.seal()
            thread.join(WAIT_S_MAX)
            dataset.close()
    finally:
        logging.getLogger("batchweave.stalls").removeHandler(handler)
    assert seen == [0, 1]
    (record,) = [one for one in caplog.records if one.name == "batchweave.stalls"]
    text = record.getMessage()
    assert "step 2 of demo.tokens" in text
    assert "p (last step 1, " in text


def test_a_stall_is_an_error_only_where_asked_for(tmp_path: Path) -> None:
    stream = numbered_stream(tmp_path, 1, sealed=False)
    dataset = alone(stream, stall_after_s=0.1, stall_error=True)
    iterator = iter(dataset)
    assert next(iterator).step == 0
    with pytest.raises(bw.StreamStalled, match="seal the stream"):
        next(iterator)
    assert dataset.next_step == 1


def test_a_stream_without_producers_says_so(tmp_path: Path) -> None:
    stream = numbered_stream(tmp_path, 0, sealed=False)
    assert "no producer has opened it yet" in describe(stream.head(), 0)


# -- memory ------------------------------------------------------------------------------------


class Endless:
    """Batches without an end, which says how many were taken."""

    def __init__(self, batch: bw.Batch) -> None:
        self.batch = batch
        self.taken = 0
        self.closed = threading.Event()

    def __next__(self) -> bw.Batch:
        self.taken += 1
        return self.batch

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize(("depth", "batches", "ahead"), [(4, 100, 4), (100, 3, 4), (2, 0, 2)])
def test_what_is_made_ahead_is_bounded_in_steps_and_bytes(
    tmp_path: Path, depth: int, batches: int, ahead: int
) -> None:
    stream = numbered_stream(tmp_path, 1)
    (batch,) = stream.read()
    endless = Endless(batch)
    clock = SystemClock()
    watch = StallWatch(
        "x", after_s=None, fatal=False, next_step=lambda: 0, head=stream.head, clock=clock
    )
    made = Lookahead(
        endless,
        lambda one: one.step,
        threads=1,
        depth=depth,
        bytes_max=batches * batch.table.nbytes or 1,
        watch=watch,
        clock=clock,
    )
    for _ in range(5):
        assert next(made) == 0
    for _ in range(200):  # longer than a thread needs to run too far
        clock.sleep(0.001)
    assert endless.taken <= 5 + ahead
    made.close()
    assert endless.closed.is_set()


def test_an_iterator_that_is_let_go_ends_its_threads(tmp_path: Path) -> None:
    stream = numbered_stream(tmp_path, 2, sealed=False)
    with no_threads_left():
        for element in alone(stream):  # follows: its threads wait for step 2
            if element.step == 1:
                break


# -- the cache ---------------------------------------------------------------------------------


def test_what_was_fetched_once_is_not_fetched_again(s3: S3Server, tmp_path: Path) -> None:
    catalog = bw.load_catalog("s3", type="object-store", **s3.properties(s3.bucket()))
    stream = catalog.create_stream("demo.tokens", schema=SCHEMA, mesh=bw.Mesh(dp=4))
    with stream.producer("p") as producer:
        for step in range(4):
            producer.publish(numbered(step), position=step)
    stream.seal()
    cold = StreamDataset(stream, rank=1, world_size=4, cache_dir=tmp_path)
    first = [element["name"] for element in cold]
    stats = cold.stats()
    assert stats.cache_hits == 0
    assert stats.fetched_bytes > 0
    assert stats.requests == stats.cache_misses > 0
    # A peer that reads the same, or a restart.
    warm = StreamDataset(stream, rank=1, world_size=4, cache_dir=tmp_path)
    assert [element["name"] for element in warm] == first
    assert warm.stats().cache_hits == stats.cache_misses
    assert warm.stats().fetched_bytes == 0
    for path in (tmp_path / "entries").iterdir():  # a disk that lies is found out
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    again = StreamDataset(stream, rank=1, world_size=4, cache_dir=tmp_path)
    assert [element["name"] for element in again] == first
    assert again.stats().cache_hits == 0


def test_a_cache_never_holds_more_than_it_may(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10_000)
    for number in range(50):
        cache.put(f"key {number}", bytes([number]) * 1000)
        assert cache_bytes(tmp_path) <= 10_000
    assert cache.get("key 49") == bytes([49]) * 1000
    assert cache.get("key 0") is None
    cache.put("large", b"x" * 20_000)
    assert cache.get("large") is None


def cache_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "entries").iterdir())


def _fill(folder: str, seed: int) -> None:
    cache = DiskCache(folder, 50_000)
    rng = random.Random(seed)
    while True:
        number = rng.randrange(200)
        found = cache.get(f"key {number}")
        assert found is None or found == bytes([number]) * 1000
        cache.put(f"key {number}", bytes([number]) * 1000)


def test_processes_killed_at_any_time_leave_a_cache_that_is_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for round_ in range(4):
        writers = [
            context.Process(target=_fill, args=(str(tmp_path), 10 * round_ + at)) for at in range(3)
        ]
        for writer in writers:
            writer.start()
        SystemClock().sleep(0.2)
        for writer in writers:
            assert writer.exitcode is None, "a writer found a wrong entry"
            writer.kill()
            writer.join()
        assert len(list((tmp_path / "entries").glob("*.part"))) <= 3 * (round_ + 1)
    whole = [path for path in (tmp_path / "entries").iterdir() if path.suffix != ".part"]
    assert whole
    assert sum(path.stat().st_size for path in whole) <= 50_000
    cache = DiskCache(tmp_path, 50_000)
    cached = [cache.get(f"key {number}") for number in range(200)]
    assert all(one in (None, bytes([at]) * 1000) for at, one in enumerate(cached))
    for path in (tmp_path / "entries").glob("*.part"):
        os.utime(path, (0, 0))  # an hour and more ago
    DiskCache(tmp_path, 50_000)
    assert list((tmp_path / "entries").glob("*.part")) == []


# -- figures -----------------------------------------------------------------------------------


def test_figures_say_what_reading_cost_and_are_metrics(tmp_path: Path) -> None:
    stream = numbered_stream(tmp_path, 5)
    gc.collect()  # datasets of other tests, which would report under the same attributes
    exported = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider(metric_readers=[exported]))
    dataset = StreamDataset(stream, rank=1, world_size=2)
    assert steps_of(dataset) == list(range(5))
    stats = dataset.stats()
    assert (stats.steps, stats.next_step, stats.skipped_rows) == (5, 5, 0)
    assert stats.requests == 5  # local files opened
    assert stats.bytes > 5 * 8 * 3 * 4
    assert 0 < stats.waited_s < WAIT_S_MAX
    found = {
        metric.name: point.value
        for metric in _metrics(exported)
        for point in metric.data.data_points
        if dict(point.attributes) == {"batchweave.stream": "demo.tokens", "batchweave.rank": 1}
    }
    assert found["batchweave.reader.steps"] == 5
    assert found["batchweave.reader.next_step"] == 5
    assert found["batchweave.reader.bytes"] == stats.bytes
    assert found["batchweave.reader.wait"] == stats.waited_s
    with StreamDataset(stream, rank=1, world_size=2, stop=3) as evaluated:  # one series with it
        assert steps_of(evaluated) == [0, 1, 2]
        for name, value in {"steps": 8, "next_step": 5}.items():
            (metric,) = [
                one for one in _metrics(exported) if one.name == f"batchweave.reader.{name}"
            ]
            assert [point.value for point in metric.data.data_points] == [value]


def _metrics(exported: InMemoryMetricReader) -> list[Any]:
    data: Any = exported.get_metrics_data()
    return [
        metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
