"""S3 stores from pyiceberg's properties: credentials, timeouts, and what may be sent twice.

Credentials are those of the properties, else what boto3 finds: profiles, SSO, roles, the instance.
They go to the store as a provider, so that they are renewed, and so that no setting of the
environment is mixed into a pair that was given.

obstore would retry each request ten times within three minutes, which hides an outage, and it sends
a conditional write again whose answer was lost, which then meets its own first write as 412. Here
reads, lists and deletes are retried twice, within the request's own timeout; a conditional write is
sent once, and a lost answer is what it is: unknown. What goes on longer is up to the callers, whose
retries are bounded and end in an error that says so.
Imports: standard library, obstore, errors; boto3 where credentials have to be looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

from obstore.store import S3Store

from batchweave.errors import InvalidSettings, StoreDenied

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


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs a request."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(repr=False, default=None)


@dataclass(frozen=True, slots=True)
class S3Stores:
    """One bucket by purpose: ``reading`` also lists and deletes, the others write conditionally."""

    reading: S3Store
    creating: S3Store
    creating_large: S3Store


def open_s3(bucket: str, properties: Mapping[str, str]) -> S3Stores:
    """Open a bucket. Nothing is sent to it yet.

    Raises:
        InvalidSettings: a timeout that is no number above zero, or a profile that is not there.
        StoreDenied: no credentials were given, and none were found.
    """
    connect_s = seconds(properties, "s3.connect-timeout", CONNECT_TIMEOUT_S)
    request_s = seconds(properties, "s3.request-timeout", REQUEST_TIMEOUT_S)
    config, options = _config(properties)

    def store(retries: int, answer_s: float, whole_s: float) -> S3Store:
        return S3Store(
            bucket,
            config=cast(Any, config),
            client_options={
                "allow_http": str(config.get("endpoint", "")).startswith("http://"),
                "connect_timeout": timedelta(seconds=connect_s),
                "read_timeout": timedelta(seconds=answer_s),
                "timeout": timedelta(seconds=whole_s),
                "pool_idle_timeout": timedelta(seconds=IDLE_S),
            },
            retry_config={
                "max_retries": retries,
                "retry_timeout": timedelta(seconds=request_s),
                "backoff": {
                    "init_backoff": timedelta(seconds=RETRY_FIRST_S),
                    "max_backoff": timedelta(seconds=RETRY_MAX_S),
                    "base": 2,
                },
            },
            **options,
        )

    large_s = LARGE_TIMES * request_s
    return S3Stores(
        reading=store(RETRIES, request_s, large_s),
        creating=store(0, request_s, request_s),
        creating_large=store(0, large_s, large_s),
    )


def find_credentials(properties: Mapping[str, str]) -> Credentials | None:
    """The credentials as they are now; None where requests go unsigned.

    Raises:
        InvalidSettings: a profile that is not there.
        StoreDenied: none were given, and none were found.
    """
    if _is_true(properties, "s3.anonymous"):
        return None
    given = _given(properties)
    if given is not None:
        return given
    found = _session(properties).get_credentials()
    if found is None:
        raise _no_credentials(properties)
    frozen = found.get_frozen_credentials()
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def find_region(properties: Mapping[str, str]) -> str | None:
    """The region of the properties, else that of boto3's profile or environment."""
    given = _either(properties, "region")
    if given or _given(properties) or _is_true(properties, "s3.anonymous"):
        return given
    name: str | None = _session(properties).region_name
    return name


def seconds(properties: Mapping[str, str], name: str, default: float) -> float:
    """A property that is a number of seconds. Raises `InvalidSettings` unless it is above zero."""
    text = properties.get(name)
    if text in (None, ""):
        return default
    try:
        value = float(str(text))
    except ValueError:
        value = -1.0
    if not 0 < value < 86_400:
        raise InvalidSettings(f"{name} is a number of seconds above zero, got {text!r}")
    return value


def _config(properties: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """obstore's configuration, and the credential provider if requests are signed."""
    config: dict[str, Any] = {
        "virtual_hosted_style_request": _is_true(properties, "s3.force-virtual-addressing")
    }
    if properties.get("s3.endpoint"):
        config["endpoint"] = properties["s3.endpoint"]
    region = find_region(properties)
    if region:
        config["region"] = region
    if _is_true(properties, "s3.anonymous"):
        return {**config, "skip_signature": True}, {}
    given = _given(properties)
    if given is None:
        return config, {"credential_provider": _looked_up(properties)}
    known = {
        "access_key_id": given.access_key,
        "secret_access_key": given.secret_key,
        "token": given.session_token,
        "expires_at": None,
    }
    return config, {"credential_provider": lambda: known}


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


def _looked_up(properties: Mapping[str, str]) -> Any:
    """A provider that asks boto3 again before what it found expires."""
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = _session(properties)
    try:
        return Boto3CredentialProvider(session)
    except ValueError:
        raise _no_credentials(properties) from None


def _session(properties: Mapping[str, str]) -> Any:
    # Here and not above: boto3 takes a while to import, and most openers bring their own keys.
    import boto3
    from botocore.exceptions import ProfileNotFound

    profile = _either(properties, "profile-name")
    try:
        return boto3.Session(profile_name=profile)
    except ProfileNotFound:
        raise InvalidSettings(f"there is no AWS profile {profile!r}") from None


def _no_credentials(properties: Mapping[str, str]) -> StoreDenied:
    profile = _either(properties, "profile-name")
    where = f"in profile {profile!r}" if profile else "by boto3 (environment, profile, instance)"
    return StoreDenied(
        f"no S3 credentials were found {where}: give s3.access-key-id and s3.secret-access-key, "
        "log in, or set s3.anonymous to true for a public bucket"
    )


def _either(properties: Mapping[str, str], name: str) -> str | None:
    """``s3.<name>``, else ``client.<name>``, as pyiceberg looks them up."""
    return properties.get(f"s3.{name}") or properties.get(f"client.{name}") or None


def _is_true(properties: Mapping[str, str], name: str) -> bool:
    return str(properties.get(name, "false")).lower() == "true"
