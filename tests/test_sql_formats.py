"""SQL gives the same answers on every table format, catalog and store, and downloads nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import batchweave as bw
from batchweave.sql.extensions import OFFLINE, extension_path, open_offline
from batchweave.sql.relation import Relation
from batchweave.sql.scans import Rows, source_of
from batchweave.sql.session import Session
from tests.servers.seaweed import S3Server
from tests.streams import QUICK, TOKENS, publish_numbers

STEPS = 5
KINDS = ("object-store", "object-store-s3", "sqlite", "rest", "glue", "delta", "delta-s3", "memory",
         "delta-memory")  # fmt: skip
ANSWERS = {
    "select count(*), min(step), max(step), count(distinct slice) from samples": [(40, 0, 4, 2)],
    "select step, slice, source, producer, sequence, sum(list_sum(tokens))::int from samples "
    "where step = 3 group by all order by slice": [
        (3, 0, "item 3", "p", 3, 96),
        (3, 1, "item 3", "p", 3, 96),
    ],
    "select step, rows, slices, parts from batches where step >= 3 order by step": [
        (3, 8, 2, 1),
        (4, 8, 2, 1),
    ],
    "select producer, generation, sequence, batches, rows from producers": [("p", 1, 4, 5, 40)],
    "select count(*) from samples join batches using (step) where digest = digests[1]": [(40,)],
    "select bool_and(samples.committed_at = batches.committed_at) from samples "
    "join batches using (step)": [(True,)],
}


@pytest.fixture
def made(
    catalog_properties: Callable[[str], dict[str, str]], tmp_path: Path
) -> Callable[[str], bw.Stream]:
    def make(kind: str) -> bw.Stream:
        if kind.endswith("memory"):
            properties = {"warehouse": f"memory://{tmp_path.name}-{kind}"}
            properties["type"] = "delta" if kind == "delta-memory" else "object-store"
        else:
            properties = catalog_properties(kind)
        catalog = bw.load_catalog("sql", **properties)
        stream = catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2))
        assert Session(stream).sql("from samples").fetchall() == []
        with stream.producer("p", QUICK) as producer:
            publish_numbers(producer, 0, STEPS)
        return catalog.load_stream("demo.tokens")

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_answers_of_one_version(
    kind: str, made: Callable[[str], bw.Stream]
) -> None:
    stream = made(kind)
    session = Session(stream)
    for query, answer in ANSWERS.items():
        assert session.sql(query).fetchall() == answer, query
    lazy = stream.sql("select count(*) from samples")
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, STEPS, 2)
    for view in ("samples", "batches"):
        assert session.sql(f"select max(step) from {view}").fetchall() == [(4,)]
    assert lazy.fetchall() == [(40,)]
    assert stream.sql("select count(*) from samples").fetchall() == [(56,)]


@pytest.mark.parametrize("kind", ["object-store", "delta", "memory"])
def test_columns_come_in_one_order_with_one_type(
    kind: str, made: Callable[[str], bw.Stream]
) -> None:
    found = made(kind).sql("from samples")
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == {
        "tokens": "INTEGER[]",
        "slice": "INTEGER",
        "source": "VARCHAR",
        "step": "BIGINT",
        "producer": "VARCHAR",
        "sequence": "BIGINT",
        "committed_at": "TIMESTAMP WITH TIME ZONE",
        "digest": "VARCHAR",
        "dp": "INTEGER",
    }


@pytest.mark.parametrize("kind", ["object-store", "delta"])
def test_a_filter_on_step_opens_one_file(kind: str, made: Callable[[str], bw.Stream]) -> None:
    stream = made(kind)
    for part in (p for batch in stream.batches() if batch.step != 3 for p in batch.parts):
        stream.table.objects.delete([part.path])
    assert stream.sql("select count(*) from samples where step = 3").fetchall() == [(8,)]
    with pytest.raises(bw.StoreError):
        stream.sql("select sum(slice) from samples").fetchall()


def test_questions_about_metadata_open_no_data_file(made: Callable[[str], bw.Stream]) -> None:
    stream = made("delta")
    for batch in list(stream.batches()):
        stream.table.objects.delete([part.path for part in batch.parts])
    assert stream.sql("select sum(rows)::int from batches").fetchall() == [(40,)]


def test_a_folder_of_any_name_is_read(tmp_path: Path) -> None:
    for kind in ("object-store", "delta"):
        catalog = bw.load_catalog(
            "q", type=kind, warehouse=str(tmp_path / f"it's this.{kind} [1]* 100%")
        )
        stream = catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=1))
        with stream.producer("p", QUICK) as producer:
            publish_numbers(producer, 0, 1, slices=1)
        assert len(stream.sql("from samples")) == 4
        assert len(stream.sql("from batches")) == 1
        assert stream.audit().ok  # by a session that may read this folder alone


# -- nothing is downloaded ---------------------------------------------------------------------


def test_duckdb_looks_for_no_extension_by_itself(
    made: Callable[[str], bw.Stream], tmp_path: Path
) -> None:
    stream = made("delta")
    session = Session(stream)
    for name in OFFLINE:
        assert session.sql(f"select current_setting('{name}')").fetchall() == [(False,)]
    with pytest.raises(bw.InvalidSettings, match="st_point"):
        stream.sql("select st_point(1, 2)")


@pytest.mark.parametrize("query", ["install spatial", "load spatial", "select 1; install spatial"])
def test_a_query_can_install_or_load_nothing(query: str, made: Callable[[str], bw.Stream]) -> None:
    with pytest.raises(bw.InvalidSettings, match="cannot install or load extensions"):
        made("memory").sql(query)


def test_a_machine_without_network_and_home_can_ask(tmp_path: Path) -> None:
    program = """
import sys
import batchweave as bw
import pyarrow as pa
for kind in ("object-store", "delta"):
    catalog = bw.load_catalog("c", type=kind, warehouse=f"{sys.argv[1]}/{kind}")
    stream = catalog.create_stream("a.b", schema=pa.schema([("x", pa.int32())]), mesh=bw.Mesh(dp=1))
    with stream.producer("p") as producer:
        producer.publish([{"x": [1, 2]}])
    print(stream.sql("select sum(x)::int from samples").fetchall())
"""
    home = tmp_path / "home"
    home.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "HOME": str(home)},
    )  # fmt: skip
    assert result.stdout.splitlines() == ["[(3,)]", "[(3,)]"], result.stderr
    assert not (home / ".duckdb").exists()


def test_a_missing_wheel_is_named() -> None:
    with pytest.raises(bw.InvalidSettings, match="install duckdb-extension-nosuch=="):
        extension_path("nosuch")
    with pytest.raises(bw.InvalidSettings, match="duckdb-extension-nosuch"):
        open_offline(["nosuch"])


# -- errors ------------------------------------------------------------------------------------


def test_what_shows_only_when_rows_are_fetched_is_told_in_the_same_words(
    made: Callable[[str], bw.Stream],
) -> None:
    stream = made("memory")
    late = stream.sql("select case when step > 3 then error('now') else 1 end from samples")
    wrong: list[Callable[[], Any]] = [
        late.fetchall,
        late.df,
        late.to_arrow_table,
        lambda: late.limit(100).fetchall(),
        lambda: str(late),
        lambda: stream.sql("select producer::int from samples").fetchone(),
        lambda: stream.sql("select nosuch"),
        lambda: stream.sql("selec"),
    ]
    for call in wrong:
        with pytest.raises(bw.InvalidSettings, match="the query failed: ") as failure:
            call()
        assert isinstance(failure.value.__cause__, duckdb.Error)


def test_a_relation_is_as_useful_as_duckdbs_own(made: Callable[[str], bw.Stream]) -> None:
    found = made("memory").sql("select step, slice from samples")
    assert isinstance(found, Relation)
    assert isinstance(found.bare, duckdb.DuckDBPyRelation)
    assert found.columns == ["step", "slice"]
    assert (len(found), "step" in found, "x" in found) == (40, True, False)
    assert found.filter("step = 1").aggregate("count(*)").fetchone() == (8,)
    assert found.union(found).shape == (80, 2)
    assert pa.table(found).num_rows == 40
    assert found.pl().height == len(found.df()) == 40
    assert found["step"].distinct().order("step").fetchall() == [(n,) for n in range(5)]
    assert "step" in repr(found)
    with pytest.raises(AttributeError):
        found.nosuch  # noqa: B018 - that it fails is the test


def test_a_file_that_is_gone_is_the_stores_failure(made: Callable[[str], bw.Stream]) -> None:
    for kind in ("object-store", "delta"):
        stream = made(kind)
        lazy = stream.sql("select sum(slice) from samples")
        gone = next(stream.batches()).parts[0].path
        stream.table.objects.delete([gone])
        with pytest.raises(bw.StoreError, match="the query failed"):
            lazy.fetchall()


@pytest.mark.parametrize("kind", ["object-store", "delta"])
def test_refused_credentials_are_told_and_not_repeated(
    kind: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = {"type": kind, **s3.properties(s3.bucket())}
    catalog = bw.load_catalog("s3", **properties)
    stream = catalog.create_stream("a.b", schema=TOKENS, mesh=bw.Mesh(dp=1))
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 1, slices=1)
    source = source_of(stream.table, stream.table.head())
    assert not isinstance(source, Rows)
    assert s3.secret_key not in repr(source)
    wrong = "wrong-secret-key-0123456789"
    monkeypatch.setattr(
        "batchweave.sql.session.source_of",
        lambda *_: type(source)(
            source.sql, source.extensions, source.location,
            {**source.properties, "s3.secret-access-key": wrong},
        ),
    )  # fmt: skip
    with pytest.raises(bw.StoreError) as failure:
        stream.sql("select sum(slice) from samples").fetchall()
    assert isinstance(failure.value, bw.StoreDenied)
    assert wrong not in str(failure.value) + repr(failure.value.__cause__)
