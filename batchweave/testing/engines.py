"""Other engines' reads of a stream's table: each a function from where it lies to all of its rows.

Iceberg tables are given by the location of a metadata file, Delta tables by their folder; ``store``
holds pyiceberg's ``s3.*`` properties. Each engine opens the table with its own code, none goes
through BatchWeave. An engine is imported when it is asked, as none is a dependency of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

Engine = Callable[[str, Mapping[str, str]], pa.Table]
"""Reads all rows of the table at a location of a store."""


def _pyiceberg(location: str, store: Mapping[str, str]) -> pa.Table:
    return _static(location, store).scan().to_arrow()


def _iceberg_duckdb(location: str, store: Mapping[str, str]) -> pa.Table:
    return _duckdb(("avro", "httpfs", "iceberg"), "iceberg_scan", location, store)


def _iceberg_polars(location: str, store: Mapping[str, str]) -> pa.Table:
    import polars as pl

    table, options = _static(location, store), object_store_options(store)
    scan = pl.scan_iceberg(table, storage_options=options or None, reader_override="native")
    return scan.collect().to_arrow()


def _iceberg_daft(location: str, store: Mapping[str, str]) -> pa.Table:
    import daft

    return daft.read_iceberg(_static(location, store), io_config=_daft_config(store)).to_arrow()


def _deltalake(location: str, store: Mapping[str, str]) -> pa.Table:
    import deltalake

    table = deltalake.DeltaTable(location, storage_options=object_store_options(store))
    rows = deltalake.QueryBuilder().register("stream", table).execute("select * from stream")
    return pa.table(rows.read_all())


def _delta_duckdb(location: str, store: Mapping[str, str]) -> pa.Table:
    return _duckdb(("httpfs", "delta"), "delta_scan", location, store)


def _delta_polars(location: str, store: Mapping[str, str]) -> pa.Table:
    import polars as pl

    # Its own scan takes partition values from paths in Hive's style, never from the log: without
    # pyarrow it shows step, producer and the other partition columns as null (Polars 2.1).
    options = object_store_options(store)
    return pl.read_delta(location, storage_options=options, use_pyarrow=True).to_arrow()


def _delta_daft(location: str, store: Mapping[str, str]) -> pa.Table:
    import daft

    return daft.read_deltalake(location, io_config=_daft_config(store)).to_arrow()


ICEBERG_ENGINES: Mapping[str, Engine] = {
    "pyiceberg": _pyiceberg,
    "DuckDB": _iceberg_duckdb,
    "Polars": _iceberg_polars,
    "Daft": _iceberg_daft,
}
DELTA_ENGINES: Mapping[str, Engine] = {
    "deltalake": _deltalake,
    "DuckDB": _delta_duckdb,
    "Polars": _delta_polars,
    "Daft": _delta_daft,
}


def store_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """Of a catalog's properties those that say how its store is reached."""
    return {key: text for key, text in properties.items() if key.startswith("s3.")}


def object_store_options(store: Mapping[str, str]) -> dict[str, str]:
    """pyiceberg's ``s3.*`` properties as deltalake and Polars take them."""
    if not store:
        return {}
    return {
        "AWS_ACCESS_KEY_ID": store["s3.access-key-id"],
        "AWS_SECRET_ACCESS_KEY": store["s3.secret-access-key"],
        "AWS_REGION": store["s3.region"],
        "AWS_ENDPOINT_URL": store["s3.endpoint"],
        "AWS_ALLOW_HTTP": "true",
    }


def _static(location: str, store: Mapping[str, str]) -> Any:
    from pyiceberg.table import StaticTable

    return StaticTable.from_metadata(location, dict(store))


def _duckdb(
    extensions: tuple[str, ...], function: str, location: str, store: Mapping[str, str]
) -> pa.Table:
    import duckdb

    from batchweave.sql.session import extension_path

    with duckdb.connect() as connection:
        for name in extensions:
            connection.load_extension(str(extension_path(name)))
        if location.startswith("s3://"):
            endpoint = urlsplit(store["s3.endpoint"])
            connection.execute(
                "create secret store (type s3, key_id $key, secret $secret, region $region,"
                " endpoint $endpoint, url_style 'path', use_ssl $tls)",
                {
                    "key": store["s3.access-key-id"],
                    "secret": store["s3.secret-access-key"],
                    "region": store["s3.region"],
                    "endpoint": endpoint.netloc,
                    "tls": endpoint.scheme == "https",
                },
            )
        return connection.execute(f"select * from {function}($1)", [location]).to_arrow_table()


def _daft_config(store: Mapping[str, str]) -> Any:
    from daft.io import IOConfig, S3Config

    if not store:
        return IOConfig()
    return IOConfig(
        s3=S3Config(
            endpoint_url=store["s3.endpoint"],
            key_id=store["s3.access-key-id"],
            access_key=store["s3.secret-access-key"],
            region_name=store["s3.region"],
            use_ssl=store["s3.endpoint"].startswith("https"),
        )
    )
