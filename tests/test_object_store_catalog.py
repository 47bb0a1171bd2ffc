"""What the object-store catalog promises: a plain pyiceberg catalog, one winner a version."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.io import OutputFile
from pyiceberg.table import Table
from pyiceberg.table.update import SetPropertiesUpdate

import batchweave as bw
from batchweave.catalogs.files import ObjectsFileIO
from batchweave.catalogs.object_store import (
    HINT,
    ObjectStoreCatalog,
    version_of,
    version_path,
)
from batchweave.catalogs.versions import IDLE_POLLS_PER_LIST, VERSIONS_KEPT
from batchweave.errors import InvalidSettings, ObjectNotFound, StoreUnavailable
from batchweave.objects import MemoryObjects, Objects
from tests.watched import Watch, WatchedObjects

IMPLEMENTATION = "batchweave.catalogs.object_store.ObjectStoreCatalog"
SCHEMA = pa.schema([pa.field("n", pa.int64()), pa.field("text", pa.string())])
NAME = ("demo", "numbers")
FOLDER = "demo/numbers"


@pytest.fixture(params=["memory", "folder"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStoreCatalog:
    """A catalog with one namespace, ``demo``, and one table, ``demo.numbers``."""
    warehouse = "memory://here" if request.param == "memory" else f"{tmp_path}/ware house ü"
    return _filled(ObjectStoreCatalog("local", warehouse=warehouse))


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def watched(watch: Watch) -> ObjectStoreCatalog:
    """The same in memory, with its requests counted."""
    catalog = ObjectStoreCatalog("local", warehouse="memory://here")
    catalog.objects = WatchedObjects(catalog.objects, watch)
    return _filled(catalog)


def _filled(catalog: ObjectStoreCatalog) -> ObjectStoreCatalog:
    catalog.create_namespace("demo")
    catalog.create_table(NAME, SCHEMA)
    return catalog


def _other(catalog: ObjectStoreCatalog) -> ObjectStoreCatalog:
    """Another process's catalog on the same store: it shares nothing but the objects."""
    other = ObjectStoreCatalog("other", warehouse="memory://elsewhere")
    other.objects = catalog.objects
    return other


def _commit(catalog: Catalog, table: Table, value: object) -> Table:
    """Set one property; return the table as it is after that commit."""
    response = catalog.commit_table(table, (), (SetPropertiesUpdate(updates={"v": str(value)}),))
    return Table(NAME, response.metadata, response.metadata_location, table.io, catalog)


def _committed(catalog: Catalog, count: int) -> Table:
    table = catalog.load_table(NAME)
    for number in range(count):
        table = _commit(catalog, table, number)
    return table


def _versions(objects: Objects) -> list[int]:
    found = objects.children(f"{FOLDER}/metadata")[1]
    return sorted(version_of(info.path) for info in found if info.path.endswith(".metadata.json"))


def _raced(count: int, run: Callable[[int], None]) -> list[BaseException]:
    start = threading.Barrier(count)
    errors: list[BaseException] = []

    def one(me: int) -> None:
        start.wait()
        try:
            run(me)
        except Exception as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=one, args=(me,)) for me in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


# -- a plain pyiceberg catalog -----------------------------------------------------------------


def test_pyiceberg_loads_it_by_name_and_appends_and_scans(tmp_path: Path) -> None:
    warehouse = f"{tmp_path}/ware house ü"
    catalog = load_catalog("x", **{"py-catalog-impl": IMPLEMENTATION, "warehouse": warehouse})
    catalog.create_namespace("demo")
    table = catalog.create_table(NAME, SCHEMA)
    rows = pa.table({"n": [1, 2, 3], "text": ["a", "b", "c"]}, schema=SCHEMA)
    table.append(rows)
    table.append(rows)
    assert table.scan().to_arrow().num_rows == 6
    other = load_catalog("y", **{"py-catalog-impl": IMPLEMENTATION, "warehouse": warehouse})
    seen = other.load_table(NAME)
    assert seen.scan(row_filter="n > 1").to_arrow().sort_by("n")["text"].to_pylist() == list("bbcc")
    assert seen.metadata == table.metadata
    seen.delete("n = 1")
    assert table.refresh().scan().to_arrow().num_rows == 4
    assert len(other.load_table(NAME).snapshots()) == 3


def test_a_transaction_of_pyiceberg_changes_schema_and_properties(
    catalog: ObjectStoreCatalog,
) -> None:
    table = catalog.load_table(NAME)
    with table.transaction() as transaction:
        transaction.set_properties(owner="me")
        with transaction.update_schema() as update:
            update.rename_column("text", "words")
    again = catalog.load_table(NAME)
    assert again.properties["owner"] == "me"
    assert again.schema().column_names == ["n", "words"]


def test_tables_and_namespaces_are_listed_and_dropped(catalog: ObjectStoreCatalog) -> None:
    catalog.create_namespace(("demo", "deep"), {"owner": "me"})
    catalog.create_table(("demo", "deep", "a"), SCHEMA)
    catalog.create_namespace("empty")
    assert catalog.list_namespaces() == [("demo",), ("empty",)]
    assert catalog.list_namespaces("demo") == [("demo", "deep")]
    assert catalog.list_tables("demo") == [NAME]
    assert catalog.list_tables(("demo", "deep")) == [("demo", "deep", "a")]
    assert catalog.list_tables("empty") == []
    assert catalog.load_namespace_properties(("demo", "deep")) == {"owner": "me"}
    summary = catalog.update_namespace_properties(("demo", "deep"), {"owner"}, {"team": "x"})
    assert (summary.removed, summary.updated) == (["owner"], ["team"])
    assert catalog.load_namespace_properties(("demo", "deep")) == {"team": "x"}
    catalog.drop_table(("demo", "deep", "a"))
    assert not catalog.table_exists(("demo", "deep", "a"))
    assert catalog.table_exists(NAME)
    catalog.drop_namespace(("demo", "deep"))
    assert catalog.list_namespaces("demo") == []


def test_what_is_missing_taken_or_in_use_is_told(catalog: ObjectStoreCatalog) -> None:
    with pytest.raises(NoSuchTableError, match=r"demo\.missing"):
        catalog.load_table("demo.missing")
    with pytest.raises(NoSuchTableError):
        catalog.drop_table("demo.missing")
    with pytest.raises(NoSuchNamespaceError, match="nowhere"):
        catalog.create_table("nowhere.t", SCHEMA)
    with pytest.raises(NoSuchNamespaceError):
        catalog.list_tables("nowhere")
    with pytest.raises(NoSuchNamespaceError):
        catalog.load_namespace_properties("nowhere")
    with pytest.raises(NoSuchNamespaceError):
        catalog.drop_namespace("nowhere")
    with pytest.raises(NamespaceAlreadyExistsError):
        catalog.create_namespace("demo")
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace("demo")
    with pytest.raises(TableAlreadyExistsError):
        catalog.create_table(NAME, SCHEMA)
    catalog.create_table_if_not_exists(NAME, SCHEMA)


def test_a_namespace_with_a_namespace_in_it_is_not_dropped(catalog: ObjectStoreCatalog) -> None:
    catalog.create_namespace("a")
    catalog.create_namespace(("a", "b"))
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace("a")
    assert catalog.list_namespaces("a") == [("a", "b")]


def test_what_a_folder_cannot_do_is_refused(catalog: ObjectStoreCatalog) -> None:
    with pytest.raises(InvalidSettings, match="folder is its name"):
        catalog.rename_table(NAME, ("demo", "other"))
    with pytest.raises(InvalidSettings, match="elsewhere"):
        catalog.register_table(("demo", "other"), "file:///elsewhere/metadata/v1.metadata.json")
    with pytest.raises(InvalidSettings, match="/elsewhere"):
        catalog.create_table(("demo", "other"), SCHEMA, location="file:///elsewhere")
    with pytest.raises(InvalidSettings, match="warehouse"):
        ObjectStoreCatalog("x")
    location = catalog.load_table(NAME).metadata_location
    assert catalog.register_table(NAME, location).metadata_location == location


def test_a_name_does_not_see_its_look_alikes(catalog: ObjectStoreCatalog) -> None:
    catalog.create_table(("demo", "numbers2"), SCHEMA)
    assert catalog.list_tables("demo") == [NAME, ("demo", "numbers2")]
    catalog.drop_table(NAME)
    assert catalog.list_tables("demo") == [("demo", "numbers2")]
    assert catalog.load_table(("demo", "numbers2")).schema().column_names == ["n", "text"]


# -- one winner --------------------------------------------------------------------------------


def test_one_of_many_concurrent_creators_wins(catalog: ObjectStoreCatalog) -> None:
    tables: list[Table] = []

    def create(me: int) -> None:
        name = ("demo", "raced")
        tables.append(catalog.create_table(name, SCHEMA, properties={"me": str(me)}))

    errors = _raced(8, create)
    assert len(tables) == 1
    assert [type(error) for error in errors] == [TableAlreadyExistsError] * 7
    assert catalog.load_table(("demo", "raced")).metadata == tables[0].metadata


def test_of_two_writers_on_one_base_one_wins(catalog: ObjectStoreCatalog) -> None:
    base = catalog.load_table(NAME)
    _commit(catalog, base, "first")
    with pytest.raises(CommitFailedException, match="version 2"):
        _commit(_other(catalog), base, "second")
    assert catalog.load_table(NAME).properties["v"] == "first"


def test_racing_writers_never_share_a_version(catalog: ObjectStoreCatalog) -> None:
    won: list[tuple[int, int]] = []

    def write(me: int) -> None:
        mine = _other(catalog)
        for number in range(10):
            table = mine.load_table(NAME)
            try:
                after = _commit(mine, table, f"{me}-{number}")
            except CommitFailedException:
                continue
            won.append((version_of(after.metadata_location), me))

    assert _raced(4, write) == []
    versions = sorted(version for version, _ in won)
    assert versions == list(range(2, 2 + len(won)))
    assert _versions(catalog.objects) == [1, *versions]


def test_a_commit_that_changes_nothing_writes_nothing(
    watched: ObjectStoreCatalog, watch: Watch
) -> None:
    table = _committed(watched, 1)
    watch.clear()
    response = watched.commit_table(table, (), ())
    assert response.metadata_location == table.metadata_location
    assert watch.calls == []


def test_a_lost_acknowledgement_is_an_unknown_outcome(
    watched: ObjectStoreCatalog, watch: Watch
) -> None:
    base = _committed(watched, 3)

    def lose(verb: str, path: str) -> None:
        if verb == "create" and "/metadata/v" in path:
            raise StoreUnavailable("the connection broke")

    watch.after = lose
    with pytest.raises(CommitStateUnknownException, match="the connection broke"):
        _commit(watched, base, "landed")
    watch.after = Watch().after
    assert watched.load_table(NAME).properties["v"] == "landed"
    assert watched.refresh_table(base).properties["v"] == "landed"
    watch.before = lose
    base = watched.load_table(NAME)
    with pytest.raises(CommitStateUnknownException):
        _commit(watched, base, "did not land")
    watch.before = Watch().before
    assert watched.load_table(NAME).properties["v"] == "landed"
    assert _commit(watched, base, "next").properties["v"] == "next"


# -- finding the head --------------------------------------------------------------------------


def test_an_idle_poll_is_one_request_and_the_same_object(
    watched: ObjectStoreCatalog, watch: Watch
) -> None:
    table = _committed(watched, 2)
    watch.clear()
    polls = 4 * IDLE_POLLS_PER_LIST
    for _ in range(polls):
        assert watched.refresh_table(table) is table
    assert len(watch.calls) == polls
    assert [verb for verb, _ in watch.calls].count("children") == 4
    assert {verb for verb, _ in watch.calls} == {"head", "children"}


def test_a_poll_finds_the_newest_version_wherever_it_is(watched: ObjectStoreCatalog) -> None:
    seen = watched.load_table(NAME)
    other = _other(watched)
    for ahead in (1, 2, 7):
        newest = _committed(other, ahead)
        seen = watched.refresh_table(seen)
        assert seen.metadata_location == newest.metadata_location
        assert seen.metadata == newest.metadata


def test_the_hint_names_the_newest_version(catalog: ObjectStoreCatalog) -> None:
    def hint() -> str:
        return bytes(catalog.objects.get(f"{FOLDER}/{HINT}")[0]).decode()

    assert hint() == "1"
    table = _committed(catalog, 5)
    assert hint() == "6" == str(version_of(table.metadata_location))


def test_a_wrong_hint_is_not_believed(catalog: ObjectStoreCatalog) -> None:
    table = _committed(catalog, 3)
    for text in (b"1", b"99", b"nonsense"):
        catalog.objects.overwrite(f"{FOLDER}/{HINT}", text)
        assert catalog.load_table(NAME).metadata_location == table.metadata_location


def test_a_hint_that_cannot_be_written_does_not_undo_the_commit(
    watched: ObjectStoreCatalog, watch: Watch
) -> None:
    def fail(verb: str, path: str) -> None:
        if path.endswith("hint.text"):
            raise StoreUnavailable("no")

    watch.before = fail
    assert version_of(_committed(watched, 2).metadata_location) == 3


# -- cleaning and stale writers ----------------------------------------------------------------


def test_cleaning_deletes_the_oldest_first_and_keeps_what_readers_rely_on(
    watched: ObjectStoreCatalog, watch: Watch
) -> None:
    table = _committed(watched, VERSIONS_KEPT + 9)
    newest = version_of(table.metadata_location)
    watch.clear()
    assert watched.clean_versions(table) == 10
    deleted = [path for verb, path in watch.calls if verb == "delete"]
    assert deleted == [f"{FOLDER}/{version_path(number)}" for number in range(1, 11)]
    assert _versions(watched.objects) == list(range(11, newest + 1))
    assert len(_versions(watched.objects)) == VERSIONS_KEPT
    assert watched.clean_versions(table) == 0


def test_cleaning_stops_where_the_store_does(watched: ObjectStoreCatalog, watch: Watch) -> None:
    table = _committed(watched, VERSIONS_KEPT + 9)

    def fail(verb: str, path: str) -> None:
        if path.endswith("/v4.metadata.json"):
            raise StoreUnavailable("no")

    watch.before = fail
    with pytest.raises(StoreUnavailable):
        watched.clean_versions(table)
    assert _versions(watched.objects)[:2] == [4, 5], "no gap behind which a version could return"


@pytest.mark.parametrize("remembers", [True, False])
def test_a_stale_writer_never_wins_though_its_version_is_free_again(
    watched: ObjectStoreCatalog, remembers: bool
) -> None:
    """With and without the tag of its base in memory."""
    sleeper = _other(watched)
    stale = sleeper.load_table(NAME)
    if not remembers:
        sleeper._memory.clear()
    head = _committed(watched, VERSIONS_KEPT + 9)
    watched.clean_versions(head)
    assert 2 not in _versions(watched.objects)
    with pytest.raises(CommitStateUnknownException, match=r"version 1 .* cleaned up"):
        _commit(sleeper, stale, "stale")
    for one in (watched, sleeper, _other(watched)):
        found = one.load_table(NAME)
        assert found.metadata_location == head.metadata_location
        assert found.metadata == head.metadata
    assert watched.refresh_table(head) is head
    watched.clean_versions(head)
    assert 2 not in _versions(watched.objects)


def test_a_stale_writer_behind_another_stale_writer_does_not_win_either(
    watched: ObjectStoreCatalog,
) -> None:
    """The first fills version 2 again; the second, asleep at the first version 2, wakes at 3."""
    first, second = _other(watched), _other(watched)
    at_1 = first.load_table(NAME)
    at_2 = _commit(watched, watched.load_table(NAME), "genuine 2")
    at_2_second = second.load_table(NAME)
    second._memory.clear()
    head = _committed(watched, VERSIONS_KEPT + 9)
    watched.clean_versions(head)
    with pytest.raises(CommitStateUnknownException):
        _commit(first, at_1, "stale 2")
    assert 2 in _versions(watched.objects)
    for catalog, base in ((second, at_2_second), (watched, at_2)):
        with pytest.raises((CommitStateUnknownException, CommitFailedException)):
            _commit(catalog, base, "stale 3")
    assert watched.load_table(NAME).metadata == head.metadata


def test_a_reader_that_slept_through_cleaning_finds_the_head(watched: ObjectStoreCatalog) -> None:
    reader = _other(watched)
    old = reader.load_table(NAME)
    head = _committed(watched, VERSIONS_KEPT + 9)
    watched.clean_versions(head)
    polled = old
    for _ in range(IDLE_POLLS_PER_LIST):
        polled = reader.refresh_table(polled)
    assert polled.metadata == head.metadata
    sleeper = _other(watched)
    with pytest.raises(CommitStateUnknownException):
        _commit(sleeper, old, "stale")
    polled = old
    for _ in range(IDLE_POLLS_PER_LIST):
        polled = reader.refresh_table(polled)
    assert polled.metadata == head.metadata


def test_a_base_that_cannot_be_checked_is_an_unknown_outcome(
    watched: ObjectStoreCatalog, watch: Watch
) -> None:
    base = _committed(watched, 3)

    def fail(verb: str, path: str) -> None:
        if verb in ("head", "get") and path.endswith("v4.metadata.json"):
            raise StoreUnavailable("no answer")

    watch.before = fail
    with pytest.raises(CommitStateUnknownException, match="no answer"):
        _commit(watched, base, "x")


def test_a_version_cleaned_while_it_is_read_is_looked_for_again(
    watched: ObjectStoreCatalog, watch: Watch
) -> None:
    _committed(watched, 2)
    missed: list[str] = []

    def vanish(verb: str, path: str) -> None:
        if verb == "get" and "/metadata/v" in path and not missed:
            missed.append(path)
            raise ObjectNotFound(path)

    watch.before = vanish
    assert version_of(watched.load_table(NAME).metadata_location) == 3
    assert missed


# -- dropping ----------------------------------------------------------------------------------


def test_dropping_leaves_no_object_behind(catalog: ObjectStoreCatalog) -> None:
    _committed(catalog, 3)
    catalog.objects.create(f"{FOLDER}/data/x.parquet", b"1")
    catalog.purge_table(NAME)
    assert [info.path for info in catalog.objects.list("demo")] == ["demo/namespace.json"]
    assert catalog.create_table(NAME, SCHEMA).snapshots() == []


def test_a_writer_that_lives_on_does_not_bring_a_dropped_table_back(
    catalog: ObjectStoreCatalog,
) -> None:
    writer = _other(catalog)
    table = _committed(writer, 3)
    catalog.drop_table(NAME)
    with pytest.raises(CommitStateUnknownException):
        _commit(writer, table, "late")
    for one in (catalog, writer):
        assert not one.table_exists(NAME)
        assert one.list_tables("demo") == []
        with pytest.raises(NoSuchTableError):
            one.load_table(NAME)


@pytest.mark.parametrize("ahead", [0, 5])
def test_a_writer_of_a_dropped_table_does_not_take_over_its_namesake(
    catalog: ObjectStoreCatalog, ahead: int
) -> None:
    writer = _other(catalog)
    old = _committed(writer, ahead)
    catalog.drop_table(NAME)
    new = catalog.create_table(NAME, SCHEMA)
    with pytest.raises((CommitStateUnknownException, CommitFailedException)):
        _commit(writer, old, "into the wrong table")
    assert catalog.load_table(NAME).metadata.table_uuid == new.metadata.table_uuid
    assert "v" not in catalog.load_table(NAME).properties


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_a_version_that_a_killed_writer_of_a_dropped_table_left_is_passed_over(
    catalog: ObjectStoreCatalog, ahead: int
) -> None:
    """Seen by who opens, who follows and who commits, also when they come to its number."""
    path = f"{FOLDER}/{version_path(3 + ahead)}"
    _committed(catalog, 2 + ahead)
    left = bytes(catalog.objects.get(path)[0])
    catalog.drop_table(NAME)
    catalog.create_table(NAME, SCHEMA)
    table = _committed(catalog, 1)
    known = table
    catalog.objects.create(path, left)
    for number in range(ahead + 4):
        for one in (catalog, _other(catalog)):
            found = one.load_table(NAME).metadata
            assert (found.table_uuid, found.properties) == (
                table.metadata.table_uuid,
                table.metadata.properties,
            )
        known = catalog.refresh_table(known)
        assert known.metadata == table.metadata
        try:
            table = _commit(catalog, table, f"new {number}")
        except CommitFailedException:
            table = catalog.refresh_table(table)
            table = _commit(catalog, table, f"new {number}")
    assert _versions(catalog.objects) == [*range(1, ahead + 7)]


def test_a_sleeper_of_a_dropped_table_deletes_no_version_of_its_namesake(
    catalog: ObjectStoreCatalog,
) -> None:
    sleeper = _other(catalog)
    old = _committed(sleeper, 3)
    catalog.drop_table(NAME)
    catalog.create_table(NAME, SCHEMA)
    _committed(catalog, 6)
    with pytest.raises(CommitFailedException):
        _commit(sleeper, old, "old")
    assert _versions(catalog.objects) == [*range(1, 8)]


def test_a_gap_within_one_table_hides_nothing(catalog: ObjectStoreCatalog) -> None:
    """As a folder has it from which a file was lost: its newest version stays the head."""
    table = _committed(catalog, 5)
    catalog.objects.delete([f"{FOLDER}/{version_path(5)}"])
    assert _other(catalog).load_table(NAME).metadata == table.metadata


def test_upkeep_of_a_dropped_table_spares_its_namesake(catalog: ObjectStoreCatalog) -> None:
    sleeper = _other(catalog)
    old = _committed(sleeper, 90)
    catalog.drop_table(NAME)
    catalog.create_table(NAME, SCHEMA)
    assert sleeper.clean_versions(old) == 0
    assert _versions(catalog.objects) == [1]


def test_a_drop_under_a_live_writer_leaves_no_table(watched: ObjectStoreCatalog) -> None:
    for _ in range(5):
        dropped = threading.Event()

        writer = _other(watched)

        def write(writer: ObjectStoreCatalog = writer, dropped: threading.Event = dropped) -> None:
            table = writer.load_table(NAME)
            number = 0
            while not dropped.is_set() and number < 10_000:
                number += 1
                try:
                    table = _commit(writer, table, number)
                except (CommitStateUnknownException, CommitFailedException, NoSuchTableError):
                    break

        thread = threading.Thread(target=write)
        thread.start()
        while len(_versions(watched.objects)) < 10 and thread.is_alive():
            pass
        watched.drop_table(NAME)
        dropped.set()
        thread.join()
        assert watched.list_tables("demo") == []
        assert _versions(watched.objects) == []
        watched.create_table(NAME, SCHEMA)


def test_the_repr_shows_no_credentials() -> None:
    catalog = ObjectStoreCatalog(
        "x",
        warehouse="s3://bucket/w",
        **{"s3.access-key-id": "FAKEKEY", "s3.secret-access-key": "FAKESECRET"},
    )
    assert "FAKE" not in repr(catalog)
    assert "s3://bucket/w" in repr(catalog)


# -- one name, one thing -----------------------------------------------------------------------


def test_nothing_is_created_below_a_table(catalog: ObjectStoreCatalog) -> None:
    for name in (NAME, (*NAME, "deeper")):
        with pytest.raises(TableAlreadyExistsError, match=r"demo\.numbers is a table"):
            catalog.create_namespace(name)
    assert catalog.list_namespaces("demo") == []


def test_a_table_does_not_take_the_name_of_a_namespace(catalog: ObjectStoreCatalog) -> None:
    catalog.create_namespace(("demo", "deep"))
    with pytest.raises(NamespaceAlreadyExistsError, match=r"demo\.deep is a namespace"):
        catalog.create_table(("demo", "deep"), SCHEMA)
    assert catalog.list_tables("demo") == [NAME]


def test_streams_do_not_nest() -> None:
    streams = bw.load_catalog("x", type="object-store", warehouse="memory://nested")
    mesh = bw.Mesh(dp=1)
    streams.create_stream("a.b", schema=SCHEMA, mesh=mesh)
    with pytest.raises(bw.InvalidName, match=r"a\.b is a table"):
        streams.create_stream("a.b.c", schema=SCHEMA, mesh=mesh)
    streams.create_stream("a.d.e", schema=SCHEMA, mesh=mesh)
    with pytest.raises(bw.StreamExists, match=r"a\.d is a namespace"):
        streams.create_stream("a.d", schema=SCHEMA, mesh=mesh)
    assert streams.list_streams() == ["a.b", "a.d.e"]


def test_dropping_leaves_what_lies_inside_but_is_not_the_tables(
    catalog: ObjectStoreCatalog,
) -> None:
    """An older version of this catalog let names nest."""
    kept = ["inner/namespace.json", "other/metadata/v1.metadata.json", "other/data/x.parquet"]
    for path in kept:
        catalog.objects.create(f"{FOLDER}/{path}", b"{}")
    catalog.objects.create(f"{FOLDER}/data/x.parquet", b"1")
    catalog.drop_table(NAME)
    assert sorted(info.path for info in catalog.objects.list(FOLDER)) == sorted(
        f"{FOLDER}/{path}" for path in kept
    )


def test_a_table_created_while_its_namesake_is_dropped_keeps_its_files(
    watched: ObjectStoreCatalog, watch: Watch
) -> None:
    watched.objects.create(f"{FOLDER}/data/old.parquet", b"1")
    other = _other(watched)

    def create(verb: str, path: str) -> None:
        if verb == "delete" and path.endswith("/v1.metadata.json"):
            watch.after = Watch().after
            other.create_table(NAME, SCHEMA)
            other.objects.create(f"{FOLDER}/data/new.parquet", b"1")

    watch.after = create
    watched.drop_table(NAME)
    assert other.load_table(NAME).schema().column_names == ["n", "text"]
    assert [info.path for info in other.objects.list(f"{FOLDER}/data")] == [
        f"{FOLDER}/data/new.parquet"
    ]


# -- tags that change --------------------------------------------------------------------------


def test_a_base_that_was_touched_or_restored_is_still_the_base(tmp_path: Path) -> None:
    catalog = _filled(ObjectStoreCatalog("local", warehouse=str(tmp_path)))
    table = _committed(catalog, 2)
    os.utime(tmp_path / FOLDER / version_path(3), (1, 1))
    after = _commit(catalog, table, "after")
    assert version_of(after.metadata_location) == 4
    assert catalog.load_table(NAME).properties["v"] == "after"


class TwoTags(WatchedObjects):
    """A store whose answer to a write is another tag than what reading shows."""

    def within(self, prefix: str) -> TwoTags:
        return TwoTags(self.inner.within(prefix), self.watch, prefix)

    def create(self, path: str, data: Any) -> str:
        return super().create(path, data) + "-written"


def test_a_store_that_writes_tags_in_two_ways_can_be_committed_to() -> None:
    catalog = ObjectStoreCatalog("local", warehouse="memory://here")
    catalog.objects = TwoTags(catalog.objects)
    table = _committed(_filled(catalog), 5)
    assert version_of(table.metadata_location) == 6


def test_a_base_that_a_late_repetition_wrote_again_is_not_trusted(
    watched: ObjectStoreCatalog,
) -> None:
    """The same bytes again, after cleaning: the tag tells, and the distance to the head."""
    sleeper = _other(watched)
    base = sleeper.load_table(NAME)
    data = bytes(watched.objects.get(f"{FOLDER}/{version_path(1)}")[0])
    head = _committed(watched, VERSIONS_KEPT + 9)
    watched.clean_versions(head)
    watched.objects.create(f"{FOLDER}/{version_path(1)}", data)
    with pytest.raises(CommitStateUnknownException):
        _commit(sleeper, base, "stale")
    assert watched.load_table(NAME).metadata == head.metadata


# -- files and properties ----------------------------------------------------------------------


def test_a_file_whose_writing_failed_is_not_uploaded() -> None:
    objects = MemoryObjects("memory://here")
    io = ObjectsFileIO(objects)
    with pytest.raises(ZeroDivisionError):
        _write_and_close(io.new_output("memory://here/failed"), fail=True)
    stream = io.new_output("memory://here/abandoned").create()
    stream.write(b"1")
    del stream
    try:
        raise ValueError("of no concern to a file written while it is handled")
    except ValueError:
        _write_and_close(io.new_output("memory://here/whole"), fail=False)
    assert [info.path for info in objects.list()] == ["whole"]


def _write_and_close(output: OutputFile, fail: bool) -> None:
    """As pyiceberg's writers do it: ``close`` whatever happened."""
    stream = output.create()
    try:
        stream.write(b"1")
        if fail:
            raise ZeroDivisionError
    finally:
        stream.close()


def test_a_table_cannot_send_the_catalogs_credentials_elsewhere() -> None:
    catalog = ObjectStoreCatalog(
        "x", warehouse="s3://bucket/w", **{"s3.region": "here", "s3.anonymous": "true"}
    )
    theirs = {"s3.endpoint": "http://evil", "s3.region": "there", "client.region": "there"}
    io = catalog._load_file_io({**theirs, "owner": "me"}, "s3://bucket/w/t")
    assert "s3.endpoint" not in io.properties
    assert "client.region" not in io.properties
    assert io.properties["s3.region"] == "here"
    assert io.properties["owner"] == "me"
