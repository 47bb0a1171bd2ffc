"""Letting DuckDB into the folder that a table lies in.

Imports: the core, DuckDB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import duckdb

from batchweave.aws_credentials import find_credentials, find_region
from batchweave.objects import split_uri
from batchweave.s3_store import ca_bundle


def let_in(
    connection: duckdb.DuckDBPyConnection, location: str, properties: Mapping[str, str]
) -> None:
    """Give the connection what it takes to read what lies below ``location``, and no more.

    The values are bound, never part of a statement, so that no error or log can repeat them.

    Raises:
        StoreDenied: no credentials were given, and none were found.
    """
    scheme, rest = split_uri(location)
    if scheme not in ("s3", "s3a"):
        return
    endpoint = urlsplit(properties.get("s3.endpoint") or "")
    virtual = str(properties.get("s3.force-virtual-addressing", "false")).lower() == "true"
    known = find_credentials(properties)
    values: dict[str, Any] = {
        "scope": f"{scheme}://{rest.rstrip('/')}/",  # or it would match longer names too
        "region": find_region(properties) or "us-east-1",
        "url_style": "path" if endpoint.netloc and not virtual else "vhost",
        "use_ssl": endpoint.scheme != "http",
    }
    if endpoint.netloc:
        values["endpoint"] = endpoint.netloc + endpoint.path.rstrip("/")
    if known is not None:
        values |= {"key_id": known.access_key, "secret": known.secret_key}
        values["session_token"] = known.session_token or ""  # DuckDB would take the environment's
    options = ", ".join(f"{name} ${name}" for name in values)
    name = "batchweave_" + hashlib.sha256(values["scope"].encode()).hexdigest()[:16]
    connection.execute(f"create or replace secret {name} (type s3, {options})", values)
    trusted = ca_bundle(properties)
    if trusted is not None:
        literal = trusted.replace("'", "''")  # a setting takes no bound values
        connection.execute(f"set ca_cert_file = '{literal}'")
