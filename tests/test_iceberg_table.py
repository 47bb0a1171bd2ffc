"""What a stream on Iceberg promises: one order, bounded cost, metadata that others can read."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial

import pytest
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.transforms import IdentityTransform

import batchweave as bw
from batchweave.catalogs.files import relative_path
from batchweave.catalogs.iceberg import SNAPSHOTS_LIVE, TIDY_EVERY, IcebergTable, store_properties
from batchweave.catalogs.iceberg_catalog import IcebergCatalog
from batchweave.catalogs.manifests import MERGE_AGE_MAX
from batchweave.catalogs.merging import ENTRIES_MAX, FAN_IN
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.catalogs.versions import IDLE_POLLS_PER_LIST, VERSIONS_KEPT
from batchweave.clock import SystemClock
from batchweave.columns import slice_to_table, to_storage
from batchweave.errors import ObjectNotFound, StoreUnavailable, StreamCorrupted, StreamNotFound
from batchweave.parquet import EncodedPart, SliceData, encode
from batchweave.session import Session, Staged
from batchweave.state import CHAIN_START, next_chain
from batchweave.table import BatchEntry, Change, Committed, Head, Lost, Part, Unknown
from tests.streams import TOKENS, tokens
from tests.watched import Watch, WatchedObjects

NAME = "demo.tokens"
MANIFESTS_ALWAYS = 48  # what may wait for its merge, whatever the history
COMMITS = 160


@dataclass
class World:
    """One stream in memory, seen by as many processes as a test wants."""

    catalog: bw.Catalog
    objects: WatchedObjects
    encoded: EncodedPart

    @property
    def watch(self) -> Watch:
        return self.objects.watch

    def table(self) -> IcebergTable:
        """The table as another process opens it."""
        found = self.catalog.load_stream(NAME).table
        assert isinstance(found, IcebergTable)
        return found

    def writer(self, name: str = "p") -> Writer:
        return Writer(self, name)

    def files(self, folder: str) -> list[str]:
        return sorted(info.path for info in self.objects.inner.list(f"demo/tokens/{folder}"))


class Writer:
    """A producer's session of its own process, and what it staged."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.table = world.table()
        self.session = Session(
            self.table, name, clock=SystemClock(), position_bytes_inline_max=4096
        )
        self.session.open()
        self.next = self.session.sequence + 1
        self.steps: dict[int, int] = {}

    def stage(self, count: int = 1, parts: int = 1) -> None:
        for sequence in range(self.next, self.next + count):
            encoded = tuple(self._part(sequence, index, parts) for index in range(parts))
            uploads = [self.session.upload(sequence, at, one) for at, one in enumerate(encoded)]
            self.session.stage(
                Staged(
                    sequence,
                    encoded,
                    tuple(part for part, _ in uploads),
                    min(version for _, version in uploads),
                    f'{{"json":{sequence}}}',
                    partial(self.steps.__setitem__, sequence),
                )
            )
        self.next += count

    def attempt(self) -> Committed | Lost | Unknown | None:
        outcome = self.session.attempt()
        if isinstance(outcome, Committed):
            self.table.tidy(outcome.head)
        return outcome

    def commit(self, count: int = 1, parts: int = 1) -> Head:
        """Stage and commit at once, reading the head as often as it takes."""
        self.stage(count, parts)
        while not isinstance(outcome := self.attempt(), Committed):
            assert isinstance(outcome, Lost)
        return outcome.head

    def _part(self, sequence: int, index: int, parts: int) -> EncodedPart:
        digest = f"{self.name}-{sequence}-{index}"
        if parts == 1:
            return replace(self.world.encoded, digest=digest)
        one = self.world.encoded
        return replace(
            one,
            digest=digest,
            first_slice=index * (one.slices // parts),
            slices=one.slices // parts,
            offsets=one.offsets[: one.slices // parts],
        )


@pytest.fixture
def world() -> World:
    catalog = bw.load_catalog("local", type="object-store", warehouse="memory://here")
    objects = WatchedObjects(_plain(catalog).objects)
    _plain(catalog).objects = objects
    stream = catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    table, arrays = slice_to_table(tokens(1, rows=1, width=4), TOKENS, where="")
    one = SliceData(to_storage(table, TOKENS), arrays)
    encoded = encode(
        [one, one],
        0,
        file_schema=stream.table.file_schema,
        compression="zstd",
        compression_level=1,
    )
    return World(catalog, objects, encoded)


def _plain(catalog: bw.Catalog) -> ObjectStoreCatalog:
    assert isinstance(catalog.tables, IcebergCatalog)
    assert isinstance(catalog.tables.catalog, ObjectStoreCatalog)
    return catalog.tables.catalog


def _all(table: IcebergTable, head: Head | None = None) -> list[BatchEntry]:
    head = head or table.head()
    return list(table.entries(head, 0, head.state.next_step))


def _manifests(head: Head) -> list[ManifestFile]:
    snapshot = head.detail.metadata.current_snapshot()
    return list(snapshot.manifests(head.detail.handle.io))


def _check_chain(entries: Sequence[BatchEntry], head: Head) -> None:
    chain = CHAIN_START
    for entry in entries:
        chain = next_chain(chain, entry.step, [part.digest for part in entry.parts])
    assert chain == head.state.chain


# -- the order ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_any_range_of_steps_is_what_was_committed(world: World, seed: int) -> None:
    dice = random.Random(seed)
    writers = [world.writer(name) for name in "abc"[: seed + 1]]
    for _ in range(70):
        writer = dice.choice(writers)
        writer.commit(dice.choice([1, 1, 1, 2, 5, 9]), parts=dice.choice([1, 1, 2]))
    expected = {
        step: (writer.name, sequence)
        for writer in writers
        for sequence, step in writer.steps.items()
    }
    assert sorted(expected) == list(range(len(expected)))
    table = world.table()
    head = table.head()
    every = _all(table, head)
    assert [entry.step for entry in every] == list(range(head.state.next_step))
    assert {entry.step: (entry.producer, entry.sequence) for entry in every} == expected
    for entry in every:
        digests = [f"{entry.producer}-{entry.sequence}-{at}" for at in range(len(entry.parts))]
        assert [part.digest for part in entry.parts] == digests
        assert sum(part.slices for part in entry.parts) == 2
    _check_chain(every, head)
    for _ in range(8):
        start = dice.randrange(len(every))
        stop = dice.randrange(start, len(every) + 1)
        assert list(table.entries(head, start, stop)) == every[start:stop]
    assert list(table.entries(head, 5, 5)) == []


def test_a_lost_race_takes_new_steps_and_writes_no_data_again(world: World) -> None:
    one, two = world.writer("one"), world.writer("two")
    one.stage(3)
    two.stage(2)
    staged = world.files("data")
    assert len(staged) == 5
    world.watch.clear()

    def overtake(verb: str, path: str) -> None:
        if verb == "create" and "/metadata/v" in path:
            world.watch.before = Watch().before
            assert isinstance(one.session.attempt(), Committed)

    two.session.refresh()
    world.watch.before = overtake
    assert isinstance(two.session.attempt(), Lost)
    assert two.steps == {}
    assert isinstance(two.session.attempt(), Committed)
    assert (one.steps, two.steps) == ({0: 0, 1: 1, 2: 2}, {0: 3, 1: 4})
    assert world.files("data") == staged
    assert not [path for verb, path in world.watch.calls if "/data/" in path]
    table = world.table()
    paths = sorted(f"demo/tokens/{part.path}" for entry in _all(table) for part in entry.parts)
    assert paths == staged


def test_a_missing_or_repeated_step_is_corruption(world: World) -> None:
    writer = world.writer()
    head = writer.commit(2)
    table = world.table()
    ahead = replace(head, state=replace(head.state, next_step=4))
    with pytest.raises(StreamCorrupted, match=r"step 2 .* missing"):
        _all(table, ahead)
    again = Change(replace(head.state, next_step=3), (_all(table)[1],))
    outcome = table.commit(table.head(), again)
    assert isinstance(outcome, Committed)
    with pytest.raises(StreamCorrupted, match="step 1 "):
        _all(table, outcome.head)


# -- cost --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", ["ones", "mixed", "alternating"])
def test_manifests_do_not_grow_with_the_number_of_commits(world: World, sizes: str) -> None:
    dice = random.Random(0)
    size = {
        "ones": [1] * COMMITS,
        "mixed": [dice.randint(1, 12) for _ in range(COMMITS)],
        "alternating": [7, 8] * (COMMITS // 2),
    }[sizes]
    writer = world.writer()
    for count in size:
        head = writer.commit(count)
        assert len(_manifests(head)) <= MANIFESTS_ALWAYS + 2 * head.state.next_step // ENTRIES_MAX
    assert [entry.step for entry in _all(world.table())] == list(range(head.state.next_step))
    assert sum((one.existing_files_count or 0) for one in _manifests(head)) > 0


def test_manifests_do_not_grow_though_many_producers_take_turns(world: World) -> None:
    """A merge that one of them prepares waits for that one's next turn."""
    writers = [world.writer(f"p{number}") for number in range(16)]
    counts = [len(_manifests(writer.commit())) for _ in range(7) for writer in writers]
    assert max(counts) <= 2 * len(writers) + MANIFESTS_ALWAYS / 2
    assert len(_all(world.table())) == len(counts)


def test_the_cost_of_a_commit_does_not_grow_with_history(world: World) -> None:
    """Requests and bytes of metadata, counted over 600 commits."""
    writer = world.writer()
    requests: list[int] = []
    sizes: list[int] = []
    outcome = None
    for _ in range(600):
        writer.stage()
        world.watch.clear()
        outcome = writer.session.attempt()
        requests.append(len(world.watch.calls))
        assert isinstance(outcome, Committed)
        writer.table.tidy(outcome.head)
        location = outcome.head.detail.handle.metadata_location
        sizes.append(world.objects.inner.head(relative_path(world.objects, location)).size)
    assert max(requests[2:]) <= 5, "list, manifest, version, check of the base, hint"
    assert max(sizes[300:]) < 1.1 * max(sizes[100:200])
    assert isinstance(outcome, Committed)
    metadata = outcome.head.detail.metadata
    assert len(metadata.snapshots) <= SNAPSHOTS_LIVE
    assert len(metadata.snapshot_log) <= SNAPSHOTS_LIVE
    assert len(metadata.metadata_log) <= 10
    versions = [path for path in world.files("metadata") if path.endswith("metadata.json")]
    assert len(versions) <= VERSIONS_KEPT + TIDY_EVERY
    assert len(world.files("metadata/lists")) <= SNAPSHOTS_LIVE + TIDY_EVERY
    kept = SNAPSHOTS_LIVE + TIDY_EVERY + MERGE_AGE_MAX
    assert len(world.files("metadata/manifests")) <= kept * (1 + 1 / FAN_IN) * 2


def test_a_new_step_costs_a_reader_the_same_after_any_history(world: World) -> None:
    writer, reader = world.writer(), world.table()
    head = reader.head()
    costs = []
    for step in range(120):
        writer.commit()
        world.watch.clear()
        head = reader.head(head)
        assert [entry.step for entry in reader.entries(head, step, step + 1)] == [step]
        costs.append(len(world.watch.calls))
    assert max(costs) <= 5, "probe, list, version, manifest list, manifest"


# -- outcomes ----------------------------------------------------------------------------------


def _lose(verb: str, path: str) -> None:
    if verb == "create" and "/metadata/v" in path:
        raise StoreUnavailable("the connection broke")


@pytest.mark.parametrize("landed", [True, False])
def test_an_unknown_outcome_is_resolved_by_reading(world: World, landed: bool) -> None:
    writer, other = world.writer("p"), world.writer("q")
    writer.commit(2)
    writer.stage(3)
    if landed:
        world.watch.after = _lose
    else:
        world.watch.before = _lose
    assert isinstance(writer.session.attempt(), Unknown)
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
    found = [(entry.producer, entry.sequence) for entry in _all(world.table())]
    assert sorted(found) == [*(("p", n) for n in range(5)), ("q", 0)]


def test_a_store_that_fails_before_the_commit_is_an_unknown_outcome(world: World) -> None:
    writer = world.writer()
    for folder in ("/metadata/manifests/", "/metadata/lists/"):
        writer.stage()

        def fail(verb: str, path: str, folder: str = folder) -> None:
            if folder in path:
                raise StoreUnavailable("no")

        world.watch.before = fail
        assert isinstance(writer.session.attempt(), Unknown)
        world.watch.before = Watch().before
    assert isinstance(writer.session.attempt(), Committed)
    assert writer.steps == {0: 0, 1: 1}


def test_a_writer_that_slept_through_cleaning_loses_and_goes_on(world: World) -> None:
    sleeper, writer = world.writer("sleeper"), world.writer("busy")
    sleeper.stage(2)
    for _ in range(VERSIONS_KEPT + 2 * TIDY_EVERY):
        writer.commit()
    outcome = sleeper.attempt()
    assert isinstance(outcome, (Lost, Unknown))
    while not isinstance(outcome, Committed):
        outcome = sleeper.attempt()
    entries = _all(world.table())
    assert [entry.producer for entry in entries[-2:]] == ["sleeper"] * 2
    assert len(entries) == VERSIONS_KEPT + 2 * TIDY_EVERY + 2


def test_a_stream_that_was_created_again_is_not_mistaken_for_the_old(world: World) -> None:
    writer = world.writer()
    writer.commit(2)
    world.catalog.drop_stream(NAME)
    world.catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    writer.stage()
    for _ in range(IDLE_POLLS_PER_LIST):
        try:
            assert not isinstance(writer.session.attempt(), Committed)
        except StreamNotFound:
            break
    with pytest.raises(StreamNotFound, match="created again"):
        writer.table.head()
    assert world.table().head().state.next_step == 0


# -- merging and cleaning ----------------------------------------------------------------------


def test_a_merge_of_manifests_that_are_gone_is_dropped(world: World) -> None:
    one = world.writer("one")
    head = one.commit()
    while not one.table._manifests._prepared:
        head = one.commit()
    two = world.writer("two")
    for _ in range(4 * FAN_IN):
        two.commit()
    head = one.commit()
    steps = [entry.step for entry in _all(world.table(), head)]
    assert steps == list(range(head.state.next_step))
    for manifest in _manifests(head):
        assert head.detail.handle.io.new_input(manifest.manifest_path).exists()


def test_a_merge_whose_inputs_are_no_neighbours_any_more_is_dropped(world: World) -> None:
    writer = world.writer()
    head = writer.commit()
    while not writer.table._manifests._prepared:
        head = writer.commit()
    (prepared,) = writer.table._manifests._prepared
    first, *rest = prepared.inputs
    other = replace(prepared, inputs=(first, "another's", *rest[1:]))
    writer.table._manifests._prepared = [other]
    head = writer.commit()
    assert prepared.manifest.manifest_path not in {one.manifest_path for one in _manifests(head)}
    assert [entry.step for entry in _all(world.table())] == list(range(head.state.next_step))


def test_a_merge_prepared_too_long_ago_is_written_again(world: World) -> None:
    writer = world.writer()
    head = writer.commit()
    while not writer.table._manifests._prepared:
        head = writer.commit()
    (prepared,) = writer.table._manifests._prepared
    old = replace(prepared, version=head.version - MERGE_AGE_MAX)
    writer.table._manifests._prepared = [old]
    before = len(_manifests(head))
    head = writer.commit()
    assert prepared.manifest.manifest_path not in {one.manifest_path for one in _manifests(head)}
    assert len(_manifests(head)) < before
    assert [entry.step for entry in _all(world.table())] == list(range(head.state.next_step))


def test_every_file_that_a_live_snapshot_names_is_there(world: World) -> None:
    writers = [world.writer(name) for name in "abc"]
    for number in range(130):
        head = writers[number % 3].commit()
        if number % 40:
            continue
        io = head.detail.handle.io
        for snapshot in head.detail.metadata.snapshots:
            for manifest in snapshot.manifests(io):
                assert io.new_input(manifest.manifest_path).exists()


def test_upkeep_never_fails_a_producer(world: World) -> None:
    writer = world.writer()

    def fail(verb: str, path: str) -> None:
        raise StoreUnavailable("no")

    for _ in range(TIDY_EVERY + FAN_IN):
        writer.stage()
        outcome = writer.session.attempt()
        assert isinstance(outcome, Committed)
        world.watch.before = fail
        writer.table._manifests._cache.clear()
        writer.table.tidy(outcome.head)
        world.watch.before = Watch().before


def test_a_reader_with_an_old_head_goes_on_after_reading_again(world: World) -> None:
    writer, reader = world.writer(), world.table()
    writer.commit(3)
    old = reader.head()
    for _ in range(3 * TIDY_EVERY):
        writer.commit()
    with pytest.raises((FileNotFoundError, ObjectNotFound)):
        list(reader.entries(old, 0, 3))
    new = reader.head()
    assert new.version > old.version
    assert [entry.step for entry in reader.entries(new, 0, 3)] == [0, 1, 2]


# -- what others see ---------------------------------------------------------------------------


def test_pyiceberg_sees_valid_metadata_after_merges(world: World) -> None:
    writers = [world.writer(name) for name in "ab"]
    for number in range(60):
        head = writers[number % 2].commit(1 + number % 3)
    handle = _plain(world.catalog).load_table(("demo", "tokens"))
    entries = _all(world.table())
    count = len(entries)
    files = handle.inspect.files().to_pylist()
    assert len(files) == count
    assert {one["record_count"] for one in files} == {2}
    assert handle.inspect.snapshots().num_rows == len(head.detail.metadata.snapshots)
    manifests = handle.inspect.manifests().to_pylist()
    kinds = ("added_data_files_count", "existing_data_files_count")
    assert sum(one[kind] for one in manifests for kind in kinds) == count
    assert len(manifests) < count / 2
    rows = handle.scan(selected_fields=("step", "producer", "sequence", "slice")).to_arrow()
    assert rows.num_rows == 2 * count
    assert Counter(rows["step"].to_pylist()) == dict.fromkeys(range(count), 2)
    some = handle.scan(row_filter="step >= 10 and step < 13").to_arrow()
    assert sorted(some["step"].to_pylist()) == [10, 10, 11, 11, 12, 12]
    assert len(list(handle.scan(row_filter="step == 7").plan_files())) == 1
    snapshot = handle.current_snapshot()
    assert snapshot is not None
    assert snapshot.sequence_number == head.version
    planned = [task.file.file_path for task in handle.scan().plan_files()]
    assert len(set(planned)) == len(planned) == count


def test_the_summary_tells_the_totals(world: World) -> None:
    writer = world.writer()
    for number in range(40):
        head = writer.commit(1 + number % 4)
    writer.stage(3)
    outcome = writer.attempt()
    assert isinstance(outcome, Committed)
    entries = _all(world.table())
    summary = outcome.head.detail.metadata.current_snapshot().summary
    assert summary["total-data-files"] == str(len(entries))
    assert summary["total-records"] == str(sum(entry.rows for entry in entries))
    assert summary["total-files-size"] == str(sum(entry.bytes for entry in entries))
    assert summary["added-data-files"] == "3"
    assert summary["batchweave.first-step"] == str(head.state.next_step)
    assert summary["batchweave.last-step"] == str(head.state.next_step + 2)
    assert summary["batchweave.producer"] == "p"
    assert summary["total-delete-files"] == "0"


# -- what others did to the table --------------------------------------------------------------


def _recommitted(world: World, parts: Sequence[Part], *steps: int) -> Head:
    """The first batches again as new steps, with other parts: what a broken writer could do."""
    table = world.table()
    head = table.head()
    (batch, *_) = _all(table)
    added = tuple(replace(batch, step=step, parts=tuple(parts)) for step in steps)
    state = replace(head.state, next_step=head.state.next_step + len(steps))
    outcome = table.commit(head, Change(state, added))
    assert isinstance(outcome, Committed)
    return outcome.head


def test_a_batch_without_its_last_slices_is_corruption(world: World) -> None:
    world.writer().commit(parts=2)
    (batch,) = _all(world.table())
    head = _recommitted(world, batch.parts[:1], 1)
    with pytest.raises(StreamCorrupted, match=r"step 1 .* lacks slice 1: the mesh has 2"):
        _all(world.table(), head)


def test_a_step_of_two_batches_is_corruption(world: World) -> None:
    writer = world.writer()
    writer.commit(parts=2)
    table = world.table()
    head = table.head()
    (batch,) = _all(table)
    halves = tuple(
        replace(batch, step=1, sequence=at, parts=(part,)) for at, part in enumerate(batch.parts)
    )
    outcome = table.commit(head, Change(replace(head.state, next_step=2), halves))
    assert isinstance(outcome, Committed)
    with pytest.raises(StreamCorrupted, match=r"step 1 .* more than one batch"):
        _all(world.table(), outcome.head)


def test_a_foreign_manifest_of_deletions_is_corruption(world: World) -> None:
    head = world.writer().commit()
    foreign = copy(_manifests(head)[0])
    foreign._data = [*foreign._data]
    foreign._data[0], foreign._data[3] = "memory://here/foreign.avro", ManifestContent.DELETES
    detail = replace(head.detail, manifests=[*_manifests(head), foreign])
    with pytest.raises(StreamCorrupted, match=r"deleted rows .*foreign\.avro"):
        _all(world.table(), replace(head, detail=detail))


def test_rows_that_others_appended_are_corruption(world: World) -> None:
    head = world.writer().commit()
    manifest = _manifests(head)[0]
    table = world.table()
    entries = table._manifests.read(manifest)
    entries[0].data_file.partition._data[0] = None
    with pytest.raises(StreamCorrupted, match=r"rows that BatchWeave did not write: .*parquet"):
        _all(table, head)


def test_upkeep_that_fails_in_any_way_is_told_and_does_not_raise(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = world.writer()
    head = writer.commit()

    def fail(*arguments: object) -> None:
        raise TypeError("a foreign manifest")

    monkeypatch.setattr(writer.table._manifests, "merge_ahead", fail)
    with caplog.at_level(logging.WARNING):
        writer.table.tidy(head)
    (record,) = caplog.records
    assert "a foreign manifest" in record.getMessage()
    assert record.exc_info is None


def test_a_head_without_its_manifest_list_is_corruption_and_not_a_lost_race(world: World) -> None:
    writer = world.writer()
    head = writer.commit()
    writer.commit()
    location = relative_path(world.objects, _snapshot(writer.table.head()).manifest_list)
    world.objects.inner.delete([location])
    table = world.table()
    now = table.head()
    with pytest.raises(StreamCorrupted, match=location.rpartition("/")[2]):
        table.commit(now, Change(now.state, ()))
    world.objects.inner.delete([relative_path(world.objects, _snapshot(head).manifest_list)])
    behind = replace(head, detail=replace(head.detail, manifests=None))
    assert isinstance(table.commit(behind, Change(behind.state, ())), Lost)


def _snapshot(head: Head) -> Snapshot:
    found = head.detail.metadata.current_snapshot()
    assert isinstance(found, Snapshot)
    return found


def test_a_partitioning_that_others_changed_does_not_stop_writers(world: World) -> None:
    world.writer("a").commit()
    with _plain(world.catalog).load_table(("demo", "tokens")).update_spec() as update:
        update.add_field("slice", IdentityTransform(), "other")
    head = world.writer("b").commit()
    assert {one.partition_spec_id for one in _manifests(head)} == {0}
    assert [entry.producer for entry in _all(world.table())] == ["a", "b"]


def test_a_bug_while_a_commit_is_prepared_is_no_unknown_outcome(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = world.writer()

    def fail(*arguments: object) -> str:
        raise TypeError("a bug")

    monkeypatch.setattr(writer.table._manifests, "write_list", fail)
    writer.stage()
    with pytest.raises(TypeError, match="a bug"):
        writer.session.attempt()


def test_writers_of_odd_versions_clean_too(world: World) -> None:
    cleaner, other = world.writer("cleaner"), world.writer("other")
    for number in range(VERSIONS_KEPT + 4 * TIDY_EVERY):
        writer = (cleaner, other)[number % 2]
        writer.stage()
        while not isinstance(outcome := writer.session.attempt(), Committed):
            assert isinstance(outcome, Lost)
        if outcome.head.version % TIDY_EVERY:
            writer.table.tidy(outcome.head)
    versions = [path for path in world.files("metadata") if path.endswith("metadata.json")]
    assert len(versions) <= VERSIONS_KEPT + TIDY_EVERY


def test_what_a_branch_of_others_names_is_kept(world: World) -> None:
    writer = world.writer()
    head = writer.commit()
    handle = _plain(world.catalog).load_table(("demo", "tokens"))
    handle.manage_snapshots().create_branch(_snapshot(head).snapshot_id, "theirs").commit()
    for _ in range(SNAPSHOTS_LIVE + MERGE_AGE_MAX + 3 * TIDY_EVERY):
        head = writer.commit()
    live = [snapshot.sequence_number for snapshot in head.detail.metadata.snapshots]
    assert min(live) < head.version - SNAPSHOTS_LIVE - MERGE_AGE_MAX
    lists = world.files("metadata/lists")
    assert len(lists) <= SNAPSHOTS_LIVE + TIDY_EVERY + 1, "a branch keeps its own and no more"
    io = head.detail.handle.io
    for snapshot in head.detail.metadata.snapshots:
        for manifest in snapshot.manifests(io):
            assert io.new_input(manifest.manifest_path).exists()


def test_an_outdated_merge_is_written_again_once(world: World) -> None:
    writer = world.writer()
    head = writer.commit()
    while not writer.table._manifests._prepared:
        head = writer.commit()
    (prepared,) = writer.table._manifests._prepared
    writer.table._manifests._prepared = [
        replace(prepared, version=head.version - MERGE_AGE_MAX - 1)
    ]
    for _ in range(2):
        writer.table._prepared(head, Change(head.state, ()))
        (renewed,) = writer.table._manifests._prepared
        assert renewed.version == head.version + 1
    count = len(world.files("metadata/manifests"))
    writer.table._prepared(head, Change(head.state, ()))
    assert len(world.files("metadata/manifests")) == count


@pytest.mark.parametrize("name", ["batchweave.schema", "batchweave.mesh"])
def test_a_stream_without_what_describes_it_is_corruption(world: World, name: str) -> None:
    with _plain(world.catalog).load_table(("demo", "tokens")).transaction() as transaction:
        transaction.remove_properties(name)
    with pytest.raises(StreamCorrupted, match=name):
        world.table()


def test_a_property_of_the_table_does_not_say_where_the_store_is(world: World) -> None:
    handle = _plain(world.catalog).load_table(("demo", "tokens"))
    handle.metadata.properties["s3.endpoint"] = "http://evil"
    handle.io.properties = {"s3.endpoint": "http://evil", "s3.session-token": "lent"}
    handle.catalog.properties["s3.endpoint"] = "http://good"
    found = store_properties(handle)
    assert (found["s3.endpoint"], found["s3.session-token"]) == ("http://good", "lent")
