"""What a reader fetches from S3: its slices, two requests each, and little else."""

from __future__ import annotations

import pytest

import batchweave as bw
from tests.bench.reader_cost import SCHEMA, idling, publish, reading
from tests.servers.proxy import Proxy
from tests.servers.seaweed import S3Server


@pytest.fixture
def properties(s3: S3Server, proxy: Proxy) -> dict[str, str]:
    return s3.properties(s3.bucket(), endpoint=proxy.endpoint)


def catalog_with(properties: dict[str, str]) -> bw.Catalog:
    return bw.load_catalog("s3", type="object-store", **properties)


@pytest.mark.parametrize(("slice_kib", "at_most"), [(128, 1.35), (1024, 1.10)])
def test_a_rank_of_64_fetches_little_more_than_its_slices(
    properties: dict[str, str], proxy: Proxy, slice_kib: int, at_most: float
) -> None:
    catalog = catalog_with(properties)
    stream = catalog.create_stream("demo.tokens", schema=SCHEMA, mesh=bw.Mesh(dp=64))
    publish(stream, 1, slice_kib)
    cost = reading(catalog.load_stream("demo.tokens"), proxy, slice_kib)
    assert cost.steps == 1
    assert 1.0 < cost.data_amplification <= at_most
    assert cost.data_requests_a_slice <= 2


def test_metadata_of_many_steps_is_read_once(properties: dict[str, str], proxy: Proxy) -> None:
    catalog = catalog_with(properties)
    stream = catalog.create_stream("demo.tokens", schema=SCHEMA, mesh=bw.Mesh(dp=2))
    publish(stream, 60, 16)
    cost = reading(catalog.load_stream("demo.tokens"), proxy, 16)
    assert cost.data_requests_a_slice <= 2
    assert cost.other_requests <= 40, "it grows with commits, which carry many steps each"


def test_an_idle_poll_is_one_small_request(properties: dict[str, str], proxy: Proxy) -> None:
    stream = catalog_with(properties).create_stream(
        "demo.tokens", schema=SCHEMA, mesh=bw.Mesh(dp=1)
    )
    publish(stream, 2, 16)
    requests, size = idling(stream, proxy, polls=25)
    assert 0 < requests <= 1
    assert size < 4096


def test_who_may_only_read_writes_nothing(
    s3: S3Server, properties: dict[str, str], proxy: Proxy
) -> None:
    stream = catalog_with(properties).create_stream(
        "demo.tokens", schema=SCHEMA, mesh=bw.Mesh(dp=1)
    )
    publish(stream, 2, 16)
    bucket = properties["warehouse"].split("/")[2]
    reading_only = s3.properties(bucket, endpoint=proxy.endpoint, keys=s3.reader)
    before = proxy.counts()
    found = catalog_with(reading_only).load_stream("demo.tokens")
    assert sum(1 for _ in found.read(slice=0)) == 2
    assert len(list(found.batches())) == 2
    after = proxy.counts()
    for method in ("PUT", "POST", "DELETE"):
        assert after.get(method, 0) == before.get(method, 0)
