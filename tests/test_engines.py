"""Other engines read the same rows, steps and slices out of a stream's table as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyiceberg.table import StaticTable

import batchweave as bw
from batchweave.catalogs.iceberg_catalog import IcebergCatalog
from batchweave.sql.extensions import open_offline
from tests.streams import QUICK, catalog_at, make_stream

SCHEMA = pa.schema(
    [
        ("tokens", pa.list_(pa.int32())),
        ("text", pa.string()),
        ("image", pa.binary()),
        ("half", pa.list_(pa.float16())),
        ("small", pa.uint16()),
        ("at", pa.timestamp("ms", tz="Europe/Paris")),
        ("nested", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])),
    ]
)
COLUMNS = ["step", "slice", "producer", "sequence", "source", "tokens", "text", "image", "small"]


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bw.Stream:
    """Two producers, 60 commits and more (so that manifests were merged), two parts a batch."""
    stream = make_stream(
        tmp_path_factory.mktemp("a warehouse"), schema=SCHEMA, mesh=bw.Mesh(dp=2, cp=2)
    )
    settings = bw.ProducerSettings(freshness_s=0.01, slices_per_file=2)
    random = np.random.default_rng(7)
    with stream.producer("a", settings) as one, stream.producer("b", QUICK) as two:
        for number in range(60):
            producer = one if number % 3 else two
            slices = [_slice(random, number, k) for k in range(4)]
            producer.publish(slices, position=number, source={"item": number}).step()
    return stream


def _slice(random: np.random.Generator, number: int, k: int) -> dict[str, object]:
    rows = 2 + (number + k) % 3
    return {
        "tokens": [random.integers(0, 50_000, 1 + row, dtype=np.int32) for row in range(rows)],
        "text": [f"{number}/{k}/{row}" if row else None for row in range(rows)],
        "image": [random.bytes(5 + row) for row in range(rows)],
        "half": random.random((rows, 4)).astype(np.float16),
        "small": random.integers(0, 65_535, rows, dtype=np.uint16),
        "at": pa.array([1_700_000_000_123 + number] * rows, SCHEMA.field("at").type),
        "nested": [{"a": row, "b": ["x", None]} for row in range(rows)],
    }


def folder_of(stream: bw.Stream) -> str:
    return stream.table.objects.uri.removeprefix("file://")


def by_batchweave(stream: bw.Stream) -> pa.Table:
    tables = []
    for k in range(4):
        for batch in stream.read(slice=k):
            rows = batch.table.num_rows
            kept = batch.table.select(["tokens", "text", "image", "small"])
            columns = {
                "step": pa.array([batch.step] * rows, pa.int64()),
                "slice": pa.array([k] * rows, pa.int32()),
                "producer": pa.array([batch.producer] * rows),
                "sequence": pa.array([batch.sequence] * rows, pa.int64()),
                "source": pa.array([batch.sources[0]] * rows),
            }
            for name in kept.column_names:
                columns[name] = kept[name].combine_chunks()
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def by_pyiceberg(stream: bw.Stream) -> pa.Table:
    tables = catalog_at(Path(folder_of(stream)).parent.parent).tables
    assert isinstance(tables, IcebergCatalog)
    return tables.catalog.load_table("demo.tokens").scan().to_arrow()


def by_duckdb(stream: bw.Stream) -> pa.Table:
    with open_offline(("avro", "httpfs", "iceberg")) as connection:
        scan = connection.execute("select * from iceberg_scan($1)", [folder_of(stream)])
        return scan.to_arrow_table()


def by_polars(stream: bw.Stream) -> pa.Table:
    handle = StaticTable.from_metadata(_newest_metadata(stream))
    return pl.scan_iceberg(handle, reader_override="native").collect().to_arrow()


def by_polars_through_pyiceberg(stream: bw.Stream) -> pa.Table:
    handle = StaticTable.from_metadata(_newest_metadata(stream))
    return pl.scan_iceberg(handle, reader_override="pyiceberg").collect().to_arrow()


def _newest_metadata(stream: bw.Stream) -> str:
    folder = Path(folder_of(stream)) / "metadata"
    version = (folder / "version-hint.text").read_text()
    return f"file://{folder}/v{version}.metadata.json"


def checksum(table: pa.Table) -> tuple[int, str]:
    """Rows, and a hash over all of them that does not depend on their order."""
    rows = sorted(repr(list(row.values())) for row in table.select(COLUMNS).to_pylist())
    return len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest()


@pytest.fixture(autouse=True)
def _polars_plans_with_pyiceberg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polars warns that its planner is a package of its own; the scan is Polars' all the same."""
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")


@pytest.mark.parametrize(
    "engine", [by_pyiceberg, by_duckdb, by_polars, by_polars_through_pyiceberg]
)
def test_engines_read_the_same_rows(
    stream: bw.Stream, engine: Callable[[bw.Stream], pa.Table]
) -> None:
    ours = by_batchweave(stream)
    assert set(ours["step"].to_pylist()) == set(range(60))
    theirs = engine(stream)
    assert checksum(theirs) == checksum(ours)


def test_a_doctored_row_is_seen(stream: bw.Stream) -> None:
    ours = by_batchweave(stream)
    assert checksum(ours.slice(1)) != checksum(ours)
    assert checksum(ours.set_column(0, "step", pa.array([0] * len(ours)))) != checksum(ours)


def test_sql_computes_with_widened_types(stream: bw.Stream) -> None:
    found = stream.sql(
        'select sum(list_sum(half)), max(small), min("at"), max(nested.a) from samples'
    )
    (row,) = found.fetchall()
    half, small, at, inner = row
    ours = [batch for k in range(4) for batch in stream.read(slice=k)]
    assert half == pytest.approx(
        sum(float(b.numpy()["half"].astype(np.float64).sum()) for b in ours), rel=1e-6
    )
    assert small == max(int(b.numpy()["small"].max()) for b in ours)
    assert int(at.timestamp() * 1000) == 1_700_000_000_123
    assert inner == 3


def test_every_type_comes_back_in_the_declared_schema(stream: bw.Stream) -> None:
    batch = next(stream.read(slice=3))
    assert batch.table.schema == SCHEMA
    assert batch.numpy()["half"].dtype == np.float16


def test_a_filter_on_step_and_slice_reads_no_other_file(stream: bw.Stream) -> None:
    plan = stream.sql(
        "explain analyze select * from samples where step = 31 and slice = 1"
    ).fetchall()
    text = str(plan)
    assert "Total Files Read: 1" in text, text


def test_the_memory_catalog_is_read_by_sql_and_by_pyiceberg() -> None:
    catalog = bw.load_catalog("m", type="object-store", warehouse="memory://engines")
    stream = catalog.create_stream("demo.tokens", schema=SCHEMA, mesh=bw.Mesh(dp=1))
    with stream.producer("p", QUICK) as producer:
        for number in range(3):
            producer.publish([_slice(np.random.default_rng(1), number, 0)])
    counted = stream.sql("select count(*), count(distinct step) from samples").fetchone()
    assert counted == (sum(batch.table.num_rows for batch in stream.read()), 3)
