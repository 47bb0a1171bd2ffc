"""A store that does not keep put-if-absent is found out before a stream is made on it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

import batchweave as bw
from batchweave.conditional_writes import check_conditional_writes
from batchweave.errors import StoreUnavailable
from batchweave.objects import MemoryObjects, open_objects
from tests.servers.proxy import Proxy
from tests.servers.seaweed import OPEN_BUCKET, S3Server
from tests.streams import TOKENS


@pytest.fixture
def unsigned(s3: S3Server, proxy: Proxy) -> dict[str, str]:
    """A bucket for all through the proxy, unsigned: so that the proxy can change headers."""
    with contextlib.suppress(ClientError):  # made by another test
        s3.client().create_bucket(Bucket=OPEN_BUCKET)
    given = s3.properties(OPEN_BUCKET, endpoint=proxy.endpoint)
    return {name: text for name, text in given.items() if "key" not in name} | {
        "s3.anonymous": "true"
    }


@pytest.mark.parametrize(
    ("lack", "reason"),
    [("unconditional", r"If-None-Match.*Use a store"), ("unimplemented", r"501.*conditional")],
)
@pytest.mark.parametrize("kind", ["object-store", "delta"])
def test_a_store_without_conditional_writes_is_refused_before_the_stream_is_made(
    unsigned: dict[str, str], proxy: Proxy, kind: str, lack: str, reason: str
) -> None:
    proxy.set(**{lack: True})
    catalog = bw.load_catalog("s3", type=kind, **unsigned)
    with pytest.raises(bw.StoreDenied, match=reason):
        catalog.create_stream(f"{lack}.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2))
    proxy.heal()
    names = [info.path for info in open_objects(unsigned["warehouse"], unsigned).list()]
    assert [name for name in names if lack in name or "probe" in name] == []


def test_the_same_store_with_them_is_taken(unsigned: dict[str, str], proxy: Proxy) -> None:
    objects = open_objects(unsigned["warehouse"], unsigned)
    before = proxy.counts()
    check_conditional_writes(objects)
    after = proxy.counts()
    assert after["PUT"] - before.get("PUT", 0) == 2
    assert (
        sum(after[one] - before.get(one, 0) for one in ("PUT", "POST", "DELETE") if one in after)
        <= 3
    )
    assert [info.path for info in objects.list() if "probe" in info.path] == []


def test_lost_answers_are_not_taken_for_a_lack(unsigned: dict[str, str], proxy: Proxy) -> None:
    objects = open_objects(unsigned["warehouse"], unsigned)
    proxy.set(drop_every=1)
    check_conditional_writes(objects)
    proxy.set(drop_every=1, unconditional=True)
    with pytest.raises(bw.StoreDenied, match="overwrote"):
        check_conditional_writes(objects)


def test_an_outage_is_not_taken_for_a_lack(unsigned: dict[str, str], proxy: Proxy) -> None:
    objects = open_objects(unsigned["warehouse"], unsigned)
    proxy.set(down=True)
    with pytest.raises(StoreUnavailable):
        check_conditional_writes(objects)


def test_folders_and_memory_keep_them_and_nothing_is_left(tmp_path: Path) -> None:
    memory = MemoryObjects()
    check_conditional_writes(memory)
    assert list(memory.list()) == []
    check_conditional_writes(open_objects(str(tmp_path / "warehouse")))
    assert list(tmp_path.iterdir()) == []
