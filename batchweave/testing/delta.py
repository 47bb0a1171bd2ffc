"""The conformance suite of a catalog of Delta tables, hooks included.

Imports: deltalake, the suite, engines.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import deltalake
import pyarrow as pa

import batchweave as bw
from batchweave.catalogs.delta_catalog import DeltaCatalog
from batchweave.testing.conformance import CatalogConformance
from batchweave.testing.engines import (
    DELTA_ENGINES,
    Engine,
    object_store_options,
    store_properties,
)
from batchweave.testing.faults import Faults, FaultyObjects

FOREIGN_COLUMN = "note"
FOREIGN_PROPERTY = "owner"
FOREIGN_APPLICATION = "theirs"

_ENTRY = re.compile(r"_delta_log/(\d{20})\.json")


class DeltaConformance(CatalogConformance):
    """For what `batchweave.catalogs.delta_catalog.DeltaCatalog` does.

    Commits fail where a log entry is written; deltalake makes a foreign table; deltalake, DuckDB,
    Polars and Daft read. The foreign commit is an entry as Spark writes it: no engine of those
    commits to a table with ``domainMetadata``.
    """

    engines: ClassVar[Mapping[str, Engine]] = DELTA_ENGINES

    @contextlib.contextmanager
    def failing(self, catalog: bw.Catalog, faults: Faults) -> Iterator[bw.Catalog]:
        tables = delta_catalog(catalog)
        objects = tables.objects
        tables.objects = FaultyObjects(objects, faults, _ENTRY.pattern)
        try:
            yield catalog
        finally:
            tables.objects = objects

    def make_foreign_table(self, catalog: bw.Catalog, name: str) -> None:
        tables = delta_catalog(catalog)
        deltalake.write_deltalake(
            f"{tables.objects.uri}/{name.replace('.', '/')}",
            pa.table({"id": pa.array([1], pa.int64())}),
            storage_options=object_store_options(store_properties(tables.properties)),
        )

    def foreign_commit(self, catalog: bw.Catalog, stream: bw.Stream) -> None:
        entries = _entries(stream)
        last = [one["metaData"] for _, actions in entries for one in actions if "metaData" in one][
            -1
        ]
        schema = json.loads(last["schemaString"])
        schema["fields"].append(
            {"name": FOREIGN_COLUMN, "type": "string", "nullable": True, "metadata": {}}
        )
        metadata = last | {
            "schemaString": json.dumps(schema),
            "configuration": last["configuration"] | {FOREIGN_PROPERTY: "me"},
        }
        actions: list[dict[str, Any]] = [
            {"commitInfo": {"operation": "ADD COLUMNS", "timestamp": 1}},
            {"metaData": metadata},
            {"txn": {"appId": FOREIGN_APPLICATION, "version": 7}},
        ]
        number = entries[-1][0] + 1
        data = "\n".join(json.dumps(action) for action in actions).encode()
        stream.table.objects.create(f"_delta_log/{number:020d}.json", data)

    def check_foreign_commit(self, catalog: bw.Catalog, stream: bw.Stream) -> None:
        store = object_store_options(store_properties(delta_catalog(catalog).properties))
        table = deltalake.DeltaTable(stream.table.objects.uri, storage_options=store)
        names = [field.name for field in table.schema().fields]
        assert FOREIGN_COLUMN in names, "the foreign column is gone"
        owner = table.metadata().configuration.get(FOREIGN_PROPERTY)
        assert owner == "me", "the foreign property is gone"
        transaction = table.transaction_version(FOREIGN_APPLICATION)
        assert transaction == 7, "the foreign transaction is gone"

    def foreign_reads(
        self, stream: bw.Stream, properties: Mapping[str, str]
    ) -> Iterator[tuple[str, pa.Table]]:
        for name, read in self.engines.items():
            yield name, read(stream.table.objects.uri, store_properties(properties))


def delta_catalog(catalog: bw.Catalog) -> DeltaCatalog:
    """What a catalog of streams on Delta stands on."""
    if not isinstance(catalog.tables, DeltaCatalog):
        raise TypeError(f"{catalog} is not a catalog of Delta tables")
    return catalog.tables


def _entries(stream: bw.Stream) -> list[tuple[int, list[dict[str, Any]]]]:
    """The entries of a stream's log, oldest first: version and actions."""
    objects = stream.table.objects
    found = {}
    for info in objects.list("_delta_log"):
        match = _ENTRY.fullmatch(info.path)
        if match:
            text = bytes(objects.get(info.path)[0]).decode()
            found[int(match.group(1))] = [json.loads(line) for line in text.splitlines()]
    return sorted(found.items())
