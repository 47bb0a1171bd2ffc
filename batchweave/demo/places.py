"""Where the demo's stream lies: the catalog and the store that the command line asks for.

What is not given is made: a temporary folder, an SQLite file, or an S3 server with an Iceberg REST
catalog on this machine, which ends with the demo.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from batchweave.demo.object_server import ObjectServer, serving
from batchweave.errors import InvalidSettings

OBJECT_STORE = "object-store"
SQLITE = "sqlite"
REST = "rest"
DELTA = "delta"
KINDS = (OBJECT_STORE, SQLITE, REST, DELTA)
"""Catalogs that the demo can make by itself."""

FORMATS = ("iceberg", "delta")
STORES = ("local", "s3")


def kind_of(kind: str | None, table_format: str | None) -> str | None:
    """The kind of catalog that ``--catalog`` and ``--format`` say together; None if neither does.

    Raises:
        InvalidSettings: they contradict each other.
    """
    if table_format == "delta" and kind not in (None, DELTA):
        raise InvalidSettings(
            f"Delta tables are kept in a catalog of type delta, not of type {kind}: "
            "leave --catalog out"
        )
    if table_format == "iceberg" and kind == DELTA:
        raise InvalidSettings("a catalog of type delta holds Delta tables: leave --format out")
    return DELTA if table_format == "delta" else kind


@contextlib.contextmanager
def prepared(
    kind: str | None, store: str | None, given: Mapping[str, str], folder: Path
) -> Iterator[dict[str, str]]:
    """The properties of a catalog for a ``with`` block; ``folder`` takes what has to be made.

    ``given`` are properties that the user names; they win, and nothing is made that they name.

    Raises:
        InvalidSettings: a combination that there is not, or the server's wheel is missing.
        DemoFailed: the server did not start.
    """
    kind = kind or (OBJECT_STORE if store else None)
    if kind is None and given:
        yield dict(given)
        return
    kind = kind or OBJECT_STORE
    if kind == REST and store == "local":
        raise InvalidSettings("the demo's REST catalog keeps its tables on S3: leave --store out")
    if not _needs_server(kind, store, given):
        yield {**_catalog(kind, given, folder), **given}
        return
    with serving(folder / "s3") as server:
        yield {**_on_server(kind, server, folder), **given}


def _needs_server(kind: str, store: str | None, given: Mapping[str, str]) -> bool:
    if kind == REST:
        return "uri" not in given
    if store == "s3" and "s3.endpoint" in given and "warehouse" not in given:
        raise InvalidSettings("name a bucket of that server: --warehouse s3://bucket/folder")
    return store == "s3" and "warehouse" not in given


def _catalog(kind: str, given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """A catalog without a server of ours."""
    if kind not in KINDS or kind == REST:
        return {"type": kind}
    warehouse = given.get("warehouse", str(folder / "warehouse"))
    if kind != SQLITE:
        return {"type": kind, "warehouse": warehouse}
    if "uri" in given:
        return {"type": "sql", "warehouse": warehouse}
    if "://" in warehouse:
        raise InvalidSettings(f"where is the SQLite file for {warehouse}? -p uri=sqlite:///…")
    root = Path(warehouse).absolute()
    root.mkdir(parents=True, exist_ok=True)
    # As a URI: pyiceberg takes a bare path for one of this machine only by accident.
    return {"type": "sql", "uri": f"sqlite:///{root / 'catalog.db'}", "warehouse": root.as_uri()}


def _on_server(kind: str, server: ObjectServer, folder: Path) -> dict[str, str]:
    """A catalog on our server."""
    found = server.store_properties()
    if kind == REST:
        return found | {
            "type": REST,
            "uri": server.catalog_uri,
            "warehouse": server.make_table_bucket(),
            "credential": f"{server.access_key}:{server.secret_key}",
            "oauth2-server-uri": f"{server.catalog_uri}/v1/oauth/tokens",
        }
    found["warehouse"] = f"{server.make_bucket()}/warehouse"
    if kind == SQLITE:
        return found | {"type": "sql", "uri": f"sqlite:///{folder / 'catalog.db'}"}
    return found | {"type": kind}
