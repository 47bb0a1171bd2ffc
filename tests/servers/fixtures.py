"""Fixtures that several test modules need: one server of a kind for all tests of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import catalogs
from tests.servers.catalogs import Servers
from tests.servers.glue import GlueServer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.seaweed import S3Server


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """All servers; each starts when a test first needs it, and its log is shown if it cannot."""
    with catalogs.running() as servers:
        yield servers


@pytest.fixture(scope="session")
def s3(servers: Servers) -> S3Server:
    """A real S3 server. Make a bucket of your own with ``s3.bucket()``."""
    return servers.s3


@pytest.fixture(scope="session")
def postgres(servers: Servers) -> PostgresServer:
    """A real PostgreSQL server. Make a database of your own with ``postgres.database()``."""
    return servers.postgres


@pytest.fixture(scope="session")
def glue(servers: Servers) -> GlueServer:
    """AWS Glue as moto plays it."""
    return servers.glue


@pytest.fixture
def catalog_properties(servers: Servers, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """``catalog_properties(kind)``: a new, empty warehouse of one of `catalogs.KINDS`."""
    return lambda kind: servers.properties(kind, tmp_path)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """A fault proxy in front of it, which forwards everything until it is told otherwise."""
    with Proxy(s3.port) as proxy:
        yield proxy
