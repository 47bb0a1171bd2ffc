"""Every table format, catalog and store keeps the same promises.

Nothing is simulated but Glue, which moto plays. A long history is 1,000 commits where a commit is
cheap; over servers it is just long enough that metadata is merged, expired and cleaned up on the
way, and ``BATCHWEAVE_CONFORMANCE_COMMITS=1000`` makes it as long there.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

import batchweave as bw
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.testing import DeltaConformance, Faults, FaultyObjects, IcebergConformance
from batchweave.testing.delta import delta_catalog
from batchweave.testing.iceberg import pyiceberg_catalog
from batchweave.testing.writing import commit_each, numbers_of
from tests.servers.catalogs import Servers

OVER_SERVERS = 50


class _Iceberg(IcebergConformance):
    kind: ClassVar[str]
    history_commits = OVER_SERVERS

    @pytest.fixture(scope="class")
    @classmethod
    def properties(
        cls, servers: Servers, tmp_path_factory: pytest.TempPathFactory
    ) -> Mapping[str, str]:
        return servers.properties(cls.kind, tmp_path_factory.mktemp("a warehouse"))

    @pytest.fixture(autouse=True)
    def _polars_plans_with_pyiceberg(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Polars warns that its planner is a package of its own, which does not change its scan."""
        monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")


class _ObjectStore(_Iceberg):
    @contextlib.contextmanager
    def failing(self, catalog: bw.Catalog, faults: Faults) -> Iterator[bw.Catalog]:
        """The put-if-absent of a metadata version is what fails: one layer further down."""
        inner = pyiceberg_catalog(catalog)
        assert isinstance(inner, ObjectStoreCatalog)
        objects = inner.objects
        inner.objects = FaultyObjects(objects, faults, r"metadata/v\d+\.metadata\.json")
        try:
            yield catalog
        finally:
            inner.objects = objects


class TestObjectStoreInMemory(_ObjectStore):
    shared = False
    history_commits = 1000

    @pytest.fixture
    def properties(self) -> Mapping[str, str]:
        return {"type": "object-store", "warehouse": "memory://conformance"}

    def foreign_reads(
        self, stream: bw.Stream, properties: Mapping[str, str]
    ) -> Iterator[tuple[str, pa.Table]]:
        """No engine reads another program's memory; pyiceberg runs in this one."""
        yield "pyiceberg", stream.table.head().detail.handle.scan().to_arrow()


class TestObjectStoreOnAFolder(_ObjectStore):
    kind = "object-store"
    history_commits = 100


class TestObjectStoreOnS3(_ObjectStore):
    kind = "object-store-s3"


class TestSqlOnSQLite(_Iceberg):
    kind = "sqlite"


class TestSqlOnPostgreSQL(_Iceberg):
    kind = "postgres"


class TestRestOverS3(_Iceberg):
    kind = "rest"

    def test_one_of_many_concurrent_creators_wins(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        """SeaweedFS's server looks for a name and takes it in two steps: it may say yes to several.

        What is left of the promise: there is one stream, and whoever was given another one learns
        it before anything of theirs is committed.
        """
        given = self.create_at_once(name, open_again)
        found = open_again().load_stream(name)
        (ours,) = [stream for stream in given if stream.mesh == found.mesh]
        for stream in given:
            if stream is not ours:
                with pytest.raises(bw.StreamNotFound):
                    commit_each(stream, "q", [7])
        commit_each(ours, "p", range(2))
        assert numbers_of(found) == [0, 1]


class TestGlueOverS3(_Iceberg):
    kind = "glue"


class _Delta(DeltaConformance):
    kind: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def properties(
        cls, servers: Servers, tmp_path_factory: pytest.TempPathFactory
    ) -> Mapping[str, str]:
        # No space in the path: Daft looks for a Delta table's files under the encoded name.
        return servers.properties(cls.kind, tmp_path_factory.mktemp("warehouse"))


class TestDeltaInMemory(_Delta):
    shared = False

    @pytest.fixture
    def properties(self) -> Mapping[str, str]:
        return {"type": "delta", "warehouse": "memory://conformance"}

    def make_foreign_table(self, catalog: bw.Catalog, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            there = bw.load_catalog("there", type="delta", warehouse=folder)
            super().make_foreign_table(there, name)
            made = delta_catalog(there).objects
            for info in made.list():
                delta_catalog(catalog).objects.create(info.path, made.get(info.path)[0])

    def check_foreign_commit(self, catalog: bw.Catalog, stream: bw.Stream) -> None:
        with _copied(stream) as (there, copy):
            super().check_foreign_commit(there, copy)

    def foreign_reads(
        self, stream: bw.Stream, properties: Mapping[str, str]
    ) -> Iterator[tuple[str, pa.Table]]:
        """No engine reads another program's memory: they read a copy, file by file."""
        with _copied(stream) as (_, copy):
            yield from super().foreign_reads(copy, properties)


class TestDeltaOnAFolder(_Delta):
    kind = "delta"


class TestDeltaOnS3(_Delta):
    kind = "delta-s3"
    history_commits = OVER_SERVERS


@contextlib.contextmanager
def _copied(stream: bw.Stream) -> Iterator[tuple[bw.Catalog, bw.Stream]]:
    """The same Delta table on a folder, and a catalog there."""
    with tempfile.TemporaryDirectory() as folder:
        there = bw.load_catalog("copy", type="delta", warehouse=folder)
        objects = delta_catalog(there).objects.within(stream.name.replace(".", "/"))
        for info in stream.table.objects.list():
            objects.create(info.path, stream.table.objects.get(info.path)[0])
        yield there, there.load_stream(stream.name)


def test_polars_own_scan_of_delta_shows_no_partition_values(tmp_path: Path) -> None:
    """Why Polars has to be told ``use_pyarrow=True``: once this fails, it has not any more."""
    import polars as pl

    catalog = bw.load_catalog("local", type="delta", warehouse=str(tmp_path))
    schema = pa.schema([("number", pa.int64())])
    stream = catalog.create_stream("demo.stream", schema=schema, mesh=bw.Mesh(dp=1))
    commit_each(stream, "p", [0])
    folder = stream.table.objects.uri
    assert pl.read_delta(folder)["step"].to_list() == [None]
    assert pl.read_delta(folder, use_pyarrow=True)["step"].to_list() == [0]
