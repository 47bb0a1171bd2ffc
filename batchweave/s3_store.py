"""S3 stores from pyiceberg's properties, and the same properties for others who read the bucket.

Credentials go to the store as a provider, so that they are renewed, and so that no setting of the
environment is mixed into a pair that was given.
Imports: standard library, obstore, errors, aws_credentials, store_clients.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from obstore.store import S3Store

from batchweave.aws_credentials import (
    find_credentials,
    find_region,
    find_source,
    is_true,
    provider,
)
from batchweave.store_clients import Clients, Transport, open_clients

CA_BUNDLE = "s3.ca-bundle"
_SIGNING = ("profile-name", "access-key-id", "secret-access-key", "session-token", "role-arn")


def open_s3(bucket: str, properties: Mapping[str, str]) -> Clients:
    """Open a bucket. Nothing is sent to it yet.

    Besides pyiceberg's properties, ``s3.ca-bundle`` is a file of certificates (PEM) to trust in
    addition to the system's; ``AWS_CA_BUNDLE`` is the same, as for boto3.

    Raises:
        InvalidSettings: a timeout that is no number above zero, a profile that is not there, or a
            file of certificates that holds none.
        StoreDenied: no credentials were given, and none were found.
    """
    config: dict[str, Any] = {
        "virtual_hosted_style_request": is_true(properties, "s3.force-virtual-addressing")
    }
    endpoint = properties.get("s3.endpoint")
    if endpoint:
        config["endpoint"] = endpoint
    region = find_region(properties)
    if region:
        config["region"] = region
    options: dict[str, Any] = {}
    source = find_source(properties)
    if source is None:
        config["skip_signature"] = True
    else:
        options["credential_provider"] = provider(source)

    def make(**how: Any) -> S3Store:
        return S3Store(bucket, config=cast(Any, config), **options, **how)

    trusted = {CA_BUNDLE: ca_bundle(properties) or ""}
    return open_clients(make, Transport.of({**properties, **trusted}, "s3", endpoint))


def ca_bundle(properties: Mapping[str, str]) -> str | None:
    """The file of certificates to trust besides the system's, if there is one."""
    return properties.get(CA_BUNDLE) or os.environ.get("AWS_CA_BUNDLE") or None


def signed_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties with the credentials and region as they are now, in pyiceberg's names.

    For readers that would otherwise look for credentials by themselves, in other places or for
    another profile. They hold what they are given: hand it out anew for each piece of work.

    Raises:
        InvalidSettings, StoreDenied: as `open_s3`.
    """
    known = find_credentials(properties)
    signing = {f"{prefix}.{name}" for prefix in ("s3", "client") for name in _SIGNING}
    found = {name: text for name, text in properties.items() if name not in signing}
    region = find_region(properties)
    if region:
        found["s3.region"] = region
    if known is not None:
        found["s3.access-key-id"] = known.access_key
        found["s3.secret-access-key"] = known.secret_key
        if known.session_token:
            found["s3.session-token"] = known.session_token
    return found


def storage_options(properties: Mapping[str, str]) -> dict[str, str]:
    """The same as deltalake's and Polars' ``storage_options``.

    They keep nothing of `Transport`: those libraries have time limits of their own.

    Raises:
        InvalidSettings, StoreDenied: as `open_s3`.
    """
    signed = signed_properties(properties)
    endpoint = signed.get("s3.endpoint")
    virtual = is_true(properties, "s3.force-virtual-addressing")
    found = {
        "aws_access_key_id": signed.get("s3.access-key-id"),
        "aws_secret_access_key": signed.get("s3.secret-access-key"),
        "aws_session_token": signed.get("s3.session-token"),
        "aws_region": signed.get("s3.region"),
        "aws_endpoint": endpoint,
        "aws_allow_http": "true" if endpoint and endpoint.startswith("http://") else None,
        "aws_virtual_hosted_style_request": "true" if virtual else None,
        "aws_skip_signature": "true" if is_true(properties, "s3.anonymous") else None,
    }
    return {name: text for name, text in found.items() if text}
