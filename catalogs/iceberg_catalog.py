"""Streams in any Iceberg catalog: what `batchweave.catalog.TableCatalog` asks, over pyiceberg."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    ForbiddenError,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    UnauthorizedError,
)
from pyiceberg.table import Table as IcebergHandle

from batchweave.catalogs.iceberg import IcebergTable, stream_schema
from batchweave.clock import Clock
from batchweave.errors import (
    BatchWeaveError,
    InvalidName,
    NotAStream,
    StoreDenied,
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
    UnsupportedFormat,
)
from batchweave.state import PREFIX

SUPPORTED_VERSION = 2
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
        with _told(f"{'.'.join(name)} could not be created"):
            self._create_namespace(name[:-1])
            try:
                handle = self.catalog.create_table(
                    name, full, partition_spec=spec, properties={**TABLE_PROPERTIES, **properties}
                )
            except TableAlreadyExistsError:
                raise StreamExists(
                    f"{'.'.join(name)} exists already: load it, or choose another name"
                ) from None
            except NamespaceAlreadyExistsError:
                raise StreamExists(
                    f"{'.'.join(name)} is a namespace: choose another name"
                ) from None
        return IcebergTable(self.catalog, handle, clock=self._clock)

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
        with _told("streams could not be listed"):
            names = [
                tuple(name)
                for namespace in self._namespaces(())
                for name in self.catalog.list_tables(namespace)
            ]
        found = []
        for name in names:
            with contextlib.suppress(StreamNotFound):  # dropped meanwhile
                if _is_stream(self._load(name)):
                    found.append(".".join(name))
        return sorted(found)

    def drop(self, name: tuple[str, ...]) -> None:
        if not _is_stream(self._load(name)):
            raise NotAStream(f"{'.'.join(name)} is not a BatchWeave stream: it was not dropped")
        with _told(f"{'.'.join(name)} could not be dropped"):
            self.catalog.purge_table(name)

    def _load(self, name: tuple[str, ...]) -> IcebergHandle:
        with _told(f"{'.'.join(name)} could not be loaded"):
            try:
                return self.catalog.load_table(name)
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
            except StoreUnavailable:  # it may have been made all the same
                if not self.catalog.namespace_exists(namespace[:depth]):
                    raise

    def _namespaces(self, parent: tuple[str, ...]) -> list[tuple[str, ...]]:
        found = []
        for namespace in self.catalog.list_namespaces(parent):
            parts = tuple(namespace)
            found += [parts, *self._namespaces(parts)]
        return found


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Say what failed in words of the error tree, whatever a catalog raises."""
    try:
        yield
    except BatchWeaveError:
        raise
    except (ForbiddenError, UnauthorizedError) as error:
        raise StoreDenied(f"{what}: the catalog refused: {error}") from error
    except Exception as error:
        raise StoreUnavailable(f"{what}: {error}") from error


def _is_stream(handle: IcebergHandle) -> bool:
    return PREFIX + "format-version" in handle.properties
