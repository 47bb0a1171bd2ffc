"""AWS credentials: one place that finds them, and hands them to all who sign requests.

They are those of the properties, else what boto3 finds: profiles, environment, SSO, roles, a
credential process, the instance. ``s3.role-arn`` is assumed on top of either. What boto3 found is
kept for the process, so that all catalogs, FileIOs and SQL connections share one renewal, until the
settings that it came from change.
Imports: standard library, clock, errors; boto3 where credentials have to be looked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from batchweave.clock import Clock, SystemClock
from batchweave.errors import InvalidSettings, StoreDenied

KEPT_S = 60.0
"""How long a store may go on with credentials before it asks for them again."""

ASKED_EVERY_S = 1.0
"""boto3 renews ten minutes before the end, each time that it is asked: short-lived credentials
would run their process for every request."""

RENEWAL_FAILED = "no AWS credentials could be had, or renewed"
ROLE_SESSION_NAME = "batchweave"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs a request."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(repr=False, default=None)


Source = Callable[[], Credentials]
"""Gives the credentials as they are now; raises `StoreDenied` where they cannot be renewed."""


def find_credentials(properties: Mapping[str, str]) -> Credentials | None:
    """The credentials as they are now; None where requests go unsigned.

    Raises:
        InvalidSettings: a profile that is not there, or half a pair of keys.
        StoreDenied: none were given and none were found, or they have expired.
    """
    source = find_source(properties)
    return None if source is None else source()


def find_source(properties: Mapping[str, str]) -> Source | None:
    """Where credentials come from for as long as the program runs; None if requests go unsigned.

    Raises:
        InvalidSettings: a profile that is not there, or half a pair of keys.
        StoreDenied: none were given, and none were found.
    """
    if is_true(properties, "s3.anonymous"):
        return None
    given = _given(properties)
    role = _either(properties, "role-arn")
    if given is not None and role is None:
        return lambda: given
    session_name = _either(properties, "role-session-name") or ROLE_SESSION_NAME
    profile = _either(properties, "profile-name")
    region = _either(properties, "region")
    found = _renewed(given, profile, region, role, session_name, _surroundings())
    if found is None:
        raise _no_credentials(profile)
    return found


def find_region(properties: Mapping[str, str]) -> str | None:
    """The region of the properties, else that of boto3's profile or environment."""
    region = _either(properties, "region")
    if region or _given(properties) or is_true(properties, "s3.anonymous"):
        return region
    name: str | None = _session(None, _either(properties, "profile-name")).region_name
    return name


def provider(source: Source, clock: Clock | None = None) -> Callable[[], dict[str, Any]]:
    """The source as obstore asks it, which holds what it is told until ``expires_at``."""
    times = clock or SystemClock()

    def credentials() -> dict[str, Any]:
        now = source()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.session_token,
            "expires_at": datetime.fromtimestamp(times.now_ms() / 1000, UTC)
            + timedelta(seconds=KEPT_S),
        }

    return credentials


def is_true(properties: Mapping[str, str], name: str) -> bool:
    """Whether a property says ``true``, in any case of letters."""
    return str(properties.get(name, "false")).lower() == "true"


class _Renewed:
    """What boto3 found, renewed in time. Safe to use from many threads."""

    def __init__(self, credentials: Any, clock: Clock) -> None:
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_s = 0.0
        self._now: Credentials | None = None

    def __call__(self) -> Credentials:
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._now is None or self._ended() or now_s - self._asked_s >= ASKED_EVERY_S:
                self._now = self._ask(self._now)
                self._asked_s = now_s
            return self._now

    def _ask(self, before: Credentials | None) -> Credentials:
        frozen = _asked(self._credentials.get_frozen_credentials)
        if isinstance(frozen, Exception):
            if before is not None and not self._ended():
                return before  # renewal begins early: what we hold still signs
            raise _not_given(frozen)
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def _ended(self) -> bool:
        renewable = getattr(self._credentials, "refresh_needed", None)
        return bool(renewable(refresh_in=1)) if renewable else False


@lru_cache(maxsize=64)
def _renewed(
    given: Credentials | None,
    profile: str | None,
    region: str | None,
    role: str | None,
    session_name: str,
    surroundings: tuple[Any, ...],
) -> Source | None:
    """``surroundings`` only tells calls apart that may find something else."""
    session = _session(given, profile, region)
    found = _asked(session.get_credentials)
    if isinstance(found, Exception):
        raise _not_given(found)
    if found is not None and role is not None:
        found = _assumed(session, role, session_name)
    return None if found is None else _Renewed(found, SystemClock())


def _assumed(session: Any, role: str, session_name: str) -> Any:
    """The credentials of a role, assumed by those of the session; again before they expire."""
    from botocore.credentials import DeferredRefreshableCredentials

    def assume() -> dict[str, Any]:
        client = session.client("sts")
        said = client.assume_role(RoleArn=role, RoleSessionName=session_name)["Credentials"]
        return {
            "access_key": said["AccessKeyId"],
            "secret_key": said["SecretAccessKey"],
            "token": said["SessionToken"],
            "expiry_time": said["Expiration"].isoformat(),
        }

    return DeferredRefreshableCredentials(refresh_using=assume, method="sts-assume-role")


def _surroundings() -> tuple[Any, ...]:
    """What boto3 looks at: its environment variables and the state of its two files."""
    variables = tuple(sorted(one for one in os.environ.items() if one[0].startswith("AWS_")))
    files = []
    for name, default in (
        ("AWS_CONFIG_FILE", "~/.aws/config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ):
        try:
            state = os.stat(os.path.expanduser(os.environ.get(name) or default))
            files.append((state.st_mtime_ns, state.st_size))
        except OSError:
            files.append((0, 0))
    return variables, tuple(files)


def _session(given: Credentials | None, profile: str | None, region: str | None = None) -> Any:
    # Here and not above: boto3 takes a while to import, and most openers bring their own keys.
    import boto3
    from botocore.exceptions import ProfileNotFound

    try:
        if given is None:
            return boto3.Session(profile_name=profile, region_name=region)
        keys = (given.access_key, given.secret_key, given.session_token)
        return boto3.Session(*keys, region_name=region)
    except ProfileNotFound:
        raise InvalidSettings(f"there is no AWS profile {profile!r}") from None


def _given(properties: Mapping[str, str]) -> Credentials | None:
    access_key = _either(properties, "access-key-id")
    secret_key = _either(properties, "secret-access-key")
    if not access_key or not secret_key:
        if access_key or secret_key:
            raise InvalidSettings(
                "s3.access-key-id and s3.secret-access-key go together: give both"
            )
        return None
    return Credentials(access_key, secret_key, _either(properties, "session-token"))


def _asked(ask: Callable[[], Any]) -> Any:
    """What was found, or the error as a value: raised, it would be the context of what we say."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever the source of credentials raises
        return error


def _not_given(error: Exception) -> StoreDenied:
    """Only the kind of error is told: what a credential process wrote may be a credential."""
    return StoreDenied(
        f"{RENEWAL_FAILED} ({type(error).__name__}): log in again, or see to what gives them out"
    )


def _no_credentials(profile: str | None) -> StoreDenied:
    where = f"in profile {profile!r}" if profile else "by boto3 (environment, profile, instance)"
    return StoreDenied(
        f"no S3 credentials were found {where}: give s3.access-key-id and s3.secret-access-key, "
        "log in, or set s3.anonymous to true for a public bucket"
    )


def _either(properties: Mapping[str, str], name: str) -> str | None:
    """``s3.<name>``, else ``client.<name>``, as pyiceberg looks them up."""
    return properties.get(f"s3.{name}") or properties.get(f"client.{name}") or None
