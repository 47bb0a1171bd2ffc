"""Opening a pyiceberg catalog by name, with pyiceberg's configuration and its property names.

Arguments win over ``PYICEBERG_CATALOG__…`` and these over ``.pyiceberg.yaml``. What pyiceberg can
load comes as it is, through ``type`` or ``py-catalog-impl``; two kinds are opened with more care: a
``rest`` server gets deadlines (`batchweave.catalogs.rest`), and ``sql`` is tried again where two
openers create its tables at the same time.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, cast

from pyiceberg.catalog import PY_CATALOG_IMPL, Catalog, infer_catalog_type, load_catalog
from pyiceberg.exceptions import NoSuchPropertyException, NotInstalledError
from pyiceberg.types import strtobool
from pyiceberg.utils.config import Config, merge_config

from batchweave.catalogs import store_io
from batchweave.catalogs.failures import as_store_error, first_line, is_refusal, without_secrets
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.catalogs.rest import BoundedRestCatalog
from batchweave.errors import BatchWeaveError, InvalidSettings

OBJECT_STORE = "object-store"
DELTA = "delta"
TYPES = (OBJECT_STORE, DELTA, "sql", "rest", "glue", "hive", "dynamodb", "bigquery", "in-memory")
WITH_URI = ("sql", "rest", "hive")

SQL_ATTEMPTS = 5
"""Each failed attempt means that another opener has come further in making the tables."""

POSTGRES_LIMITS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds
}
"""libpq waits for ever by default: a server that is gone would hold a commit for ever."""

_LIBPQ_DRIVERS = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")
_WRONG = (NoSuchPropertyException, NotInstalledError, ImportError, KeyError, TypeError, ValueError)


def merged_properties(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a catalog: pyiceberg's configuration of that name, then arguments."""
    known = cast(dict[str, Any], Config().get_catalog_config(name) or {})
    return cast(dict[str, Any], merge_config(known, cast(Any, dict(properties))))


def open_pyiceberg(name: str, properties: Mapping[str, Any]) -> Catalog:
    """The pyiceberg catalog of that name: ``~/.pyiceberg.yaml``, environment, then arguments.

    Raises:
        InvalidSettings: an unknown type, a property missing or wrong, or a package not installed.
        StoreDenied: the catalog refused the credentials.
        StoreUnavailable: it cannot be reached.
    """
    merged = merged_properties(name, properties)
    try:
        kind = _kind(name, merged)
        if kind == OBJECT_STORE:
            return ObjectStoreCatalog(name, **{key: str(text) for key, text in merged.items()})
        # Metadata and data go the same way, signed by the same credentials.
        merged = {"py-io-impl": store_io.IMPLEMENTATION, **merged}
        if kind == "rest":
            return BoundedRestCatalog(name, **merged)
        if kind == "sql":
            return _open_sql(name, merged)
        return load_catalog(name, **merged)
    except BatchWeaveError:
        raise
    except Exception as error:  # noqa: BLE001 - told in words of the error tree, whatever it is
        # Without its cause: the text of that may hold the password that the message hides.
        raise _told(error, f"catalog {name!r} cannot be opened", merged) from None


def _told(error: Exception, what: str, merged: Mapping[str, Any]) -> BatchWeaveError:
    wrong = isinstance(error, _WRONG) and not isinstance(error, OSError)
    if wrong and not is_refusal(error):
        return InvalidSettings(f"{what}: {without_secrets(first_line(error), merged)}")
    return as_store_error(error, what, merged)


def _kind(name: str, merged: Mapping[str, Any]) -> str:
    """The type of the catalog; "" for a class of the user's own.

    Raises:
        InvalidSettings: none that we know.
    """
    kind = str(merged.get("type") or "").lower()
    if kind and kind not in TYPES:
        raise InvalidSettings(f"catalog {name!r}: type is one of {', '.join(TYPES)}, got {kind!r}")
    if kind in WITH_URI and not merged.get("uri"):
        raise InvalidSettings(
            f"catalog {name!r} of type {kind} needs a uri: give uri=..., or set it in "
            f".pyiceberg.yaml or PYICEBERG_CATALOG__{name.upper()}__URI"
        )
    if kind or merged.get(PY_CATALOG_IMPL):
        return kind
    if not merged:
        raise InvalidSettings(
            f"catalog {name!r} is not configured: give type=... ({', '.join(TYPES)}) and its "
            "properties, or name it in .pyiceberg.yaml"
        )
    if "uri" in merged:
        inferred = infer_catalog_type(name, cast(Any, merged))
        return inferred.value if inferred else ""
    return OBJECT_STORE


def _open_sql(name: str, merged: Mapping[str, Any]) -> Catalog:
    from sqlalchemy.exc import ArgumentError

    try:
        bounded = {**merged, "uri": _bounded(str(merged["uri"]))}
        if strtobool(str(merged.get("init_catalog_tables", "true"))):
            _make_tables(bounded["uri"])
    except ArgumentError as error:
        raise ValueError(f"uri: {first_line(error)}") from None
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error}, which the uri asks for: install the driver, or name another. For PostgreSQL "
            "install batchweave[postgres] and write postgresql+psycopg://"
        ) from None
    catalog = load_catalog(name, **{**bounded, "type": "sql"})
    # Nobody else would: connections go back to the database when the catalog is let go of.
    weakref.finalize(catalog, cast(Any, catalog).engine.dispose)
    return catalog


def _make_tables(uri: str) -> None:
    """Create pyiceberg's tables where they are missing.

    SqlCatalog would do so itself, and fail where another opener does it at the same time.
    """
    from pyiceberg.catalog.sql import SqlCatalogBaseTable
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import DBAPIError

    engine = create_engine(uri, poolclass=NullPool)
    for attempt in range(SQL_ATTEMPTS):
        try:
            SqlCatalogBaseTable.metadata.create_all(engine)
            return
        except DBAPIError as error:
            if attempt == SQL_ATTEMPTS - 1 or not _is_theirs(error):
                raise


def _is_theirs(error: Exception) -> bool:
    """Whether a table could not be created because somebody else just did."""
    return "iceberg_" in str(error) and not is_refusal(error)


def _bounded(uri: str) -> str:
    """The same database; a PostgreSQL that is gone is noticed, unless the URI says how already."""
    from sqlalchemy import make_url

    url = make_url(uri)
    if url.drivername not in _LIBPQ_DRIVERS:
        return uri
    missing = {key: text for key, text in POSTGRES_LIMITS.items() if key not in url.query}
    return url.update_query_dict(missing).render_as_string(hide_password=False)
