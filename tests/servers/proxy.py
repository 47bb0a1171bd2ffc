"""A fault proxy in front of an HTTP server: what a network does to writes, on demand.

Requests pass byte for byte (the Host header too, which signatures cover). Of the writes (PUT, POST,
DELETE) some are forwarded and their answer is thrown away, some are answered late, some are refused
before the server sees them. It runs as a process of its own, which ends with its owner; `Proxy` is
the owner's handle.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
WRITES = ("PUT", "POST", "DELETE")
CHUNK = 256 * 1024
HEAD_MAX = 256 * 1024
CONDITION = b"if-none-match:"
DATA_FOLDER = b"/data/"
"""Part of the paths of streams' data files; all else is metadata."""


@dataclass(frozen=True)
class Faults:
    """What happens to requests from now on.

    Attributes:
        drop: probability that a write reaches the server and its answer is thrown away.
        drop_every: the same for every n-th write; 0 for never.
        refuse: probability that a write is answered with ``refuse_status`` and not forwarded.
        refuse_status: an HTTP status such as 503, 409 or 412.
        delay: probability that the answer to a write is held back for ``delay_s``.
        delay_s: how long.
        down: every connection is closed at once, also those that are open.
        silent: connections are taken, and nothing is ever answered.
        queue: conditional writes of one path reach the server one after the other. S3 settles
            rivals at once; a server that makes them wait for a lock would measure its lock.
        unconditional: the condition of a conditional write is taken away, as by a store that does
            not know it.
        unimplemented: conditional writes are answered with 501 and not forwarded.
        deny: every request is answered with 403 and this error code, and not forwarded.
        expired: requests signed with this access key are answered with 403 ExpiredToken.
    """

    drop: float = 0.0
    drop_every: int = 0
    refuse: float = 0.0
    refuse_status: int = 503
    delay: float = 0.0
    delay_s: float = 1.0
    down: bool = False
    silent: bool = False
    queue: bool = False
    unconditional: bool = False
    unimplemented: bool = False
    deny: str = ""
    expired: str = ""


class Proxy:
    """A running proxy; also a context manager.

    ``certificate`` is a PEM file with the key and the certificate of this machine's loopback: then
    clients are spoken to in TLS.
    """

    def __init__(self, port: int, seed: int = 1, certificate: Path | None = None) -> None:
        secured = [str(certificate)] if certificate else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.proxy", str(port), str(seed), *secured],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self.faults = Faults()
        scheme = "https" if certificate else "http"
        self.endpoint = f"{scheme}://{HOST}:{self._ask('hello')['port']}"

    def set(self, **changes: Any) -> None:
        """Change some of the faults; returns when the change holds."""
        self.faults = replace(self.faults, **changes)
        self._ask("faults", **asdict(self.faults))

    def heal(self) -> None:
        """Forward everything from now on."""
        self.faults = Faults()
        self._ask("faults", **asdict(self.faults))

    def counts(self) -> dict[str, int]:
        """Requests by method, faults by kind, and ``bytes_in`` and ``bytes_out`` of the server.

        ``data_requests`` and ``data_bytes_out`` are those of streams' data files among them.
        """
        return {str(name): int(count) for name, count in self._ask("counts").items()}

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, what: str, **values: Any) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps({"ask": what, **values}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the proxy ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


# -- the process ---------------------------------------------------------------------------------


class _Forwarder:
    """The proxy itself: one task a client connection, each with a server connection of its own."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.faults = Faults()
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._writes = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._queues: dict[bytes, tuple[asyncio.Lock, int]] = {}

    def change(self, faults: Faults) -> None:
        self.faults = faults
        self._writes = 0
        if faults.down:
            for writer in self._open:
                writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of one client connection."""
        self._open.add(writer)
        server: asyncio.StreamWriter | None = None
        try:
            if self.faults.down:
                return
            server_reader, server = await asyncio.open_connection(HOST, self.port, limit=HEAD_MAX)
            while await self._exchange(reader, writer, server_reader, server):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # either side went away
        finally:
            self._open.discard(writer)
            writer.transport.abort()
            if server is not None:
                server.transport.abort()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; False if the connection must not be used again."""
        head = await reader.readuntil(b"\r\n\r\n")
        method = head.split(b" ", 1)[0].decode()
        self.counts[method] += 1
        headers = _headers(head)
        fault = self._fault() if method in WRITES else ""
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.faults.silent:
            await asyncio.sleep(3600)
        refusal = self._refusal(headers)
        if refusal is not None:
            self.counts["refused"] += 1
            await _body(reader, headers, None)
            writer.write(refusal)
            await writer.drain()
            return True
        if self.faults.unconditional:
            head = b"\r\n".join(
                line for line in head.split(b"\r\n") if not line.lower().startswith(CONDITION)
            )
        if self.faults.queue and "if-none-match" in headers:
            path = head.split(b" ", 2)[1]
            async with self._one_at_a_time(path):
                return await self._forward(head, fault, reader, writer, server_reader, server)
        return await self._forward(head, fault, reader, writer, server_reader, server)

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, path: bytes) -> AsyncIterator[None]:
        lock, waiting = self._queues.get(path, (asyncio.Lock(), 0))
        self._queues[path] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._queues.pop(path)
            if waiting > 1:
                self._queues[path] = (lock, waiting - 1)

    async def _forward(
        self,
        head: bytes,
        fault: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> bool:
        method, headers = head.split(b" ", 1)[0].decode(), _headers(head)
        if fault == "refuse":
            self.counts["refused"] += 1
            await _body(reader, headers, None)
            writer.write(_refusal(self.faults.refuse_status))
            await writer.drain()
            return True
        server.write(head)
        self.counts["bytes_in"] += len(head) + await _body(reader, headers, server)
        answer = await _answer_head(server_reader)
        kept: asyncio.StreamWriter | None = writer
        if fault == "drop":
            self.counts["dropped"] += 1
            kept = None
        elif fault == "delay":
            self.counts["delayed"] += 1
            await asyncio.sleep(self.faults.delay_s)
        if kept is not None:
            kept.write(answer)
        found = _headers(answer)
        size = 0
        if method != "HEAD" and not _is_bare(answer):
            size = await _body(server_reader, found, kept, to_end=True)
        self.counts["bytes_out"] += len(answer) + size
        if DATA_FOLDER in head.split(b" ", 2)[1]:
            self.counts["data_requests"] += 1
            self.counts["data_bytes_out"] += len(answer) + size
        closes = found.get("connection", "").lower() == "close"
        return kept is not None and not closes

    def _refusal(self, headers: dict[str, str]) -> bytes | None:
        """The answer to a request that is not forwarded, whatever its luck."""
        if self.faults.deny:
            return _refusal(403, self.faults.deny)
        expired = self.faults.expired
        if expired and f"Credential={expired}/" in headers.get("authorization", ""):
            return _refusal(403, "ExpiredToken")
        if self.faults.unimplemented and "if-none-match" in headers:
            return _refusal(501)
        return None

    def _fault(self) -> str:
        faults = self.faults
        self._writes += 1
        if faults.drop_every and self._writes % faults.drop_every == 0:
            return "drop"
        drawn = self._chance.random()
        for name in ("drop", "refuse", "delay"):
            drawn -= getattr(faults, name)
            if drawn < 0:
                return name
        return ""


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _is_bare(answer: bytes) -> bool:
    return answer.split(b" ", 2)[1][:3] in (b"204", b"304")


def _refusal(status: int, said: str = "") -> bytes:
    codes = {
        409: "ConditionalRequestConflict",
        412: "PreconditionFailed",
        501: "NotImplemented",
        503: "SlowDown",
    }
    code = said or codes.get(status, "InternalError")
    body = f"<Error><Code>{code}</Code></Error>".encode()
    return b"HTTP/1.1 %d Refused\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


async def _answer_head(server_reader: asyncio.StreamReader) -> bytes:
    while True:
        answer = await server_reader.readuntil(b"\r\n\r\n")
        if answer.split(b" ", 2)[1][:1] != b"1":  # the proxy itself said "continue"
            return answer


async def _body(
    reader: asyncio.StreamReader,
    headers: dict[str, str],
    to: asyncio.StreamWriter | None,
    *,
    to_end: bool = False,
) -> int:
    """Pass a message's body on (or away); return its bytes."""
    if "chunked" in headers.get("transfer-encoding", ""):
        size = 0
        while True:
            line = await reader.readuntil(b"\r\n")
            length = int(line.split(b";")[0], 16)
            _pass(line, to)
            size += await _copy(reader, length, to) + len(line)
            end = await reader.readuntil(b"\r\n")
            _pass(end, to)
            if length == 0:
                while end != b"\r\n":  # trailers
                    end = await reader.readuntil(b"\r\n")
                    _pass(end, to)
                return size
    if "content-length" in headers:
        return await _copy(reader, int(headers["content-length"]), to)
    return await _copy(reader, 1 << 62, to) if to_end else 0


async def _copy(reader: asyncio.StreamReader, length: int, to: asyncio.StreamWriter | None) -> int:
    left = length
    while left:
        data = await reader.read(min(left, CHUNK))
        if not data:
            break
        left -= len(data)
        _pass(data, to)
        if to is not None:
            await to.drain()
    return length - left


def _pass(data: bytes, to: asyncio.StreamWriter | None) -> None:
    if to is not None:
        to.write(data)


async def _main(port: int, seed: int, certificate: str | None = None) -> None:
    forwarder = _Forwarder(port, seed)
    secured: ssl.SSLContext | None = None
    if certificate is not None:
        secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secured.load_cert_chain(certificate)
    listener = await asyncio.start_server(
        forwarder.serve, HOST, 0, limit=HEAD_MAX, backlog=1024, ssl=secured
    )
    own_port = listener.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    async with listener:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            what = asked.pop("ask")
            answer: dict[str, Any] = {}
            if what == "hello":
                answer = {"port": own_port}
            elif what == "faults":
                forwarder.change(Faults(**asked))
            elif what == "counts":
                answer = dict(forwarder.counts)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
