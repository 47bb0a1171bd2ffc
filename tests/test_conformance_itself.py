"""The conformance suite finds what is planted: each broken table or catalog fails a named test."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest

import batchweave as bw
from batchweave.catalog import TableCatalog
from batchweave.columns import storage_schema
from batchweave.errors import BatchWeaveError
from batchweave.state import CHAIN_START, StreamState
from batchweave.table import (
    BatchEntry,
    Change,
    Committed,
    Head,
    Lost,
    Outcome,
    Table,
    Unknown,
)
from batchweave.testing import IcebergConformance, check_stream, fingerprint, fingerprint_of_rows
from batchweave.testing.faults import Fault, Faults, WrappedTable, WrappedTables
from batchweave.testing.iceberg import FOREIGN_TAG, pyiceberg_catalog
from batchweave.testing.samples import SMALL_SCHEMA
from batchweave.testing.suite import Conformance, NotAsked
from batchweave.testing.writing import commit_each

NAME = "planted.stream"
REFUSALS = (AssertionError, BatchWeaveError)


class InMemory(IcebergConformance):
    """The suite on a catalog in memory, over which a broken layer may lie."""

    shared = False
    history_commits = 40

    def __init__(
        self, over: Callable[[TableCatalog], TableCatalog] = lambda tables: tables
    ) -> None:
        self._over = over

    def planted(self) -> bw.Catalog:
        catalog = self.open_catalog({"type": "object-store", "warehouse": "memory://planted"})
        return bw.Catalog("planted", self._over(catalog.tables), NotAsked())

    @contextlib.contextmanager
    def failing(self, catalog: bw.Catalog, faults: Faults) -> Iterator[bw.Catalog]:
        with super().failing(self._below(catalog), faults):  # what is planted meets the fault
            yield catalog

    def make_foreign_table(self, catalog: bw.Catalog, name: str) -> None:
        super().make_foreign_table(self._below(catalog), name)

    def foreign_commit(self, catalog: bw.Catalog, stream: bw.Stream) -> None:
        super().foreign_commit(self._below(catalog), stream)

    def check_foreign_commit(self, catalog: bw.Catalog, stream: bw.Stream) -> None:
        super().check_foreign_commit(self._below(catalog), stream)

    def foreign_reads(
        self, stream: bw.Stream, properties: Mapping[str, str]
    ) -> Iterator[tuple[str, pa.Table]]:
        yield "pyiceberg", stream.table.head().detail.handle.scan().to_arrow()

    @staticmethod
    def _below(catalog: bw.Catalog) -> bw.Catalog:
        tables = catalog.tables
        inner = tables.inner if isinstance(tables, WrappedTables) else tables
        return bw.Catalog("below", inner, NotAsked())


def run(suite: InMemory, test: str, fault: Fault | None = None) -> None:
    """Run one test of the suite as pytest would, with fixtures of its own."""
    catalog = suite.planted()
    known: dict[str, Any] = {
        "catalog": catalog,
        "name": NAME,
        "open_again": lambda: catalog,
        "properties": {},
        "fault": fault,
    }
    function = getattr(suite, f"test_{test}")
    function(**{name: known[name] for name in inspect.signature(function).parameters})


# -- broken tables -------------------------------------------------------------------------------


def _written(base: Head, change: Change) -> Committed:
    """What a table would say that believes to have committed."""
    return Committed(Head(base.version + 1, change.state, base.detail))


class RebasesInSilence(WrappedTable):
    """Commits on whatever is the newest head, as table formats do by default."""

    def commit(self, base: Head, change: Change) -> Outcome:
        outcome = self.inner.commit(base, change)
        return self.inner.commit(self.inner.head(), change) if outcome == Lost() else outcome


class SaysCommittedForLost(WrappedTable):
    def commit(self, base: Head, change: Change) -> Outcome:
        outcome = self.inner.commit(base, change)
        return _written(base, change) if outcome == Lost() else outcome


class SaysCommittedForUnknown(WrappedTable):
    def commit(self, base: Head, change: Change) -> Outcome:
        outcome = self.inner.commit(base, change)
        return _written(base, change) if isinstance(outcome, Unknown) else outcome


class CommitsAgainWhenUnknown(WrappedTable):
    def commit(self, base: Head, change: Change) -> Outcome:
        outcome = self.inner.commit(base, change)
        if isinstance(outcome, Unknown):
            return self.inner.commit(self.inner.head(), change)
        return outcome


class DeletesWhenUnknown(WrappedTable):
    """Takes a lost answer for a failure, and cleans up after it."""

    def commit(self, base: Head, change: Change) -> Outcome:
        outcome = self.inner.commit(base, change)
        if isinstance(outcome, Unknown):
            self.objects.delete([part.path for batch in change.added for part in batch.parts])
            return Lost()
        return outcome


class WritesAnotherState(WrappedTable):
    def state(self, base: StreamState, after: StreamState) -> StreamState:
        raise NotImplementedError

    def commit(self, base: Head, change: Change) -> Outcome:
        return self.inner.commit(base, replace(change, state=self.state(base.state, change.state)))


class ForgetsPositions(WritesAnotherState):
    def state(self, base: StreamState, after: StreamState) -> StreamState:
        kept = {name: replace(one, position=None) for name, one in after.producers.items()}
        return replace(after, producers=kept)


class ForgetsOpenings(WritesAnotherState):
    def state(self, base: StreamState, after: StreamState) -> StreamState:
        kept = {name: replace(one, generation=1) for name, one in after.producers.items()}
        return replace(after, producers=kept)


class ForgetsWhoIsSilent(WritesAnotherState):
    def state(self, base: StreamState, after: StreamState) -> StreamState:
        kept = {
            name: one for name, one in after.producers.items() if after.next_step - one.step < 20
        }
        return replace(after, producers=kept)


class ForgetsSeals(WritesAnotherState):
    def state(self, base: StreamState, after: StreamState) -> StreamState:
        return replace(after, sealed=False)


class ForgetsTheChain(WritesAnotherState):
    def state(self, base: StreamState, after: StreamState) -> StreamState:
        return replace(after, chain=CHAIN_START)


class NeverLooksAgain(WrappedTable):
    def head(self, known: Head | None = None) -> Head:
        return known or self.inner.head()


class TellsOtherEntries(WrappedTable):
    def told(self, head: Head, entries: list[BatchEntry]) -> Sequence[BatchEntry]:
        raise NotImplementedError

    def entries(self, head: Head, start: int, stop: int) -> Iterator[BatchEntry]:
        return iter(self.told(head, list(self.inner.entries(head, start, stop))))


class DoublesAStep(TellsOtherEntries):
    def told(self, head: Head, entries: list[BatchEntry]) -> Sequence[BatchEntry]:
        return [*entries[:1], *entries]


class SkipsAStep(TellsOtherEntries):
    def told(self, head: Head, entries: list[BatchEntry]) -> Sequence[BatchEntry]:
        return [entry for entry in entries if entry.step != 1]


class ForgetsTheBeginning(TellsOtherEntries):
    def told(self, head: Head, entries: list[BatchEntry]) -> Sequence[BatchEntry]:
        return [entry for entry in entries if entry.step >= head.state.next_step - 30]


class ForgetsTheBeginningOfAll(TellsOtherEntries):
    def told(self, head: Head, entries: list[BatchEntry]) -> Sequence[BatchEntry]:
        return entries[-2:]


class TellsThemBackwards(TellsOtherEntries):
    def told(self, head: Head, entries: list[BatchEntry]) -> Sequence[BatchEntry]:
        return list(reversed(entries))


class NumbersThemAnew(TellsOtherEntries):
    """The same batches under other steps, once the stream has grown."""

    def told(self, head: Head, entries: list[BatchEntry]) -> Sequence[BatchEntry]:
        if head.state.next_step < 5:
            return entries
        steps = [entry.step for entry in entries]
        return [
            replace(entry, step=step) for entry, step in zip(reversed(entries), steps, strict=True)
        ]


class LosesAPart(TellsOtherEntries):
    def told(self, head: Head, entries: list[BatchEntry]) -> Sequence[BatchEntry]:
        return [replace(entry, parts=entry.parts[:-1]) for entry in entries]


class WidensTypes(WrappedTable):
    @property
    def schema(self) -> pa.Schema:
        return storage_schema(self.inner.schema)


class DropsForeignTags(WrappedTable):
    def tidy(self, head: Head) -> None:
        handle = head.detail.handle
        if FOREIGN_TAG in handle.metadata.refs:
            handle.manage_snapshots().remove_tag(FOREIGN_TAG).commit()


# -- broken catalogs -----------------------------------------------------------------------------


class LetsAllCreatorsWin(WrappedTables):
    def create(self, name: tuple[str, ...], schema: pa.Schema, properties: dict[str, str]) -> Table:
        with contextlib.suppress(bw.StreamExists):
            return super().create(name, schema, properties)
        return self.load(name)


class OverwritesWhatExists(WrappedTables):
    def create(self, name: tuple[str, ...], schema: pa.Schema, properties: dict[str, str]) -> Table:
        with contextlib.suppress(bw.StreamNotFound, bw.NotAStream):
            self.drop(name)
        return super().create(name, schema, properties)


class MakesWhatIsMissing(WrappedTables):
    def load(self, name: tuple[str, ...]) -> Table:
        with contextlib.suppress(bw.StreamNotFound):
            return super().load(name)
        catalog = bw.Catalog("", self.inner, NotAsked())
        catalog.create_stream(".".join(name), schema=SMALL_SCHEMA, mesh=bw.Mesh(dp=2))
        return super().load(name)


class ListsEveryTable(WrappedTables):
    def streams(self) -> list[str]:
        inner = pyiceberg_catalog(bw.Catalog("", self.inner, NotAsked()))
        return sorted(
            ".".join(table)
            for space in inner.list_namespaces()
            for table in inner.list_tables(space)
        )


class LeavesFilesBehind(WrappedTables):
    def drop(self, name: tuple[str, ...]) -> None:
        table = self.load(name)
        kept = [info.path for info in table.objects.list("data")]
        data = [table.objects.get(path)[0] for path in kept]
        super().drop(name)
        for path, one in zip(kept, data, strict=True):
            table.objects.create(path, one)


class OnlySaysDropped(WrappedTables):
    """Takes the name off the list, and lets writers of the stream go on."""

    def __init__(self, inner: TableCatalog) -> None:
        super().__init__(inner)
        self.gone: set[tuple[str, ...]] = set()

    def drop(self, name: tuple[str, ...]) -> None:
        self.gone.add(name)

    def load(self, name: tuple[str, ...]) -> Table:
        if name in self.gone:
            raise bw.StreamNotFound(f"no stream {name}")
        return super().load(name)

    def streams(self) -> list[str]:
        return [name for name in super().streams() if tuple(name.split(".")) not in self.gone]


def over(broken: type[WrappedTable] | type[WrappedTables]) -> Callable[[TableCatalog], Any]:
    """Lay the broken class over a catalog."""
    if issubclass(broken, WrappedTables):
        return broken
    return lambda tables: WrappedTables(tables, broken)


NOT_RAISED = "DID NOT RAISE"
RESOLVED = "an_unknown_outcome_is_resolved_and_not_guessed"
SUCCESSOR = "a_successor_finds_what_an_interrupted_producer_left"
LONG_HISTORY = "state_and_openings_hold_after_many_commits"
RIVALS = "rival_producers_lose_and_double_nothing"
TAKEN = "a_taken_name_is_refused_and_what_has_it_is_untouched"
DROPPED = "a_dropped_stream_leaves_no_object_and_its_name_is_free"


@dataclass(frozen=True)
class Planted:
    """A broken layer, the test that has to fail, and what its message has to say."""

    broken: type[WrappedTable] | type[WrappedTables]
    test: str
    says: str
    fault: Fault | None = None


PLANTED = [
    Planted(RebasesInSilence, "the_loser_of_a_race_commits_nothing", "old head was not refused"),
    Planted(RebasesInSilence, "a_zombie_that_wakes_commits_nothing", "a fenced producer committed"),
    Planted(RebasesInSilence, "nothing_follows_a_seal", "committed after the seal"),
    Planted(SaysCommittedForLost, "the_loser_of_a_race_commits_nothing", "was not refused"),
    Planted(SaysCommittedForLost, "a_zombie_that_wakes_commits_nothing", "producer committed"),
    Planted(SaysCommittedForUnknown, RESOLVED, "step 1 of .* is missing", Fault.NOT_SENT),
    Planted(SaysCommittedForUnknown, SUCCESSOR, r"\[0\] == \[0, 1\]", Fault.NOT_SENT),
    Planted(CommitsAgainWhenUnknown, RESOLVED, "cannot be read as a stream", Fault.ANSWER_LOST),
    Planted(DeletesWhenUnknown, RESOLVED, "no object", Fault.ANSWER_LOST),
    Planted(ForgetsPositions, "the_position_is_that_of_the_last_committed_batch", "None =="),
    Planted(ForgetsPositions, SUCCESSOR, "position is not the last batch's", Fault.ANSWER_LOST),
    Planted(ForgetsOpenings, "a_newer_opener_of_a_name_fences_the_older", NOT_RAISED),
    Planted(ForgetsOpenings, "a_zombie_that_wakes_commits_nothing", "this one is generation 2"),
    Planted(ForgetsSeals, "nothing_follows_a_seal", NOT_RAISED),
    Planted(ForgetsSeals, "state_changes_survive_a_lost_answer", "sealed", Fault.ANSWER_LOST),
    Planted(ForgetsWhoIsSilent, LONG_HISTORY, "a producer was forgotten"),
    Planted(ForgetsTheBeginning, LONG_HISTORY, r"\[10, 11, .* == \[0, 1, "),
    Planted(ForgetsTheChain, RIVALS, "the chain of the batches"),
    Planted(NeverLooksAgain, "an_idle_stream_looks_the_same_until_it_is_not", "was not seen"),
    Planted(DoublesAStep, "values_come_back_exactly_in_every_slice", "step 0 .* where step 1"),
    Planted(SkipsAStep, "values_come_back_exactly_in_every_slice", "step 2 .* where step 1"),
    Planted(SkipsAStep, RIVALS, "steps are not dense: place 1 "),
    Planted(TellsThemBackwards, "any_range_and_share_of_steps_is_read_in_order", "where step 0"),
    Planted(NumbersThemAnew, "an_old_head_shows_what_it_showed", "changed after its commit"),
    Planted(LosesAPart, RIVALS, "step 0 has 0 slices, the mesh has 2"),
    Planted(WidensTypes, "values_come_back_exactly_in_every_slice", "declared int32"),
    Planted(WidensTypes, "a_new_stream_is_empty_and_as_it_was_declared", "decimal128"),
    Planted(DropsForeignTags, "streams_carry_on_after_foreign_commits", "foreign tag is gone"),
    Planted(LetsAllCreatorsWin, "one_of_many_concurrent_creators_wins", "4 of 4 .* told yes"),
    Planted(LetsAllCreatorsWin, TAKEN, NOT_RAISED),
    Planted(OverwritesWhatExists, TAKEN, NOT_RAISED),
    Planted(MakesWhatIsMissing, "a_missing_stream_is_not_found_and_not_made", NOT_RAISED),
    Planted(ListsEveryTable, "streams_are_listed_and_other_tables_are_not", "planted.foreign"),
    Planted(LeavesFilesBehind, DROPPED, "data/"),
    Planted(OnlySaysDropped, DROPPED, "metadata/|data/"),
    Planted(OnlySaysDropped, "a_live_writer_does_not_bring_a_dropped_stream_back", NOT_RAISED),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda one: f"{one.broken.__name__}-{one.test}")
def test_what_is_planted_is_found(planted: Planted) -> None:
    suite = InMemory(over(planted.broken))
    expected = pytest.fail.Exception if planted.says == NOT_RAISED else REFUSALS
    with pytest.raises(expected) as caught:
        run(suite, planted.test, planted.fault)
    assert caught.match(f"(?s){planted.says}")


@pytest.mark.parametrize(
    ("test", "fault"), sorted({(one.test, one.fault) for one in PLANTED}, key=str)
)
def test_without_it_the_same_test_passes(test: str, fault: Fault | None) -> None:
    run(InMemory(), test, fault)


# -- the helpers on their own ----------------------------------------------------------------------


@pytest.fixture
def stream() -> bw.Stream:
    """Six batches of two producers, in memory."""
    catalog = InMemory().planted()
    stream = catalog.create_stream(NAME, schema=SMALL_SCHEMA, mesh=bw.Mesh(dp=2))
    for number in range(6):
        commit_each(stream, "pq"[number % 2], [number])
    return stream


def test_a_sound_stream_is_checked_whole(stream: bw.Stream) -> None:
    looked = check_stream(stream)
    assert (looked.steps, looked.producers) == (6, ("p", "q"))
    assert looked.rows == sum(batch.table.num_rows for batch in stream.read())
    assert looked.bytes == sum(entry.bytes for entry in stream.batches())
    empty = InMemory().planted().create_stream(NAME, schema=SMALL_SCHEMA, mesh=bw.Mesh(dp=1))
    assert check_stream(empty).steps == 0


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (DoublesAStep, "step 0 is there 2 times"),
        (DoublesAStep, "file data/.* is there 2 times"),
        (SkipsAStep, "place 1 of 5 batches is not step 1"),
        (SkipsAStep, "sequence 1 of 'q' where 0 is due"),
        (TellsThemBackwards, "place 0 of 6 batches is not step 0"),
        (NumbersThemAnew, "sequence 2 of 'q' where 0 is due"),
        (NumbersThemAnew, "the last batch of 'p' is sequence 0 at step 5"),
        (LosesAPart, "step 3 has 0 slices, the mesh has 2"),
        (ForgetsTheBeginningOfAll, "place 0 of 2 batches is not step 0"),
        (ForgetsTheBeginningOfAll, "the chain of the batches"),
    ],
)
def test_check_stream_names_what_is_wrong(
    stream: bw.Stream, broken: type[WrappedTable], says: str
) -> None:
    with pytest.raises(AssertionError, match=f"(?s)breaks its promises.*{says}"):
        check_stream(bw.Stream(broken(stream.table), analysis=NotAsked()))


def test_check_stream_reads_every_file(stream: bw.Stream) -> None:
    objects = stream.table.objects
    one, two, *_ = (entry.parts[0].path for entry in stream.batches())
    right = objects.get(one)[0]
    objects.overwrite(one, objects.get(two)[0])
    with pytest.raises(AssertionError, match=r"step 0: .* has \d+ bytes and digest"):
        check_stream(stream)
    check_stream(stream, deep=False)
    objects.delete([one])
    with pytest.raises(AssertionError, match="step 0: no object"):
        check_stream(stream)
    objects.create(one, right)
    check_stream(stream)


@pytest.mark.parametrize(
    "doctored",
    [
        lambda rows: rows.slice(1),
        lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]),
        lambda rows: _changed(rows, "step", lambda step: 0),
        lambda rows: _changed(rows, "slice", lambda index: 1 - index),
        lambda rows: _changed(rows, "producer", lambda name: "p"),
        lambda rows: _changed(rows, "number", lambda number: -number),
        lambda rows: _changed(rows, "tokens", lambda values: sorted(values, reverse=True)),
        lambda rows: _changed(rows, "digest", lambda digest: digest.upper()),
        lambda rows: _changed(rows, "committed_at", lambda at: at.replace(year=2001)),
    ],
)
def test_a_doctored_row_changes_the_fingerprint(
    stream: bw.Stream, doctored: Callable[[pa.Table], pa.Table]
) -> None:
    rows = stream.table.head().detail.handle.scan().to_arrow()
    ours = fingerprint(stream)
    assert fingerprint_of_rows(rows, stream) == ours
    assert fingerprint_of_rows(rows.take(list(reversed(range(len(rows))))), stream) == ours
    assert fingerprint_of_rows(doctored(rows), stream) != ours


def test_a_column_that_an_engine_does_not_show_is_named(stream: bw.Stream) -> None:
    rows = stream.table.head().detail.handle.scan().to_arrow()
    with pytest.raises(AssertionError, match="without the columns digest, step"):
        fingerprint_of_rows(rows.drop(["step", "digest"]), stream)


def test_an_engine_that_reads_other_rows_is_named() -> None:
    class Doctored(InMemory):
        def foreign_reads(
            self, stream: bw.Stream, properties: Mapping[str, str]
        ) -> Iterator[tuple[str, pa.Table]]:
            for _, rows in super().foreign_reads(stream, properties):
                yield "Doctored", rows.slice(1)

    with pytest.raises(AssertionError, match="Doctored reads other rows"):
        run(Doctored(), "other_engines_read_the_same_rows")


def test_a_fault_that_has_no_effect_is_noticed() -> None:
    class NeverFails(InMemory):
        @contextlib.contextmanager
        def failing(self, catalog: bw.Catalog, faults: Faults) -> Iterator[bw.Catalog]:
            yield catalog

    for test in (RESOLVED, SUCCESSOR, "state_changes_survive_a_lost_answer"):
        with pytest.raises(AssertionError, match="has no effect"):
            run(NeverFails(), test, Fault.ANSWER_LOST)


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("test", [RESOLVED, SUCCESSOR, "state_changes_survive_a_lost_answer"])
def test_faults_at_the_table_protocol_do_for_any_format(test: str, fault: Fault) -> None:
    class ByProtocol(InMemory):
        @contextlib.contextmanager
        def failing(self, catalog: bw.Catalog, faults: Faults) -> Iterator[bw.Catalog]:
            # What a format gets that says nothing of its own transport.
            with Conformance.failing(self, catalog, faults) as found:
                yield found

    run(ByProtocol(), test, fault)


def _changed(rows: pa.Table, name: str, change: Callable[[Any], Any]) -> pa.Table:
    column = rows[name]
    values = pa.array([change(value) for value in column.to_pylist()], column.type)
    return rows.set_column(rows.column_names.index(name), name, values)
