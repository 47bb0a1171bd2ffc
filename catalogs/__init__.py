"""Catalogs and table formats: how a stream stands on Iceberg or Delta, and where its name is kept.

`open_tables` picks the implementation by the catalog's ``type``.
"""

from __future__ import annotations

from typing import Any

from batchweave.catalog import TableCatalog
from batchweave.catalogs.delta_catalog import DeltaCatalog
from batchweave.catalogs.iceberg_catalog import IcebergCatalog
from batchweave.catalogs.opening import merged_properties, open_pyiceberg

DELTA = "delta"


def open_tables(name: str, properties: dict[str, Any]) -> TableCatalog:
    """Open the catalog behind a name: properties given here win over pyiceberg's configuration.

    Raises:
        InvalidSettings: an unknown type, or a property missing.
        StoreDenied, StoreUnavailable: the catalog refused, or cannot be reached.
    """
    merged = merged_properties(name, properties)
    if str(merged.get("type") or "").lower() == DELTA:
        return DeltaCatalog(name, {key: str(text) for key, text in merged.items()})
    return IcebergCatalog(open_pyiceberg(name, properties))
