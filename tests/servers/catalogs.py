"""Every kind of catalog that the tests know, as properties for ``load_catalog(name, **those)``.

`Servers.properties` makes a new, empty warehouse of a kind each time. The fixture
`catalog_properties` hands them to a test; benchmarks take `running`. Servers start when a kind
first needs them.

Iceberg's metadata on ``sql`` lies in a local folder, on ``glue`` and ``rest`` in the S3 server.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import boto3

from tests.servers import glue, postgres, seaweed
from tests.servers.glue import GlueServer
from tests.servers.postgres import PostgresServer
from tests.servers.seaweed import REGION, Keys, S3Server

OBJECT_STORE = ("object-store", "object-store-s3")
SQL = ("sqlite", "postgres")
OTHERS = (*SQL, "rest", "glue")
"""Iceberg catalogs that are not ours, through pyiceberg."""

ICEBERG = (*OBJECT_STORE, *OTHERS)
DELTA = ("delta", "delta-s3")
KINDS = (*ICEBERG, *DELTA)


@dataclass
class Servers:
    """The servers behind the kinds; each is started when it is first asked for."""

    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @cached_property
    def s3(self) -> S3Server:
        return self.stack.enter_context(seaweed.running())

    @cached_property
    def postgres(self) -> PostgresServer:
        return self.stack.enter_context(postgres.running())

    @cached_property
    def glue(self) -> GlueServer:
        return self.stack.enter_context(glue.running())

    def properties(self, kind: str, folder: Path) -> dict[str, str]:
        """A new, empty warehouse; ``folder`` is where the local kinds keep it."""
        local = folder / f"{kind}-{next(self._numbers)}"
        if kind in ("object-store", "delta"):
            return {"type": kind, "warehouse": str(local)}
        if kind in ("object-store-s3", "delta-s3"):
            return {"type": kind.removesuffix("-s3"), **self.s3.properties(self.s3.bucket())}
        if kind == "sqlite":
            local.mkdir()
            return {"type": "sql", "uri": f"sqlite:///{local}/catalog.db", "warehouse": str(local)}
        if kind == "postgres":
            uri = self.postgres.uri(self.postgres.database())
            return {"type": "sql", "uri": uri, "warehouse": str(local)}
        if kind == "rest":
            return rest_properties(self.s3, table_bucket(self.s3))
        if kind == "glue":
            return glue_properties(self.glue, self.s3)
        raise ValueError(f"no catalog of the kind {kind!r}: there are {', '.join(KINDS)}")


@contextlib.contextmanager
def running() -> Iterator[Servers]:
    """Servers for a ``with`` block, as benchmarks use them."""
    with contextlib.ExitStack() as stack:
        yield Servers(stack)


def table_bucket(s3: S3Server) -> str:
    """A new table bucket of the S3 server: the warehouse of its Iceberg REST catalog."""
    name = f"tables-{secrets.token_hex(6)}"
    boto3.client(
        "s3tables",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name=REGION,
    ).create_table_bucket(name=name)
    return name


def rest_properties(
    s3: S3Server, bucket: str, *, uri: str | None = None, keys: Keys | None = None
) -> dict[str, str]:
    """The REST catalog of a table bucket; ``uri`` is that of a proxy in front of it."""
    keys = keys or s3.writer
    where = uri or s3.iceberg_uri
    return {
        **s3.properties(bucket, keys=keys),
        "type": "rest",
        "uri": where,
        "warehouse": f"s3://{bucket}",
        "credential": f"{keys.access_key}:{keys.secret_key}",
        "oauth2-server-uri": f"{where}/v1/oauth/tokens",
    }


def glue_properties(
    server: GlueServer, s3: S3Server, *, endpoint: str | None = None
) -> dict[str, str]:
    """The Glue catalog of a region of one's own, which is one's own databases; and a new bucket."""
    return {
        **s3.properties(s3.bucket()),
        "type": "glue",
        "glue.endpoint": endpoint or server.endpoint,
        "glue.region": f"test-{secrets.token_hex(6)}",
        "glue.access-key-id": server.access_key,
        "glue.secret-access-key": server.secret_key,
    }
