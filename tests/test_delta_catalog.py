"""What a catalog of Delta tables promises: a name is one stream, found by whoever looks there."""

from __future__ import annotations

import datetime
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import batchweave as bw
from batchweave.catalogs import delta_log, versions
from batchweave.catalogs.delta_catalog import DeltaCatalog
from batchweave.catalogs.delta_checkpoint import LOG
from batchweave.catalogs.delta_schema import file_schema, table_schema
from batchweave.errors import StoreUnavailable
from tests.delta_world import FOLDER, NAME, World, plain
from tests.servers.seaweed import S3Server
from tests.streams import QUICK, TOKENS, numbers, publish_numbers, tokens
from tests.watched import Watch, WatchedObjects

MESH = bw.Mesh(dp=2)


@pytest.fixture(params=["memory", "folder"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> bw.Catalog:
    warehouse = "memory://here" if request.param == "memory" else f"{tmp_path}/ware house ü"
    return bw.load_catalog("local", type="delta", warehouse=warehouse)


def _create(catalog: bw.Catalog, name: str = NAME, **properties: str) -> bw.Stream:
    return catalog.create_stream(name, schema=TOKENS, mesh=MESH, properties=properties)


# -- names -------------------------------------------------------------------------------------


def test_a_stream_is_created_published_read_followed_listed_and_dropped(
    catalog: bw.Catalog,
) -> None:
    stream = _create(catalog, owner="me")
    _create(catalog, "demo.deep.other")
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 5)
        producer.flush()
        assert numbers(catalog.load_stream(NAME)) == [0, 1, 2, 3, 4]
        reader = stream.read(slice=1, start=3, follow=True)
        publish_numbers(producer, 5, 2)
        producer.flush()
        stream.seal()
    with reader:
        assert [batch.step for batch in reader] == [3, 4, 5, 6]
    assert catalog.list_streams() == ["demo.deep.other", NAME]
    assert catalog.load_stream(NAME).head().producers["p"].sequence == 6
    catalog.drop_stream(NAME)
    assert catalog.list_streams() == ["demo.deep.other"]
    left = [info.path for info in plain(catalog).objects.list("demo/tokens")]
    assert left == []
    with pytest.raises(bw.StreamNotFound, match=r"demo\.tokens"):
        catalog.load_stream(NAME)
    with pytest.raises(bw.StreamNotFound):
        catalog.drop_stream(NAME)
    assert _create(catalog).head().next_step == 0


def test_another_process_finds_it_by_its_name(tmp_path: Path) -> None:
    properties = {"type": "delta", "warehouse": str(tmp_path)}
    _create(bw.load_catalog("one", **properties), owner="me")
    found = bw.load_catalog("two", **properties).load_stream(NAME)
    assert (found.schema, found.mesh) == (TOKENS, MESH)
    assert found.table.head().detail.configuration["owner"] == "me"


def test_properties_come_from_configuration_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _create(bw.load_catalog("x", type="delta", warehouse=str(tmp_path)))
    home = tmp_path / "home"
    home.mkdir()
    (home / ".pyiceberg.yaml").write_text(
        f"catalog:\n  lake:\n    type: delta\n    warehouse: {tmp_path}/nowhere\n"
    )
    monkeypatch.setenv("PYICEBERG_HOME", str(home))
    assert bw.load_catalog("lake").list_streams() == []
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", str(tmp_path))
    assert bw.load_catalog("lake").list_streams() == [NAME]
    assert bw.load_catalog("lake", warehouse=f"{tmp_path}/other").list_streams() == []


def test_a_missing_warehouse_is_refused() -> None:
    with pytest.raises(bw.InvalidSettings, match="needs a warehouse"):
        bw.load_catalog("nameless-lake", type="delta")


def test_one_of_many_concurrent_creators_wins(catalog: bw.Catalog) -> None:
    start = threading.Barrier(8)
    outcomes: list[type] = []

    def create() -> None:
        start.wait()
        try:
            _create(catalog, "demo.raced")
            outcomes.append(bw.Stream)
        except bw.StreamExists as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.__name__ for one in outcomes) == ["Stream"] + ["StreamExists"] * 7


@pytest.mark.parametrize("landed", [True, False])
def test_creating_with_a_lost_answer_is_creating_if_it_landed(landed: bool) -> None:
    catalog = bw.load_catalog("local", type="delta", warehouse="memory://here")
    watched = WatchedObjects(plain(catalog).objects)
    plain(catalog).objects = watched

    def lose(verb: str, path: str) -> None:
        if verb == "create" and LOG in path:
            raise StoreUnavailable("the connection broke")

    if landed:
        watched.watch.after = lose
        assert _create(catalog).head().next_step == 0
    else:
        watched.watch.before = lose
        with pytest.raises(StoreUnavailable):
            _create(catalog)
        watched.watch.before = Watch().before
        assert catalog.list_streams() == []


def test_streams_do_not_nest(catalog: bw.Catalog) -> None:
    _create(catalog, "a.b")
    with pytest.raises(bw.InvalidName, match=r"a\.b is a table"):
        _create(catalog, "a.b.c")
    _create(catalog, "a.d.e")
    with pytest.raises(bw.StreamExists, match=r"a\.d is a namespace"):
        _create(catalog, "a.d")
    with pytest.raises(bw.StreamExists, match=r"a\.b exists already"):
        _create(catalog, "a.b")
    assert catalog.list_streams() == ["a.b", "a.d.e"]


def test_a_name_does_not_see_its_look_alikes(catalog: bw.Catalog) -> None:
    _create(catalog, "demo.tokens2")
    _create(catalog)
    catalog.drop_stream(NAME)
    assert catalog.list_streams() == ["demo.tokens2"]


def test_a_table_that_is_no_stream_is_left_alone(tmp_path: Path) -> None:
    import deltalake

    catalog = bw.load_catalog("local", type="delta", warehouse=str(tmp_path))
    deltalake.write_deltalake(str(tmp_path / "demo" / "theirs"), pa.table({"n": [1]}))
    _create(catalog)
    assert catalog.list_streams() == [NAME]
    for call in (catalog.load_stream, catalog.drop_stream):
        with pytest.raises(bw.NotAStream, match=r"demo\.theirs"):
            call("demo.theirs")
    assert deltalake.DeltaTable(str(tmp_path / "demo" / "theirs")).version() == 0


def test_a_table_of_the_other_format_under_the_name_is_refused(tmp_path: Path) -> None:
    delta = bw.load_catalog("delta", type="delta", warehouse=str(tmp_path))
    iceberg = bw.load_catalog("iceberg", type="object-store", warehouse=str(tmp_path))
    _create(delta, "demo.delta")
    _create(iceberg, "demo.iceberg")
    with pytest.raises(bw.StreamExists, match=r"demo\.iceberg .* Iceberg table"):
        _create(delta, "demo.iceberg")
    with pytest.raises(bw.StreamExists, match=r"demo\.delta .* Delta table"):
        _create(iceberg, "demo.delta")
    with pytest.raises(bw.NotAStream, match="Iceberg"):
        delta.load_stream("demo.iceberg")
    with pytest.raises(bw.NotAStream, match="Iceberg"):
        iceberg.load_stream("demo.delta")
    for catalog, above in ((delta, "demo.iceberg"), (iceberg, "demo.delta")):
        with pytest.raises(bw.InvalidName, match=f"{above} is a table"):
            _create(catalog, f"{above}.below")
        with pytest.raises((bw.NotAStream, bw.StreamNotFound)):
            catalog.drop_stream(above)
    assert delta.list_streams() == ["demo.delta"]
    assert iceberg.list_streams() == ["demo.iceberg"]


@pytest.mark.parametrize(("outer", "inner"), [("delta", "object-store"), ("object-store", "delta")])
def test_nothing_is_created_around_a_table_of_the_other_format(
    outer: str, inner: str, tmp_path: Path
) -> None:
    below = _create(bw.load_catalog("inner", type=inner, warehouse=str(tmp_path)), "demo.x.below")
    with below.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    catalog = bw.load_catalog("outer", type=outer, warehouse=str(tmp_path))
    with pytest.raises(bw.StreamExists, match=r"demo\.x is a namespace, below in it is a table"):
        _create(catalog, "demo.x")
    assert numbers(below) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["delta", "object-store"])
def test_dropping_spares_a_table_of_either_format_inside_of_the_folder(
    kind: str, tmp_path: Path
) -> None:
    """As one comes there that was created at the same time, or by another program."""
    catalog = bw.load_catalog("outer", type=kind, warehouse=str(tmp_path))
    with _create(catalog).producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    folder = tmp_path / "demo" / "tokens"
    theirs = [
        "delta/_delta_log/00000000000000000000.json",
        "delta/data/v000000000001/p.parquet",
        "iceberg/metadata/v1.metadata.json",
        "iceberg/data/v000000000001/p.parquet",
        "sql-1a/metadata/00000-1a.metadata.json",
        "sql-1a/data/p.parquet",
    ]
    for path in theirs:
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text("of somebody else")
    catalog.drop_stream(NAME)
    left = [one for one in folder.rglob("*") if one.is_file()]
    assert sorted(str(one.relative_to(folder)) for one in left) == sorted(theirs)


def test_a_newer_format_is_told_from_a_foreign_table(tmp_path: Path) -> None:
    catalog = bw.load_catalog("local", type="delta", warehouse=str(tmp_path))
    _create(catalog)
    entry = tmp_path / "demo" / "tokens" / LOG / f"{0:020d}.json"
    text = entry.read_text()
    newer = text.replace('"batchweave.format-version":"1"', '"batchweave.format-version":"9"')
    assert newer != text
    entry.write_text(newer)
    with pytest.raises(bw.UnsupportedFormat, match="format version 9"):
        catalog.load_stream(NAME)
    assert catalog.list_streams() == [NAME]


# -- dropping ----------------------------------------------------------------------------------


def test_dropping_may_be_interrupted_anywhere_and_done_again() -> None:
    for stop_at in range(1, 12):
        world = World.make()
        writer = world.writer()
        for _ in range(3):
            writer.commit()
        deletions = 0

        def fail(verb: str, path: str, stop_at: int = stop_at) -> None:
            nonlocal deletions
            deletions += verb == "delete"
            if verb == "delete" and deletions > stop_at:
                raise StoreUnavailable("no")

        world.watch.before = fail
        try:
            world.catalog.drop_stream(NAME)
        except StoreUnavailable:
            world.watch.before = Watch().before
            if plain(world.catalog)._is_delta(("demo", "tokens")):
                world.catalog.drop_stream(NAME)
        world.watch.before = Watch().before
        assert world.log() == [] or not any(name.endswith(".json") for name in world.log())
        stream = _create(world.catalog)
        assert stream.head().next_step == 0


def test_a_stream_created_while_its_namesake_is_dropped_keeps_its_files() -> None:
    world = World.make()
    world.writer().commit()
    other = world.other()

    def create(verb: str, path: str) -> None:
        if verb == "delete" and path.endswith(f"{2:020d}.json"):
            world.watch.after = Watch().after
            _create(other)
            with other.load_stream(NAME).producer("new", QUICK) as producer:
                producer.publish([tokens(7)] * 2)

    world.watch.after = create
    world.catalog.drop_stream(NAME)
    assert numbers(other.load_stream(NAME)) == [7]
    assert all("new" in one.path for one in world.objects.inner.list(f"{FOLDER}/data"))


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_an_entry_that_a_killed_writer_of_a_dropped_stream_left_is_passed_over(ahead: int) -> None:
    world = World.make()
    old = world.writer("old")
    for _ in range(3 + ahead):
        number = old.commit().version
    path = f"{FOLDER}/{LOG}/{number:020d}.json"
    left = bytes(world.objects.inner.get(path)[0])
    world.catalog.drop_stream(NAME)
    _create(world.catalog)
    live, follower = world.writer("new"), world.table()
    known = follower.head()
    while (head := live.commit()).version < number - ahead:
        pass
    world.objects.inner.create(path, left)
    while True:
        known = follower.head(known)
        assert known.state == world.table().head().state == head.state
        if head.version > number + 1:
            break
        head = live.commit()
    assert set(head.state.producers) == {"new"}


def test_upkeep_of_a_dropped_table_spares_its_namesakes_checkpoint_and_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions, "VERSIONS_KEPT", 4)
    monkeypatch.setattr(delta_log, "LINKS_PER_CHECKPOINT_MIN", 1000)
    world = World.make()
    sleeper = world.writer("old")
    for _ in range(12):
        head = sleeper.commit()
    world.catalog.drop_stream(NAME)
    _create(world.catalog)
    live = world.writer("new")
    while (now := live.commit()).version < head.version:
        if now.version == head.version - 6:
            live.table._upkeep.write_checkpoint(now.detail)
    live.table._upkeep.write_checkpoint(now.detail)
    files = {one.path: one.e_tag for one in world.objects.inner.list(f"{FOLDER}/{LOG}")}
    monkeypatch.setattr(delta_log, "LINKS_PER_CHECKPOINT_MIN", 1)
    sleeper.table._upkeep.run(head.detail)
    assert {one.path: one.e_tag for one in world.objects.inner.list(f"{FOLDER}/{LOG}")} == files


def test_the_repr_shows_no_credentials() -> None:
    catalog = DeltaCatalog(
        "x",
        {
            "warehouse": "s3://bucket/w",
            "s3.access-key-id": "FAKEKEY",
            "s3.secret-access-key": "FAKESECRET",
        },
    )
    assert "FAKE" not in repr(catalog)
    assert "s3://bucket/w" in repr(catalog)


# -- schemas -----------------------------------------------------------------------------------

UUID = pa.uuid()
EVERY_TYPE: dict[str, tuple[pa.DataType, list[Any]]] = {
    "u8": (pa.uint8(), [0, 255]),
    "u64": (pa.uint64(), [0, 2**64 - 1]),
    "f16": (pa.float16(), [np.float16(1.5), None]),
    "flag": (pa.bool_(), [True, None]),
    "day": (pa.date64(), [datetime.date(2024, 2, 29), None]),
    "t32": (pa.time32("s"), [datetime.time(23, 59, 59), None]),
    "t64": (pa.time64("us"), [datetime.time(1, 2, 3, 4), None]),
    "t64ns": (pa.time64("ns"), [datetime.time(1, 2, 3, 4), None]),
    "ts_s": (pa.timestamp("s"), [datetime.datetime(1969, 1, 1), None]),
    "ts_ns": (pa.timestamp("ns", "UTC"), [1, None]),
    "span": (pa.duration("ms"), [datetime.timedelta(seconds=1), None]),
    "dec": (pa.decimal128(38, 9), [Decimal("1.000000001"), None]),
    "fixed": (pa.binary(16), [b"x" * 16, None]),
    "uuid": (UUID, [b"y" * 16, None]),
    "large": (pa.large_string(), ["ä", None]),
    "view": (pa.binary_view(), [b"", None]),
    "words": (pa.dictionary(pa.int8(), pa.string()), ["a", "a"]),
    "nothing": (pa.null(), [None, None]),
    "times": (pa.list_(pa.time64("us")), [[datetime.time(1)], [None]]),
    "fixed_list": (pa.list_(pa.float32(), 2), [[1.0, 2.0], [3.0, 4.0]]),
    "pairs": (pa.map_(pa.string(), pa.time32("ms")), [[("k", datetime.time(2))], []]),
    "record": (
        pa.struct([("a", pa.binary(2)), ("b", pa.list_(pa.struct([("c", pa.uint32())])))]),
        [{"a": b"zz", "b": [{"c": 2**32 - 1}]}, None],
    ),
}


def test_every_type_comes_back_as_it_went_in(catalog: bw.Catalog) -> None:
    schema = pa.schema([(name, kind) for name, (kind, _) in EVERY_TYPE.items()])
    rows = pa.table(
        {name: pa.array(values, kind) for name, (kind, values) in EVERY_TYPE.items()},
        schema=schema,
    )
    stream = catalog.create_stream("demo.types", schema=schema, mesh=bw.Mesh(dp=1))
    with stream.producer("p", QUICK) as producer:
        producer.publish([rows])
    (batch,) = catalog.load_stream("demo.types").read(slice=0)
    assert batch.table.schema == schema
    assert batch.table.to_pydict() == rows.to_pydict()


def test_a_time_of_day_is_a_number_of_microseconds_to_engines() -> None:
    schema = pa.schema([("at", pa.list_(pa.time32("ms")))])
    assert '"elementType":"long"' in table_schema(schema)
    assert file_schema(schema).field("at").type.value_type == pa.int64()


def test_only_streams_that_need_it_ask_readers_for_a_feature(catalog: bw.Catalog) -> None:
    plainest = _create(catalog).table.head().detail.protocol
    assert plainest == {
        "minReaderVersion": 1,
        "minWriterVersion": 7,
        "writerFeatures": ["domainMetadata"],
    }
    schema = pa.schema([("at", pa.list_(pa.timestamp("us")))])
    stream = catalog.create_stream("demo.local", schema=schema, mesh=MESH)
    protocol = stream.table.head().detail.protocol
    assert protocol["minReaderVersion"] == 3
    assert protocol["readerFeatures"] == ["timestampNtz"]


def _refused_schemas() -> list[tuple[pa.Schema, type[Exception], str]]:
    spaced = pa.schema([("two words", pa.int64())])
    inner = pa.schema([("a", pa.list_(pa.struct([("b;c", pa.int64())])))])
    folded = pa.schema([("a", pa.struct([("x", pa.int64()), ("X", pa.int64())]))])
    return [
        (spaced, bw.SchemaMismatch, "'two words' has ' '"),
        (inner, bw.SchemaMismatch, "'b;c' has ';'"),
        (folded, bw.SchemaMismatch, "differ by more than case"),
        (pa.schema([("a", pa.month_day_nano_interval())]), bw.UnsupportedType, "'a'"),
    ]


@pytest.mark.parametrize(("schema", "kind", "said"), _refused_schemas())
def test_what_delta_cannot_hold_is_refused_before_anything_is_written(
    catalog: bw.Catalog, schema: pa.Schema, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        catalog.create_stream("demo.odd", schema=schema, mesh=MESH)
    assert list(plain(catalog).objects.list()) == []


def test_properties_of_delta_itself_are_refused(catalog: bw.Catalog) -> None:
    with pytest.raises(bw.InvalidSettings, match=r"delta\.columnMapping\.mode"):
        _create(catalog, **{"delta.columnMapping.mode": "name"})
    stream = _create(catalog, **{"delta.logRetentionDuration": "interval 1 days"})
    configuration = stream.table.head().detail.configuration
    assert configuration["delta.logRetentionDuration"] == "interval 1 days"
    assert configuration["delta.enableExpiredLogCleanup"] == "false"


# -- S3 ----------------------------------------------------------------------------------------


def test_a_stream_on_s3_is_written_by_many_and_read_by_other_engines(s3: S3Server) -> None:
    import deltalake

    properties = s3.properties(s3.bucket())
    catalog = bw.load_catalog("s3", type="delta", **properties)
    stream = _create(catalog)
    errors: list[BaseException] = []

    def publish(index: int) -> None:
        try:
            mine = bw.load_catalog("s3", type="delta", **properties).load_stream(NAME)
            with mine.producer(f"p{index}", QUICK) as producer:
                publish_numbers(producer, 100 * index, 20)
        except Exception as error:  # noqa: BLE001 - told by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = numbers(stream)
    assert sorted(found) == [100 * p + n for p in range(3) for n in range(20)]
    for p in range(3):
        assert [n for n in found if n // 100 == p] == [100 * p + n for n in range(20)]
    table = deltalake.DeltaTable(
        stream.table.objects.uri,
        storage_options={
            "AWS_ENDPOINT_URL": properties["s3.endpoint"],
            "AWS_ACCESS_KEY_ID": properties["s3.access-key-id"],
            "AWS_SECRET_ACCESS_KEY": properties["s3.secret-access-key"],
            "AWS_REGION": properties.get("s3.region", "us-east-1"),
            "AWS_ALLOW_HTTP": "true",
        },
    )
    steps = table.to_pyarrow_table(columns=["step"])["step"].to_pylist()
    assert sorted(set(steps)) == list(range(60))
    catalog.drop_stream(NAME)
    assert catalog.list_streams() == []


def test_commits_on_s3_go_on_through_checkpoints_and_clean_up(s3: S3Server) -> None:
    warehouse = s3.properties(s3.bucket())
    world = _world_at(warehouse)
    writer = world.writer()
    for _ in range(200):
        head = writer.commit()
    assert f"{0:020d}.json" not in world.log()
    stream = bw.load_catalog("s3", type="delta", **warehouse).load_stream(NAME)
    assert stream.head() == head.state
    assert [batch.step for batch in stream.batches()] == list(range(200))


def _world_at(properties: dict[str, str]) -> World:
    catalog = bw.load_catalog("s3", type="delta", **properties)
    made = World.make()
    made.objects.inner = plain(catalog).objects
    plain(catalog).objects = made.objects
    made.catalog = catalog
    _create(catalog)
    return made
