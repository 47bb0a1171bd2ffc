"""Credentials: found once, the same for everybody who signs, renewed in time, never shown."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog as load_pyiceberg_catalog

import batchweave as bw
from batchweave.aws_credentials import Credentials, find_credentials
from batchweave.catalogs.store_io import IMPLEMENTATION
from batchweave.demo.object_server import free_ports
from batchweave.objects import open_objects
from batchweave.s3_store import signed_properties, storage_options
from tests.servers.certificates import make_certificates
from tests.servers.proxy import Proxy
from tests.servers.seaweed import REGION, Keys, S3Server
from tests.streams import QUICK, TOKENS, numbers, publish_numbers

LIFE_S = 4.0
PROCESS = """
import datetime, json, pathlib, sys, time
runs = pathlib.Path(sys.argv[1])
times = json.loads(runs.read_text()) if runs.exists() else []
times.append(time.time())
runs.write_text(json.dumps(times))
first, second = json.loads(sys.argv[2])
ends = times[0] + float(sys.argv[3])
keys, ends = (first, ends) if time.time() < ends else (second, time.time() + 3600)
expires = datetime.datetime.fromtimestamp(ends, datetime.timezone.utc)
print(json.dumps({"Version": 1, "AccessKeyId": keys[0], "SecretAccessKey": keys[1],
                  "Expiration": expires.isoformat()}))
"""


class Process:
    """A credential process of a profile ``temporary``: first one pair of keys, then another.

    The first pair expires ``life_s`` after it was first given out.
    """

    def __init__(self, folder: Path, first: Keys, second: Keys, life_s: float) -> None:
        self.first = first
        self.second = second
        self.runs = folder / "runs"
        self.config = folder / "config"
        script = folder / "process.py"
        script.write_text(PROCESS)
        pairs = [[keys.access_key, keys.secret_key] for keys in (first, second)]
        given = json.dumps(pairs, separators=(",", ":")).replace('"', '\\"')
        self.config.write_text(
            f"[profile temporary]\nregion = {REGION}\n"
            f'credential_process = "{sys.executable}" "{script}" "{self.runs}" "{given}" {life_s}\n'
        )

    def count(self) -> int:
        return len(json.loads(self.runs.read_text())) if self.runs.exists() else 0

    def give_the_second(self) -> None:
        self.runs.write_text("[0]")

    def wait_for_the_end_of_the_first(self) -> None:
        ends_s = json.loads(self.runs.read_text())[0] + LIFE_S
        while time.time() < ends_s:
            time.sleep(0.1)


@pytest.fixture
def process(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    made = Process(tmp_path, s3.writer, s3.second, LIFE_S)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(made.config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return made


def temporary(s3: S3Server, proxy: Proxy) -> dict[str, str]:
    given = s3.properties(s3.bucket(), endpoint=proxy.endpoint)
    return {name: text for name, text in given.items() if "key" not in name} | {
        "s3.profile-name": "temporary"
    }


def test_a_stream_goes_on_when_its_credentials_expire(
    s3: S3Server, proxy: Proxy, process: Process
) -> None:
    properties = temporary(s3, proxy)
    catalog = bw.load_catalog("s3", type="object-store", **properties)
    stream = catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2))
    reader = stream.read(slice=0, follow=True)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 2)
        producer.flush()
        assert [next(reader).step for _ in range(2)] == [0, 1]
        process.wait_for_the_end_of_the_first()
        proxy.set(expired=process.first.access_key)
        publish_numbers(producer, 2, 2)
        producer.flush()
        assert [next(reader).step for _ in range(2)] == [2, 3]
    reader.close()
    runs = process.count()
    assert runs >= 2
    assert numbers(
        bw.load_catalog("s3", type="object-store", **properties).load_stream("demo.tokens")
    ) == [0, 1, 2, 3]
    assert stream.sql("select count(*) from samples").fetchone() == (32,)
    handle = stream.table.head().detail.handle
    assert handle.scan().to_arrow().num_rows == 32
    assert process.count() == runs, "what was found once serves all"


def test_all_who_sign_are_handed_the_same(s3: S3Server, proxy: Proxy, process: Process) -> None:
    properties = temporary(s3, proxy)
    process.give_the_second()
    known = find_credentials(properties)
    assert known is not None
    assert known.access_key == process.second.access_key
    runs = process.count()
    signed = signed_properties(properties)
    options = storage_options(properties)
    assert signed["s3.access-key-id"] == options["aws_access_key_id"] == known.access_key
    assert signed["s3.secret-access-key"] == options["aws_secret_access_key"] == known.secret_key
    assert "s3.profile-name" not in signed
    assert signed["s3.region"] == options["aws_region"] == REGION
    assert options["aws_endpoint"] == proxy.endpoint
    assert options["aws_allow_http"] == "true"
    assert process.count() == runs, "what was found once serves all"


@pytest.mark.parametrize("when", ["at first", "later"])
def test_a_process_that_fails_is_told_without_what_it_wrote(
    s3: S3Server, proxy: Proxy, process: Process, when: str
) -> None:
    properties = temporary(s3, proxy)
    script = process.config.parent / "process.py"
    broken = "import sys\nsys.exit('SECRET-IN-STDERR: the login has ended')"
    if when == "later":
        objects = open_objects(properties["warehouse"], properties)
        objects.create("x", b"1")
        script.write_text(broken)
        process.wait_for_the_end_of_the_first()
    script.write_text(broken)
    with pytest.raises(bw.StoreDenied, match=r"no AWS credentials.*og in again") as caught:
        open_objects(properties["warehouse"], properties).get("x")
    assert "SECRET" not in f"{caught.value!r} {caught.value.__context__!r}"


def test_an_expired_token_is_told_as_such(s3: S3Server, proxy: Proxy) -> None:
    properties = s3.properties(s3.bucket(), endpoint=proxy.endpoint)
    proxy.set(expired=s3.access_key)
    catalog = bw.load_catalog("s3", type="object-store", **properties)
    calls: list[Callable[[], object]] = [
        lambda: catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2)),
        lambda: catalog.load_stream("demo.tokens"),
    ]
    for call in calls:
        with pytest.raises(bw.StoreDenied, match=r"credentials have expired\. Log in again"):
            call()


def test_a_clock_hours_off_is_told_as_such(s3: S3Server, proxy: Proxy) -> None:
    properties = s3.properties(s3.bucket(), endpoint=proxy.endpoint)
    proxy.set(deny="RequestTimeTooSkewed")
    catalog = bw.load_catalog("s3", type="object-store", **properties)
    calls: list[Callable[[], object]] = [
        lambda: catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2)),
        lambda: catalog.load_stream("demo.tokens"),
    ]
    for call in calls:
        with pytest.raises(bw.StoreDenied, match=r"clock and the store's differ.*Set this"):
            call()


def test_a_role_is_assumed_on_top_of_what_signs(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.server import ThreadedMotoServer

    (port,) = free_ports(1)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{port}")
        properties = s3.properties("any") | {"s3.role-arn": "arn:aws:iam::123456789012:role/weaver"}
        known = find_credentials(properties)
    finally:
        server.stop()
    assert known is not None
    assert known.access_key.startswith("ASIA")
    assert known.session_token
    assert signed_properties(properties)["s3.session-token"] == known.session_token


def test_credentials_do_not_show_themselves() -> None:
    shown = repr(Credentials("AKSHOWN", "hidden-key", "hidden-token"))
    assert "AKSHOWN" in shown
    assert "hidden" not in shown


# -- TLS -------------------------------------------------------------------------------------------


def test_a_store_behind_a_private_authority_is_trusted_where_told_so(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = make_certificates(tmp_path)
    with Proxy(s3.port, certificate=certificates.server) as proxy:
        assert proxy.endpoint.startswith("https://")
        properties = s3.properties(s3.bucket(), endpoint=proxy.endpoint)
        with pytest.raises(bw.StoreUnavailable):
            open_objects(properties["warehouse"], properties).create("x", b"1")
        trusting = properties | {"s3.ca-bundle": str(certificates.authority)}
        catalog = bw.load_catalog("s3", type="object-store", **trusting)
        stream = catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2))
        with stream.producer("p", QUICK) as producer:
            publish_numbers(producer, 0, 2)
        assert numbers(stream) == [0, 1]
        assert stream.sql("select count(*) from samples").fetchone() == (16,)
        other = load_pyiceberg_catalog(
            "any",
            **{
                "py-catalog-impl": "batchweave.catalogs.object_store.ObjectStoreCatalog",
                "py-io-impl": IMPLEMENTATION,
                **trusting,
            },
        )
        rows = other.load_table("demo.tokens").scan().to_arrow()
        assert sorted(set(pa.compute.list_flatten(rows["tokens"]).to_pylist())) == [0, 1]
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.authority))
        assert open_objects(properties["warehouse"], properties).children()[0] == ["demo"]


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_bundle_that_holds_no_certificate_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    keys = {"s3.access-key-id": "a", "s3.secret-access-key": "b", "s3.ca-bundle": str(path)}
    with pytest.raises(bw.InvalidSettings, match=r"s3\.ca-bundle.*ca\.pem"):
        open_objects("s3://bucket/x", keys)
