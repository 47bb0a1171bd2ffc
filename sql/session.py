"""SQL over a stream: a DuckDB connection with the views of ``sql/views`` on one version.

The version is that of the head when the session is made: every view, and every query of the
session, sees that one. Imports: the core, catalogs, DuckDB.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import duckdb
import pyarrow as pa

from batchweave.errors import InvalidSettings
from batchweave.sql.extensions import extension_path, open_offline
from batchweave.sql.relation import Relation, told, told_as
from batchweave.sql.scans import Rows, source_of
from batchweave.sql.secrets import let_in
from batchweave.stream import Stream
from batchweave.table import Head

VIEWS = ("samples", "batches", "producers")

__all__ = ["VIEWS", "connect", "extension_path", "query"]


def query(stream: Stream, sql: str) -> Relation:
    """Run one query on the stream's head.

    The result's errors are those of the tree also where they show late, as rows are fetched.

    Raises:
        InvalidSettings: the query is not valid SQL, names a view or column that is not there, or
            would load an extension.
        StoreDenied, StoreUnavailable: the table's metadata cannot be read.
    """
    with told():
        _check(sql)
        connection = connect(stream)
        relation = connection.sql(sql)
    if relation is None:
        raise InvalidSettings("the query returns no rows: give a SELECT")
    return Relation(relation)


def _check(sql: str) -> None:
    """An ``INSTALL`` would fetch a program from the network and ``LOAD`` would run one."""
    kinds = {statement.type for statement in duckdb.extract_statements(sql)}
    if duckdb.StatementType.LOAD in kinds:
        raise InvalidSettings("a query cannot install or load extensions: give a SELECT")


def connect(stream: Stream) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with ``samples``, ``batches`` and ``producers`` of one stream.

    Raises:
        UnsupportedFormat: SQL does not know the table's format.
        StoreDenied, StoreUnavailable: the table cannot be read.
    """
    head = stream.table.head()
    source = source_of(stream.table, head)
    connection = open_offline(source.extensions)
    connection.register("batch_parts", _batch_parts(stream, head))
    connection.register("producer_states", _producer_states(head))
    if isinstance(source, Rows):
        connection.register("rows_of_stream", source.table)
    else:
        let_in(connection, source.location, source.properties)
        try:
            connection.execute(f"create view rows_of_stream as select * from {source.sql}")
        except duckdb.Error as error:
            raise told_as(error, f"{stream.name} cannot be read") from None
    for name in VIEWS:
        view = resources.files("batchweave.sql").joinpath(f"views/{name}.sql")
        connection.execute(view.read_text())
    return connection


def _batch_parts(stream: Stream, head: Head) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "step": batch.step,
            "producer": batch.producer,
            "sequence": batch.sequence,
            "committed_at": batch.committed_at_ms,
            "first_slice": part.first_slice,
            "slices": part.slices,
            "rows": part.rows,
            "bytes": part.bytes,
            "digest": part.digest,
            "path": part.path,
        }
        for batch in stream.table.entries(head, head.state.watermark, head.state.next_step)
        for part in batch.parts
    ]
    schema = pa.schema(
        [
            ("step", pa.int64()),
            ("producer", pa.string()),
            ("sequence", pa.int64()),
            ("committed_at", pa.timestamp("ms", tz="UTC")),
            ("first_slice", pa.int32()),
            ("slices", pa.int32()),
            ("rows", pa.int64()),
            ("bytes", pa.int64()),
            ("digest", pa.string()),
            ("path", pa.string()),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _producer_states(head: Head) -> pa.Table:
    rows = [
        {
            "producer": name,
            "generation": producer.generation,
            "sequence": producer.sequence,
            "step": producer.step if producer.step >= 0 else None,
            "last_commit_at": producer.committed_at_ms,
        }
        for name, producer in sorted(head.state.producers.items())
    ]
    schema = pa.schema(
        [
            ("producer", pa.string()),
            ("generation", pa.int64()),
            ("sequence", pa.int64()),
            ("step", pa.int64()),
            ("last_commit_at", pa.timestamp("ms", tz="UTC")),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)
