"""SQL over batch history: what the views hold, moments, several streams, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import batchweave as bw
from batchweave.sql.session import VIEWS, Session
from batchweave.sql.views import STATE_TABLES, axes, described
from tests.servers.proxy import Proxy
from tests.servers.seaweed import S3Server
from tests.streams import QUICK

SCHEMA = pa.schema([("doc", pa.string()), ("n", pa.int64())])
FORMATS = pytest.mark.parametrize("kind", ["object-store", "delta"])


def make(
    kind: str, folder: Path, mesh: bw.Mesh | None = None, name: str = "demo.docs"
) -> bw.Stream:
    catalog = bw.load_catalog("sql", type=kind, warehouse=str(folder / kind))
    return catalog.create_stream(name, schema=SCHEMA, mesh=mesh or bw.Mesh(dp=2, cp=2))


def publish(stream: bw.Stream, name: str, first: int, count: int) -> None:
    """One batch a commit: slice s of item i has s + 1 rows."""
    with stream.producer(name, QUICK) as producer:
        for item in range(first, first + count):
            slices = [
                {"doc": [f"{name}-{item}"] * (at + 1), "n": list(range(at + 1))}
                for at in range(stream.mesh.slices)
            ]
            producer.publish(slices, position=item + 1, source=f"{name}/{item}")
            producer.flush()


@pytest.fixture
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> bw.Stream:
    """Steps 0 to 2 by a, checkpoint one; 3 and 4 by b, checkpoint two; 5 by a."""
    made = make(getattr(request, "param", "object-store"), tmp_path)
    publish(made, "a", 0, 3)
    made.checkpoints.register("one", next_step=3)
    publish(made, "b", 0, 2)
    made.checkpoints.register("two", next_step=5, consumer="run-b")
    publish(made, "a", 3, 1)
    return made


both = pytest.mark.parametrize("stream", ["object-store", "delta"], indirect=True)


# -- the views ---------------------------------------------------------------------------------


@both
def test_batches_are_one_row_a_step_with_what_the_metadata_knows(stream: bw.Stream) -> None:
    found = stream.sql(
        "select step, producer, sequence, parts, slices, rows, sources, checkpoint, reclaimed, "
        "skew > 1 from batches"
    ).fetchall()
    assert found == [
        (0, "a", 0, 1, 4, 10, ["a/0"], "one", False, True),
        (1, "a", 1, 1, 4, 10, ["a/1"], "one", False, True),
        (2, "a", 2, 1, 4, 10, ["a/2"], "one", False, True),
        (3, "b", 0, 1, 4, 10, ["b/0"], "two", False, True),
        (4, "b", 1, 1, 4, 10, ["b/1"], "two", False, True),
        (5, "a", 3, 1, 4, 10, ["a/3"], None, False, True),
    ]
    digests = [[part.digest for part in batch.parts] for batch in stream.batches()]
    assert [one for (one,) in stream.sql("select digests from batches").fetchall()] == digests


@both
def test_slices_tell_where_each_lies_and_how_large_it_is(stream: bw.Stream) -> None:
    found = stream.sql(
        'select slice, dp, cp, path, "offset", bytes from slices where step = 4'
    ).fetchall()
    (part,) = next(iter(stream.batches(4, 5))).parts
    bounds = [*part.offsets, part.data_end]
    assert found == [
        (at, at // 2, at % 2, part.path, bounds[at], bounds[at + 1] - bounds[at]) for at in range(4)
    ]
    assert stream.sql("select slice, rows from slice_rows where step = 4").fetchall() == [
        (at, at + 1) for at in range(4)
    ]


@both
def test_samples_know_their_place_on_the_mesh(stream: bw.Stream) -> None:
    found = stream.sql(
        "select slice, dp, cp, count(*) from samples where step = 2 group by all order by all"
    ).fetchall()
    assert found == [(0, 0, 0, 1), (1, 0, 1, 2), (2, 1, 0, 3), (3, 1, 1, 4)]


def test_an_axis_named_like_a_column_gets_another_name() -> None:
    assert axes(bw.Mesh(dp=2, cp=3), ["DP", "mesh_dp"]) == (
        ', (slice // 3 % 2)::integer as "mesh_mesh_dp", (slice // 1 % 3)::integer as "cp"'
    )


@both
def test_commits_producers_checkpoints_and_consumers(stream: bw.Stream) -> None:
    commits = stream.sql(
        "select version, producer, first_step, last_step, steps, rows from commits"
    ).fetchall()
    assert [row[1:] for row in commits] == [
        ("a", 0, 0, 1, 10), ("a", 1, 1, 1, 10), ("a", 2, 2, 1, 10),
        ("b", 3, 3, 1, 10), ("b", 4, 4, 1, 10), ("a", 5, 5, 1, 10),
    ]  # fmt: skip
    versions = [row[0] for row in commits]
    assert versions == sorted(set(versions))
    assert versions[-1] <= stream.table.head().version
    producers = stream.sql(
        "select producer, generation, sequence, step, batches, rows, first_step, lag_steps, "
        "position::json->>'json', idle >= interval 0 second from producers"
    ).fetchall()
    assert producers == [
        ("a", 2, 3, 5, 4, 40, 0, 0, "4", True),
        ("b", 1, 1, 4, 2, 20, 3, 1, "2", True),
    ]
    checkpoints = "select checkpoint, consumer, next_step from checkpoints"
    assert stream.sql(checkpoints).fetchall() == [("one", "default", 3), ("two", "run-b", 5)]
    consumers = "select consumer, checkpoints, furthest, next_step, lag_steps from consumers"
    assert stream.sql(consumers).fetchall() == [
        ("default", 1, "one", 3, 3),
        ("run-b", 1, "two", 5, 1),
    ]
    state = stream.sql("select next_step, sealed, slices, stop from stream_state").fetchall()
    assert state == [(6, False, 4, 6)]
    assert stream.sql("select bool_and(own) from snapshots").fetchall() == [(True,)]


@both
def test_what_was_reclaimed_is_in_the_same_views(stream: bw.Stream) -> None:
    questions = (
        "select step, producer, sequence, committed_at, version, rows, bytes, digests, sources, "
        "checkpoint from batches",
        "select producer, first_step, steps, rows, bytes from commits",
        "select producer, batches, rows, bytes, first_step from producers",
    )
    before = [stream.sql(question).fetchall() for question in questions]
    report = stream.reclaim(keep_checkpoints=1, grace_s=0)
    assert report.watermark == 3
    assert [stream.sql(question).fetchall() for question in questions] == before
    gone = stream.sql("select step from batches where reclaimed").fetchall()
    assert gone == [(0,), (1,), (2,)]
    assert stream.sql("select step, source from sources where reclaimed").fetchall() == [
        (0, "a/0"), (1, "a/1"), (2, "a/2"),
    ]  # fmt: skip
    assert stream.sql("select min(step) from samples").fetchall() == [(3,)]
    stream.checkpoints.drop("one")
    (remembered,) = stream.sql(
        "select any_value(checkpoint) from batches where step = 0"
    ).fetchall()
    assert remembered == ("one",), "a dropped checkpoint has seen it all the same"


def test_batches_of_several_parts_are_one_row(tmp_path: Path) -> None:
    stream = make("object-store", tmp_path, bw.Mesh(dp=4))
    settings = bw.ProducerSettings(freshness_s=0.05, slices_per_file=2)
    with stream.producer("p", settings) as producer:
        producer.publish([{"doc": ["x"], "n": [1]}] * 4, source=["s0", "s1", "s2", "s2"])
    rows = stream.sql("select parts, slices, len(digests), sources from batches").fetchall()
    assert rows == [(2, 4, 2, None)], "slices 0 and 1 differ, so only their file tells"
    found = stream.sql("select part, first_slice, slices, source from parts").fetchall()
    assert found == [(0, 0, 2, None), (1, 2, 2, "s2")]
    assert stream.sql("select slice, source from sources").fetchall() == [
        (0, "s0"), (1, "s1"), (2, "s2"), (3, "s2"),
    ]  # fmt: skip


@FORMATS
def test_every_view_of_an_empty_stream_is_empty(kind: str, tmp_path: Path) -> None:
    with Session(make(kind, tmp_path)) as session:
        for view in VIEWS:
            assert session.sql(f"from {view}").fetchall() == [], view
        assert len(session.sql("from stream_state").fetchall()) == 1


def test_each_view_is_described() -> None:
    assert list(described()) == [*VIEWS, *STATE_TABLES]
    assert all(len(text) > 10 for text in described().values())


# -- moments -----------------------------------------------------------------------------------


@both
def test_a_session_can_see_an_older_moment(stream: bw.Stream) -> None:
    versions = dict(stream.sql("select last_step, version from commits").fetchall())
    times = dict(stream.sql("select step, committed_at from batches").fetchall())
    moments: dict[object, int] = {
        0: 0,
        4: 4,
        "step:4": 4,
        "6": 6,
        "checkpoint:one": 3,
        "checkpoint:two": 5,
        f"version:{versions[1]}": 2,
        f"version:{stream.table.head().version}": 6,
        "version:0": 0,
        times[3]: 4,
        times[3] - timedelta(milliseconds=1): 3,
        f"time:{times[2].astimezone(UTC).isoformat()}": 3,
        datetime(2020, 1, 1): 0,
        datetime(2100, 1, 1, tzinfo=UTC): 6,
    }
    for moment, stop in moments.items():
        for view in ("samples", "batches", "slices", "parts"):
            (found,) = stream.sql(
                f"select coalesce(max(step) + 1, 0) from {view}", at=moment
            ).fetchall()
            assert found == (stop,), (moment, view)
    seen = stream.sql("select checkpoint from checkpoints", at="checkpoint:one").fetchall()
    assert seen == [("one",)]
    lag = stream.sql("select producer, batches, lag_steps from producers", at=4).fetchall()
    assert lag[1] == ("b", 1, -1), "the state is the head's, the counts are the moment's"


def test_a_snapshot_of_iceberg_is_a_moment(stream: bw.Stream) -> None:
    for snapshot, last in stream.sql("select snapshot, last_step from commits").fetchall():
        found = stream.sql("select max(step) from samples", at=f"snapshot:{snapshot}").fetchall()
        assert found == [(last,)]


def test_a_moment_before_the_watermark_is_told_by_the_ledger(stream: bw.Stream) -> None:
    stream.reclaim(keep_checkpoints=1, grace_s=0)
    assert stream.sql("select count(*) from batches", at=2).fetchall() == [(2,)]
    assert stream.sql("select count(*) from samples", at=2).fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        (7, "it never was 7"),
        (-1, "it never was -1"),
        (True, "at is a step"),
        (1.5, "at is a step"),
        ("nonsense", "at is a step"),
        ("when:now", "at is a step"),
        ("step:x", "a step is a whole number"),
        ("step:²", "a step is a whole number"),
        ("²", "at is a step"),
        ("snapshot:" + "9" * 40, "a snapshot is a whole number"),
        ("version:999", "not yet at 999"),
        ("snapshot:1", "no commit that the table still knows"),
        ("snapshot:1 or true", "a snapshot is a whole number"),
        ("time:yesterday", "ISO 8601"),
    ],
)
def test_a_moment_that_never_was_is_refused(stream: bw.Stream, moment: object, says: str) -> None:
    with pytest.raises(bw.InvalidInput, match=says):
        stream.sql("from batches", at=moment)


def test_a_checkpoint_that_is_not_there_is_told_with_those_that_are(stream: bw.Stream) -> None:
    with pytest.raises(bw.CheckpointNotFound, match="one, two"):
        stream.sql("from batches", at="checkpoint:three' or 1=1 --")


# -- several streams, and tables of one's own --------------------------------------------------


def test_streams_of_both_formats_and_own_tables_join_in_one_session(
    stream: bw.Stream, tmp_path: Path
) -> None:
    other = make("delta", tmp_path, bw.Mesh(dp=1), "other.docs")
    publish(other, "z", 0, 2)
    with Session(stream) as session:
        session.attach("other", other, at=1)
        session.register("arrow_names", pa.table({"doc": ["a-0"], "title": ["A nought"]}))
        session.register("polars_names", pl.DataFrame({"doc": ["z-0"], "title": ["Z nought"]}))
        pandas = pa.table({"doc": ["b-0"], "title": ["B"]}).to_pandas()
        session.register("pandas_names", pandas)
        found = session.sql(
            "select title, count(*) from (from samples select doc union all "
            "from other.samples select doc) join (from arrow_names union all from polars_names "
            "union all from pandas_names) using (doc) group by title order by title"
        )
        assert found.fetchall() == [("A nought", 10), ("B", 10), ("Z nought", 1)]
        assert session.sql("select max(step) from other.batches").fetchall() == [(0,)]
        assert session.sql("select max(step) from batches").fetchall() == [(5,)]


@pytest.mark.parametrize(
    "alias", ["", "1a", "a b", 'a"b', "a.b", "samples", "Batches", "temp", "memory", "x" * 64, None]
)
def test_a_name_in_a_session_is_plain_and_free(stream: bw.Stream, alias: str) -> None:
    with Session(stream) as session:
        with pytest.raises(bw.InvalidName):
            session.attach(alias, stream)
        with pytest.raises(bw.InvalidName):
            session.register(alias, pa.table({}))
        session.attach("taken", stream)
        with pytest.raises(bw.InvalidName, match="taken"):
            session.register("Taken", pa.table({"x": [1]}))


def test_parameters_are_bound_and_never_pasted(stream: bw.Stream) -> None:
    hostile = "a'; drop view samples; --"
    found = stream.sql("select $p, count(*) from batches where producer = $p", {"p": hostile})
    assert found.fetchall() == [(hostile, 0)]
    assert stream.sql("select count(*) from batches where step < ?", [2]).fetchall() == [(2,)]


def test_a_query_does_not_see_variables_of_the_program(stream: bw.Stream) -> None:
    query = pa.table({"x": [1]})
    assert query.num_rows == 1
    with pytest.raises(bw.InvalidSettings):
        stream.sql("from query").fetchall()


def test_sessions_ask_from_many_threads(s3: S3Server) -> None:
    catalog = bw.load_catalog("s3", type="object-store", **s3.properties(s3.bucket()))
    stream = catalog.create_stream("demo.docs", schema=SCHEMA, mesh=bw.Mesh(dp=2, cp=2))
    publish(stream, "a", 0, 6)
    wrong: list[object] = []

    def ask(step: int) -> None:
        try:
            for _ in range(4):
                found = stream.sql("select count(*) from samples where step = $s", {"s": step})
                if found.fetchall() != [(10,)]:
                    wrong.append(step)
        except bw.BatchWeaveError as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(step,)) for step in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_session_stays_on_its_version_while_the_stream_goes_on(stream: bw.Stream) -> None:
    with Session(stream) as session:
        publish(stream, "a", 4, 1)
        stream.checkpoints.register("late", next_step=7)
        for view, last in {"samples": 5, "batches": 5}.items():
            assert session.sql(f"select max(step) from {view}").fetchall() == [(last,)]
        assert session.sql("select count(*) from checkpoints").fetchall() == [(2,)]
    assert stream.sql("select max(step) from samples").fetchall() == [(6,)]


# -- safety ------------------------------------------------------------------------------------


@pytest.fixture
def locked(stream: bw.Stream) -> Iterator[Session]:
    with Session(stream, read_only=True) as session:
        yield session


@both
@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1) to '{folder}/out.csv'",
        "copy (from samples) to '{table}/out.parquet'",
        "explain analyze copy (select 1) to '{folder}/out.csv'",
        "attach '{folder}/own.db' as own",
        "export database '{folder}/out'",
        "create table mine as select 1",
        "set enable_external_access = true",
        "pragma enable_profiling",
        "load spatial",
        "install spatial",
        "select 1; copy (select 1) to '{folder}/out.csv'",
        "create secret s (type s3, key_id 'a', secret 'b')",
        "from read_text('{folder}/private.txt')",
        "from read_csv('{folder}/private.txt')",
        "from glob('{folder}/*')",
        "from '{folder}/private.csv'",
    ],
)
def test_a_read_only_session_writes_and_reads_nothing_else(
    stream: bw.Stream, locked: Session, query: str, tmp_path: Path
) -> None:
    (tmp_path / "private.txt").write_text("mine\n")
    (tmp_path / "private.csv").write_text("mine\n")
    before = sorted(tmp_path.rglob("*"))
    table = stream.table.objects.uri.removeprefix("file://")
    with pytest.raises(bw.InvalidSettings):
        locked.sql(query.format(folder=tmp_path, table=table)).fetchall()
    assert sorted(tmp_path.rglob("*")) == before
    assert locked.sql("select count(*) from samples").fetchall() == [(60,)]
    assert locked.sql("select count(*) from batches").fetchall() == [(6,)]


def test_a_read_only_session_takes_other_streams_before_its_first_query(
    stream: bw.Stream, locked: Session, tmp_path: Path
) -> None:
    other = make("delta", tmp_path, bw.Mesh(dp=1), "other.docs")
    publish(other, "z", 0, 1)
    locked.attach("other", other)
    assert locked.sql("select count(*) from other.samples").fetchall() == [(1,)]
    with pytest.raises(bw.InvalidSettings, match="before the first query"):
        locked.attach("late", other)


# -- what is read ------------------------------------------------------------------------------


@FORMATS
def test_a_question_reads_the_bytes_that_it_is_about(kind: str, s3: S3Server, proxy: Proxy) -> None:
    schema = pa.schema([("tokens", pa.binary())])
    properties = s3.properties(s3.bucket(), endpoint=proxy.endpoint)
    catalog = bw.load_catalog("s3", type=kind, **properties)
    stream = catalog.create_stream("demo.tokens", schema=schema, mesh=bw.Mesh(dp=4))
    with stream.producer("p", bw.ProducerSettings(compression="none")) as producer:
        for step in range(3):
            producer.publish([{"tokens": [bytes([step, at]) * 65536] * 8} for at in range(4)])

    def read_by(session: Session, query: str) -> int:
        before = proxy.counts().get("data_bytes_out", 0)
        session.sql(query).fetchall()
        return proxy.counts().get("data_bytes_out", 0) - before

    with Session(stream) as session:
        (size,) = session.sql("select bytes from slices where step = 1 and slice = 2").fetchall()[0]
        assert size > 8 * 2 * 65536
        one = read_by(session, "select md5(tokens[1:9]) from samples where step = 1 and slice = 2")
        assert size <= one <= 1.2 * size
        assert read_by(session, "select count(*) from samples where step = 1") < 0.2 * size
        for view in ("batches", "parts", "slices", "commits", "producers", "checkpoints",
                     "consumers", "stream_state", "snapshots", "foreign_files"):  # fmt: skip
            assert read_by(session, f"select * from {view}") == 0, view
