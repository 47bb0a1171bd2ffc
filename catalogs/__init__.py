"""Catalogs and table formats: how a stream stands on Iceberg (and where its name is kept).

`open_tables` picks the implementation by the catalog's ``type``.
"""

from __future__ import annotations

from typing import Any, cast

from pyiceberg.catalog import Catalog as PyIcebergCatalog
from pyiceberg.catalog import load_catalog as load_pyiceberg_catalog
from pyiceberg.utils.config import Config, merge_config

from batchweave.catalog import TableCatalog
from batchweave.catalogs.iceberg_catalog import IcebergCatalog
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.errors import BatchWeaveError, InvalidSettings

OBJECT_STORE = "object-store"
TYPES = ("object-store", "sql", "rest", "glue", "hive", "dynamodb", "in-memory")


def open_tables(name: str, properties: dict[str, str]) -> TableCatalog:
    """Open the catalog behind a name: properties given here win over pyiceberg's configuration.

    Raises:
        InvalidSettings: an unknown type, or a property missing.
    """
    return IcebergCatalog(open_pyiceberg(name, properties))


def open_pyiceberg(name: str, properties: dict[str, str]) -> PyIcebergCatalog:
    """The pyiceberg catalog of that name: ``~/.pyiceberg.yaml``, environment, then arguments."""
    known = cast(dict[str, Any], Config().get_catalog_config(name) or {})
    merged = cast(dict[str, str], merge_config(known, cast(Any, properties)))
    kind = str(merged.get("type", "")).lower()
    if kind == OBJECT_STORE or (not kind and "warehouse" in merged and "uri" not in merged):
        return ObjectStoreCatalog(name, **{key: str(text) for key, text in merged.items()})
    if kind and kind not in TYPES:
        raise InvalidSettings(f"catalog {name!r}: type is one of {', '.join(TYPES)}, got {kind!r}")
    try:
        return load_pyiceberg_catalog(name, **properties)
    except BatchWeaveError:
        raise
    except Exception as error:
        raise InvalidSettings(f"catalog {name!r} cannot be opened: {error}") from error
