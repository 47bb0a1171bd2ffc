"""Fixtures that several test modules need: one server for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import seaweed
from tests.servers.proxy import Proxy
from tests.servers.seaweed import S3Server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server. Make a bucket of your own with ``s3.bucket()``."""
    with seaweed.running() as server:
        yield server


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """A fault proxy in front of it, which forwards everything until it is told otherwise."""
    with Proxy(s3.port) as proxy:
        yield proxy
