"""The conformance suite of a catalog of Iceberg tables that pyiceberg can load, hooks included.

Imports: pyiceberg, the suite, engines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

import pyarrow as pa
from pyiceberg.catalog import Catalog as PyIcebergCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField, StringType

import batchweave as bw
from batchweave.catalogs.iceberg_catalog import IcebergCatalog
from batchweave.testing.conformance import CatalogConformance
from batchweave.testing.engines import ICEBERG_ENGINES, Engine, store_properties
from batchweave.testing.faults import Faults, interrupted

FOREIGN_COLUMN = "note"
FOREIGN_TAG = "release"


class IcebergConformance(CatalogConformance):
    """For a catalog that `batchweave.catalogs.iceberg_catalog.IcebergCatalog` stands on.

    Commits fail in ``commit_table``; pyiceberg adds a column and a tag, and makes a foreign table;
    pyiceberg, DuckDB, Polars and Daft read.
    """

    engines: ClassVar[Mapping[str, Engine]] = ICEBERG_ENGINES

    @contextlib.contextmanager
    def failing(self, catalog: bw.Catalog, faults: Faults) -> Iterator[bw.Catalog]:
        inner = pyiceberg_catalog(catalog)
        commit_table = inner.commit_table
        inner.commit_table = interrupted(  # type: ignore[method-assign]  # of this object only
            commit_table,
            faults,
            lost=lambda: ConnectionError("the connection ended before the answer"),
            told_lost=lambda: CommitFailedException("another writer was first"),
        )
        try:
            yield catalog
        finally:
            del inner.commit_table

    def make_foreign_table(self, catalog: bw.Catalog, name: str) -> None:
        field = NestedField(1, "id", LongType(), required=False)
        pyiceberg_catalog(catalog).create_table(name, Schema(field))

    def foreign_commit(self, catalog: bw.Catalog, stream: bw.Stream) -> None:
        handle = pyiceberg_catalog(catalog).load_table(stream.name)
        with handle.update_schema() as update:
            update.add_column(FOREIGN_COLUMN, StringType())
        snapshot = handle.current_snapshot()
        assert snapshot is not None
        handle.manage_snapshots().create_tag(snapshot.snapshot_id, FOREIGN_TAG).commit()

    def check_foreign_commit(self, catalog: bw.Catalog, stream: bw.Stream) -> None:
        handle = pyiceberg_catalog(catalog).load_table(stream.name)
        assert FOREIGN_COLUMN in handle.schema().column_names, "the foreign column is gone"
        tagged = handle.snapshot_by_name(FOREIGN_TAG)
        assert tagged is not None, "the foreign tag is gone"
        rows = handle.scan(snapshot_id=tagged.snapshot_id).to_arrow()
        steps = set(rows["step"].to_pylist())
        assert steps == set(range(len(steps))), "the tag does not show whole steps"
        assert steps, "the tag shows nothing"

    def foreign_reads(
        self, stream: bw.Stream, properties: Mapping[str, str]
    ) -> Iterator[tuple[str, pa.Table]]:
        location = stream.table.head().detail.handle.metadata_location
        for name, read in self.engines.items():
            yield name, read(location, store_properties(properties))


def pyiceberg_catalog(catalog: bw.Catalog) -> PyIcebergCatalog:
    """The pyiceberg catalog that a catalog of streams stands on."""
    tables = catalog.tables
    if not isinstance(tables, IcebergCatalog):
        raise TypeError(f"{catalog} is not a catalog of Iceberg tables")
    return tables.catalog
