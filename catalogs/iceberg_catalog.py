"""Streams in any Iceberg catalog: what `batchweave.catalog.TableCatalog` asks, over pyiceberg."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa
from pyiceberg.catalog import Catalog, MetastoreCatalog
from pyiceberg.exceptions import (
    NamespaceAlreadyExistsError,
    NoSuchIcebergTableError,
    NoSuchNamespaceError,
    NoSuchPropertyException,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table as IcebergHandle

from batchweave.catalogs import table_files
from batchweave.catalogs.failures import as_store_error, first_line, read
from batchweave.catalogs.iceberg import (
    SUPPORTED_VERSION,
    IcebergTable,
    stream_schema,
    table_objects,
)
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.catalogs.registration import adopt, own_folder
from batchweave.clock import Clock, SystemClock
from batchweave.conditional_writes import check_conditional_writes
from batchweave.errors import (
    BatchWeaveError,
    InvalidName,
    NotAStream,
    StreamExists,
    StreamNotFound,
    UnsupportedFormat,
)
from batchweave.state import PREFIX

CREATION = PREFIX + "creation"
"""A table property: a token of whoever made the table, so that each creator knows its own."""

TABLE_PROPERTIES = {
    "format-version": str(SUPPORTED_VERSION),
    # Each commit copies the log of metadata files: a short one keeps commits cheap.
    "write.metadata.previous-versions-max": "8",
}


class IcebergCatalog:
    """Streams as Iceberg v2 tables in one pyiceberg catalog."""

    def __init__(self, catalog: Catalog, *, clock: Clock | None = None) -> None:
        self.catalog = catalog
        self._clock = clock

    def create(
        self, name: tuple[str, ...], schema: pa.Schema, properties: dict[str, str]
    ) -> IcebergTable:
        full, spec = stream_schema(schema)
        with self._telling(f"{'.'.join(name)} could not be created"):
            if isinstance(self.catalog, ObjectStoreCatalog):
                check_conditional_writes(self.catalog.objects)
            self._create_namespace(name[:-1])
            handle = self._create_table(name, full, spec, {**TABLE_PROPERTIES, **properties})
        return IcebergTable(self.catalog, handle, clock=self._clock)

    def _create_table(
        self, name: tuple[str, ...], schema: Schema, spec: PartitionSpec, properties: dict[str, str]
    ) -> IcebergHandle:
        """Create the table, or find that somebody else has.

        Some servers answer a second creation with the first one's table, and an answer may be lost
        or a request sent twice: whose the table is, the token in it tells.
        """
        token = (self._clock or SystemClock()).token()
        taken = StreamExists(f"{'.'.join(name)} exists already: load it, or choose another name")
        try:
            handle = self.catalog.create_table(
                name,
                schema,
                location=self._own_location(name, token),
                partition_spec=spec,
                properties={**properties, CREATION: token},
            )
        except NamespaceAlreadyExistsError:
            raise StreamExists(f"{'.'.join(name)} is a namespace: choose another name") from None
        except Exception as error:
            found = self._made(name)
            if found is not None and found.properties.get(CREATION) == token:
                return found
            if isinstance(error, TableAlreadyExistsError):
                raise taken from None
            raise
        if handle.properties.get(CREATION) != token:
            raise taken
        return handle

    def _own_location(self, name: tuple[str, ...], token: str) -> str | None:
        """A folder that no other table has or ever had; None where it is not ours to choose.

        pyiceberg's default is the name below the warehouse, which a namesake in another catalog
        on the same warehouse shares, and each would clean up the other's files.
        """
        catalog = self.catalog
        if isinstance(catalog, ObjectStoreCatalog) or not isinstance(catalog, MetastoreCatalog):
            return None  # the folder is the name, or the server chooses
        managed = getattr(catalog, "_is_s3tables_database", None)  # Glue's, for Amazon S3 Tables
        if managed is not None and managed(name[0]):
            return None
        default = catalog._resolve_table_location(None, ".".join(name[:-1]), name[-1])
        return f"{default.rstrip('/')}-{token}"

    def _made(self, name: tuple[str, ...]) -> IcebergHandle | None:
        with contextlib.suppress(Exception):
            return self.catalog.load_table(name)
        return None

    def load(self, name: tuple[str, ...]) -> IcebergTable:
        handle = self._load(name)
        dotted = ".".join(name)
        if handle.metadata.format_version != SUPPORTED_VERSION and _is_stream(handle):
            raise UnsupportedFormat(
                f"{dotted} is an Iceberg v{handle.metadata.format_version} table, "
                f"streams are v{SUPPORTED_VERSION}"
            )
        return IcebergTable(self.catalog, handle, clock=self._clock)

    def streams(self) -> list[str]:
        with self._telling("streams could not be listed"):
            names = [
                tuple(name)
                for namespace in self._namespaces()
                for name in self.catalog.list_tables(namespace)
            ]
        found = []
        for name in names:
            with contextlib.suppress(StreamNotFound):  # dropped meanwhile
                if _is_stream(self._load(name)):
                    found.append(".".join(name))
        return sorted(found)

    def drop(self, name: tuple[str, ...]) -> None:
        handle = self._load(name)
        if not _is_stream(handle):
            raise NotAStream(f"{'.'.join(name)} is not a BatchWeave stream: it was not dropped")
        with self._telling(f"{'.'.join(name)} could not be dropped"):
            if isinstance(self.catalog, ObjectStoreCatalog):
                self.catalog.drop_table(name)
                return
            objects = table_objects(self.catalog, handle)
            # Listed before the name is free: what comes later is a namesake's.
            own = table_files.own(objects)
            if isinstance(self.catalog, MetastoreCatalog):
                self.catalog.drop_table(name)
            else:
                self.catalog.purge_table(name)
            objects.delete(own)

    def register(self, name: tuple[str, ...], location: str, *, take_over: bool) -> IcebergTable:
        dotted = ".".join(name)
        with self._telling(f"{location} could not be registered as {dotted}"):
            if isinstance(self.catalog, ObjectStoreCatalog):
                own_folder(self.catalog, name, location, take_over=take_over)
                self._create_namespace(name[:-1])
                return self.load(name)
            handle = adopt(
                self.catalog,
                name,
                location,
                make_namespace=self._create_namespace,
                take_over=take_over,
                clock=self._clock,
            )
        return IcebergTable(self.catalog, handle, clock=self._clock)

    def _load(self, name: tuple[str, ...]) -> IcebergHandle:
        with self._telling(f"{'.'.join(name)} could not be loaded"):
            try:
                return read(lambda: self.catalog.load_table(name))
            except (NoSuchIcebergTableError, NoSuchPropertyException) as error:
                what = f"{'.'.join(name)} is no Iceberg table, and no stream"
                raise NotAStream(f"{what}: {first_line(error)}") from None
            except (NoSuchTableError, NoSuchNamespaceError):
                raise StreamNotFound(
                    f"there is no stream {'.'.join(name)!r} in catalog {self.catalog.name!r}"
                ) from None

    def _create_namespace(self, namespace: tuple[str, ...]) -> None:
        for depth in range(1, len(namespace) + 1):
            try:
                self.catalog.create_namespace(namespace[:depth])
            except NamespaceAlreadyExistsError:
                pass
            except TableAlreadyExistsError as error:
                raise InvalidName(str(error)) from None
            except Exception as error:  # somebody made it at the same time, or an answer was lost
                if self.catalog.namespace_exists(namespace[:depth]):
                    continue
                if depth > 1 and isinstance(error, ValueError):
                    raise InvalidName(
                        f"this catalog has no namespaces inside of namespaces: {error}"
                    ) from None
                raise

    def _namespaces(self) -> list[tuple[str, ...]]:
        """All namespaces. Servers differ in how deep they list, and in whether they repeat some."""
        found: dict[tuple[str, ...], None] = {}
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            parent = waiting.pop()
            try:
                listed = [tuple(one) for one in self.catalog.list_namespaces(parent)]
            except NoSuchNamespaceError:
                if not parent:
                    raise  # the warehouse itself is not there
                continue  # dropped meanwhile
            waiting += [one for one in listed if one not in found]
            found |= dict.fromkeys(listed)
        return list(found)

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Say what failed in words of the error tree, whatever a catalog raises."""
        try:
            yield
        except BatchWeaveError:
            raise
        except Exception as error:
            raise as_store_error(error, what, self.catalog.properties) from error


def _is_stream(handle: IcebergHandle) -> bool:
    return PREFIX + "format-version" in handle.properties
