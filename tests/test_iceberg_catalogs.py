"""What a stream promises on Iceberg catalogs that are not ours: sql, rest, glue, and any other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError
from pyiceberg.catalog import Catalog as PyIcebergCatalog
from pyiceberg.catalog.glue import GlueCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table.update import UpgradeFormatVersionUpdate
from pyiceberg.types import LongType, StringType

import batchweave as bw
from batchweave.catalogs import iceberg, iceberg_commit, table_files
from batchweave.catalogs.iceberg import IcebergTable, table_objects
from batchweave.catalogs.iceberg_catalog import CREATION, IcebergCatalog
from batchweave.catalogs.opening import open_pyiceberg
from batchweave.clock import Clock, SystemClock
from batchweave.errors import (
    NotAStream,
    StreamCorrupted,
    StreamExists,
    StreamNotFound,
    UnsupportedFormat,
)
from batchweave.objects import Objects, open_objects
from batchweave.state import PREFIX
from batchweave.table import Committed, Lost
from batchweave.testing.suite import NotAsked
from tests.servers.catalogs import OTHERS, SQL
from tests.servers.glue import GlueServer
from tests.servers.proxy import Proxy
from tests.servers.seaweed import S3Server
from tests.streams import QUICK, TOKENS, numbers, publish_numbers
from tests.writer import Writer

NAME = "demo.tokens"
everywhere = pytest.mark.parametrize("kind", OTHERS)
"""On each of them; else on one that checks commits in this process, and on a server."""

HOUR_MS = 3_600_000

Properties = Callable[[str], dict[str, str]]


@dataclass
class Place:
    """One catalog with a stream, seen by as many processes as a test wants."""

    properties: dict[str, str]
    namespace: str
    _glue: PyIcebergCatalog | None = None

    @property
    def name(self) -> str:
        return f"{self.namespace}.tokens"

    @property
    def identifier(self) -> tuple[str, ...]:
        return (self.namespace, "tokens")

    def catalog(self) -> bw.Catalog:
        return bw.Catalog("catalog", IcebergCatalog(self.plain()), NotAsked())

    def plain(self) -> PyIcebergCatalog:
        """As another program has it. Botocore takes a second to make a client: one is shared."""
        if self.properties.get("type") != "glue":
            return open_pyiceberg("catalog", self.properties)
        if self._glue is None:
            self._glue = open_pyiceberg("catalog", self.properties)
        return self._glue

    def make(self) -> bw.Stream:
        return self.catalog().create_stream(self.name, schema=TOKENS, mesh=bw.Mesh(dp=2))

    def table(self, clock: Clock | None = None) -> IcebergTable:
        plain = self.plain()
        return IcebergTable(plain, plain.load_table(self.identifier), clock=clock)

    def writer(self, name: str = "p", clock: Clock | None = None) -> Writer:
        return Writer(self.table(clock), name, clock)

    def objects(self) -> Objects:
        plain = self.plain()
        return table_objects(plain, plain.load_table(self.identifier))


@pytest.fixture(params=["sqlite", "rest"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, catalog_properties: Properties, tmp_path: Path) -> Place:
    return _place(kind, catalog_properties, tmp_path)


@pytest.fixture
def sqlite(catalog_properties: Properties, tmp_path: Path) -> Place:
    """The quickest of them, for what all share."""
    return _place("sqlite", catalog_properties, tmp_path)


def _place(kind: str, catalog_properties: Properties, tmp_path: Path) -> Place:
    # All Glue catalogs of one server are one: a namespace for each test.
    namespace = f"demo_{abs(hash(str(tmp_path)))}" if kind == "glue" else "demo"
    return Place(catalog_properties(kind), namespace)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upkeep within few commits."""
    monkeypatch.setattr(iceberg, "TIDY_EVERY", 4)
    monkeypatch.setattr(table_files, "METADATA_KEPT", 8)
    monkeypatch.setattr(iceberg_commit, "SNAPSHOTS_LIVE", 4)


def _together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work`` in so many threads that begin at once; results and exceptions."""
    barrier = threading.Barrier(count)
    found: list[Any] = [None] * count

    def run(number: int) -> None:
        barrier.wait()
        try:
            found[number] = work(number)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _check_whole(place: Place, producers: dict[str, int]) -> None:
    """Every batch of every producer once, in order, and every file that metadata names is there."""
    table = place.table()
    head = table.head()
    entries = list(table.entries(head, 0, head.state.next_step))
    assert [entry.step for entry in entries] == list(range(sum(producers.values())))
    for name, count in producers.items():
        assert [one.sequence for one in entries if one.producer == name] == list(range(count))
    for snapshot in head.detail.metadata.snapshots:
        for manifest in snapshot.manifests(head.detail.handle.io):
            assert manifest.fetch_manifest_entry(head.detail.handle.io)


# -- the same stream on each -------------------------------------------------------------------


@everywhere
def test_rivals_lose_no_batch(place: Place) -> None:
    place.make()

    def produce(number: int) -> None:
        with place.catalog().load_stream(place.name).producer(f"p{number}", QUICK) as producer:
            for first in range(4):
                publish_numbers(producer, first, 1)
                producer.flush()

    assert _together(3, produce) == [None] * 3
    _check_whole(place, {"p0": 4, "p1": 4, "p2": 4})
    stream = place.catalog().load_stream(place.name)
    assert sorted(numbers(stream)) == sorted(list(range(4)) * 3)
    assert place.name in place.catalog().list_streams()


@pytest.mark.parametrize("kind", [kind for kind in OTHERS if kind != "rest"])
def test_of_many_creators_of_one_name_one_wins(place: Place) -> None:
    """SeaweedFS's REST server looks and creates in two steps: see tests/test_conformance.py."""
    found = _together(4, lambda number: place.make())
    won = [one for one in found if isinstance(one, bw.Stream)]
    lost = [one for one in found if isinstance(one, StreamExists)]
    assert (len(won), len(lost)) == (1, 3), found
    with won[0].producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 1)
    assert numbers(place.catalog().load_stream(place.name)) == [0]


def test_a_creation_whose_answer_was_lost_is_ones_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = place.catalog()
    assert isinstance(catalog.tables, IcebergCatalog)
    plain = catalog.tables.catalog
    create = plain.create_table

    def lose(*arguments: Any, **named: Any) -> None:
        create(*arguments, **named)
        raise ConnectionError("the answer was lost")

    monkeypatch.setattr(plain, "create_table", lose)
    stream = catalog.create_stream(place.name, schema=TOKENS, mesh=bw.Mesh(dp=2))
    assert stream.head().next_step == 0
    with pytest.raises(StreamExists):
        place.make()


@everywhere
def test_a_dropped_stream_leaves_no_file(place: Place) -> None:
    place.make()
    writer = place.writer()
    writer.commit(3)
    writer.stage()  # a file that nobody commits
    objects = place.objects()
    place.catalog().drop_stream(place.name)
    assert list(objects.list()) == []
    with pytest.raises(StreamNotFound):
        place.catalog().load_stream(place.name)
    place.make()


def test_a_table_inside_of_a_dropped_streams_folder_stays(sqlite: Place) -> None:
    sqlite.make()
    objects = sqlite.objects()
    theirs = ["data/metadata/v1.metadata.json", "data/data/v000000000001/p.parquet", "notes.txt"]
    for path in theirs:
        objects.create(path, b"of somebody else")
    sqlite.catalog().drop_stream(sqlite.name)
    assert sorted(info.path for info in objects.list()) == sorted(theirs)


@pytest.mark.parametrize("first", ["sql", "object-store"])
@pytest.mark.parametrize("work", ["publish", "sweep", "drop"])
def test_namesakes_in_two_catalogs_on_one_warehouse_spare_each_other(
    first: str, work: str, tmp_path: Path
) -> None:
    sql = {"type": "sql", "uri": f"sqlite:///{tmp_path}/c.db", "warehouse": str(tmp_path)}
    other = sql if first == "sql" else {"type": "object-store", "warehouse": str(tmp_path)}
    theirs, ours = bw.load_catalog("theirs", **other), bw.load_catalog("ours", **sql)
    streams = [one.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2)) for one in (theirs, ours)]
    for stream in streams:
        with stream.producer("p", QUICK) as producer:
            publish_numbers(producer, 0, 3)
    assert streams[0].table.objects.uri != streams[1].table.objects.uri
    if work == "publish":
        plain = open_pyiceberg("ours", sql)
        writer = Writer(IcebergTable(plain, plain.load_table(("demo", "tokens"))), "q")
        writer.commit(2 * table_files.METADATA_KEPT)
    elif work == "sweep":
        streams[1].sweep(grace_s=0)
    else:
        ours.drop_stream(NAME)
    assert numbers(theirs.load_stream(NAME)) == [0, 1, 2]


@pytest.mark.parametrize("off_ms", [-5 * HOUR_MS, 5 * HOUR_MS])
def test_a_clock_that_is_hours_off_stops_nobody(place: Place, off_ms: int) -> None:
    class Skewed(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() + off_ms

    place.make()
    place.writer("before").commit()
    place.writer("skewed", Skewed()).commit(2)
    place.writer("after").commit()
    _check_whole(place, {"before": 1, "skewed": 2, "after": 1})
    times = [one.timestamp_ms for one in place.table().head().detail.metadata.snapshots]
    assert times == sorted(times)


# -- what following costs ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", SQL)
def test_an_idle_poll_is_one_query(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import event

    place.make()
    writer = place.writer()
    reader = place.table()
    head = reader.head()
    catalog = reader._catalog
    assert isinstance(catalog, SqlCatalog)
    statements: list[str] = []
    event.listen(
        catalog.engine,
        "before_cursor_execute",
        lambda *arguments: statements.append(str(arguments[2])),
    )
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_io", None)  # no file is read
        patch.setattr(catalog, "load_table", None)
        assert reader.head(head) is head
    assert len(statements) == 1
    writer.commit()
    assert reader.head(head).version == head.version + 1
    assert len(statements) == 2


def test_an_idle_poll_of_glue_reads_no_metadata(
    catalog_properties: Properties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _place("glue", catalog_properties, tmp_path)
    place.make()
    writer = place.writer()
    reader = place.table()
    head = reader.head()
    assert isinstance(reader._catalog, GlueCatalog)
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_io", None)
        patch.setattr(reader._catalog, "load_table", None)
        assert reader.head(head) is head
    writer.commit()
    assert reader.head(head).version == head.version + 1


def test_an_idle_poll_of_a_rest_server_is_one_request(
    catalog_properties: Properties, tmp_path: Path, s3: S3Server
) -> None:
    place = _place("rest", catalog_properties, tmp_path)
    place.make()
    place.writer().commit()
    with Proxy(int(s3.iceberg_uri.rpartition(":")[2])) as front:
        seen = Place({**place.properties, "uri": front.endpoint}, place.namespace).table()
        head = seen.head()
        before = front.counts()["GET"]
        assert seen.head(head) is head
        assert front.counts()["GET"] == before + 1


# -- what others do to the table ---------------------------------------------------------------


@pytest.mark.usefixtures("often")
def test_a_pin_that_others_make_keeps_its_snapshot(place: Place) -> None:
    place.make()
    writer = place.writer()
    head = writer.commit(2)
    pins = {}
    for number in range(6):
        metadata = head.detail.metadata
        named = {ref.snapshot_id for ref in metadata.refs.values()}
        free = [one for one in metadata.snapshots if one.snapshot_id not in named]
        oldest = min(free, key=lambda one: one.sequence_number)
        theirs = place.plain().load_table(place.identifier)
        theirs.manage_snapshots().create_tag(oldest.snapshot_id, f"pin-{number}").commit()
        pins[f"pin-{number}"] = oldest.snapshot_id
        head = writer.commit(2)  # on the base of its last commit, which knows no such pin
    metadata = place.plain().load_table(place.identifier).metadata
    kept = {name: ref.snapshot_id for name, ref in metadata.refs.items() if name != "main"}
    assert kept == pins
    assert set(pins.values()) <= {one.snapshot_id for one in metadata.snapshots}
    _check_whole(place, {"p": 14})


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("kind", ["postgres", "glue"])
def test_a_pin_within_the_commit_itself_wins_the_race(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.make()
    writer = place.writer()
    head = writer.commit(5)
    catalog = writer.table._catalog
    commit_table = catalog.commit_table
    oldest = min(head.detail.metadata.snapshots, key=lambda one: one.sequence_number).snapshot_id

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.undo()
        theirs = place.plain().load_table(place.identifier)
        theirs.manage_snapshots().create_tag(oldest, "pin").commit()
        return commit_table(*arguments)

    monkeypatch.setattr(catalog, "commit_table", overtaken)
    writer.stage()
    assert isinstance(writer.attempt(), Lost)
    assert isinstance(writer.attempt(), Committed)
    metadata = place.plain().load_table(place.identifier).metadata
    assert metadata.refs["pin"].snapshot_id == oldest
    assert oldest in {one.snapshot_id for one in metadata.snapshots}


@pytest.mark.usefixtures("often")
def test_snapshots_stay_few(place: Place) -> None:
    place.make()
    head = place.writer().commit(16)
    assert len(head.detail.metadata.snapshots) <= 2 * 4


def _drop(update: Any) -> None:
    update.delete_column("tokens")


def _rename(update: Any) -> None:
    update.rename_column("tokens", "words")


def _widen(update: Any) -> None:
    update.update_column("tokens.element", LongType())


def _require(update: Any) -> None:
    update.add_column("theirs", StringType(), required=True)


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "dropped": (_drop, "no column 'tokens'"),
    "renamed": (_rename, "no column 'tokens'"),
    "retyped": (_widen, "'tokens' was list<int>, and is list<long>"),
    "required": (_require, "new column 'theirs' must not be null"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_columns_that_others_changed_stop_writers_not_readers(sqlite: Place, how: str) -> None:
    _check_change(sqlite, how)


@pytest.mark.parametrize("kind", ["rest", "glue"])
def test_a_column_that_others_dropped_stops_writers(place: Place) -> None:
    _check_change(place, "dropped")


def _check_change(place: Place, how: str) -> None:
    change, said = CHANGES[how]
    place.make()
    writer = place.writer()
    writer.commit(2)
    theirs = place.plain().load_table(place.identifier)
    with theirs.update_schema(allow_incompatible_changes=True) as update:
        change(update)
    writer.stage()
    assert isinstance(writer.attempt(), Lost)  # on the base that it knew
    with pytest.raises(StreamCorrupted, match=said):
        writer.attempt()
    with pytest.raises(StreamCorrupted, match=said):
        place.writer("another")
    assert [one.step for one in place.catalog().load_stream(place.name).read(slice=0)] == [0, 1]


def test_a_column_made_anew_stops_writers(sqlite: Place) -> None:
    sqlite.make()
    writer = sqlite.writer()
    writer.commit(2)
    theirs = sqlite.plain().load_table(sqlite.identifier)
    kind = theirs.schema().find_type("tokens")
    with theirs.update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("tokens")
    with theirs.update_schema() as update:
        update.add_column("tokens", kind)
    writer.stage()
    assert isinstance(writer.attempt(), Lost)
    with pytest.raises(StreamCorrupted, match="made anew"):
        writer.attempt()


def test_a_column_that_others_added_is_no_matter(place: Place) -> None:
    place.make()
    writer = place.writer()
    writer.commit()
    with place.plain().load_table(place.identifier).update_schema() as update:
        update.add_column("theirs", StringType())
    writer.commit()
    place.writer("another").commit()
    _check_whole(place, {"p": 2, "another": 1})
    assert place.plain().load_table(place.identifier).scan().to_arrow().num_rows == 6


@pytest.mark.parametrize("kind", ["rest"])  # pyiceberg itself writes no v3
def test_a_table_that_others_upgraded_takes_no_commits(place: Place) -> None:
    place.make()
    writer = place.writer()
    writer.commit()
    plain = place.plain()
    theirs = plain.load_table(place.identifier)
    plain.commit_table(theirs, (), (UpgradeFormatVersionUpdate(format_version=3),))
    assert plain.load_table(place.identifier).metadata.format_version == 3
    writer.stage()
    writer.session._stale = True  # as after any other writer's commit
    with pytest.raises(UnsupportedFormat, match="v3"):
        writer.attempt()
    with pytest.raises(UnsupportedFormat, match="v3"):
        place.catalog().load_stream(place.name)


@pytest.mark.parametrize(
    ("kind", "version"),
    [("sqlite", "1"), ("sqlite", "2"), ("rest", "1"), ("rest", "3"), ("glue", "2")],
)
def test_a_table_that_is_no_stream_is_left_alone(place: Place, version: str) -> None:
    plain = place.plain()
    plain.create_namespace(place.namespace)
    schema = pa.schema([("a", pa.int64())])
    plain.create_table(place.identifier, schema, properties={"format-version": version})
    catalog = place.catalog()
    with pytest.raises(NotAStream):
        catalog.load_stream(place.name)
    with pytest.raises(NotAStream):
        catalog.drop_stream(place.name)
    with pytest.raises(StreamExists):
        place.make()
    assert place.name not in catalog.list_streams()
    assert plain.table_exists(place.identifier)


def test_a_glue_table_that_is_not_iceberg_is_no_stream(
    catalog_properties: Properties, tmp_path: Path, glue: GlueServer
) -> None:
    place = _place("glue", catalog_properties, tmp_path)
    client = glue.client(place.properties["glue.region"])
    client.create_database(DatabaseInput={"Name": place.namespace})
    client.create_table(
        DatabaseName=place.namespace, TableInput={"Name": "tokens", "Parameters": {"a": "b"}}
    )
    with pytest.raises(NotAStream):
        place.catalog().load_stream(place.name)
    assert place.name not in place.catalog().list_streams()


def test_the_glue_server_refuses_a_version_that_is_old(glue: GlueServer, tmp_path: Path) -> None:
    """What our commits on Glue rest on, as AWS documents it."""
    client = glue.client()
    where = {"DatabaseName": f"check_{abs(hash(str(tmp_path)))}"}
    client.create_database(DatabaseInput={"Name": where["DatabaseName"]})
    client.create_table(**where, TableInput={"Name": "t"})
    version = client.get_table(**where, Name="t")["Table"]["VersionId"]
    client.update_table(**where, TableInput={"Name": "t", "Owner": "a"}, VersionId=version)
    with pytest.raises(ClientError, match="ConcurrentModification"):
        client.update_table(**where, TableInput={"Name": "t", "Owner": "b"}, VersionId=version)
    assert client.get_table(**where, Name="t")["Table"]["Owner"] == "a"


# -- metadata files ----------------------------------------------------------------------------


def _metadata(objects: Objects) -> list[str]:
    found = (info.path for info in objects.children("metadata")[1])
    return sorted(path for path in found if path.endswith(".metadata.json"))


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("kind", ["sqlite", "rest", "glue"])
def test_old_metadata_files_go_and_new_ones_stay(place: Place) -> None:
    place.make()
    one, two = place.writer("one"), place.writer("two")
    objects = place.objects()
    for _ in range(8):
        one.commit()
        two.commit()  # loses to the other once: on some catalogs that leaves a file as well
    location = place.plain().load_table(place.identifier).metadata_location
    kept = _metadata(objects)
    assert 8 <= len(kept) < 16
    assert f"metadata/{location.rpartition('/')[2]}" in kept
    numbered = [table_files._numbered(path) for path in kept]
    newest = table_files._numbered(location)
    assert newest is not None
    assert {newest[1] - back for back in range(8)} <= {one[1] for one in numbered if one}
    _check_whole(place, {"one": 8, "two": 8})


@pytest.mark.usefixtures("often")
def test_upkeep_after_a_drop_touches_no_namesake(
    sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that slept between its commit and the upkeep wakes to another table's folder."""
    sqlite.make()
    writer = sqlite.writer()
    heads = []
    for _ in range(30):
        writer.stage()
        outcome = writer.session.attempt()
        assert isinstance(outcome, Committed)
        heads.append(outcome.head)
    sqlite.catalog().drop_stream(sqlite.name)
    sqlite.make()
    sqlite.writer().commit(2)
    before = {info.path for info in sqlite.objects().list()}
    # It would fail to read the dropped table's lists; the metadata files are what it could take.
    monkeypatch.setattr(writer.table._manifests, "merge_ahead", lambda *arguments: None)
    monkeypatch.setattr(writer.table._manifests, "outdated", lambda metadata: [])
    writer.table.tidy(heads[-1])
    assert {info.path for info in sqlite.objects().list()} == before
    _check_whole(sqlite, {"p": 2})


def test_files_of_another_naming_are_not_metadata_of_ours(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    uuid = "0f0e0d0c-0b0a-4908-8706-050403020100"
    names = [
        *(f"{number:05d}-{uuid}.metadata.json" for number in range(100)),
        *(f"v{number}.metadata.json" for number in range(100)),
        "theirs.metadata.json",
        f"00001-{uuid}.metadata.json.bak",
    ]
    for name in names:
        (tmp_path / "metadata" / name).write_text("{}")
    objects = open_objects(str(tmp_path))
    own = table_files.overtaken(objects, f"{tmp_path}/metadata/00099-{uuid}.metadata.json")
    assert sorted(own) == [f"metadata/{number:05d}-{uuid}.metadata.json" for number in range(36)]
    marked = table_files.overtaken(objects, f"{objects.uri}/metadata/v99.metadata.json")
    assert sorted(marked) == sorted(f"metadata/v{number}.metadata.json" for number in range(36))
    assert table_files.overtaken(objects, f"{tmp_path}/metadata/theirs.metadata.json") == []
    assert table_files.overtaken(objects, f"/elsewhere/metadata/00099-{uuid}.metadata.json") == []
    inside = f"{tmp_path}/metadata/deeper/00099-{uuid}.metadata.json"
    assert table_files.overtaken(objects, inside) == []


# -- opening -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SQL)
def test_openers_of_a_new_database_do_not_disturb_each_other(
    kind: str, catalog_properties: Properties
) -> None:
    for _ in range(3):
        properties = catalog_properties(kind)

        def opened(number: int, properties: dict[str, str] = properties) -> PyIcebergCatalog:
            return open_pyiceberg("one", properties)

        found = _together(6, opened)
        assert [one for one in found if not isinstance(one, SqlCatalog)] == []


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file of pyiceberg's, and settings in the environment."""
    file = tmp_path / ".pyiceberg.yaml"
    file.write_text(
        "catalog:\n"
        "  filed:\n"
        "    type: sql\n"
        f"    uri: sqlite:///{tmp_path}/filed.db\n"
        f"    warehouse: {tmp_path}/filed\n"
        "  imported:\n"
        "    py-catalog-impl: pyiceberg.catalog.sql.SqlCatalog\n"
        f"    uri: sqlite:///{tmp_path}/imported.db\n"
        f"    warehouse: {tmp_path}/imported\n"
    )
    monkeypatch.setenv("PYICEBERG_HOME", str(tmp_path))
    monkeypatch.setenv("PYICEBERG_CATALOG__SET__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__SET__URI", f"sqlite:///{tmp_path}/set.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__SET__WAREHOUSE", f"{tmp_path}/set")
    return tmp_path


@pytest.mark.parametrize("name", ["filed", "imported", "set"])
def test_catalogs_are_found_by_name_as_pyiceberg_finds_them(configured: Path, name: str) -> None:
    stream = bw.load_catalog(name).create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    assert (configured / f"{name}.db").exists()
    assert list((configured / name / "demo").glob("tokens-*/data"))
    catalog = bw.load_catalog(name)
    assert catalog.list_streams() == [NAME]
    assert numbers(catalog.load_stream(NAME)) == [0, 1, 2]


def test_arguments_win_over_what_is_configured(configured: Path) -> None:
    catalog = bw.load_catalog("filed", warehouse=str(configured / "other"))
    catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    assert list((configured / "other" / "demo").glob("tokens-*"))


def test_a_class_of_ones_own_is_a_catalog(tmp_path: Path) -> None:
    """Whatever pyiceberg can load: here one that has nothing but pyiceberg's methods."""
    properties = {
        "py-catalog-impl": "tests.servers.wrapped.Wrapped",
        "uri": f"sqlite:///{tmp_path}/catalog.db",
        "warehouse": str(tmp_path),
    }
    place = Place(properties, "demo")
    place.make()
    writer = place.writer()
    head = writer.commit(40)
    assert type(place.plain()).__name__ == "Wrapped"
    assert len(head.detail.metadata.snapshots) <= 2 * iceberg_commit.SNAPSHOTS_LIVE
    reader = place.table()
    known = reader.head()
    assert reader.head(known) is known
    _check_whole(place, {"p": 40})
    place.catalog().drop_stream(place.name)


def test_the_creation_token_is_the_creators(sqlite: Place) -> None:
    sqlite.make()
    properties = sqlite.plain().load_table(sqlite.identifier).properties
    assert len(properties[CREATION]) == 32
    assert CREATION.startswith(PREFIX), "users' own properties cannot begin so"
