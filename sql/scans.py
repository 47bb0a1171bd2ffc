"""How DuckDB reads the rows of one version of a table: one `Scan` a table format.

A scan is pinned to the version of a head, so that every view of a session, and every part of a
query, sees the same one. Where DuckDB cannot reach the files (``memory:``), the rows are read here.
Imports: the core, catalogs, pyarrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from batchweave.catalogs.delta import DeltaTable
from batchweave.catalogs.iceberg import IcebergTable, store_properties
from batchweave.errors import UnsupportedFormat
from batchweave.objects import split_uri
from batchweave.table import COMMIT_COLUMNS, BatchEntry, Head, Part, Table

MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Scan:
    """A table function with the extensions that it needs, and how to get at the files.

    ``sql`` can stand wherever a table can. ``location`` is what is read; ``properties`` are the
    catalog's, credentials among them.
    """

    sql: str
    extensions: tuple[str, ...]
    location: str
    properties: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows themselves, of a table that only this process can see."""

    table: pa.Table
    extensions: tuple[str, ...] = ("httpfs",)


Source: TypeAlias = Scan | Rows


def source_of(table: Table, head: Head) -> Source:
    """How to read all rows of ``head``'s version: users' columns, file columns, commit columns.

    Raises:
        UnsupportedFormat: SQL does not know the table's format.
    """
    if split_uri(table.objects.uri)[0] == MEMORY:
        return Rows(_rows(table, head))
    if isinstance(table, IcebergTable):
        handle = head.detail.handle
        # The metadata file is the version: whatever is committed meanwhile is another file.
        location = handle.metadata_location
        return Scan(
            f"iceberg_scan({literal(location)})",
            ("avro", "httpfs", "iceberg"),
            location,
            store_properties(handle),
        )
    if isinstance(table, DeltaTable):
        location = table.objects.uri
        # This extension reads a URI, in which a '%' begins a code; Iceberg's reads plain text.
        scheme, rest = split_uri(location)
        return Scan(
            f"delta_scan({literal(f'{scheme}://{quote(rest)}')}, version => {head.version:d})",
            ("delta", "httpfs"),
            location,
            table.store_properties,
        )
    raise UnsupportedFormat(f"{table.name} is in a format that SQL cannot read")


def literal(text: str) -> str:
    """Text as SQL writes it: views take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def _rows(table: Table, head: Head) -> pa.Table:
    names = [*table.file_schema.names, *COMMIT_COLUMNS]
    empty = pa.schema([pa.field(one.name, one.type) for one in table.file_schema])
    found = [
        _with_commit(_read(table, part), batch, part).select(names)
        for batch in table.entries(head, head.state.watermark, head.state.next_step)
        for part in batch.parts
    ]
    if not found:
        for name, kind in COMMIT_COLUMNS.items():
            empty = empty.append(pa.field(name, kind))
        return empty.empty_table()
    return pa.concat_tables(found)


def _read(table: Table, part: Part) -> pa.Table:
    data, _ = table.objects.get(part.path)
    read = pq.read_table(pa.BufferReader(data))
    return read.replace_schema_metadata(None)


def _with_commit(rows: pa.Table, batch: BatchEntry, part: Part) -> pa.Table:
    values = {
        "step": batch.step,
        "producer": batch.producer,
        "sequence": batch.sequence,
        "committed_at": batch.committed_at_ms * 1000,
        "digest": part.digest,
    }
    for name, kind in COMMIT_COLUMNS.items():
        rows = rows.append_column(name, pa.repeat(pa.scalar(values[name], kind), rows.num_rows))
    return rows
