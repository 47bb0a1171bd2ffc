"""AWS Glue as moto's server plays it, on loopback; no other Glue can run on a machine of one's own.

    python -m tests.servers.glue <port>

moto takes an UpdateTable whatever ``VersionId`` it names, so that of two commits on one version the
first would be lost without a word. AWS refuses the second, and pyiceberg's commits rest on that:
`VersionCheck` does what AWS documents (a ``ConcurrentModificationException`` unless the table still
has that version), in front of moto, one request at a time. Nothing else of moto is changed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchweave.demo.object_server import free_ports
from tests.servers.process import ServerProcess
from tests.servers.seaweed import HOST, READY_S, REGION, ROOT

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class GlueServer(ServerProcess):
    """A running server: one Glue catalog, shared by all who ask it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        super().__init__(process, log)
        self.port = port
        self.endpoint = f"http://{HOST}:{port}"
        self.access_key = "AKGLUE"
        self.secret_key = secrets.token_hex(16)  # moto asks for some and looks at none

    def client(self, region: str = REGION) -> Any:
        """A boto3 Glue client; each region has databases of its own."""
        return boto3.client(
            "glue",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=region,
            config=Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 1}),
        )

    def wait(self, deadline_s: float) -> None:
        """Return when it answers; raise with the log if that takes too long."""
        until_s = time.monotonic() + deadline_s
        said: Exception | None = None
        client = self.client()
        while time.monotonic() < until_s and self._process.poll() is None:
            try:
                client.get_databases()
                return
            except (BotoCoreError, ClientError) as error:
                said = error
            time.sleep(0.1)
        log = self.log()
        self.stop()
        raise RuntimeError(f"moto's server is not ready; it last said: {said}\n{log}")


def start(deadline_s: float = READY_S) -> GlueServer:
    """Start a server and wait until it answers."""
    folder = Path(tempfile.mkdtemp(prefix="glue-"))
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.servers.glue", str(port)]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.guard", str(folder), "-", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "MOTO_ALLOW_NONEXISTENT_REGION": "true"},  # each test's own region
            start_new_session=True,
        )
    server = GlueServer(process, port, folder / "log.txt")
    server.wait(deadline_s)
    return server


@contextlib.contextmanager
def running() -> Iterator[GlueServer]:
    """A server for a ``with`` block, as benchmarks use it."""
    server = start()
    try:
        yield server
    finally:
        server.stop()


# -- the process ---------------------------------------------------------------------------------


class VersionCheck:
    """In front of moto: an UpdateTable of a version that is not the table's is refused, as by AWS.

    One request at a time, so that nothing comes between the look and the update.
    """

    def __init__(self, moto: Wsgi) -> None:
        self._moto = moto
        self._lock = threading.Lock()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with self._lock:
            if environ.get("HTTP_X_AMZ_TARGET") == "AWSGlue.UpdateTable":
                found = self._version(environ, json.loads(body))
                if found is not None:
                    return _refusal(found, start_response)
            return list(self._moto({**environ, "wsgi.input": io.BytesIO(body)}, start_response))

    def _version(self, environ: dict[str, Any], asked: dict[str, Any]) -> str | None:
        """The table's version if it is not the one asked for."""
        if "VersionId" not in asked:
            return None
        name = {"DatabaseName": asked["DatabaseName"], "Name": asked["TableInput"]["Name"]}
        body = json.dumps(name).encode()
        inner = {
            **environ,
            "HTTP_X_AMZ_TARGET": "AWSGlue.GetTable",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
        }
        answer = json.loads(b"".join(self._moto(inner, lambda *arguments: None)))
        version = answer.get("Table", {}).get("VersionId")
        return None if version in (None, asked["VersionId"]) else str(version)


def _refusal(found: str, start_response: Callable[..., Any]) -> list[bytes]:
    name = "ConcurrentModificationException"
    body = json.dumps({"__type": name, "Message": f"the table has version {found}"}).encode()
    headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-errortype", name)]
    start_response("400 Bad Request", [*headers, ("Content-Length", str(len(body)))])
    return [body]


def main(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = VersionCheck(DomainDispatcherApplication(create_backend_app))
    make_server(HOST, port, application, threaded=True).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
