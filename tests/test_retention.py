"""Retention without faults: what is kept, what goes, when, and what the ledger says of it.

Over the simulation's small table, on a store whose clock the test moves. The histories of
`tests/test_simulation.py` have the faults, `tests/test_reclaim.py` the real tables.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from batchweave import ledger as ledgers
from batchweave.checkpoints import Checkpoints
from batchweave.clock import SystemClock
from batchweave.errors import (
    Fenced,
    InvalidInput,
    InvalidSettings,
    StepReclaimed,
    StoreUnavailable,
    StreamCorrupted,
)
from batchweave.ledger import Ledger, LedgerRow, verify_rows
from batchweave.objects import MemoryObjects
from batchweave.paths import DATA, POSITIONS, upload_version
from batchweave.retention import Policy, ReclaimReport, Retention
from batchweave.session import Session, Staged
from batchweave.state import (
    CheckpointState,
    ReclaimState,
    StreamState,
    age_reclaims,
    next_chain,
    reclaim,
    sweepable_below,
)
from batchweave.sweep import DELETES_PER_REQUEST_MIN, FAILURES_MAX, Sweep, SweepReport
from batchweave.table import Change, Committed
from tests.simulation.content import MESH, SCHEMA, Encoder, Item
from tests.simulation.register import RegisterTable, physical
from tests.simulation.upkeep import FOREIGN

HOUR_S = 3600.0


class StoppedClock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.ms = 2_000_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000

    def sleep(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)

    def token(self) -> str:
        return SystemClock().token()

    def random(self) -> random.Random:
        return random.Random(7)


class Stream:
    """A register table with its ledger, and everybody who works on it."""

    def __init__(self) -> None:
        self.clock = StoppedClock()
        self.objects = MemoryObjects(clock=self.clock)
        RegisterTable.created(self.objects, StreamState(mesh=MESH))
        RegisterTable.created(self.objects.within("ledger"), StreamState(mesh=ledgers.MESH))
        self.table = RegisterTable(self.objects, self.clock)
        self.checkpoints = Checkpoints(self.table, self.clock)
        self._encoder = Encoder(physical(SCHEMA))

    @property
    def state(self) -> StreamState:
        return self.table.head().state

    def ledger(self) -> Ledger:
        objects = self.objects.within("ledger")
        table = RegisterTable(
            objects, self.clock, name="ledger", schema=ledgers.SCHEMA, mesh=ledgers.MESH
        )
        return Ledger(table, "stream", self.clock, threads=0)

    def session(self, name: str = "p") -> Session:
        session = Session(self.table, name, clock=self.clock, position_bytes_inline_max=20)
        session.open()
        return session

    def upload(self, session: Session, number: int, position: str | None = None) -> None:
        """Stage a batch whose files are in the store."""
        encoded = self._encoder.parts(Item(session.name, number, session.generation), 2)
        uploads = [session.upload(number, index, part) for index, part in enumerate(encoded)]
        parts = tuple(part for part, _ in uploads)
        text = session.store_position(number, position)
        session.stage(Staged(number, encoded, parts, uploads[0][1], text))

    def publish(self, count: int) -> None:
        """Commit that many batches, each with a commit of its own."""
        session = self.session()
        for _ in range(count):
            self.upload(session, session.sequence + 1)
            assert isinstance(session.attempt(), Committed)

    def reclaim(self, policy: Policy | None = None, **options: Any) -> ReclaimReport:
        retention = Retention(self.table, self.ledger, self.clock)
        return retention.reclaim(policy or Policy(), **{"grace_s": 0.0, **options})

    def sweep(self, grace_s: float = 0.0, **options: Any) -> SweepReport:
        return Sweep(self.table, self.clock, grace_s=grace_s).run(**options)

    def files(self, folder: str = DATA) -> set[str]:
        found = {info.path for info in self.objects.list(folder)}
        return {path for path in found if upload_version(path) is not None}

    def named(self) -> set[str]:
        head = self.table.head()
        entries = self.table.entries(head, head.state.watermark, head.state.next_step)
        return {part.path for entry in entries for part in entry.parts}


@pytest.fixture
def stream() -> Stream:
    made = Stream()
    made.publish(10)
    return made


# -- the policy ----------------------------------------------------------------------------------


def _state(**checkpoints: tuple[str, int]) -> StreamState:
    known = {name: CheckpointState(step, who) for name, (who, step) in checkpoints.items()}
    return StreamState(mesh=MESH, next_step=20, watermark=3, checkpoints=known)


def test_of_each_consumer_the_furthest_checkpoints_are_retained() -> None:
    state = _state(a1=("a", 5), a2=("a", 9), a3=("a", 12), b1=("b", 7), b2=("b", 8))
    assert Policy(keep_checkpoints=1).dropped(state) == ("a1", "a2", "b1")
    assert Policy(keep_checkpoints=2).dropped(state) == ("a1",)
    assert Policy().dropped(state) == ()


def test_the_watermark_is_what_the_slowest_retained_checkpoint_needs() -> None:
    state = _state(a1=("a", 5), a2=("a", 12), b1=("b", 7))
    assert Policy().watermark(state) == 5
    assert Policy(keep_checkpoints=1).watermark(state) == 7
    assert Policy(keep_checkpoints=1, keep_steps=15).watermark(state) == 5
    assert Policy(keep_steps=30).watermark(state) == 3
    assert Policy().watermark(_state()) == 3


@pytest.mark.parametrize(
    "limits",
    [
        {"keep_checkpoints": 0},
        {"keep_checkpoints": True},
        {"keep_checkpoints": 1.0},
        {"keep_steps": -1},
        {"keep_steps": None},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(limits: Any) -> None:
    with pytest.raises(InvalidInput, match="is a whole number from"):
        Policy(**limits)


# -- the state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("watermark", [2, 3, 8, 21])
def test_the_watermark_goes_neither_back_nor_past_a_checkpoint(watermark: int) -> None:
    state = _state(a=("a", 7), b=("b", 9))
    with pytest.raises(InvalidInput, match=f"from 3 to {watermark}"):
        reclaim(state, watermark, ReclaimState(1, 0))
    assert reclaim(state, 9, ReclaimState(1, 0), drop=["a"]).watermark == 9


def test_a_reclaim_is_dated_by_the_first_who_meets_it_and_forgotten_after_its_time() -> None:
    state = reclaim(_state(a=("a", 7)), 7, ReclaimState(version=30, oldest_upload=4))
    dated = age_reclaims(state, now_ms=100, grace_ms=50)
    assert dated.reclaims["7"].at_ms == 100
    assert age_reclaims(dated, now_ms=149, grace_ms=50) == dated
    assert not age_reclaims(dated, now_ms=150, grace_ms=50).reclaims
    assert not age_reclaims(state, now_ms=100, grace_ms=0).reclaims


def test_files_of_a_pending_reclaim_are_out_of_reach_although_the_horizon_has_passed() -> None:
    state = replace(_state(a=("a", 7)), horizon=25)
    assert sweepable_below(state) == 25
    assert sweepable_below(reclaim(state, 7, ReclaimState(30, oldest_upload=4))) == 4


# -- reclaiming ----------------------------------------------------------------------------------


def test_a_reclaim_leaves_the_files_of_what_is_retained_and_no_other(stream: Stream) -> None:
    stream.checkpoints.register("a", next_step=6)
    report = stream.reclaim()
    assert (report.steps, report.files, report.watermark) == (6, 12, 6)
    assert stream.state.watermark == 6
    assert stream.files() == stream.named()
    assert len(stream.files()) == 8


def test_nothing_is_reclaimed_without_a_checkpoint(stream: Stream) -> None:
    version = stream.table.head().version
    report = stream.reclaim(Policy(keep_steps=1), grace_s=HOUR_S)
    assert (report.steps, report.watermark) == (0, 0)
    assert stream.table.head().version == version
    assert not list(stream.ledger().read())


def test_checkpoints_that_are_not_retained_are_dropped_where_no_step_goes(stream: Stream) -> None:
    stream.checkpoints.register("old", next_step=4)
    stream.checkpoints.register("new", next_step=8)
    report = stream.reclaim(Policy(keep_checkpoints=1, keep_steps=10))
    assert (report.steps, report.dropped_checkpoints) == (0, ("old",))
    assert [one.id for one in stream.checkpoints.list()] == ["new"]


def test_a_dry_run_writes_nothing(stream: Stream) -> None:
    stream.checkpoints.register("a", next_step=6)
    before = {info.path: info.e_tag for info in stream.objects.list()}
    planned = stream.reclaim(dry_run=True)
    assert {info.path: info.e_tag for info in stream.objects.list()} == before
    done = stream.reclaim()
    assert (planned.steps, planned.files, planned.bytes) == (done.steps, done.files, done.bytes)


def test_a_checkpoint_that_comes_in_between_holds_the_watermark(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchweave.retention.STEPS_PER_COMMIT", 4)
    stream.checkpoints.register("a", next_step=9)
    record = Ledger.record

    def interrupted(self: Ledger, *arguments: Any) -> int:
        monkeypatch.setattr(Ledger, "record", record)
        stream.checkpoints.register("b1", next_step=2, consumer="b")
        return record(self, *arguments)

    monkeypatch.setattr(Ledger, "record", interrupted)
    report = stream.reclaim()
    assert (report.watermark, report.files) == (2, 4)
    assert [row.step for row in stream.ledger().read()] == [0, 1, 2, 3]
    stream.checkpoints.drop("b1")
    assert stream.reclaim().watermark == 9
    assert [row.step for row in stream.ledger().read()] == list(range(9))


def test_what_was_reclaimed_can_neither_be_read_nor_be_restarted_from(stream: Stream) -> None:
    stream.checkpoints.register("a", next_step=6)
    stream.reclaim()
    head = stream.table.head()
    with pytest.raises(StreamCorrupted):
        list(stream.table.entries(head, 5, 10))
    with pytest.raises(StepReclaimed, match="below 6"):
        stream.checkpoints.register("late", next_step=5)
    assert stream.checkpoints.register("edge", next_step=6).next_step == 6


# -- grace and horizon ---------------------------------------------------------------------------


def test_files_stay_for_the_grace_period_also_if_a_sweep_passed_them_before(
    stream: Stream,
) -> None:
    stream.clock.sleep(2 * HOUR_S)
    stream.sweep()
    assert stream.state.horizon > 5
    stream.checkpoints.register("a", next_step=6)
    report = stream.reclaim(grace_s=HOUR_S)
    assert report.swept is not None
    assert (report.swept.files, report.swept.pending_reclaims) == (0, 1)
    stream.clock.sleep(HOUR_S - 1)
    assert stream.sweep(HOUR_S).files == 0
    stream.clock.sleep(3)
    assert stream.sweep(HOUR_S).files == 12
    assert stream.files() == stream.named()


def test_the_grace_period_begins_after_the_commit_however_long_that_takes(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.checkpoints.register("a", next_step=6)
    commit = RegisterTable.commit

    def slow(self: RegisterTable, base: Any, change: Change) -> Any:
        if change.state.watermark > base.state.watermark:
            stream.clock.sleep(5 * HOUR_S)
        return commit(self, base, change)

    monkeypatch.setattr(RegisterTable, "commit", slow)
    report = stream.reclaim(grace_s=HOUR_S)
    assert (report.steps, len(stream.files())) == (6, 20)


def test_an_idle_table_is_swept_without_a_commit(stream: Stream) -> None:
    stream.sweep()
    version = stream.table.head().version
    assert stream.sweep().files == 0
    assert stream.table.head().version == version


def test_orphans_of_the_dead_go_and_an_overtaken_upload_is_renewed(stream: Stream) -> None:
    dead, slow = stream.session("dead"), stream.session("slow")
    stream.upload(dead, 0)
    stream.upload(slow, 0, position='{"json": "longer than what is kept inline"}')
    assert stream.sweep(HOUR_S).files == 0
    swept = stream.sweep()
    assert swept.files == 5  # two parts each, and a position
    assert stream.files() == stream.named()
    assert isinstance(slow.attempt(), Committed)
    assert slow.position == "longer than what is kept inline"
    assert len(stream.files()) == len(stream.named()) + 1


def test_only_the_last_position_of_a_producer_stays(stream: Stream) -> None:
    session = stream.session("q")
    for number in range(3):
        stream.upload(session, number, position=f'{{"json": "longer than inline {number}"}}')
        assert isinstance(session.attempt(), Committed)
    assert len(stream.files(POSITIONS)) == 3
    stream.sweep()
    assert len(stream.files(POSITIONS)) == 1
    assert session.position == "longer than inline 2"


def test_an_opener_whose_position_was_superseded_and_swept_is_fenced(stream: Stream) -> None:
    first = stream.session("q")
    stream.upload(first, 0, position='{"json": "longer than inline 0"}')
    first.attempt()
    slow, fast = stream.session("q"), stream.session("q")
    stream.upload(fast, 1, position='{"json": "longer than inline 1"}')
    fast.attempt()
    stream.sweep()
    with pytest.raises(Fenced):
        _ = slow.position


def test_files_of_others_are_never_touched(stream: Stream) -> None:
    for path in FOREIGN:
        stream.objects.create(path, b"not ours")
    stream.checkpoints.register("a", next_step=10)
    stream.reclaim()
    stream.sweep()
    assert {info.path for info in stream.objects.list()} >= set(FOREIGN)
    assert not stream.files()


@pytest.mark.parametrize("bearable", [20, 5, 4])
def test_a_store_that_is_slow_to_delete_is_asked_for_less(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, bearable: int
) -> None:
    stream.publish(20)
    stream.checkpoints.register("a", next_step=25)
    asked: list[int] = []
    delete = MemoryObjects.delete

    def slow(self: MemoryObjects, paths: Iterable[str]) -> None:
        wanted = list(paths)
        asked.append(len(wanted))
        if len(wanted) > bearable:
            raise StoreUnavailable("the request timed out")
        delete(self, wanted)

    monkeypatch.setattr(MemoryObjects, "delete", slow)
    if bearable < DELETES_PER_REQUEST_MIN:
        with pytest.raises(StoreUnavailable):
            stream.reclaim()
        assert len(asked) == FAILURES_MAX  # no longer than it takes to be sure
        return
    swept = stream.reclaim().swept
    assert swept is not None
    assert swept.files == 50
    assert stream.files() == stream.named()


def test_a_dry_sweep_tells_what_would_go(stream: Stream) -> None:
    stream.upload(stream.session("dead"), 0)
    planned = stream.sweep(dry_run=True)
    assert planned.files == 2
    assert stream.state.horizon == 0
    assert stream.sweep().files == planned.files


def test_deletions_keep_to_their_rate(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchweave.sweep.DELETES_PER_REQUEST", 2)
    stream.checkpoints.register("a", next_step=10)
    stream.reclaim(grace_s=HOUR_S)
    began_s = stream.clock.monotonic_s()
    Sweep(stream.table, stream.clock, grace_s=0, deletes_per_s=4).run()
    assert stream.clock.monotonic_s() - began_s == 20 / 4


@pytest.mark.parametrize("options", [{"grace_s": -1}, {"grace_s": "1h"}, {"deletes_per_s": 0}])
def test_a_sweep_that_makes_no_sense_is_refused(stream: Stream, options: Any) -> None:
    with pytest.raises(InvalidSettings):
        Sweep(stream.table, stream.clock, **options)


# -- the ledger ----------------------------------------------------------------------------------


def test_the_ledger_answers_for_what_is_gone_and_leads_on_to_the_head(stream: Stream) -> None:
    entries = list(stream.table.entries(stream.table.head(), 0, 10))
    stream.checkpoints.register("a", next_step=4)
    stream.reclaim()
    stream.checkpoints.register("b", next_step=7)
    stream.reclaim(Policy(keep_checkpoints=1))
    rows = list(stream.ledger().read())
    assert [(row.step, row.producer, row.sequence, row.rows, row.bytes) for row in rows] == [
        (one.step, one.producer, one.sequence, one.rows, one.bytes) for one in entries[:7]
    ]
    assert [row.sources for row in rows] == [(Item("p", at, 1).text(),) for at in range(7)]
    assert [row.checkpoint for row in rows] == ["a"] * 4 + ["b"] * 3
    place = verify_rows(rows)
    assert place == stream.ledger().place()
    chain = place.chain
    for entry in entries[7:]:
        chain = next_chain(chain, entry.step, [part.digest for part in entry.parts])
    assert chain == stream.state.chain
    assert [row.step for row in stream.ledger().read(start=2, stop=5)] == [2, 3, 4]


def test_rows_are_written_once_however_often_they_are_asked_for(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchweave.ledger.records.ROWS_PER_BATCH", 3)
    head = stream.table.head()
    entries = list(stream.table.entries(head, 0, 10))
    assert stream.ledger().record(stream.table, head.state, entries[:4]) == 4
    version = stream.ledger().table.head().version
    assert stream.ledger().record(stream.table, head.state, entries[:4]) == 0
    assert stream.ledger().table.head().version == version
    assert stream.ledger().record(stream.table, head.state, entries) == 6
    assert [row.step for row in stream.ledger().read()] == list(range(10))


def test_a_ledger_that_misses_rows_of_what_is_gone_stops_the_reclaim(stream: Stream) -> None:
    stream.checkpoints.register("a", next_step=4)
    stream.reclaim()
    ledger = stream.objects.within("ledger")
    ledger.delete([info.path for info in ledger.list()])
    RegisterTable.created(ledger, StreamState(mesh=ledgers.MESH))
    stream.checkpoints.register("b", next_step=8)
    with pytest.raises(StreamCorrupted, match="ends before step 0, and the data is gone below"):
        stream.reclaim(Policy(keep_checkpoints=1))
    assert stream.state.watermark == 4


def test_who_records_later_fences_who_began_before(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = stream.table.head()
    entries = list(stream.table.entries(head, 0, 10))
    publish = Ledger._publish

    def overtaken(self: Ledger, *arguments: Any) -> None:
        monkeypatch.setattr(Ledger, "_publish", publish)
        stream.ledger().record(stream.table, head.state, entries)
        publish(self, *arguments)

    monkeypatch.setattr(Ledger, "_publish", overtaken)
    with pytest.raises(Fenced):
        stream.ledger().record(stream.table, head.state, entries)
    assert [row.step for row in stream.ledger().read()] == list(range(10))


def test_who_finds_the_files_gone_because_another_took_over_is_fenced(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.checkpoints.register("a", next_step=8)
    head = stream.table.head()
    entries = list(stream.table.entries(head, 0, 8))
    rows = Ledger._rows

    def overtaken(self: Ledger, *arguments: Any) -> Any:
        monkeypatch.setattr(Ledger, "_rows", rows)
        stream.reclaim()
        return rows(self, *arguments)

    monkeypatch.setattr(Ledger, "_rows", overtaken)
    with pytest.raises(Fenced):
        stream.ledger().record(stream.table, head.state, entries)
    assert [row.step for row in stream.ledger().read()] == list(range(8))


def test_a_file_that_is_gone_for_no_reason_is_named(stream: Stream) -> None:
    head = stream.table.head()
    entries = list(stream.table.entries(head, 0, 10))
    stream.objects.delete([entries[2].parts[0].path])
    with pytest.raises(StreamCorrupted, match="that the table names is gone"):
        stream.ledger().record(stream.table, head.state, entries)


def _rows(stream: Stream) -> list[LedgerRow]:
    stream.checkpoints.register("a", next_step=6)
    stream.reclaim()
    return list(stream.ledger().read())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows[:2], *rows[3:]], "step 2 has no row"),
        (lambda rows: [*rows[:3], rows[2], *rows[3:]], "step 2 has two rows"),
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], "step 1 has no row"),
        (lambda rows: [replace(rows[0], rows=99), *rows[1:]], "row of step 0 was changed"),
        (lambda rows: [*rows[:4], replace(rows[4], sources=("x",)), rows[5]], "step 4 was changed"),
        (lambda rows: [*rows[:5], replace(rows[5], digests=("0",))], "step 5 was changed"),
        (lambda rows: [*rows[:5], replace(rows[5], checkpoint=None)], "step 5 was changed"),
    ],
)
def test_a_row_that_was_changed_lost_or_moved_is_named(
    stream: Stream, change: Any, message: str
) -> None:
    rows = _rows(stream)
    verify_rows(rows)
    with pytest.raises(StreamCorrupted, match=message):
        verify_rows(change(rows))
