"""A producer's promises: order, exactly once, durable positions, fencing, bounded pending data."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import batchweave as bw
from batchweave.errors import StoreUnavailable
from batchweave.producer import Producer
from batchweave.table import Change, Committed, Head, Lost, Outcome, Table, Unknown
from tests.streams import QUICK, make_stream, numbers, publish_numbers, tokens


class Interposed:
    """A table whose commits pass through a function of the test's."""

    def __init__(self, table: Table, commit: Callable[[Head, Change], Outcome]) -> None:
        self._table, self._commit = table, commit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def commit(self, base: Head, change: Change) -> Outcome:
        return self._commit(base, change)


def test_after_flush_everything_is_committed_once_and_in_order(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 50)
        producer.flush()
        assert producer.pending == 0
        assert producer.position == 49
        assert numbers(stream) == list(range(50))
    assert [batch.step for batch in stream.batches()] == list(range(50))
    assert [batch.sequence for batch in stream.batches()] == list(range(50))


def test_a_receipt_tells_the_step(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("a", QUICK) as one, stream.producer("b", QUICK) as two:
        assert one.publish([tokens(1)] * 2).step() == 0
        assert two.publish([tokens(2)] * 2).step() == 1
        receipt = one.publish([tokens(3)] * 2)
        assert receipt.step() == 2
        assert receipt.done()
        assert "step=2" in repr(receipt)


def test_a_new_opener_resumes_at_the_last_committed_position(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        assert producer.position is None
        publish_numbers(producer, 0, 3)
    with stream.producer("p", QUICK) as producer:
        assert producer.position == 2
        assert producer.generation == 2
        publish_numbers(producer, 3, 2)
    assert numbers(stream) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "position", [{"file": "a", "offset": 3}, b"\x00\xff", [1, 2], "text", 7, {"big": "x" * 100_000}]
)
def test_a_position_comes_back_as_it_was_given(tmp_path: Path, position: Any) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        producer.publish([tokens(1)] * 2, position=position).step()
        assert producer.position == position
    with stream.producer("p") as producer:
        assert producer.position == position
    # Megabytes of sampler state must not ride along in every commit's metadata.
    assert len(stream.head().producers["p"].position or "") < 5000


def test_opening_a_name_again_fences_the_older_opener(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    old = stream.producer("p", QUICK)
    publish_numbers(old, 0, 2)
    old.flush()
    new = stream.producer("p", QUICK)
    receipt = old.publish([tokens(99)] * 2, position=99)
    with pytest.raises(bw.Fenced, match="generation 1"):
        receipt.step()
    with pytest.raises(bw.Fenced):
        old.publish([tokens(99)] * 2)
    with pytest.raises(bw.Fenced):
        old.flush()
    old.close(flush=False)
    publish_numbers(new, 2, 1)
    new.close()
    assert numbers(stream) == [0, 1, 2]


def test_publish_after_close_says_so(tmp_path: Path) -> None:
    producer = make_stream(tmp_path).producer("p")
    producer.close()
    producer.close()
    with pytest.raises(bw.ProducerClosed, match="'p' is closed"):
        producer.publish([tokens(1)] * 2)


def test_publish_after_seal_says_so_and_opening_too(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    producer = stream.producer("p", QUICK)
    publish_numbers(producer, 0, 1)
    producer.flush()
    stream.seal()
    stream.seal()
    with pytest.raises(bw.StreamSealed, match="sealed at step 1"):
        producer.publish([tokens(1)] * 2, position=1).step()
    producer.close(flush=False)
    with pytest.raises(bw.StreamSealed):
        stream.producer("q")
    assert numbers(stream) == [0]


def test_publish_blocks_on_pending_data_and_then_times_out(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    release = threading.Event()

    def stalled(base: Head, change: Change) -> Outcome:
        if not change.added or release.is_set():
            return stream.table.commit(base, change)
        return Lost()

    settings = bw.ProducerSettings(freshness_s=0.01, pending_batches_max=3)
    producer = Producer(Interposed(stream.table, stalled), "p", settings)
    publish_numbers(producer, 0, 3)
    with pytest.raises(bw.PendingLimit, match="3 batches"):
        producer.publish([tokens(3)] * 2, position=3, timeout_s=0.2)
    with pytest.raises(bw.NotCommitted, match="3 batches of producer 'p'"):
        producer.flush(timeout_s=0.2)
    assert producer.pending == 3
    release.set()
    publish_numbers(producer, 3, 4)
    producer.close()
    assert numbers(stream) == list(range(7))


def test_pending_data_is_bounded_in_bytes(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)

    def lost(base: Head, change: Change) -> Outcome:
        return Lost() if change.added else stream.table.commit(base, change)

    noise = np.random.default_rng(0).integers(-(2**31), 2**31, (64, 64), dtype=np.int32)
    settings = bw.ProducerSettings(freshness_s=0.01, pending_bytes_max=int(2 * noise.nbytes * 2.5))
    producer = Producer(Interposed(stream.table, lost), "p", settings)
    for _ in range(2):
        producer.publish([{"tokens": noise}] * 2)
    with pytest.raises(bw.PendingLimit):
        producer.publish([{"tokens": noise}] * 2, timeout_s=0.1)
    producer.close(flush=False)


@pytest.mark.parametrize("landed", [True, False])
def test_an_unknown_outcome_is_resolved_by_reading(tmp_path: Path, landed: bool) -> None:
    stream = make_stream(tmp_path)
    attempts = 0

    def unsure(base: Head, change: Change) -> Outcome:
        nonlocal attempts
        if not change.added:
            return stream.table.commit(base, change)
        attempts += 1
        if attempts > 1:
            return stream.table.commit(base, change)
        if landed:
            assert isinstance(stream.table.commit(base, change), Committed)
        return Unknown(StoreUnavailable("the answer was lost"))

    producer = Producer(Interposed(stream.table, unsure), "p", QUICK)
    receipts = [producer.publish([tokens(number)] * 2, position=number) for number in range(3)]
    producer.flush()
    assert [receipt.step() for receipt in receipts] == [0, 1, 2]
    producer.close()
    assert numbers(stream) == [0, 1, 2]


def test_a_lost_race_renumbers_steps_and_rewrites_no_data_file(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    rival = stream.producer("rival", QUICK)
    raced = False

    def race(base: Head, change: Change) -> Outcome:
        nonlocal raced
        if change.added and not raced:
            raced = True
            rival.publish([tokens(100)] * 2).step()
        return stream.table.commit(base, change)

    producer = Producer(Interposed(stream.table, race), "p", QUICK)
    receipt = producer.publish([tokens(1)] * 2)
    assert receipt.step() == 1
    producer.close()
    rival.close()
    assert numbers(stream) == [100, 1]
    named = {part.path for batch in stream.batches() for part in batch.parts}
    written = {info.path for info in stream.table.objects.list("data")}
    assert written == named


def test_many_producers_together_lose_and_double_nothing(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)

    def work(index: int) -> None:
        with stream.producer(f"p{index}", QUICK) as producer:
            publish_numbers(producer, index * 1000, 15)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = numbers(stream)
    assert sorted(found) == sorted(index * 1000 + n for index in range(4) for n in range(15))
    for index in range(4):
        own = [number for number in found if number // 1000 == index]
        assert own == sorted(own)


def test_an_exception_in_the_body_closes_without_committing_more(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    settings = bw.ProducerSettings(freshness_s=1000)

    def fail_midway() -> None:
        with stream.producer("p", settings) as producer:
            producer.publish([tokens(1)] * 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_midway()
    assert stream.head().next_step == 0


def test_arrays_may_be_reused_right_after_publish(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    buffer = np.zeros((4, 8), np.int32)
    with stream.producer("p", QUICK) as producer:
        for number in range(10):
            buffer[:] = number
            producer.publish([{"tokens": buffer}] * 2)
    assert numbers(stream) == list(range(10))


def test_no_thread_is_left_after_close(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    before = threading.active_count()
    for _ in range(3):
        with stream.producer("p", QUICK) as producer:
            publish_numbers(producer, 0, 2)
    assert threading.active_count() == before


def test_a_producer_that_has_a_position_gives_one_with_every_batch(tmp_path: Path) -> None:
    """Else the next opener would start over and publish everything twice."""
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 2)
        with pytest.raises(bw.InvalidBatch, match="has a position"):
            producer.publish([tokens(2)] * 2)
    with stream.producer("p", QUICK) as producer:
        assert producer.position == 1
        with pytest.raises(bw.InvalidBatch, match="has a position"):
            producer.publish([tokens(2)] * 2)
    assert numbers(stream) == [0, 1]


def test_closing_after_an_unknown_outcome_reads_what_became_of_it(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)

    def landed_unseen(base: Head, change: Change) -> Outcome:
        outcome = stream.table.commit(base, change)
        return Unknown(StoreUnavailable("the answer was lost")) if change.added else outcome

    producer = Producer(Interposed(stream.table, landed_unseen), "p", QUICK)
    receipt = producer.publish([tokens(1)] * 2, position=7)
    for _ in range(500):
        if stream.head().next_step:
            break
        threading.Event().wait(0.01)
    producer.close(flush=False)
    assert receipt.step() == 0
    assert producer.position == 7


def test_a_publish_that_cannot_start_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        producer.publish([tokens(0)] * 2).step()
        with monkeypatch.context() as patch:
            patch.setattr(producer._uploads._pool, "submit", _no_thread)
            with pytest.raises(bw.PendingLimit, match="publish again"):
                producer.publish([tokens(1)] * 2)
        assert producer.publish([tokens(1)] * 2).step() == 1
    assert numbers(stream) == [0, 1]


def _no_thread(*_: Any) -> None:
    raise RuntimeError("can't start new thread")


def test_settings_are_checked_before_anybody_is_fenced(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        for bad in ({"freshness_s": 7200}, {"upload_threads": 2.5}, {"pending_batches_max": 0.5}):
            with pytest.raises(bw.InvalidSettings):
                bw.ProducerSettings(**bad)
        producer.publish([tokens(1)] * 2).step()
    assert stream.head().producers["p"].generation == 1
