"""A front of an Iceberg REST server whose tokens wear out: after some requests each is refused.

A real server's token lasts an hour. Here one lasts a number of requests, and a new one is had for
the asking, unless that is refused too. It runs in a thread of the test's own process.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from tests.servers.seaweed import HOST

TOKENS_PATH = "/v1/oauth/tokens"
DROPPED = ("host", "connection", "transfer-encoding", "content-length")


class ExpiringTokens:
    """The front of the server at ``port``; a context manager.

    Attributes:
        uses: how many requests a token is good for.
        renews: whether a new token is handed out.
        expires_in: the seconds that a token is said to last, if not what the server says.
        fetched: tokens handed out so far.
        refused: requests that were answered with 401, because of the token.
    """

    def __init__(self, port: int, *, uses: int) -> None:
        self.uses = uses
        self.renews = True
        self.expires_in: int | None = None
        self.fetched = 0
        self.refused = 0
        self._port = port
        self._used: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.uri = f"http://{HOST}:{self._server.server_address[1]}"

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, str]:
        """Status, body and content type of the answer to one request."""
        asks_token = path == TOKENS_PATH
        with self._lock:
            if asks_token and not self.renews:
                refusal = {"error": "invalid_client", "error_description": "the client was removed"}
                return 401, json.dumps(refusal).encode(), "application/json"
            if not asks_token and not self._is_good(headers.get("authorization", "")):
                self.refused += 1
                error = {"message": "expired", "type": "NotAuthorizedException", "code": 401}
                return 401, json.dumps({"error": error}).encode(), "application/json"
        status, answer, kind = self._forward(method, path, headers, body)
        if asks_token and status == 200:
            answer = self._new_token(json.loads(answer))
        return status, answer, kind

    def _is_good(self, authorization: str) -> bool:
        self._used[authorization] += 1
        return self._used[authorization] <= self.uses

    def _new_token(self, answer: dict[str, object]) -> bytes:
        """The server hands the same token out within a second: made different by a suffix."""
        with self._lock:
            self.fetched += 1
            answer["access_token"] = f"{answer['access_token']}~{self.fetched}"
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return json.dumps(answer).encode()

    def _forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, str]:
        kept = {name: text for name, text in headers.items() if name not in DROPPED}
        if "authorization" in kept:
            kept["authorization"] = kept["authorization"].partition("~")[0]
        connection = http.client.HTTPConnection(HOST, self._port, timeout=60)
        try:
            connection.request(method, path, body, kept)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Type", "")
        finally:
            connection.close()

    def __enter__(self) -> ExpiringTokens:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(front: ExpiringTokens) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): text for name, text in self.headers.items()}
            headers["accept-encoding"] = "identity"
            status, answer, kind = front.answer(self.command, self.path, headers, body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - likewise
            """Quiet: tests say what they see."""

    return Handler
