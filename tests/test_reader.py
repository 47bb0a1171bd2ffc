"""What a reader promises: every step once, in order, from any point, on any world size."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import batchweave as bw
from batchweave.clock import exiting
from batchweave.errors import StoreDenied, StoreUnavailable
from batchweave.mesh import Share
from batchweave.reader import Reader
from batchweave.reader.fetching import fetch_bytes
from batchweave.table import BatchEntry
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
            producer.publish([tokens(number)] * 2, position=number).step()
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


NO_THREAD = "can't start new thread"


def no_thread(*_: Any, **__: Any) -> Any:
    raise RuntimeError(NO_THREAD)


@pytest.mark.parametrize("works", range(8))
def test_no_step_is_lost_where_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: int
) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=6)

    class Exhausted(ThreadPoolExecutor):
        left = works

        def submit(self, *call: Any, **more: Any) -> Any:
            self.left -= 1
            return no_thread() if self.left == -1 else super().submit(*call, **more)

    monkeypatch.setattr("batchweave.reader.delivery.ThreadPoolExecutor", Exhausted)
    reader = stream.read(slice=0, settings=bw.ReaderSettings(prefetch_batches=2))
    steps, error = in_time(lambda: steps_until_it_ends(reader))
    assert steps == list(range(len(steps)))
    assert reader.next_step == len(steps)
    assert isinstance(error, RuntimeError), "it ended as if all had been read"
    assert str(error) == NO_THREAD


def test_what_goes_wrong_while_looking_ahead_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=6)

    def broken(entry: BatchEntry, share: Share) -> int:
        if entry.step == 0:
            raise IndexError("no such column")
        return fetch_bytes(entry, share)

    monkeypatch.setattr("batchweave.reader.delivery.fetch_bytes", broken)
    steps, error = in_time(lambda: steps_until_it_ends(stream.read(slice=0)))
    assert steps == []
    assert isinstance(error, IndexError)


def test_a_step_out_of_order_is_never_handed_out(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=6)
    reader = stream.read(slice=0, settings=bw.ReaderSettings(prefetch_batches=1))
    wait_until(lambda: len(reader._known) == 5)
    reader._known.popleft()
    assert next(reader).step == 0
    for _ in range(2):
        with pytest.raises(bw.StreamCorrupted, match=r"step 2 .* where step 1 is due"):
            next(reader)
    assert reader.next_step == 1


def test_only_the_end_of_the_program_is_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not exiting()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert not exiting()

    def refused(*_: Any) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refused)
    assert exiting()


def test_a_reader_that_the_end_of_the_program_stops_does_not_end_as_if_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=2)
    monkeypatch.setattr("batchweave.clock.exiting", lambda: True)
    reader = stream.read(slice=0)
    for _ in range(2):
        with pytest.raises(bw.StreamError, match="the program is exiting"):
            next(reader)


class Metadata:
    """Reads of a stream's metadata: the first ``failing`` fail, after one entry. Heads work."""

    def __init__(self, stream: bw.Stream, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
        self.reads = 0
        entries = stream.table.entries

        def read(*range_: Any) -> Iterator[BatchEntry]:
            self.reads += 1
            for entry in entries(*range_):
                if self.reads <= failing:
                    raise StoreUnavailable("down")
                yield entry

        monkeypatch.setattr(stream.table, "entries", read, raising=True)


def test_metadata_that_cannot_be_read_is_tried_again_with_pauses_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=3)
    metadata = Metadata(stream, monkeypatch, failing=1_000_000)
    settings = bw.ReaderSettings(store_timeout_s=0.5)
    reader = stream.read(slice=0, settings=settings)
    steps, error = in_time(lambda: steps_until_it_ends(reader))
    assert steps == []
    assert isinstance(error, StoreUnavailable)
    assert 2 <= metadata.reads <= 5


def test_metadata_that_can_be_read_again_is_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=3)
    metadata = Metadata(stream, monkeypatch, failing=2)
    began_s = time.monotonic()
    assert [batch.step for batch in stream.read(slice=0)] == [0, 1, 2]
    assert metadata.reads == 3
    assert time.monotonic() - began_s >= 0.4


def test_a_failure_is_raised_again_at_every_call(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=3)
    for file in (tmp_path / "demo" / "tokens" / "data").rglob("*.parquet"):
        file.unlink()
    with stream.read(slice=0) as reader:
        for _ in range(3):
            with pytest.raises(bw.StreamCorrupted, match="step 0"):
                next(reader)
    with pytest.raises(bw.StreamCorrupted, match="step 0"):
        next(reader)


def test_closing_ends_a_call_that_waits_for_a_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=3)
    # One thread, which the look for a fourth step keeps: the fetch of step 1 never begins.
    monkeypatch.setattr(
        "batchweave.reader.delivery.ThreadPoolExecutor", lambda *_, **__: one_thread()
    )
    settings = bw.ReaderSettings(prefetch_batches=1, poll_interval_s=0.02)
    reader = stream.read(slice=0, follow=True, settings=settings)
    assert next(reader).step == 0
    threading.Timer(0.2, reader.close).start()
    assert in_time(lambda: steps_until_it_ends(reader)) == ([], None)


def one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def test_closing_ends_a_call_that_waits_for_a_store_that_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=3)

    def down(*_: Any) -> Any:
        raise StoreUnavailable("down")

    monkeypatch.setattr("batchweave.reader.fetching.fetch_slices", down)
    reader = stream.read(slice=0)
    threading.Timer(0.2, reader.close).start()
    assert in_time(lambda: steps_until_it_ends(reader)) == ([], None)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("0", "a slice is a whole number, got '0'"),
        (True, "a slice is a whole number, got True"),
        (0.5, r"a slice is a whole number, got 0\.5"),
        ([0, "1"], "a slice is a whole number, got '1'"),
        ([0, 0], r"each once, got \[0, 0\]"),
        ([], r"at least one slice.*got \[\]"),
        ([0, 2], "slices 0 to 1, asked for 2"),
    ],
)
def test_slices_that_are_none_are_refused_by_name(
    tmp_path: Path, wanted: Any, message: str
) -> None:
    with pytest.raises(bw.InvalidMesh, match=message):
        make_stream(tmp_path).read(slice=wanted)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (Share((0,), part=2, parts=2), "part 0 to 1 of 2, got part 2"),
        (Share((0,), part=-1, parts=2), "got part -1"),
        (Share((0,), parts=0), "got part 0"),
        (Share((0, 1), part=0, parts=2), "only one slice can be dealt in parts"),
        (Share((0, 0)), "each once"),
        (Share(()), "at least one slice"),
        (Share((2,)), "slices 0 to 1, asked for 2"),
        (Share((0,), part="x", parts=2), "a share's part is a whole number"),  # type: ignore[arg-type]
    ],
)
def test_a_hand_made_share_is_checked(tmp_path: Path, share: Share, message: str) -> None:
    stream = make_stream(tmp_path)
    with pytest.raises(bw.InvalidMesh, match=message):
        Reader(stream.table, share)


def test_ctrl_c_as_the_lock_is_taken_does_not_keep_it(tmp_path: Path) -> None:
    """Raised wherever the interpreter may raise it between taking a lock and a ``with`` block."""
    stream = wide_stream(tmp_path, slices=2, steps=3)
    reader = stream.read(slice=0, settings=bw.ReaderSettings(prefetch_batches=1))
    interrupted: list[object] = []

    def interrupt(frame: Any, event: str, argument: Any) -> None:
        taken = getattr(argument, "__self__", None) is reader._lock
        if event == "c_return" and taken and argument.__name__ == "__enter__":
            interrupted.append(argument)
            raise KeyboardInterrupt

    def read_interrupted() -> list[int]:
        steps = []
        sys.setprofile(interrupt)
        try:
            steps += [batch.step for batch in reader]
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        reader.close()
        return steps

    steps = in_time(read_interrupted)
    assert interrupted == []
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("value", ["3", 1.5, True])
@pytest.mark.parametrize("end", ["start", "stop"])
def test_steps_that_are_none_are_refused_by_name(tmp_path: Path, end: str, value: Any) -> None:
    with pytest.raises(bw.InvalidInput, match=f"{end} is a whole number, got {value!r}"):
        make_stream(tmp_path).read(slice=0, **{end: value})


def test_numbers_of_numpy_are_slices_and_steps(tmp_path: Path) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=3)
    for wanted in (np.int64(1), np.array([1])):
        reader = stream.read(slice=wanted, start=np.int64(2), stop=np.int32(3))  # type: ignore[arg-type]
        assert type(reader.state_dict()["next_step"]) is int
        assert [(batch.step, batch.slices) for batch in reader] == [(2, (1,))]


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EMFILE, StoreUnavailable), (errno.EACCES, StoreDenied)]
)
def test_a_file_that_cannot_be_opened_is_the_stores_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    stream = wide_stream(tmp_path, slices=2, steps=2)

    def refused(path: str) -> Any:
        raise OSError(number, "refused", path)

    monkeypatch.setattr(pa, "OSFile", refused)
    with (
        stream.read(slice=0, settings=bw.ReaderSettings(store_timeout_s=0.1)) as reader,
        pytest.raises(error, match="refused"),
    ):
        next(reader)


def steps_until_it_ends(reader: Reader) -> tuple[list[int], BaseException | None]:
    """The steps handed out, and the failure that came after them; nothing if it just ended."""
    steps: list[int] = []
    try:
        for batch in reader:
            steps.append(batch.step)
    except BaseException as error:  # noqa: BLE001 - the tests say which
        return steps, error
    return steps, None


def in_time(call: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The call's result; fail instead of hanging."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "the call hangs"
    return found[0]


def wait_until(condition: object, seconds: float = 30.0) -> None:
    """Wait for another thread's progress; fail instead of hanging."""
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.005)
