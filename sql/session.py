"""SQL over a stream: a DuckDB connection with the views of ``sql/views`` on one version.

DuckDB's own Iceberg extension does the scanning. The connection is pinned to the metadata of the
head, so that a query sees one version.
"""

from __future__ import annotations

import importlib.util
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
from pyiceberg.table import Table as IcebergHandle

from batchweave.catalogs.iceberg import IcebergTable, store_properties
from batchweave.errors import InvalidSettings, StoreDenied, StoreUnavailable
from batchweave.objects import split_uri
from batchweave.s3_store import find_credentials, find_region
from batchweave.stream import Stream
from batchweave.table import Head

EXTENSIONS = ("avro", "httpfs", "iceberg")
VIEWS = ("samples", "batches", "producers")


def query(stream: Stream, sql: str) -> duckdb.DuckDBPyRelation:
    """Run one query on the stream's head.

    Raises:
        InvalidSettings: the query is not valid SQL, or names a view or column that is not there.
        StoreDenied, StoreUnavailable: the table's metadata cannot be read.
    """
    connection = connect(stream)
    try:
        relation = connection.sql(sql)
    except duckdb.Error as error:
        raise InvalidSettings(f"the query failed: {error}") from None
    if relation is None:
        raise InvalidSettings("the query returns no rows: give a SELECT")
    return relation


def connect(stream: Stream) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with ``samples``, ``batches`` and ``producers`` of one stream."""
    connection = duckdb.connect()
    for name in EXTENSIONS:
        connection.load_extension(str(extension_path(name)))
    head = stream.table.head()
    connection.register("batch_parts", _batch_parts(stream, head))
    connection.register("producer_states", _producer_states(head))
    _register_rows(connection, stream, head)
    for name in VIEWS:
        view = resources.files("batchweave.sql").joinpath(f"views/{name}.sql")
        connection.execute(view.read_text())
    return connection


def extension_path(name: str) -> Path:
    """Where the wheel of a DuckDB extension put it: nothing is downloaded at run time.

    Raises:
        InvalidSettings: the wheel is not installed for this DuckDB.
    """
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    folder = Path(package.origin).parent if package and package.origin else Path()
    path = folder / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not path.is_file():
        raise InvalidSettings(
            f"DuckDB {duckdb.__version__} has no extension {name!r}: "
            f"install duckdb-extension-{name}=={duckdb.__version__}"
        )
    return path


def _register_rows(connection: duckdb.DuckDBPyConnection, stream: Stream, head: Head) -> None:
    if not isinstance(stream.table, IcebergTable):
        raise StoreUnavailable(f"{stream.name} is in a format that SQL cannot read yet")
    handle = head.detail.handle
    if handle.metadata_location.startswith("memory:"):
        connection.register("rows_of_stream", handle.scan().to_arrow())
        return
    _create_secret(connection, handle)
    # A literal, because views take no parameters. The location is the catalog's, not a user's.
    literal = handle.metadata_location.replace("'", "''")
    try:
        connection.execute(f"create view rows_of_stream as select * from iceberg_scan('{literal}')")
    except duckdb.Error as error:
        kind = StoreDenied if "403" in str(error) else StoreUnavailable
        raise kind(f"{stream.name} cannot be read: {str(error).splitlines()[0]}") from None


def _create_secret(connection: duckdb.DuckDBPyConnection, handle: IcebergHandle) -> None:
    """Let DuckDB into the bucket that the table lies in, and into no other.

    The values are bound, never part of a statement, so that no error or log can repeat them.
    """
    scheme, rest = split_uri(handle.metadata_location)
    if scheme not in ("s3", "s3a"):
        return
    properties = store_properties(handle)
    endpoint = urlsplit(properties.get("s3.endpoint") or "")
    virtual = str(properties.get("s3.force-virtual-addressing", "false")).lower() == "true"
    known = find_credentials(properties)
    values: dict[str, Any] = {
        "scope": f"{scheme}://{rest.partition('/')[0]}/",  # or it would match longer names too
        "region": find_region(properties) or "us-east-1",
        "url_style": "path" if endpoint.netloc and not virtual else "vhost",
        "use_ssl": endpoint.scheme != "http",
    }
    if endpoint.netloc:
        values["endpoint"] = endpoint.netloc + endpoint.path.rstrip("/")
    if known is not None:
        values |= {"key_id": known.access_key, "secret": known.secret_key}
        values["session_token"] = known.session_token or ""  # DuckDB would take the environment's
    options = ", ".join(f"{name} ${name}" for name in values)
    connection.execute(f"create secret batchweave (type s3, {options})", values)


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
