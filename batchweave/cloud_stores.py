"""GCS and Azure stores from pyiceberg's properties, asked by the same rules as S3.

Every property that says where a store is and who asks is either used or refused, never dropped:
one that was passed over would send the wrong credentials, or none. Where no credentials are given,
obstore looks for them as Google's and Microsoft's own libraries do.
Imports: standard library, obstore, errors, aws_credentials, store_clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import urlsplit

from obstore.store import AzureStore, GCSStore

from batchweave.aws_credentials import is_true
from batchweave.errors import InvalidSettings
from batchweave.store_clients import Clients, Transport, open_clients

_TRANSPORT = ("connect-timeout", "request-timeout", "ca-bundle")
_GCS = {"service.host": "base_url", "service-account-path": "service_account"}
_GCS_TOKEN = ("oauth2.token", "oauth2.token-expires-at", "anonymous")
_GCS_OTHERS = (
    "project-id",
    "access",
    "consistency",
    "cache-timeout",
    "requester-pays",
    "session-kwargs",
    "default-bucket-location",
    "version-aware",
)
"""Properties of pyiceberg's that say how its own library works, and nothing of ours."""

_AZURE = {
    "account-name": "account_name",
    "account-key": "account_key",
    "sas-token": "sas_key",
    "tenant-id": "tenant_id",
    "client-id": "client_id",
    "client-secret": "client_secret",
    "token": "token",
    "endpoint": "endpoint",
}
_AZURE_PLACE = (
    "blob-storage-authority",
    "blob-storage-scheme",
    "dfs-storage-authority",
    "dfs-storage-scheme",
    "account-host",
    "anon",
)


def open_gcs(bucket: str, properties: Mapping[str, str]) -> Clients:
    """Open a bucket of Google Cloud Storage. Nothing is sent to it yet.

    ``gcs.oauth2.token`` is a token, ``gcs.service.host`` another endpoint; besides pyiceberg's
    properties, ``gcs.service-account-path`` is a key file and ``gcs.anonymous`` sends no signature.

    Raises:
        InvalidSettings: a property that is not known, or a value that cannot be.
    """
    given = _given(properties, "gcs", (*_GCS, *_GCS_TOKEN, *_GCS_OTHERS, *_TRANSPORT))
    config: dict[str, Any] = {ours: given[name] for name, ours in _GCS.items() if name in given}
    options: dict[str, Any] = {}
    if is_true(given, "anonymous"):
        config["skip_signature"] = True
    elif "oauth2.token" in given:
        token = {"token": given["oauth2.token"], "expires_at": _expiry(given)}
        options["credential_provider"] = lambda: token

    def make(**how: Any) -> GCSStore:
        return GCSStore(bucket, config=cast(Any, config), **options, **how)

    return open_clients(make, Transport.of(properties, "gcs", given.get("service.host")))


def open_azure(container: str, account: str | None, properties: Mapping[str, str]) -> Clients:
    """Open a container of Azure Blob Storage. Nothing is sent to it yet.

    ``account`` is that of an ``abfss://container@account.…`` URI, and wins over
    ``adls.account-name``. Besides pyiceberg's properties, ``adls.endpoint`` is another endpoint,
    with the account in its path.

    Raises:
        InvalidSettings: a property that is not known, or a value that cannot be.
    """
    given = _given(properties, "adls", (*_AZURE, *_AZURE_PLACE, *_TRANSPORT))
    config: dict[str, Any] = {ours: given[name] for name, ours in _AZURE.items() if name in given}
    if account:
        config["account_name"] = account
    endpoint = given.get("endpoint") or _azure_endpoint(given, config.get("account_name"))
    if endpoint:
        config["endpoint"] = endpoint
    if is_true(given, "anon"):
        config["skip_signature"] = True

    def make(**how: Any) -> AzureStore:
        return AzureStore(container, config=cast(Any, config), **how)

    return open_clients(make, Transport.of(properties, "adls", endpoint))


def _azure_endpoint(given: Mapping[str, str], account: str | None) -> str | None:
    """Another blob service than Azure's public one, as pyiceberg's properties name it."""
    if "account-host" in given:
        return f"https://{given['account-host']}"
    authority = given.get("blob-storage-authority")
    if authority is None:
        return None
    scheme = given.get("blob-storage-scheme", "https")
    if authority.startswith("."):  # a suffix: the account stands before it
        return f"{scheme}://{account}{authority}"
    return f"{scheme}://{authority}/{account}"


def azure_place(rest: str) -> tuple[str, str | None, str]:
    """Container, account and prefix of an Azure URI without its scheme.

    ``container/prefix`` or ``container@account.dfs.core.windows.net/prefix``.
    """
    parts = urlsplit(f"//{rest}")
    container, at, host = parts.netloc.partition("@")
    account = host.partition(".")[0] if at else None
    return container, account or None, parts.path.strip("/")


def _given(properties: Mapping[str, str], kind: str, known: tuple[str, ...]) -> dict[str, str]:
    """Properties of one kind, without its prefix; one that is not known is refused."""
    found = {
        name.removeprefix(f"{kind}."): str(text)
        for name, text in properties.items()
        if name.startswith(f"{kind}.") and text not in (None, "")
    }
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise InvalidSettings(
            f"{kind}.{unknown[0]} is not a property that BatchWeave uses; those are "
            f"{', '.join(f'{kind}.{name}' for name in sorted(known))}"
        )
    return found


def _expiry(given: Mapping[str, str]) -> datetime | None:
    text = given.get("oauth2.token-expires-at")
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidSettings(
            f"gcs.oauth2.token-expires-at is milliseconds since 1970, got {text!r}"
        ) from None
