"""Each planted defect is found by name, by those audits that should and by no other.

On Iceberg and on Delta; `tests.audited` has the sound stream and the ways to damage it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import batchweave as bw
from batchweave.clock import SystemClock
from batchweave.errors import StreamCorrupted
from batchweave.ledger import Place
from batchweave.paths import data_path
from batchweave.sql.audit import audit
from batchweave.sql.audit_chain import ledger_breaks, live_breaks
from batchweave.state import next_chain
from tests.audited import (
    DAY_S,
    KINDS,
    STEPS,
    WATERMARK,
    age,
    commit,
    commit_as_another_program,
    evidence,
    failed,
    following,
    ledger_rows,
    publish,
    rewrite_ledger,
    sound,
)
from tests.streams import QUICK, tokens


class Later(SystemClock):
    """The present, three days on."""

    def now_ms(self) -> int:
        return super().now_ms() + 3 * DAY_S * 1000


@pytest.fixture(params=KINDS)
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> bw.Stream:
    return sound(tmp_path, request.param)


@pytest.fixture
def iceberg(tmp_path: Path) -> bw.Stream:
    return sound(tmp_path, "object-store")


def test_a_sound_stream_passes_every_audit(stream: bw.Stream) -> None:
    report = audit(
        stream,
        deep=True,
        skew="len(tokens)",
        clock=Later(),
        parameters={"freshness.seconds": 4 * DAY_S, "sources.whole": True},
    )
    assert [(one.name, one.note) for one in report.findings if one.verdict != "passed"] == []
    assert report.ok
    assert (report.watermark, report.next_step) == (WATERMARK, STEPS)


# -- steps and sequences -----------------------------------------------------------------------


def test_a_missing_step_is_named_where_a_reader_only_refuses(stream: bw.Stream) -> None:
    batches, state = following(stream, 3)
    commit(stream, state, batches[0], batches[2])
    with pytest.raises(StreamCorrupted, match=f"step {STEPS + 1} .* is missing"):
        list(stream.batches())
    report = audit(stream)
    assert failed(report) == {"gaps", "order", "chain"}
    assert evidence(report, "gaps") == [
        {"step": STEPS + 1, "problem": "the step is missing", "producer": None, "sequence": None}
    ]
    assert [row["step"] for row in evidence(report, "chain")] == [STEPS + 1]
    assert [row["step"] for row in evidence(report, "order")] == [STEPS + 2]


def test_a_step_that_is_there_twice_is_named(iceberg: bw.Stream) -> None:
    batches, state = following(iceberg, 2)
    commit(iceberg, state, batches[0], replace(batches[1], step=STEPS))
    report = audit(iceberg)
    assert failed(report) == {"gaps", "order", "chain"}
    assert [(row["step"], row["problem"]) for row in evidence(report, "gaps")] == [
        (STEPS, "the step is there 2 times"),
        (STEPS + 1, "the step is missing"),
    ]


def test_a_missing_slice_is_named(iceberg: bw.Stream) -> None:
    (batch,), state = following(iceberg, 1)
    (part,) = batch.parts
    half = replace(part, slices=1, offsets=part.offsets[:1])
    commit(iceberg, state, replace(batch, parts=(half,)))
    report = audit(iceberg)
    assert failed(report) == {"gaps"}
    assert evidence(report, "gaps") == [
        {"step": STEPS, "problem": "slice 1 is missing", "producer": "p", "sequence": 6}
    ]


def test_a_doubled_sequence_is_named_with_its_steps(stream: bw.Stream) -> None:
    (batch,), _ = following(stream, 1)
    doubled = replace(batch, sequence=batch.sequence - 1)
    state = stream.table.head().state
    known = replace(state.producers["p"], step=STEPS)
    state = replace(
        state,
        next_step=STEPS + 1,
        chain=next_chain(state.chain, STEPS, [batch.parts[0].digest]),
        producers={**state.producers, "p": known},
    )
    commit(stream, state, doubled)
    report = audit(stream)
    assert failed(report) == {"duplicates", "order"}
    assert evidence(report, "duplicates") == [
        {
            "problem": "the sequence is there 2 times",
            "producer": "p",
            "sequence": doubled.sequence,
            "steps": [STEPS - 1, STEPS],
            "digest": None,
        }
    ]


def test_the_same_bytes_in_two_steps_are_named_unless_that_is_meant(iceberg: bw.Stream) -> None:
    with iceberg.producer("r", QUICK) as producer:
        publish(producer, 1, source=None, slices=[tokens(7)] * 2)
        publish(producer, 2, source=None, slices=[tokens(7)] * 2)
    report = audit(iceberg, clock=Later())
    assert failed(report) == {"duplicates"}
    assert [row["steps"] for row in evidence(report, "duplicates")] == [[STEPS, STEPS + 1]]
    assert audit(iceberg, parameters={"duplicates.content": False}).ok


# -- files -------------------------------------------------------------------------------------


def test_a_changed_file_is_named_when_it_is_read_again(stream: bw.Stream) -> None:
    batch = list(stream.batches())[3]
    path = batch.parts[0].path
    data = bytearray(bytes(stream.table.objects.get(path)[0]))
    data[len(data) - 20] ^= 1  # in the footer's text
    stream.table.objects.overwrite(path, bytes(data))
    assert audit(stream).ok
    report = audit(stream, deep=True, only=["digests", "files", "chain", "gaps"])
    assert failed(report) == {"digests"}
    (row,) = evidence(report, "digests")
    assert (row["step"], row["path"]) == (batch.step, path)
    assert (row["problem"], row["expected"]) == ("the file was changed", batch.parts[0].digest)


def test_a_missing_and_a_short_file_are_named(stream: bw.Stream) -> None:
    (gone, *_), cut = list(stream.batches()), list(stream.batches())[2]
    data = bytes(stream.table.objects.get(cut.parts[0].path)[0])
    stream.table.objects.delete([gone.parts[0].path])
    stream.table.objects.overwrite(cut.parts[0].path, data[:-1])
    report = audit(stream)
    assert failed(report) == {"files"}
    assert [(row["step"], row["problem"]) for row in evidence(report, "files")] == [
        (gone.step, "the file is not there"),
        (cut.step, "the file has another size"),
    ]
    report = audit(stream, deep=True, only="digests")
    assert [row["step"] for row in evidence(report, "digests")] == [gone.step, cut.step]


def test_a_file_that_no_commit_names_is_found_when_it_is_old_enough(stream: bw.Stream) -> None:
    path = data_path(stream.table.head().version, "crashed", 1, 0, 0, "0" * 32)
    stream.table.objects.create(path, b"123")
    assert audit(stream, only="orphans").ok  # it may be on its way
    age(stream, path, 2 * DAY_S)
    report = audit(stream)
    assert failed(report) == {"orphans"}
    (row,) = evidence(report, "orphans")
    assert (row["path"], row["bytes"]) == (path, 3)
    assert stream.sweep(grace_s=0).files == 1
    assert audit(stream, only="orphans").ok


def test_files_of_a_reclaim_whose_grace_period_lasts_are_no_orphans(iceberg: bw.Stream) -> None:
    iceberg.checkpoints.register("b", next_step=STEPS - 2)
    iceberg.checkpoints.drop("a")
    assert iceberg.reclaim(grace_s=30 * DAY_S).steps == STEPS - 2 - WATERMARK
    report = audit(iceberg, clock=Later())
    assert failed(report) == set()
    assert iceberg.head().reclaims


# -- the ledger --------------------------------------------------------------------------------


def test_a_changed_row_of_the_ledger_is_named(stream: bw.Stream) -> None:
    rows = ledger_rows(stream)
    rewrite_ledger(stream, [*rows[:2], replace(rows[2], rows=rows[2].rows + 1), *rows[3:]])
    report = audit(stream)
    assert failed(report) == {"chain"}
    assert [(row["step"], row["problem"]) for row in evidence(report, "chain")] == [
        (2, "its row in the ledger was changed")
    ]


def test_a_lost_row_of_the_ledger_is_named(stream: bw.Stream) -> None:
    rows = ledger_rows(stream)
    rewrite_ledger(stream, [*rows[:2], *rows[3:]])
    report = audit(stream)
    assert failed(report) == {"chain", "watermark", "order"}
    assert [row["step"] for row in evidence(report, "chain")] == [2]
    assert [row["step"] for row in evidence(report, "watermark")] == [2]


def test_every_row_that_does_not_fit_is_named_and_no_other(iceberg: bw.Stream) -> None:
    ledger = iceberg.ledger
    assert ledger is not None
    rows, end = ledger_rows(iceberg), ledger.place()
    stop = len(rows)

    def steps(*given: int, place: Place = end) -> list[int]:
        breaks, _ = ledger_breaks([changed[at] for at in given], stop, place)
        return [one.step for one in breaks]

    changed = dict(enumerate(rows))
    assert steps(0, 1, 2, 3) == []
    assert ledger_breaks(rows, stop, end)[1] == end
    assert steps(0, 2, 3) == [1]
    assert steps(0, 1, 1, 2, 3) == [1]
    assert steps(0, 1, 2) == [3]
    changed[1], changed[2] = replace(rows[2], step=1), replace(rows[1], step=2)
    assert steps(0, 1, 2, 3) == [1, 2]
    changed = dict(enumerate(rows)) | {0: replace(rows[0], chain="0" * 64)}
    assert steps(0, 1, 2, 3) == [0]
    changed = dict(enumerate(rows))
    assert steps(0, 1, 2, 3, place=replace(end, record="0" * 64)) == [3]


def test_a_live_batch_whose_digest_was_changed_breaks_the_chain() -> None:
    chain = next_chain(next_chain("start", 5, ["a"]), 6, ["b"])
    assert live_breaks([(5, ["a"]), (6, ["b"])], 5, 7, "start", chain) == []
    for batches, step in (
        ([(5, ["x"]), (6, ["b"])], 5),
        ([(5, ["a"])], 6),
        ([(6, ["b"])], 5),
        ([(5, ["b"]), (6, ["a"])], 5),
    ):
        (found,) = live_breaks(batches, 5, 7, "start", chain)
        assert (found.step, found.expected) == (step, chain)


def test_a_watermark_past_a_checkpoint_is_found(stream: bw.Stream) -> None:
    state = stream.table.head().state
    moved = replace(state.checkpoints["a"], next_step=WATERMARK - 2)
    beyond = replace(state.checkpoints["a"], next_step=STEPS + 5)
    commit(stream, replace(state, checkpoints={"a": moved, "b": beyond}))
    report = audit(stream)
    assert failed(report) == {"watermark"}
    assert [row["problem"] for row in evidence(report, "watermark")] == [
        "checkpoint a needs steps that are reclaimed",
        "checkpoint b is beyond the head",
    ]


# -- producers ---------------------------------------------------------------------------------


def test_a_skewed_slice_is_named_by_bytes_and_by_what_the_user_measures(
    stream: bw.Stream,
) -> None:
    noise = np.random.default_rng(0).integers(0, 2**31, (64, 64), np.int32)
    with stream.producer("p", QUICK) as producer:
        publish(producer, 20, slices=[tokens(20), {"tokens": noise}])
        # As many bytes as the others, since it compresses well, but many tokens.
        publish(producer, 21, slices=[tokens(21, rows=64), tokens(22)])
    report = audit(stream, skew="len(tokens)")
    assert failed(report) == {"skew"}
    assert [
        (row["measure"], row["step"], row["slice"], row["value"])
        for row in evidence(report, "skew")
        if row["measure"] != "bytes"
    ] == [("len(tokens)", STEPS, 1, 64 * 64), ("len(tokens)", STEPS + 1, 0, 64 * 8)]
    report = audit(stream)
    assert failed(report) == {"skew"}
    assert [(row["step"], row["slice"]) for row in evidence(report, "skew")] == [(STEPS, 1)]
    assert audit(stream, only="skew", parameters={"skew.times": 1e6}).ok


def test_a_slice_that_always_holds_more_is_named(iceberg: bw.Stream) -> None:
    noise = np.random.default_rng(0).integers(0, 2**31, (64, 64), np.int32)
    with iceberg.producer("p", QUICK) as producer:
        for number in range(20, 32):
            slices = [{"tokens": noise[:8] + number}, {"tokens": noise[:16] + number}]
            publish(producer, number, slices=slices)
    report = audit(iceberg)
    assert failed(report) == {"skew"}
    assert [(row["step"], row["slice"]) for row in evidence(report, "skew")] == [
        (None, 0),
        (None, 1),
    ]
    assert audit(iceberg, parameters={"skew.steps": 100}).ok


def test_a_producer_that_falls_behind_is_named_until_the_stream_is_sealed(
    stream: bw.Stream,
) -> None:
    state = stream.table.head().state
    long_ago = state.producers["q"].committed_at_ms - 2 * 3600 * 1000
    silent = replace(state.producers["q"], committed_at_ms=long_ago)
    commit(stream, replace(state, producers={**state.producers, "q": silent}))
    report = audit(stream)
    assert failed(report) == {"stalled"}
    assert [row["producer"] for row in evidence(report, "stalled")] == ["q"]
    stream.seal()
    assert audit(stream, only="stalled").ok


def test_a_stream_that_nothing_was_added_to_is_stale_until_it_is_sealed(iceberg: bw.Stream) -> None:
    fresh = {"freshness.seconds": DAY_S}
    assert audit(iceberg, only="freshness", parameters=fresh).ok
    report = audit(iceberg, clock=Later(), parameters=fresh)
    assert failed(report) == {"freshness"}
    iceberg.seal()
    assert audit(iceberg, clock=Later(), parameters=fresh).ok


def test_a_lost_position_is_named(stream: bw.Stream) -> None:
    with stream.producer("p", QUICK) as producer:
        publish(producer, 20, position={"sampler": "x" * 5000})
    assert audit(stream, clock=Later()).ok
    (path,) = (one.path for one in stream.table.objects.list("data/positions"))
    data = stream.table.objects.get(path)[0]
    for problem in ("is not there", "was changed"):
        stream.table.objects.delete([path])
        if problem == "was changed":
            stream.table.objects.create(path, bytes(data)[:-1])
        report = audit(stream)
        assert failed(report) == {"positions"}
        assert [(row["producer"], row["problem"]) for row in evidence(report, "positions")] == [
            ("p", f"its position's object {problem}")
        ]


def test_a_position_behind_what_was_published_is_named(iceberg: bw.Stream) -> None:
    with iceberg.producer("p", QUICK) as producer:
        publish(producer, 20, position={"file": "p.jsonl", "offset": 205})
    report = audit(iceberg)
    assert failed(report) == {"positions"}
    (row,) = evidence(report, "positions")
    assert (row["producer"], row["position"], row["source_end"]) == ("p", 205, 210)
    with iceberg.producer("p", QUICK) as producer:
        publish(producer, 21, position={"file": "next.jsonl", "offset": 0})
    assert audit(iceberg).ok


def test_a_range_that_two_batches_took_is_named(iceberg: bw.Stream) -> None:
    line = {"file": "q.jsonl", "start": 15, "end": 21}
    with iceberg.producer("p", QUICK) as producer:
        publish(producer, 20, source=[{"file": "other", "offset": 15, "rows": 6}, line])
    # Where slices have sources of their own, the data files alone tell them.
    assert "some batches (1)" in audit(iceberg, only="sources")["sources"].note
    report = audit(iceberg, deep=True)
    assert failed(report) == {"sources"}
    assert [
        (row["source"], row["start"], row["stop"], row["steps"])
        for row in evidence(report, "sources")
    ] == [
        ('{"file": "q.jsonl"}', 15, 20, [1, STEPS]),
        ('{"file": "q.jsonl"}', 20, 21, [2, STEPS]),
    ]


# -- others ------------------------------------------------------------------------------------


def test_a_commit_of_another_program_is_named(stream: bw.Stream) -> None:
    commit_as_another_program(stream)
    report = audit(stream)
    assert failed(report) == {"foreign"}
    (row,) = evidence(report, "foreign")
    assert row["problem"] == "a commit by another program"
    assert row["version"] == stream.table.head().version


def test_the_sweep_and_the_audit_agree_on_what_is_left(iceberg: bw.Stream) -> None:
    def orphans() -> Iterator[str]:
        for row in evidence(audit(iceberg, only="orphans", clock=Later()), "orphans"):
            yield row["path"]

    with iceberg.producer("p", QUICK) as producer:
        publish(producer, 20, position={"sampler": "x" * 5000})
        producer.flush()
        publish(producer, 21, position={"sampler": "y" * 5000})
    superseded = list(orphans())
    assert len(superseded) == 1
    assert iceberg.sweep(grace_s=0).files == 1
    assert list(orphans()) == []
