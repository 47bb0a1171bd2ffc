"""What the newest metadata of a table is, with as little work as its catalog allows.

A reader that follows a stream asks again and again, and mostly nothing has changed. An object-store
catalog probes for one object. ``sql`` and ``glue`` keep a pointer to a metadata file: reading the
pointer is one small request, and the file is read when it is another one. A ``rest`` server sends
the metadata with every answer; it is compared before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table

from batchweave.catalogs.files import ObjectsFileIO
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.errors import StoreUnavailable


def newest(catalog: Catalog, identifier: tuple[str, ...], known: Table, io: ObjectsFileIO) -> Table:
    """The table as it is now; ``known`` itself where it has not changed.

    Raises:
        NoSuchTableError: it is gone.
    """
    if isinstance(catalog, ObjectStoreCatalog):
        return catalog.refresh_table(known)
    location = pointer(catalog, identifier)
    if location is not None:
        if location == known.metadata_location:
            return known
        try:
            metadata = FromInputFile.table_metadata(io.new_input(location))
        except (FileNotFoundError, StoreUnavailable):  # overtaken meanwhile, or kept elsewhere
            return catalog.load_table(identifier)
        return Table(identifier, metadata, location, known.io, catalog)
    found = catalog.load_table(identifier)
    # A server may number its files: those of a namesake, created after a drop, are called the same.
    same = found.metadata.table_uuid == known.metadata.table_uuid and (
        found.metadata_location == known.metadata_location
        if found.metadata_location
        else found.metadata == known.metadata
    )
    return known if same else found


def pointer(catalog: Catalog, identifier: tuple[str, ...]) -> str | None:
    """Where the newest metadata lies, if the catalog can say so without reading it, else None.

    Raises:
        NoSuchTableError: the table is gone.
    """
    for kind in type(catalog).__mro__:
        read = _POINTERS.get(f"{kind.__module__}.{kind.__qualname__}")
        if read is not None:
            return read(catalog, identifier)
    return None


def _sql_pointer(catalog: Any, identifier: tuple[str, ...]) -> str | None:
    from pyiceberg.catalog.sql import IcebergTables
    from sqlalchemy import select

    statement = select(IcebergTables.metadata_location).where(
        IcebergTables.catalog_name == catalog.name,
        IcebergTables.table_namespace == ".".join(identifier[:-1]),
        IcebergTables.table_name == identifier[-1],
    )
    with catalog.engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
    if row is None:
        raise NoSuchTableError(f"table {'.'.join(identifier)} does not exist")
    return cast("str | None", row[0])


def _glue_pointer(catalog: Any, identifier: tuple[str, ...]) -> str | None:
    database, name = Catalog.identifier_to_database_and_table(identifier, NoSuchTableError)
    try:
        answer = catalog.glue.get_table(DatabaseName=database, Name=name)
    except catalog.glue.exceptions.EntityNotFoundException:
        raise NoSuchTableError(f"table {database}.{name} does not exist") from None
    parameters: Mapping[str, str] = answer["Table"].get("Parameters", {})
    return parameters.get("metadata_location")


_POINTERS: Mapping[str, Callable[[Any, tuple[str, ...]], str | None]] = {
    "pyiceberg.catalog.glue.GlueCatalog": _glue_pointer,
    "pyiceberg.catalog.sql.SqlCatalog": _sql_pointer,
}
"""By name: the classes' own modules need packages that are not always installed."""
