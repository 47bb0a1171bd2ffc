"""How stores behind HTTP are asked: time limits, trust, and what may be sent twice.

obstore would retry each request ten times within three minutes, which hides an outage, and it sends
a conditional write again whose answer was lost, which then meets its own first write as 412. Here
reads, lists and deletes are retried twice, within the request's own timeout; a conditional write is
sent once, and a lost answer is what it is: unknown. What goes on longer is up to the callers, whose
retries are bounded and end in an error that says so. That is one rule for S3, GCS and Azure.
Imports: standard library, errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from batchweave.errors import InvalidSettings

CONNECT_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = 10.0
RETRIES = 2
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 1.0
LARGE_BYTES = 1024 * 1024
LARGE_TIMES = 12
"""A request with a body of more than `LARGE_BYTES` may take so many times as long."""

IDLE_S = 15.0
"""S3 closes connections that were idle for some 20 s: one that we still held would fail a write."""

SECONDS_MAX = 86_400


@dataclass(frozen=True, slots=True)
class Clients:
    """One bucket by purpose: ``reading`` also lists and deletes, the others write conditionally."""

    reading: Any
    creating: Any
    creating_large: Any


@dataclass(frozen=True, slots=True)
class Transport:
    """How requests travel.

    Attributes:
        connect_s: seconds to be connected in.
        request_s: seconds that one request may take, its retries included.
        plain_http: whether requests may go without TLS.
        trusted: certificates (PEM) that are trusted besides the system's.
    """

    connect_s: float = CONNECT_TIMEOUT_S
    request_s: float = REQUEST_TIMEOUT_S
    plain_http: bool = False
    trusted: bytes | None = None

    @staticmethod
    def of(properties: Mapping[str, str], kind: str, *endpoints: str | None) -> Transport:
        """From ``<kind>.connect-timeout``, ``.request-timeout`` and ``.ca-bundle``.

        Requests go without TLS only where the first endpoint that is given says ``http://``.

        Raises:
            InvalidSettings: a timeout that is no number above zero, or no file of certificates.
        """
        endpoint = next(filter(None, endpoints), "")
        return Transport(
            connect_s=seconds(properties, f"{kind}.connect-timeout", CONNECT_TIMEOUT_S),
            request_s=seconds(properties, f"{kind}.request-timeout", REQUEST_TIMEOUT_S),
            plain_http=endpoint.startswith("http://"),
            trusted=_certificates(properties, f"{kind}.ca-bundle"),
        )


def open_clients(make: Callable[..., Any], transport: Transport) -> Clients:
    """Open one bucket for each purpose; ``make`` takes ``client_options`` and ``retry_config``."""

    def client(retries: int, answer_s: float, whole_s: float) -> Any:
        options: dict[str, Any] = {
            "allow_http": transport.plain_http,
            "connect_timeout": timedelta(seconds=transport.connect_s),
            "read_timeout": timedelta(seconds=answer_s),
            "timeout": timedelta(seconds=whole_s),
            "pool_idle_timeout": timedelta(seconds=IDLE_S),
        }
        if transport.trusted is not None:
            options["root_certificate"] = transport.trusted
        return make(
            client_options=options,
            retry_config={
                "max_retries": retries,
                "retry_timeout": timedelta(seconds=transport.request_s),
                "backoff": {
                    "init_backoff": timedelta(seconds=RETRY_FIRST_S),
                    "max_backoff": timedelta(seconds=RETRY_MAX_S),
                    "base": 2,
                },
            },
        )

    request_s, large_s = transport.request_s, LARGE_TIMES * transport.request_s
    return Clients(
        reading=client(RETRIES, request_s, large_s),
        creating=client(0, request_s, request_s),
        creating_large=client(0, large_s, large_s),
    )


def seconds(properties: Mapping[str, str], name: str, default: float) -> float:
    """A property that is a number of seconds. Raises `InvalidSettings` unless it is above zero."""
    text = properties.get(name)
    if text in (None, ""):
        return default
    try:
        value = float(str(text))
    except ValueError:
        value = -1.0
    if not 0 < value < SECONDS_MAX:
        raise InvalidSettings(f"{name} is a number of seconds above zero, got {text!r}")
    return value


def _certificates(properties: Mapping[str, str], name: str) -> bytes | None:
    path = properties.get(name)
    if not path:
        return None
    try:
        found = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InvalidSettings(f"{name}: {path!r} cannot be read: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in found:
        raise InvalidSettings(f"{name}: {path!r} holds no certificate in PEM form")
    return found
