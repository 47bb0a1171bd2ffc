"""What a foreign catalog says, in words of the error tree, and without the secrets it was given.

pyiceberg passes on what its transports raise: `requests`, SQLAlchemy and its drivers, botocore, the
file systems below. Some of them repeat a connection string. They are told apart here and nowhere
else, by what they carry, so that none of these packages has to be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import requests
from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    ForbiddenError,
    OAuthError,
    UnauthorizedError,
)

from batchweave.errors import StoreDenied, StoreError, StoreUnavailable

T = TypeVar("T")

_REFUSALS = (AuthorizationExpiredError, ForbiddenError, OAuthError, UnauthorizedError)
_HTTP_REFUSALS = (401, 403, 419)
_AWS_REFUSALS = (
    "AccessDenied",
    "ExpiredToken",
    "InvalidClientTokenId",
    "InvalidSignature",
    "MissingAuthenticationToken",
    "UnrecognizedClient",
)
_SQL_REFUSALS = ("28", "42501")
"""SQLSTATE: the class of refused log-ins, and insufficient privilege (PostgreSQL, Appendix A)."""

_TOLD_REFUSALS = (
    "ACCESS_DENIED",  # AWS's SDK, as pyarrow passes it on
    "attempt to write a readonly database",
    "authentication failed",
    "no password supplied",
    "permission denied",
    "Unable to locate credentials",
)
_SECRET_WORDS = ("credential", "key", "password", "secret", "token")
_PUBLIC = ("key-id", "uri", "endpoint")
HIDDEN = "***"


def as_store_error(
    error: Exception, what: str, properties: Mapping[str, Any] | None = None
) -> StoreError:
    """``what`` failed: `StoreDenied` where the catalog refused who asks, else `StoreUnavailable`.

    ``properties`` are the catalog's; what is secret among them does not appear in the message.
    """
    said = without_secrets(first_line(error), properties or {})
    if is_refusal(error):
        return StoreDenied(
            f"{what}: the catalog refused: {said}. Renew the credentials, or ask for the rights"
        )
    return StoreUnavailable(f"{what}: {said}")


def is_refusal(error: BaseException) -> bool:
    """Whether the catalog, or the store behind it, refused the credentials or lacks the rights."""
    if isinstance(error, (*_REFUSALS, PermissionError, StoreDenied)):
        return True
    answer = getattr(error, "response", None)
    if getattr(answer, "status_code", None) in _HTTP_REFUSALS:
        return True
    if isinstance(answer, dict):
        code = str(answer.get("Error", {}).get("Code", ""))
        return code.startswith(_AWS_REFUSALS)
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state and str(state).startswith(_SQL_REFUSALS):
        return True
    return any(mark in str(error) for mark in _TOLD_REFUSALS)


def read(call: Callable[[], T]) -> T:
    """Do what only reads; once more where its connection turns out to have been closed meanwhile.

    Databases and gateways close connections that were idle, and the next request finds out.
    """
    try:
        return call()
    except Exception as error:
        if not _was_closed(error):
            raise
        return call()


def _was_closed(error: Exception) -> bool:
    if isinstance(error, requests.ConnectionError):
        return "Connection aborted" in str(error)
    return bool(getattr(error, "connection_invalidated", False))  # SQLAlchemy's


def first_line(error: BaseException) -> str:
    """The first line of what an exception says: SQLAlchemy puts the statement into the next."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def without_secrets(text: str, properties: Mapping[str, Any]) -> str:
    """``text`` with each secret of the properties hidden, also those inside of a ``uri``."""
    for secret in sorted(_secrets(properties), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets(properties: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for name, value in properties.items():
        if isinstance(value, Mapping):
            found |= _secrets(value)
        elif isinstance(value, str):
            found |= _password(value)
            lowered = name.lower()
            if any(word in lowered for word in _SECRET_WORDS) and not lowered.endswith(_PUBLIC):
                found |= {value, value.partition(":")[2]}
    return {secret for secret in found if len(secret) > 2}


def _password(uri: str) -> set[str]:
    """The password of a connection string, as it is written and as it is meant."""
    if "://" not in uri:
        return set()
    try:
        password = urlsplit(uri).password
    except ValueError:
        password = None
    if not password:
        # Not a URI after all, and whoever refuses it repeats it: hide all that may be a password.
        user, at, _ = uri.partition("://")[2].rpartition("@")
        password = user.partition(":")[2] if at else ""
    return {password, unquote(password)} if password else set()
