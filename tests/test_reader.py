"""What a reader promises: every step once, in order, from any point, on any world size."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import batchweave as bw
from tests.streams import QUICK, TOKENS, make_stream, numbers, publish_numbers, tokens


def wide_stream(folder: Path, slices: int, steps: int, slices_per_file: int = 64) -> bw.Stream:
    """Batch n, slice k holds rows numbered n * 1000 + k * 10 + row; slice k has 4 + k rows."""
    stream = make_stream(folder, mesh=bw.Mesh(dp=slices))
    settings = bw.ProducerSettings(freshness_s=0.01, slices_per_file=slices_per_file)
    with stream.producer("p", settings) as producer:
        for step in range(steps):
            producer.publish(
                [
                    {"tokens": [[step * 1000 + k * 10 + row] * 3 for row in range(4 + k)]}
                    for k in range(slices)
                ],
                source=[f"{step}/{k}" for k in range(slices)],
            )
    return stream


def first_tokens(batch: bw.Batch) -> list[int]:
    return [row[0] for row in batch.table["tokens"].to_pylist()]


@pytest.mark.parametrize("slices_per_file", [64, 3, 1])
def test_each_slice_comes_back_as_it_went_in(tmp_path: Path, slices_per_file: int) -> None:
    stream = wide_stream(tmp_path, slices=8, steps=3, slices_per_file=slices_per_file)
    for k in range(8):
        with stream.read(slice=k) as reader:
            for step, batch in enumerate(reader):
                assert batch.step == step
                assert batch.slices == (k,)
                assert batch.sources == (f"{step}/{k}",)
                assert first_tokens(batch) == [step * 1000 + k * 10 + row for row in range(4 + k)]


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16])
def test_global_batches_are_equal_on_every_world_size(tmp_path: Path, world_size: int) -> None:
    stream = wide_stream(tmp_path, slices=4, steps=3)
    shares = [stream.mesh.share(rank, world_size) for rank in range(world_size)]
    readers = [list(stream.read(slice=share)) for share in shares]
    for step in range(3):
        rows = [row for reader in readers for row in first_tokens(reader[step])]
        assert rows == [step * 1000 + k * 10 + row for k in range(4) for row in range(4 + k)]


def test_a_world_size_that_does_not_divide_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(bw.InvalidMesh, match=r"4 slices .* 3 ranks.*1, 2, 4"):
        make_stream(tmp_path, mesh=bw.Mesh(dp=4)).mesh.share(0, 3)


def test_reading_starts_and_stops_where_it_is_told(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=9)
    assert [batch.step for batch in stream.read(slice=0, start=3, stop=6)] == [3, 4, 5]
    assert [batch.step for batch in stream.read(slice=0, start=8)] == [8]
    assert list(stream.read(slice=0, start=9)) == []
    assert list(stream.read(slice=0, start=4, stop=4)) == []


def test_state_after_every_step_carries_on_with_the_next(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=6)
    for taken in range(7):
        with stream.read(slice=1) as reader:
            for _ in range(taken):
                next(reader)
            state = reader.state_dict()
        assert state == {"version": 1, "stream": "demo.tokens", "next_step": taken}
        rest = [batch.step for batch in stream.read(slice=1, start=state["next_step"])]
        assert rest == list(range(taken, 6))


def test_following_waits_for_new_steps_and_ends_at_the_seal(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    seen: list[int] = []
    settings = bw.ReaderSettings(poll_interval_s=0.02)

    def follow() -> None:
        seen.extend(batch.step for batch in stream.read(slice=0, follow=True, settings=settings))

    thread = threading.Thread(target=follow)
    thread.start()
    with stream.producer("p", QUICK) as producer:
        for number in range(5):
            publish_numbers(producer, number, 1)
            producer.flush()
            wait_until(lambda expected=number + 1: len(seen) == expected)
    stream.seal()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert seen == [0, 1, 2, 3, 4]


def test_a_reader_far_behind_survives_that_its_metadata_is_cleaned_up(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
        producer.flush()
        reader = stream.read(slice=0, follow=True, settings=bw.ReaderSettings(poll_interval_s=0.01))
        assert next(reader).step == 0
        for number in range(3, 200):  # a commit each: far more versions than are kept
            producer.publish([tokens(number)] * 2).step()
    stream.seal()
    assert [batch.step for batch in reader] == list(range(1, 200))


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    schema = pa.schema([("tokens", pa.list_(pa.int32())), ("text", pa.string())])
    stream = make_stream(tmp_path, schema=schema)
    with stream.producer("p", QUICK) as producer:
        producer.publish([{**tokens(1), "text": ["x"] * 4}] * 2)
    (batch,) = stream.read(slice=0, columns=["text"])
    assert batch.table.column_names == ["text"]
    with pytest.raises(bw.SchemaMismatch, match="'nope'"):
        stream.read(slice=0, columns=["nope"])


def test_prefetch_is_bounded(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=20)
    settings = bw.ReaderSettings(prefetch_batches=3)
    with stream.read(slice=0, settings=settings) as reader:
        next(reader)
        wait_until(lambda: len(reader._ready) == 3)
        time.sleep(0.05)
        assert len(reader._ready) == 3
    tiny = bw.ReaderSettings(prefetch_batches=3, prefetch_bytes_max=1)
    assert [batch.step for batch in stream.read(slice=0, settings=tiny)] == list(range(20))


def test_no_thread_is_left_when_a_reader_is_closed_midway(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=20)
    before = threading.active_count()
    for _ in range(5):
        with stream.read(slice=0, follow=True) as reader:
            next(reader)
    assert threading.active_count() == before


def test_a_slice_outside_of_the_mesh_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bw.InvalidMesh, match="slices 0 to 1, asked for 2"):
        make_stream(tmp_path).read(slice=2)


def test_a_changed_file_is_named_not_returned(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=2)
    path = next(batch.parts[0].path for batch in stream.batches() if batch.step == 1)
    file = tmp_path / "demo" / "tokens" / path
    file.write_bytes(b"x" * file.stat().st_size)
    with stream.read(slice=0) as reader:
        assert next(reader).step == 0
        with pytest.raises(bw.StreamCorrupted, match=path.rpartition("/")[2]):
            next(reader)


def test_a_file_that_is_gone_is_named_not_waited_for(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=1)
    (file,) = (tmp_path / "demo" / "tokens" / "data").rglob("*.parquet")
    file.unlink()
    with pytest.raises(bw.StreamCorrupted, match="step 0"):
        list(stream.read(slice=0))


def test_the_whole_batch_can_be_read_at_once(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=4, steps=2, slices_per_file=3)
    for step, batch in enumerate(stream.read()):
        assert batch.slices == (0, 1, 2, 3)
        assert first_tokens(batch) == [
            step * 1000 + k * 10 + row for k in range(4) for row in range(4 + k)
        ]


def test_arrays_keep_shape_and_dtype(tmp_path: Path) -> None:
    schema = pa.schema(
        [("image", pa.list_(pa.uint8())), ("half", pa.list_(pa.float32())), ("flag", pa.bool_())]
    )
    stream = make_stream(tmp_path, schema=schema, mesh=bw.Mesh(dp=1))
    given: dict[str, np.ndarray[Any, Any]] = {
        "image": np.random.default_rng(1).integers(0, 255, (5, 4, 3, 2), dtype=np.uint8),
        "half": np.linspace(-2, 2, 15, dtype=np.float16).reshape(5, 3),
        "flag": np.array([True, False, True, True, False]),
    }
    with stream.producer("p", QUICK) as producer:
        producer.publish([given])
    (batch,) = stream.read(slice=0)
    found = batch.numpy()
    assert list(found) == list(given)
    for name, array in found.items():
        assert array.dtype == given[name].dtype
        np.testing.assert_array_equal(array, given[name])


def test_an_empty_stream_reads_as_nothing(tmp_path: Path) -> None:
    stream = make_stream(tmp_path, schema=TOKENS)
    assert numbers(stream) == []


def wait_until(condition: object, seconds: float = 30.0) -> None:
    """Wait for another thread's progress; fail instead of hanging."""
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.005)
