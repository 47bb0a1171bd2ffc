"""What a stream on Delta promises: one order, three outcomes, no stale winner, bounded cost."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchweave as bw
from batchweave.catalogs import delta_checkpoint, delta_checkpoint_writer, versions
from batchweave.catalogs.delta_checkpoint import LOG, checkpoint_path
from batchweave.catalogs.delta_log import (
    BEHIND_MAX,
    LINKS_PER_CHECKPOINT_MIN,
    links_per_checkpoint,
)
from batchweave.catalogs.delta_upkeep import DELETIONS_PER_TURN, HINT, RETRY_AFTER_VERSIONS
from batchweave.catalogs.versions import IDLE_POLLS_PER_LIST, VERSIONS_KEPT
from batchweave.errors import (
    ObjectNotFound,
    StoreDenied,
    StoreUnavailable,
    StreamCorrupted,
    StreamNotFound,
    UnsupportedFormat,
)
from batchweave.state import CHAIN_START, next_chain
from batchweave.table import BatchEntry, Change, Committed, Head, Lost, Unknown
from tests.delta_world import FOLDER, NAME, World, every, forget, plain
from tests.streams import TOKENS
from tests.watched import Watch

LONG = 3 * LINKS_PER_CHECKPOINT_MIN + VERSIONS_KEPT
"""Commits after which early entries of the log are gone."""


@pytest.fixture
def world() -> World:
    return World.make()


def _is_entry(verb: str, path: str) -> bool:
    return verb == "create" and f"/{LOG}/" in path and path.endswith(".json")


def _raised(call: Callable[[], object]) -> type[BaseException] | None:
    try:
        call()
    except bw.BatchWeaveError as error:
        return type(error)
    return None


def _check_chain(entries: Sequence[BatchEntry], head: Head) -> None:
    chain = CHAIN_START
    for entry in entries:
        chain = next_chain(chain, entry.step, [part.digest for part in entry.parts])
    assert chain == head.state.chain


# -- the order ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_any_range_of_steps_is_what_was_committed(
    world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_checkpoint_writer, "ADDS_PER_GROUP", 32)
    dice = random.Random(seed)
    writers = [world.writer(name) for name in "abc"[: seed + 1]]
    for _ in range(160):
        writer = dice.choice(writers)
        writer.commit(dice.choice([1, 1, 1, 2, 5, 9]), parts=dice.choice([1, 1, 2]))
    expected = {
        step: (writer.name, sequence)
        for writer in writers
        for sequence, step in writer.steps.items()
    }
    assert sorted(expected) == list(range(len(expected)))
    for table in (world.table(), writers[0].table):
        head = table.head()
        assert head.detail.anchor is not None
        found = every(table, head)
        assert [entry.step for entry in found] == list(range(head.state.next_step))
        assert {entry.step: (entry.producer, entry.sequence) for entry in found} == expected
        for entry in found:
            digests = [f"{entry.producer}-{entry.sequence}-{at}" for at in range(len(entry.parts))]
            assert [part.digest for part in entry.parts] == digests
            assert sum(part.slices for part in entry.parts) == 2
        _check_chain(found, head)
        for _ in range(8):
            start = dice.randrange(len(found))
            stop = dice.randrange(start, len(found) + 1)
            assert list(table.entries(head, start, stop)) == found[start:stop]
        assert list(table.entries(head, 5, 5)) == []


def test_every_opener_sees_the_same_parts(world: World) -> None:
    """As the writer knows them, out of the entries, and out of a checkpoint."""
    writer = world.writer()
    head = writer.commit(3, parts=2)
    known = every(writer.table, head)
    assert every(world.table()) == known
    writer.table._upkeep.write_checkpoint(head.detail)
    table = world.table()
    assert table.head().detail.links == 0
    assert every(table) == known


def test_a_lost_race_takes_new_steps_and_writes_no_data_again(world: World) -> None:
    one, two = world.writer("one"), world.writer("two")
    one.stage(3)
    two.stage(2)
    world.watch.clear()

    def overtake(verb: str, path: str) -> None:
        if _is_entry(verb, path):
            world.watch.before = Watch().before
            assert isinstance(one.session.attempt(), Committed)

    two.session.refresh()
    world.watch.before = overtake
    assert isinstance(two.session.attempt(), Lost)
    assert two.steps == {}
    assert isinstance(two.session.attempt(), Committed)
    assert (one.steps, two.steps) == ({0: 0, 1: 1, 2: 2}, {0: 3, 1: 4})
    assert not [path for verb, path in world.watch.calls if "/data/" in path]
    assert [entry.producer for entry in every(world.table())] == ["one"] * 3 + ["two"] * 2


def test_a_missing_or_repeated_step_is_corruption(world: World) -> None:
    head = world.writer().commit(2)
    table = world.table()
    ahead = replace(head, state=replace(head.state, next_step=4))
    with pytest.raises(StreamCorrupted, match=r"step 2 .* missing"):
        every(table, ahead)
    batch = every(table)[1]
    other = replace(batch, parts=(replace(batch.parts[0], path="data/other.parquet"),))
    outcome = table.commit(table.head(), Change(replace(head.state, next_step=3), (other,)))
    assert isinstance(outcome, Committed)
    with pytest.raises(StreamCorrupted, match=r"step 1 .* twice"):
        every(table, outcome.head)


@pytest.mark.parametrize(
    ("kept", "said"),
    [((0,), "lacks slice 1"), ((1,), "lacks slice 0"), ((1, 1), "lacks slice 0"),
     ((0, 1, 1), "lacks slice 2"), ((), "step 1 .* missing")],
)  # fmt: skip
def test_a_batch_whose_parts_are_not_its_slices_is_corruption(
    world: World, kept: tuple[int, ...], said: str
) -> None:
    writer = world.writer()
    head = writer.commit(1, parts=2)
    (batch,) = every(writer.table, head)
    parts = tuple(replace(batch.parts[k], path=f"data/{at}") for at, k in enumerate(kept))
    odd = replace(batch, step=1, sequence=1, parts=parts)
    outcome = writer.table.commit(head, Change(replace(head.state, next_step=2), (odd,)))
    assert isinstance(outcome, Committed)
    with pytest.raises(StreamCorrupted, match=said):
        every(world.table())


# -- outcomes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("landed", [True, False])
def test_an_unknown_outcome_is_resolved_by_reading(world: World, landed: bool) -> None:
    def lose(verb: str, path: str) -> None:
        if _is_entry(verb, path):
            raise StoreUnavailable("the connection broke")

    writer, other = world.writer("p"), world.writer("q")
    writer.commit(2)
    writer.stage(3)
    if landed:
        world.watch.after = lose
    else:
        world.watch.before = lose
    before = world.log()
    assert isinstance(writer.session.attempt(), Unknown)
    assert set(world.log()) >= set(before), "nothing is deleted"
    world.watch.before = world.watch.after = Watch().before
    assert writer.steps == {0: 0, 1: 1}, "nothing is claimed before the head was read"
    assert len(writer.session.staged) == 3
    other.commit(1)
    outcome = writer.session.attempt()
    if landed:
        assert outcome is None
        assert writer.steps == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    else:
        assert isinstance(outcome, Committed)
        assert writer.steps == {0: 0, 1: 1, 2: 3, 3: 4, 4: 5}
    assert writer.session.staged == []
    found = [(entry.producer, entry.sequence) for entry in every(world.table())]
    assert sorted(found) == [*(("p", n) for n in range(5)), ("q", 0)]


def test_a_base_that_cannot_be_checked_is_an_unknown_outcome(world: World) -> None:
    writer = world.writer()
    head = writer.commit()
    writer.stage()

    def fail(verb: str, path: str) -> None:
        if verb in ("head", "get") and path.endswith(f"{head.version:020d}.json"):
            raise StoreUnavailable("no answer")

    world.watch.before = fail
    outcome = writer.session.attempt()
    assert isinstance(outcome, Unknown)
    assert "no answer" in str(outcome.cause)
    world.watch.before = Watch().before
    assert writer.session.attempt() is None
    assert writer.steps == {0: 0, 1: 1}


def test_a_store_that_denies_writing_says_so(world: World) -> None:
    writer = world.writer()
    writer.stage()

    def deny(verb: str, path: str) -> None:
        if _is_entry(verb, path):
            raise StoreDenied("read only")

    world.watch.before = deny
    with pytest.raises(StoreDenied, match="read only"):
        writer.session.attempt()


# -- stale writers -----------------------------------------------------------------------------


def test_old_entries_and_checkpoints_are_removed_in_order_and_a_checkpoint_covers_the_rest(
    world: World,
) -> None:
    writer = world.writer()
    world.watch.clear()
    for _ in range(LONG):
        head = writer.commit()
    deleted = [path.rpartition("/")[2] for verb, path in world.watch.calls if verb == "delete"]
    entries = [int(name[:20]) for name in deleted if name.endswith(".json")]
    assert entries == list(range(len(entries)))
    assert len(entries) > VERSIONS_KEPT
    left = sorted(int(name[:20]) for name in world.log() if name.endswith(".json"))
    assert left == list(range(left[0], head.version + 1))
    assert head.version - left[0] >= VERSIONS_KEPT
    covering = [int(name[:20]) for name in world.log() if "checkpoint.parquet" in name]
    assert min(covering) <= left[0]
    assert len(world.log()) <= 2 * LINKS_PER_CHECKPOINT_MIN + VERSIONS_KEPT + 6


@pytest.mark.parametrize("remembers", [True, False])
def test_a_stale_writer_never_wins_though_its_version_is_free_again(
    world: World, remembers: bool
) -> None:
    """With and without the tag of its base in memory."""
    sleeper, reader = world.writer("sleeper"), world.table()
    stale, seen = sleeper.session.refresh(), reader.head()
    free = f"{stale.version + 1:020d}.json"
    if not remembers:
        forget(sleeper.table)
    busy = world.writer("busy")
    for _ in range(LONG):
        head = busy.commit()
    assert free not in world.log()
    refused = sleeper.table.commit(stale, Change(replace(stale.state, sealed=True)))
    assert isinstance(refused, Unknown)
    assert "cleaned up" in str(refused.cause)
    assert free in world.log(), "its put succeeded: only the look at the base told"
    for table in (busy.table, sleeper.table, world.table(), reader):
        found = table.head()
        assert (found.version, found.state) == (head.version, head.state)
    found = reader.head(seen)
    while found.version != head.version:
        found = reader.head(found)
        assert not found.state.sealed, "a reader that slept as well is not fooled"
    assert found.state == head.state
    sleeper.stage(2)
    while not isinstance(outcome := sleeper.attempt(), Committed):
        assert isinstance(outcome, (Lost, Unknown))
    assert [entry.producer for entry in every(world.table())[-2:]] == ["sleeper"] * 2
    for _ in range(2 * LINKS_PER_CHECKPOINT_MIN):
        busy.commit()
    assert free not in world.log()


def test_a_stale_writer_behind_another_stale_writer_does_not_win_either(world: World) -> None:
    first, second, busy = (world.writer(name) for name in ("first", "second", "busy"))
    at_1 = first.table.head()
    busy.commit()
    at_2 = second.table.head()
    forget(second.table)
    assert at_2.version == at_1.version + 1
    for _ in range(LONG):
        head = busy.commit()
    assert isinstance(first.table.commit(at_1, Change(at_1.state)), Unknown)
    assert isinstance(second.table.commit(at_2, Change(at_2.state)), Unknown)
    assert busy.table.head().version == head.version == world.table().head().version


def test_entries_that_are_replaced_while_a_log_is_opened_are_read_again(world: World) -> None:
    """Listed, then covered by a checkpoint and cleaned up, then written again by a sleeper."""
    writer = world.writer()
    for _ in range(5):
        head = writer.commit()
    path = f"{FOLDER}/{LOG}/{head.version - 2:020d}.json"
    genuine = bytes(world.objects.inner.get(path)[0])
    sealed = {"domain": "batchweave.sealed", "configuration": "true", "removed": False}
    late = genuine + json.dumps({"domainMetadata": sealed}).encode()

    def replace_it(verb: str, at: str) -> None:
        if verb == "get" and at == path:
            world.watch.before = Watch().before
            writer.table._upkeep.write_checkpoint(head.detail)
            world.objects.inner.overwrite(path, late)

    world.watch.before = replace_it
    assert world.table().head().state == head.state


def test_a_stream_that_was_created_again_is_not_mistaken_for_the_old(world: World) -> None:
    writer = world.writer()
    writer.commit(2)
    reader = world.table()
    seen = reader.head()
    world.catalog.drop_stream(NAME)
    world.catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    writer.stage()
    for _ in range(IDLE_POLLS_PER_LIST):
        try:
            assert not isinstance(writer.session.attempt(), Committed)
        except StreamNotFound:
            break
    else:
        pytest.fail("the writer did not find out")
    with pytest.raises(StreamNotFound, match="created again"):
        reader.head()
    found = [_raised(lambda: reader.head(seen)) for _ in range(IDLE_POLLS_PER_LIST)]
    assert StreamNotFound in found
    assert world.table().head().state.next_step == 0
    assert [name for name in world.log() if name.endswith(".json")] == [f"{0:020d}.json"]


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_writer_of_a_dropped_stream_does_not_take_over_its_namesake(
    world: World, ahead: int
) -> None:
    old = world.writer("p")
    base = old.session.refresh()
    world.catalog.drop_stream(NAME)
    world.catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    new = world.writer("q")
    for _ in range(ahead):
        new.commit()
    outcome = old.table.commit(base, Change(replace(base.state, sealed=True)))
    assert isinstance(outcome, (Lost, Unknown))
    assert not world.table().head().state.sealed
    assert not new.table.head().state.sealed


def test_a_checkpoint_that_a_dropped_namesake_left_behind_is_not_used(world: World) -> None:
    old = world.writer("old")
    for _ in range(5):
        head = old.commit()
    old.table._upkeep.write_checkpoint(head.detail)
    path = f"{FOLDER}/{checkpoint_path(head.version)}"
    left = bytes(world.objects.inner.get(path)[0])
    world.catalog.drop_stream(NAME)
    world.catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    world.objects.inner.create(path, left)
    new = world.writer("new")
    for _ in range(5):
        head = new.commit()
    assert [entry.producer for entry in every(world.table())] == ["new"] * 5
    new.table._upkeep.write_checkpoint(head.detail)
    assert world.table().head().detail.links == 0
    while head.version < 2 * LINKS_PER_CHECKPOINT_MIN:
        head = new.commit()
    assert {entry.producer for entry in every(world.table())} == {"new"}


# -- checkpoints -------------------------------------------------------------------------------


def test_the_log_stays_bounded_and_reopens_after_any_history(world: World) -> None:
    writer = world.writer()
    for number in range(LONG):
        head = writer.commit()
        if number % 50 == 0 or number == LONG - 1:
            table = world.table()
            assert table.head().state == head.state
            assert [entry.step for entry in every(table)] == list(range(head.state.next_step))
    assert len(world.log()) <= 2 * LINKS_PER_CHECKPOINT_MIN + VERSIONS_KEPT + 6


@pytest.mark.parametrize("hint", [b"{}", b"nonsense", b'{"version":999,"size":1}', None])
def test_a_wrong_or_missing_hint_is_not_believed(world: World, hint: bytes | None) -> None:
    writer = world.writer()
    for _ in range(LINKS_PER_CHECKPOINT_MIN + 5):
        head = writer.commit()
    assert json.loads(bytes(world.objects.inner.get(f"{FOLDER}/{HINT}")[0]))["version"] > 0
    if hint is None:
        world.objects.inner.delete([f"{FOLDER}/{HINT}"])
    else:
        world.objects.inner.overwrite(f"{FOLDER}/{HINT}", hint)
    table = world.table()
    assert table.head().state == head.state
    assert len(every(table)) == head.state.next_step


def test_a_damaged_checkpoint_is_passed_over_where_an_older_one_or_the_entries_do(
    world: World,
) -> None:
    writer = world.writer()
    for _ in range(LINKS_PER_CHECKPOINT_MIN + 5):
        head = writer.commit()
    (name,) = [name for name in world.log() if name.endswith(".parquet")]
    world.objects.inner.overwrite(f"{FOLDER}/{LOG}/{name}", b"PAR1 damaged PAR1")
    assert world.table().head().state == head.state


def test_a_log_without_its_beginning_is_corruption(world: World) -> None:
    world.writer().commit()
    world.objects.inner.delete([f"{FOLDER}/{LOG}/{0:020d}.json"])
    with pytest.raises(StreamCorrupted, match="cannot be put together"):
        world.table()


def test_a_damaged_entry_is_corruption(world: World) -> None:
    head = world.writer().commit()
    world.objects.inner.overwrite(f"{FOLDER}/{LOG}/{head.version:020d}.json", b'{"add":')
    with pytest.raises(StreamCorrupted, match=f"entry {head.version} .* damaged"):
        world.table()


def test_a_checkpoint_of_other_programs_serves_where_ours_and_the_entries_are_gone(
    world: World,
) -> None:
    """Tags, which such a program may drop, are recovered from the files' footers."""
    writer = world.writer()
    head = writer.commit(4, parts=1)
    known = every(writer.table, head)
    _foreign_checkpoint(world, writer.table, head, tags=False)
    for version in range(head.version):
        world.objects.inner.delete([f"{FOLDER}/{LOG}/{version:020d}.json"])
    table = world.table()
    world.watch.clear()
    assert every(table) == known
    footers = [path for verb, path in world.watch.calls if "/data/" in path]
    assert len(footers) == 4
    later = writer.commit(2)
    assert every(world.table()) == every(writer.table, later)
    writer.table._upkeep.write_checkpoint(world.table().head().detail)
    assert world.table().head().detail.anchor.own
    assert every(world.table()) == every(writer.table, later)


def _foreign_checkpoint(world: World, table: Any, head: Head, *, tags: bool) -> None:
    """A checkpoint without our notes, as another program lays it out."""
    written = delta_checkpoint_writer.encode_checkpoint(
        table.objects, head.detail, tombstones_since_ms=0, created_ms=0
    )
    rows = pq.read_table(written.data).to_pylist()
    for row in rows:
        if row["add"] and not tags:
            row["add"]["tags"] = None
    plain_rows = pa.Table.from_pylist(rows[::-1], schema=delta_checkpoint_writer.SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(plain_rows, sink)
    table.objects.create(checkpoint_path(head.version), sink.getvalue())


def test_checkpoints_become_rarer_as_the_table_grows() -> None:
    assert links_per_checkpoint(0) == links_per_checkpoint(4096) == 64
    assert links_per_checkpoint(64_000) == 1000


def test_many_producers_do_not_each_write_the_same_checkpoints(world: World) -> None:
    writers = [world.writer(f"p{number}") for number in range(8)]
    world.watch.clear()
    commits = 4 * LINKS_PER_CHECKPOINT_MIN
    for number in range(commits):
        writers[number % 8].commit()
    made = {p for verb, p in world.watch.calls if verb == "create" and p.endswith(".parquet")}
    assert len([p for p in made if LOG in p]) <= commits / LINKS_PER_CHECKPOINT_MIN + 1


def test_upkeep_that_fails_in_any_way_is_told_and_does_not_raise(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    writer = world.writer()
    while writer.commit().detail.links < LINKS_PER_CHECKPOINT_MIN - 1:
        pass

    def fail(verb: str, path: str) -> None:
        if verb == "create" and path.endswith("checkpoint.parquet"):
            raise TypeError("a bug")

    world.watch.before = fail
    with caplog.at_level(logging.WARNING):
        writer.commit()
        writer.commit()
    (record,) = caplog.records
    assert "a bug" in record.getMessage()
    assert record.exc_info is None
    world.watch.before = Watch().before
    for _ in range(RETRY_AFTER_VERSIONS):
        writer.commit()
    assert [name for name in world.log() if name.endswith(".parquet")]


# -- cost --------------------------------------------------------------------------------------


def test_the_cost_of_a_commit_does_not_grow_with_history(world: World) -> None:
    """Requests and bytes of one entry, counted over 500 commits; upkeep by its average."""
    writer = world.writer()
    requests: list[int] = []
    upkeep: list[int] = []
    sizes: list[int] = []
    for _ in range(500):
        writer.stage()
        world.watch.clear()
        outcome = writer.session.attempt()
        assert isinstance(outcome, Committed)
        requests.append(len(world.watch.calls))
        world.watch.clear()
        writer.table.tidy(outcome.head)
        upkeep.append(len(world.watch.calls))
        path = f"{FOLDER}/{LOG}/{outcome.head.version:020d}.json"
        sizes.append(world.objects.inner.head(path).size)
        assert outcome.head.detail.links <= LINKS_PER_CHECKPOINT_MIN + 1
    assert max(requests[2:]) <= 2, "the entry, and a look at its base"
    assert max(sizes[400:]) < 1.1 * max(sizes[50:100])
    assert max(upkeep) <= DELETIONS_PER_TURN + 16
    assert sum(upkeep) / len(upkeep) < 2


def test_a_new_step_costs_a_reader_the_same_after_any_history(world: World) -> None:
    writer, reader = world.writer(), world.table()
    head = reader.head()
    costs = []
    for step in range(300):
        writer.commit()
        world.watch.clear()
        head = reader.head(head)
        assert [entry.step for entry in reader.entries(head, step, step + 1)] == [step]
        costs.append(len(world.watch.calls))
    assert sorted(costs)[len(costs) // 2] <= 3, "the entry, none after it, a look at the base"
    assert max(costs) <= 8, "now and then a listing, and a newer checkpoint to rest on"
    assert head.detail.links <= 3 * LINKS_PER_CHECKPOINT_MIN


def test_an_idle_poll_is_one_request_and_the_same_head(world: World) -> None:
    world.writer().commit()
    table = world.table()
    head = table.head()
    world.watch.clear()
    for _ in range(2 * IDLE_POLLS_PER_LIST):
        assert table.head(head) is head
    assert len(world.watch.calls) == 2 * IDLE_POLLS_PER_LIST


def test_a_range_of_old_steps_reads_only_the_groups_that_hold_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_checkpoint_writer, "ADDS_PER_GROUP", 50)
    writer = world.writer()
    for _ in range(10):
        head = writer.commit(50)
    writer.table._upkeep.write_checkpoint(head.detail)
    monkeypatch.setattr(delta_checkpoint, "TAIL_BYTES", 4096)
    table = world.table()
    assert len(table.head().detail.anchor.groups) == 10
    head = table.head()
    world.watch.clear()
    assert [entry.step for entry in table.entries(head, 110, 140)] == list(range(110, 140))
    assert [verb for verb, _ in world.watch.calls] == ["get_range"]


def test_a_reader_far_behind_catches_up(world: World) -> None:
    reader = world.table()
    known = reader.head()
    writer = world.writer()
    for _ in range(3 * BEHIND_MAX):
        head = writer.commit()
    world.watch.clear()
    known = reader.head(known)
    assert known.version == head.version
    assert len(every(reader, known)) == 3 * BEHIND_MAX


def test_an_old_head_whose_checkpoint_is_gone_can_be_renewed(world: World) -> None:
    writer = world.writer()
    for _ in range(LINKS_PER_CHECKPOINT_MIN + 2):
        writer.commit()
    reader = world.table()
    old = reader.head()
    for _ in range(LONG):
        writer.commit()
    with pytest.raises(ObjectNotFound):
        every(reader, old)
    assert len(every(reader)) == writer.next


# -- other programs ----------------------------------------------------------------------------


def _metadata(world: World, **changes: Any) -> dict[str, Any]:
    (found,) = [action["metaData"] for action in world.entry(0) if "metaData" in action]
    return {"metaData": found | changes}


def test_a_column_or_property_that_others_add_does_not_stop_anybody(world: World) -> None:
    writer, reader = world.writer(), world.table()
    head = reader.head()
    writer.commit()
    schema = json.loads(_metadata(world)["metaData"]["schemaString"])
    schema["fields"].append({"name": "score", "type": "double", "nullable": True, "metadata": {}})
    configuration = _metadata(world)["metaData"]["configuration"] | {"owner": "me"}
    world.append(
        {"commitInfo": {"operation": "ADD COLUMN", "timestamp": 1}},
        _metadata(world, schemaString=json.dumps(schema), configuration=configuration),
        {"txn": {"appId": "theirs", "version": 7}},
        {"domainMetadata": {"domain": "theirs", "configuration": "x", "removed": False}},
    )
    writer.commit()
    head = reader.head(head)
    assert head.detail.configuration["owner"] == "me"
    assert head.state.next_step == 2
    writer.table._upkeep.write_checkpoint(writer.table.head().detail)
    opened = world.table().head()
    assert opened.detail.links == 0
    assert opened.detail.configuration["owner"] == "me"
    assert opened.detail.transactions["theirs"]["version"] == 7
    assert opened.detail.domains["theirs"]["configuration"] == "x"
    assert len(every(world.table())) == 2


@pytest.mark.parametrize(
    ("protocol", "named"),
    [
        ({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
          "writerFeatures": ["deletionVectors", "domainMetadata"]}, "deletionVectors"),
        ({"minReaderVersion": 1, "minWriterVersion": 7,
          "writerFeatures": ["domainMetadata", "checkConstraints"]}, "checkConstraints"),
        ({"minReaderVersion": 2, "minWriterVersion": 7, "writerFeatures": ["domainMetadata"]},
         "reader version 2"),
        ({"minReaderVersion": 1, "minWriterVersion": 8, "writerFeatures": []}, "writer version 8"),
    ],
)  # fmt: skip
def test_features_that_we_do_not_know_are_refused_when_opened_and_at_every_head(
    world: World, protocol: dict[str, Any], named: str
) -> None:
    writer, reader = world.writer(), world.table()
    known = reader.head()
    world.append({"protocol": protocol})
    for look in (world.table, reader.head, lambda: reader.head(known)):
        with pytest.raises(UnsupportedFormat, match=named):
            look()
    writer.stage()
    assert UnsupportedFormat in [_raised(writer.session.attempt) for _ in range(2)]


@pytest.mark.parametrize(
    ("change", "said"),
    [("drop", "no column 'tokens'"), ("retype", "'tokens' .* was .* and is string"),
     ("partition", "partitioned by step now")],
)  # fmt: skip
def test_a_column_that_others_removed_or_retyped_is_corruption(
    world: World, change: str, said: str
) -> None:
    schema = json.loads(_metadata(world)["metaData"]["schemaString"])
    columns = (
        ["step"]
        if change == "partition"
        else list(_metadata(world)["metaData"]["partitionColumns"])
    )
    if change == "partition":
        columns = columns[:1]
    elif change == "drop":
        del schema["fields"][0]
    elif change == "retype":
        schema["fields"][0]["type"] = "string"
    reader = world.table()
    known = reader.head()
    world.append(_metadata(world, schemaString=json.dumps(schema), partitionColumns=columns))
    for look in (world.table, lambda: reader.head(known)):
        with pytest.raises(StreamCorrupted, match=said):
            look()


def test_files_that_others_added_are_named_and_carried_on(world: World) -> None:
    writer = world.writer()
    writer.commit()
    add = {"path": "theirs%20too.parquet", "partitionValues": {"step": None}, "size": 1,
           "modificationTime": 1, "dataChange": True}  # fmt: skip
    world.append({"add": add})
    head = writer.commit()
    for _ in range(2):
        with pytest.raises(StreamCorrupted, match=r"did not write: theirs too\.parquet"):
            every(world.table())
        writer.table._upkeep.write_checkpoint(head.detail)
    assert world.table().head().detail.links == 0
    world.append({"remove": {"path": "theirs%20too.parquet", "dataChange": True}})
    with pytest.raises(StreamCorrupted, match="removed a file"):
        every(world.table())


def test_a_file_that_others_removed_is_named_until_a_checkpoint_and_its_step_after_it(
    world: World,
) -> None:
    writer = world.writer()
    head = writer.commit(3)
    (part,) = every(writer.table, head)[1].parts
    remove = {"path": part.path, "deletionTimestamp": 1, "dataChange": True,
              "partitionValues": {"step": "1"}}  # fmt: skip
    world.append({"remove": remove})
    head = writer.commit()
    table = world.table()
    with pytest.raises(StreamCorrupted, match=rf"{part.path} of step 1"):
        every(table)
    assert [one.step for one in table.entries(table.head(), 2, 4)] == [2, 3]
    writer.table._upkeep.write_checkpoint(head.detail)
    table = world.table()
    assert table.head().detail.links == 0
    with pytest.raises(StreamCorrupted, match=r"step 1 .* missing"):
        every(table)
    assert [one.step for one in table.entries(table.head(), 2, 4)] == [2, 3]


def test_a_file_that_others_name_anew_is_there_once(world: World) -> None:
    """As statistics are computed, or a removal is taken back; before and after a checkpoint."""
    writer = world.writer()
    head = writer.commit(6)
    known = every(writer.table, head)
    adds = [action for action in world.entry(head.version) if "add" in action]
    again = {"add": adds[2]["add"] | {"dataChange": False, "modificationTime": 5}}
    world.append(again)
    head = writer.commit()
    assert every(world.table())[:6] == known
    assert [one.step for one in world.table().entries(head, 4, 7)] == [4, 5, 6]
    writer.table._upkeep.write_checkpoint(head.detail)
    world.append(again)
    table = world.table()
    assert table.head().detail.links == 1
    assert every(table)[:6] == known
    assert [one.step for one in table.entries(table.head(), 1, 4)] == [1, 2, 3]
    table._upkeep.write_checkpoint(table.head().detail)
    assert world.table().head().detail.anchor.files == 7
    assert every(world.table())[:6] == known


def test_a_property_that_describes_the_stream_cannot_go_missing(world: World) -> None:
    configuration = dict(_metadata(world)["metaData"]["configuration"])
    del configuration["batchweave.schema"]
    world.append(_metadata(world, configuration=configuration))
    with pytest.raises(StreamCorrupted, match=r"batchweave\.schema"):
        world.table()


# -- reclaiming --------------------------------------------------------------------------------


def test_a_commit_that_reclaims_steps_takes_their_files_out_of_the_table(world: World) -> None:
    """Seen by the committer, a follower and an opener; through entries, and through checkpoints."""
    writer, follower = world.writer(), world.table()
    known = follower.head()
    old = writer.commit(6, parts=2)
    writer.table._upkeep.write_checkpoint(old.detail)
    head = writer.commit(4)
    paths = {entry.step: {part.path for part in entry.parts} for entry in every(world.table())}
    for low, watermark in ((0, 3), (3, 8)):
        outcome = writer.table.commit(head, Change(replace(head.state, watermark=watermark)))
        assert isinstance(outcome, Committed)
        head = outcome.head
        removed = [action["remove"] for action in world.entry(head.version) if "remove" in action]
        reclaimed = set().union(*(paths[step] for step in range(low, watermark)))
        assert {one["path"] for one in removed} == reclaimed
        known = follower.head(known)
        for table, now in ((writer.table, head), (follower, known), (world.table(), None)):
            now = now or table.head()
            assert now.state.watermark == watermark
            steps = [one.step for one in table.entries(now, watermark, 10)]
            assert steps == list(range(watermark, 10))
    writer.table._upkeep.write_checkpoint(head.detail)
    table = world.table()
    opened = table.head()
    assert (opened.detail.links, opened.detail.files) == (0, 2)
    tombstones = {one.path for one in opened.detail.anchor.entry.removed}
    assert tombstones == set().union(*(paths[step] for step in range(8)))
    assert [one.step for one in table.entries(opened, 8, 10)] == [8, 9]
    assert writer.commit().detail.files == 3


# -- concurrency -------------------------------------------------------------------------------


def test_state_is_the_same_however_it_is_read(world: World) -> None:
    """By the committer, by a follower, out of entries and out of a checkpoint."""
    writers = [world.writer(name) for name in ("a.b", "c-d")]
    follower = world.table()
    head = follower.head()
    for number in range(10):
        committed = writers[number % 2].commit()
        head = follower.head(head)
        assert head.state == committed.state
        assert head.detail.properties == committed.detail.properties
    assert world.table().head().state == head.state
    writers[0].table._upkeep.write_checkpoint(head.detail)
    assert world.table().head().state == head.state
    dropped = replace(head.state, producers={"a.b": head.state.producers["a.b"]})
    outcome = follower.commit(head, Change(dropped))
    assert isinstance(outcome, Committed)
    assert world.table().head().state == dropped
    assert plain(world.catalog).name == "local"


def test_the_margin_is_one_constant(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS_KEPT", 200)
    writer = world.writer()
    for _ in range(200):
        writer.commit()
    assert f"{0:020d}.json" in world.log()
