"""Other engines read the same rows, steps and slices out of a stream's Delta table as it is."""

from __future__ import annotations

import datetime
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import deltalake
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from deltalake.exceptions import DeltaError
from deltalake.schema import PrimitiveType

import batchweave as bw
from batchweave.columns import to_storage
from batchweave.sql.session import extension_path
from batchweave.table import Change, Committed, Head
from tests.streams import QUICK

SCHEMA = pa.schema(
    [
        ("tokens", pa.list_(pa.int32())),
        ("text", pa.string()),
        ("image", pa.binary()),
        ("key", pa.binary(4)),
        ("half", pa.list_(pa.float16())),
        ("small", pa.uint16()),
        ("huge", pa.uint64()),
        ("at", pa.timestamp("ms", tz="Europe/Paris")),
        ("local", pa.timestamp("us")),
        ("clock", pa.time32("ms")),
        ("nested", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])),
        pa.field("must", pa.float64(), nullable=False),
    ]
)
BATCHES = 12


@dataclass
class Published:
    catalog: bw.Catalog
    stream: bw.Stream
    folder: str


@pytest.fixture(scope="module")
def young(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A log of entries alone."""
    return _published(tmp_path_factory.mktemp("young"))


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The same after checkpoints and clean-up: its first entries are gone."""
    published = _published(tmp_path_factory.mktemp("old"))
    table = published.stream.table
    for _ in range(250):
        outcome = table.commit(head := table.head(), _nothing(head))
        assert isinstance(outcome, Committed)
        table.tidy(outcome.head)
    log = Path(published.folder) / "_delta_log"
    assert not (log / f"{0:020d}.json").exists()
    assert (log / "_last_checkpoint").exists()
    return published


def _nothing(head: Head) -> Change:
    return Change(head.state)


def _published(folder: Path) -> Published:
    catalog = bw.load_catalog("local", type="delta", warehouse=str(folder))
    stream = catalog.create_stream("demo.tokens", schema=SCHEMA, mesh=bw.Mesh(dp=2, cp=2))
    settings = bw.ProducerSettings(freshness_s=0.01, slices_per_file=2)
    random = np.random.default_rng(7)
    with stream.producer("a", settings) as one, stream.producer("b", QUICK) as two:
        for number in range(BATCHES):
            producer = one if number % 3 else two
            slices = [_slice(random, number, k) for k in range(4)]
            producer.publish(slices, position=number, source={"item": number}).step()
    return Published(catalog, stream, stream.table.objects.uri.removeprefix("file://"))


def _slice(random: np.random.Generator, number: int, k: int) -> dict[str, object]:
    rows = 2 + (number + k) % 3
    return {
        "tokens": [random.integers(0, 50_000, 1 + row, dtype=np.int32) for row in range(rows)],
        "text": [f"{number}/{k}/{row}" if row else None for row in range(rows)],
        "image": [random.bytes(5 + row) for row in range(rows)],
        "key": [random.bytes(4) if row else None for row in range(rows)],
        "half": random.random((rows, 4)).astype(np.float16),
        "small": random.integers(0, 65_535, rows, dtype=np.uint16),
        "huge": pa.array([2**64 - 1 - number] * rows, pa.uint64()),
        "at": pa.array([1_700_000_000_123 + number] * rows, SCHEMA.field("at").type),
        "local": pa.array([datetime.datetime(2024, 1, 1, number)] * rows, pa.timestamp("us")),
        "clock": pa.array([1000 * number + k] * rows, pa.time32("ms")),
        "nested": [{"a": row, "b": ["x", None]} for row in range(rows)],
        "must": random.random(rows),
    }


# -- what each engine reads --------------------------------------------------------------------


def by_batchweave(published: Published) -> pa.Table:
    """All rows in storage form, with the columns known at commit."""
    tables = []
    for k in range(4):
        for batch in published.stream.read(slice=k):
            rows = batch.table.num_rows
            stored = to_storage(batch.table, SCHEMA)
            columns = {name: stored[name].combine_chunks() for name in stored.column_names}
            columns["clock"] = columns["clock"].cast(pa.int64())
            columns |= {
                "step": pa.array([batch.step] * rows, pa.int64()),
                "slice": pa.array([k] * rows, pa.int32()),
                "producer": pa.array([batch.producer] * rows),
                "sequence": pa.array([batch.sequence] * rows, pa.int64()),
                "source": pa.array([batch.sources[0]] * rows, pa.string()),
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def by_deltalake(published: Published) -> pa.Table:
    return deltalake.DeltaTable(published.folder).to_pyarrow_table()


def by_deltalake_sql(published: Published) -> pa.Table:
    table = deltalake.DeltaTable(published.folder)
    engine = deltalake.QueryBuilder().register("rows", table)
    return pa.table(engine.execute("select * from rows").read_all())


def by_duckdb(published: Published) -> pa.Table:
    with duckdb.connect() as connection:
        connection.load_extension(str(extension_path("delta")))
        scan = connection.execute("select * from delta_scan($1)", [published.folder])
        return scan.to_arrow_table()


def by_polars(published: Published) -> pa.Table:
    return pl.scan_delta(published.folder, use_pyarrow=True).collect().to_arrow()


def by_daft(published: Published) -> pa.Table:
    import daft

    return daft.read_deltalake(published.folder).to_arrow()


ENGINES = [by_deltalake, by_deltalake_sql, by_duckdb, by_polars, by_daft]


def checksum(table: pa.Table, like: pa.Schema) -> tuple[int, str]:
    """Rows, and a hash over all of them that does not depend on their order."""
    rows = table.select(like.names).cast(like).to_pylist()
    texts = sorted(repr(list(row.values())) for row in rows)
    return len(rows), hashlib.sha256("\n".join(texts).encode()).hexdigest()


# Daft says that a scan without a filter on the partitions reads all of the table: so it should.
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("age", ["young", "cleaned"])
def test_engines_read_the_same_rows(
    age: str, engine: Callable[[Published], pa.Table], request: pytest.FixtureRequest
) -> None:
    published: Published = request.getfixturevalue(age)
    ours = by_batchweave(published)
    assert set(ours["step"].to_pylist()) == set(range(BATCHES))
    assert checksum(engine(published), ours.schema) == checksum(ours, ours.schema)


def test_a_doctored_row_is_seen(young: Published) -> None:
    ours = by_batchweave(young)
    wrong = ours.set_column(ours.column_names.index("step"), "step", pa.array([0] * len(ours)))
    assert checksum(ours.slice(1), ours.schema) != checksum(ours, ours.schema)
    assert checksum(wrong, ours.schema) != checksum(ours, ours.schema)


def test_every_type_comes_back_in_the_declared_schema(cleaned: Published) -> None:
    batch = next(cleaned.stream.read(slice=3))
    assert batch.table.schema == SCHEMA
    assert batch.numpy()["half"].dtype == np.float16
    assert batch.table["huge"][0].as_py() == 2**64 - 1
    assert batch.table["clock"][0].as_py() == datetime.time(0, 0, 0, 3000)


def test_committed_at_is_the_same_moment_for_all(young: Published) -> None:
    batches = {batch.step: batch.committed_at_ms for batch in young.stream.batches()}
    for engine in ENGINES:
        rows = engine(young).select(["step", "committed_at"]).to_pylist()
        found = {row["step"]: round(row["committed_at"].timestamp() * 1000) for row in rows}
        assert found == batches


def test_polars_own_reader_takes_partition_values_from_paths_alone(young: Published) -> None:
    """Why ``use_pyarrow=True``: once this fails, the README can say less."""
    found = pl.scan_delta(young.folder).select("step", "small").collect()
    assert found["step"].null_count() == len(found)


def test_a_filter_on_step_and_slice_reads_no_other_file(young: Published) -> None:
    with duckdb.connect() as connection:
        connection.load_extension(str(extension_path("delta")))
        plan = connection.execute(
            "explain analyze select * from delta_scan($1) where step = 7 and slice = 1",
            [young.folder],
        ).fetchall()
    assert "Total Files Read: 1" in str(plan) or "1/" in str(plan), str(plan)
    table = deltalake.DeltaTable(young.folder)
    assert len(table.file_uris(file_pruning_predicate=[("step", "=", "7")])) == 2


# -- other programs that write -----------------------------------------------------------------


@pytest.fixture
def own(young: Published, tmp_path: Path) -> Published:
    """A copy of a stream that a test may do anything to."""
    shutil.copytree(young.folder, tmp_path / "demo" / "tokens")
    catalog = bw.load_catalog("local", type="delta", warehouse=str(tmp_path))
    return Published(catalog, catalog.load_stream("demo.tokens"), f"{tmp_path}/demo/tokens")


def test_checkpoints_and_clean_up_of_deltalake_are_harmless(own: Published) -> None:
    foreign = deltalake.DeltaTable(own.folder)
    foreign.create_checkpoint()
    foreign.cleanup_metadata()
    _publish_one(own)
    for stream in (own.stream, own.catalog.load_stream("demo.tokens")):
        assert stream.head().next_step == BATCHES + 1
        assert [batch.step for batch in stream.read(slice=0)] == list(range(BATCHES + 1))
    for engine in ENGINES:
        assert set(engine(own)["step"].to_pylist()) == set(range(BATCHES + 1))


def test_a_stream_whose_log_is_only_a_checkpoint_of_deltalake_goes_on(own: Published) -> None:
    known = list(own.stream.batches())
    foreign = deltalake.DeltaTable(own.folder)
    foreign.create_checkpoint()
    log = Path(own.folder) / "_delta_log"
    for version in range(foreign.version()):
        (log / f"{version:020d}.json").unlink()
    stream = own.catalog.load_stream("demo.tokens")
    assert list(stream.batches()) == known
    _publish_one(own)
    assert len(list(stream.read(slice=0))) == BATCHES + 1


@pytest.mark.parametrize("operation", ["append", "delete", "optimize", "column", "property"])
def test_deltalake_does_not_commit_to_a_stream(own: Published, operation: str) -> None:
    """It refuses where a table has ``domainMetadata``, before it writes anything."""
    foreign = deltalake.DeltaTable(own.folder)
    rows = foreign.to_pyarrow_table().slice(0, 1)
    column = deltalake.Field("score", PrimitiveType("double"))
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: deltalake.write_deltalake(foreign, rows, mode="append"),
        "delete": lambda: foreign.delete("step = 1"),
        "optimize": lambda: foreign.optimize.compact(),
        "column": lambda: foreign.alter.add_columns([column]),
        "property": lambda: foreign.alter.set_table_properties({"delta.logRetentionDuration": "x"}),
    }
    version = foreign.version()
    with pytest.raises(DeltaError, match="DomainMetadata"):
        calls[operation]()
    assert deltalake.DeltaTable(own.folder).version() == version


def test_vacuum_of_deltalake_deletes_nothing_that_the_stream_has(own: Published) -> None:
    ours = by_batchweave(own)
    foreign = deltalake.DeltaTable(own.folder)
    foreign.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert checksum(by_batchweave(own), ours.schema) == checksum(ours, ours.schema)


def _publish_one(published: Published) -> None:
    stream = published.catalog.load_stream("demo.tokens")
    with stream.producer("c", QUICK) as producer:
        random = np.random.default_rng(1)
        producer.publish([_slice(random, 3, k) for k in range(4)]).step()
