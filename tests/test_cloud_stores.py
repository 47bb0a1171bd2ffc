"""GCS and Azure open offline from pyiceberg's properties, and are asked by the rules of S3."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import batchweave as bw
from batchweave.cloud_stores import azure_place, open_azure, open_gcs
from batchweave.objects import Objects, ObstoreObjects, open_objects
from batchweave.store_clients import RETRIES

ACCOUNT = {"adls.account-name": "account"}
KEY = "a2V5LW9mLXRoZS1hY2NvdW50"


class Unavailable(BaseHTTPRequestHandler):
    """Answers 503 to everything and counts: no cloud store fails on demand."""

    seen: list[str]

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append(self.command)
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's word
        return None


@pytest.fixture
def unavailable() -> Iterator[tuple[str, list[str]]]:
    """A server's endpoint and the methods that it was asked."""
    seen: list[str] = []
    handler = type("Handler", (Unavailable,), {"seen": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("uri", "properties"),
    [
        ("gs://bucket/ware/house", {"gcs.oauth2.token": "hidden-token"}),
        ("gs://bucket", {"gcs.anonymous": "true", "gcs.project-id": "p"}),
        ("az://container/x", {**ACCOUNT, "adls.account-key": KEY}),
        ("abfss://container@account.dfs.core.windows.net/x", {"adls.sas-token": "sv=1&sig=hidden"}),
        ("azure://container", {**ACCOUNT, "adls.anon": "true"}),
        (
            "abfs://container/x",
            {
                **ACCOUNT,
                "adls.tenant-id": "t",
                "adls.client-id": "c",
                "adls.client-secret": "hidden-secret",
            },
        ),
    ],
)
def test_a_warehouse_opens_offline_and_shows_no_credentials(
    uri: str, properties: dict[str, str]
) -> None:
    objects = open_objects(uri, properties)
    assert objects.uri == uri
    assert objects.local_file("x") is None
    shown = repr(objects) + repr(objects.within("a"))
    assert "hidden" not in shown
    assert KEY not in shown
    bw.load_catalog("cloud", type="object-store", warehouse=uri, **properties)


@pytest.mark.parametrize(
    ("uri", "properties", "said"),
    [
        ("gs://bucket", {"gcs.credentials": "x"}, r"gcs\.credentials is not a property"),
        ("gs://bucket", {"gcs.oauth2.token-expires-at": "soon", "gcs.oauth2.token": "t"}, "soon"),
        ("az://c", {**ACCOUNT, "adls.connection-string": "x"}, r"adls\.connection-string is not"),
        ("az://c", {}, "Account must be specified"),
        ("az://c", {**ACCOUNT, "adls.account-key": "not base64!"}, "Invalid Access Key"),
        ("gs://", {}, "names no bucket"),
        ("gs://bucket", {"gcs.request-timeout": "never"}, r"gcs\.request-timeout"),
        ("az://c", {**ACCOUNT, "adls.connect-timeout": "-1"}, r"adls\.connect-timeout"),
    ],
)
def test_a_property_is_used_or_refused_by_name(
    uri: str, properties: dict[str, str], said: str
) -> None:
    with pytest.raises(bw.InvalidSettings, match=said):
        open_objects(uri, properties)


def gcs(endpoint: str) -> Objects:
    given = {"gcs.oauth2.token": "t", "gcs.service.host": endpoint, "gcs.request-timeout": "20"}
    return ObstoreObjects(open_gcs("bucket", given), "gs://bucket")


def azure(endpoint: str) -> Objects:
    given = {**ACCOUNT, "adls.account-key": KEY, "adls.endpoint": f"{endpoint}/account"}
    given["adls.request-timeout"] = "20"
    return ObstoreObjects(open_azure("container", None, given), "az://container")


@pytest.mark.parametrize("opened", [gcs, azure])
def test_a_conditional_write_is_sent_once_and_a_read_some_times(
    opened: Callable[[str], Objects], unavailable: tuple[str, list[str]]
) -> None:
    endpoint, seen = unavailable
    objects = opened(endpoint)
    for body in (b"x", bytes(2 << 20)):
        with pytest.raises(bw.StoreUnavailable):
            objects.create("x", body)
        assert seen == ["PUT"]
        seen.clear()
    with pytest.raises(bw.StoreUnavailable):
        objects.get("x")
    assert seen == ["GET"] * (1 + RETRIES)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("container/a/b/", ("container", None, "a/b")),
        ("container@account.dfs.core.windows.net/a", ("container", "account", "a")),
        ("container@account.blob.core.windows.net", ("container", "account", "")),
        ("", ("", None, "")),
    ],
)
def test_an_azure_place_is_container_account_and_prefix(
    rest: str, expected: tuple[str, str | None, str]
) -> None:
    assert azure_place(rest) == expected
