"""What a store says, in words of the error tree: the one place where its errors are translated.

Of what a store said, one line is repeated, and of an XML answer its code only: the rest may repeat
the request, with what signs it.
Imports: standard library, obstore, errors, aws_credentials.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from batchweave.aws_credentials import RENEWAL_FAILED
from batchweave.errors import (
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

_XML_CODE = re.compile(r"<Code>(\w+)</Code>")
_FULL = ("os error 28)", "os error 122)", "No space left", "quota")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_SKEWED = ("RequestTimeTooSkewed", "RequestExpired")
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "token has expired")
_UNSUPPORTED = ("501 Not Implemented", "<Code>NotImplemented</Code>")
_DENIED = (
    "os error 1)",  # not permitted
    "os error 13)",  # permission denied
    "os error 20)",  # a parent is a file
    "os error 30)",  # read-only file system
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "401 Unauthorized",
    "403 Forbidden",
)


class mapped:  # noqa: N801 - reads as a clause: with mapped(uri): ...
    """Translate obstore's exceptions into the error tree."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, StoreError):
            return
        if isinstance(error, (BaseError, OSError)) or _is_bad_path(error):
            raise translated(error, self._uri) from None


def translated(error: BaseException, uri: str) -> StoreError:
    """An error of obstore or the system, about one object, as one of the error tree."""
    whole = str(error)
    told = _told_by_name(whole, uri)
    if told is not None:
        return told
    text = _said(error)
    if isinstance(error, (FileNotFoundError, NotFoundError)):
        return ObjectNotFound(f"no object at {uri!r}")
    if isinstance(error, (AlreadyExistsError, PreconditionError)):
        return ObjectExists(f"an object exists at {uri!r}")
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
        return StoreDenied(f"the store refused {uri!r}: {text}")
    if any(mark in whole for mark in _FULL):
        return StoreFull(f"no space left to write {uri!r}: free some, nothing was lost")
    if any(mark in whole for mark in _DENIED):
        return StoreDenied(f"the store refused {uri!r}: {text}")
    if isinstance(error, InvalidPathError) or _is_bad_path(error):
        return ObjectNotFound(f"not a path: {uri!r}")
    return StoreUnavailable(f"the store failed on {uri!r}: {text}")


def _told_by_name(whole: str, uri: str) -> StoreDenied | None:
    """What a store calls by a name, whatever kind of error obstore makes of it."""
    if any(mark in whole for mark in _NO_BUCKET):
        return StoreDenied(
            f"the store refused {uri!r}: the bucket does not exist, or these credentials may not "
            "see it. Create it, or correct the warehouse"
        )
    if any(mark in whole for mark in _EXPIRED):
        return StoreDenied(
            f"the store refused {uri!r}: the credentials have expired. Log in again, give a new "
            "session token, or let boto3 find credentials that it can renew"
        )
    if RENEWAL_FAILED in whole:
        return StoreDenied(
            f"{uri!r} was not asked: {RENEWAL_FAILED}. Log in again, or see to what gives them out"
        )
    if any(mark in whole for mark in _SKEWED):
        return StoreDenied(
            f"the store refused {uri!r}: this machine's clock and the store's differ by more than "
            "a signature may be old. Set this machine's clock"
        )
    if any(mark in whole for mark in _UNSUPPORTED):
        return StoreDenied(
            f"the store refused {uri!r}: it does not implement this request (501). Streams need a "
            "store with conditional writes"
        )
    return None


def _is_bad_path(error: BaseException) -> bool:
    """Whether obstore's binding, not the store, refused the path."""
    return isinstance(error, ValueError) and "Could not parse path" in str(error)


def _said(error: BaseException) -> str:
    """What the store said, in one line."""
    text = first_line(error)
    answer = text.find("<")
    if answer < 0:
        return text
    code = _XML_CODE.search(str(error))
    return text[:answer] + (code.group(1) if code else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
