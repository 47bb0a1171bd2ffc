"""The embedded default: an Iceberg catalog that is nothing but an object store.

Metadata versions lie beside the data as ``metadata/v<N>.metadata.json``, each written with
put-if-absent: that is the whole compare-and-swap, no server and no database. The newest version is
the table. ``metadata/version-hint.text`` is for engines that look for it (DuckDB, Hadoop tables);
this catalog never trusts it.

The register itself, and why a stale writer never wins, is `batchweave.catalogs.versions`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from typing import NoReturn

import pyarrow as pa
from pyiceberg.catalog import Catalog, MetastoreCatalog, PropertiesUpdateSummary
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchIcebergTableError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.io import FileIO, load_file_io
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER, SortOrder
from pyiceberg.table.update import TableRequirement, TableUpdate, update_table_metadata
from pyiceberg.typedef import EMPTY_DICT, Identifier, Properties
from pyiceberg.view import View

from batchweave.catalogs import store_io
from batchweave.catalogs.files import ObjectsFileIO
from batchweave.catalogs.folders import holds_delta, table_below
from batchweave.catalogs.moves import check_here
from batchweave.catalogs.versions import Base, Found, Layout, Memory, Versions
from batchweave.errors import (
    InvalidSettings,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    StreamExists,
)
from batchweave.objects import Buffer, Objects, join, open_objects

METADATA = "metadata"
HINT = f"{METADATA}/version-hint.text"
NAMESPACE = "namespace.json"
_VERSION = re.compile(r"v(\d+)\.metadata\.json")
_NESTED = re.compile(
    r"(.+)/(?:namespace\.json|metadata/(?:v\d+|\d+-[^/]+)\.metadata\.json|_delta_log/[^/]+)"
)
STORE_PREFIXES = ("s3.", "client.", "gcs.", "adls.", "hdfs.", "py-io-impl")
"""Properties that say where the store is and who asks: the catalog's, never a table's."""


def _owner(data: bytes) -> str | None:
    found = json.loads(data).get("table-uuid")
    return None if found is None else str(found)


LAYOUT = Layout(METADATA, _VERSION, "v{}.metadata.json".format, _owner)


def version_path(number: int) -> str:
    """Where metadata version ``number`` lies below the table's folder."""
    return LAYOUT.path(number)


def version_of(location: str) -> int:
    """The number in a metadata location of this catalog.

    Raises:
        StoreUnavailable: the location was not written by this catalog.
    """
    number = LAYOUT.number(location)
    if number is None:
        raise StoreUnavailable(f"{location!r} is not a metadata version of an object-store catalog")
    return number


class ObjectStoreCatalog(MetastoreCatalog):
    """A pyiceberg catalog on a folder, a bucket prefix or memory.

    Usable by any pyiceberg program through
    ``py-catalog-impl: batchweave.catalogs.object_store.ObjectStoreCatalog``.

    Properties: ``warehouse`` (required), and pyiceberg's ``s3.*`` and friends.
    """

    def __init__(self, name: str, **properties: str) -> None:
        super().__init__(name, **properties)
        warehouse = properties.get("warehouse")
        if not warehouse:
            raise InvalidSettings(
                f"catalog {name!r} needs a warehouse, for example warehouse='./warehouse'"
            )
        self.objects: Objects = open_objects(warehouse, properties)
        self.properties["warehouse"] = self.objects.uri
        self._memory = Memory()

    # -- tables ----------------------------------------------------------------------------

    def create_table(
        self,
        identifier: str | Identifier,
        schema: Schema | pa.Schema,
        location: str | None = None,
        partition_spec: PartitionSpec = UNPARTITIONED_PARTITION_SPEC,
        sort_order: SortOrder = UNSORTED_SORT_ORDER,
        properties: Properties = EMPTY_DICT,
    ) -> Table:
        """Create a table. One of several concurrent creators wins, the rest are told.

        Raises:
            TableAlreadyExistsError: the name is taken.
            NamespaceAlreadyExistsError: the name is a namespace's.
            NoSuchNamespaceError: the namespace was not created.
            StreamExists: a Delta table has the folder, or a table lies inside of it.
        """
        folder = self._folder(identifier)
        namespace = self.namespace_from(identifier)
        if not self.namespace_exists(namespace):
            raise NoSuchNamespaceError(f"namespace does not exist: {'.'.join(namespace)}")
        if self.namespace_exists(identifier):
            raise NamespaceAlreadyExistsError(
                f"{_dotted(identifier)} is a namespace: a table cannot have its name"
            )
        objects = self.objects.within(folder)
        if holds_delta(objects):
            raise StreamExists(
                f"{_dotted(identifier)} exists already as a Delta table: choose another name"
            )
        below = table_below(objects)
        if below is not None:
            raise StreamExists(
                f"{_dotted(identifier)} is a namespace, {below} in it is a table: choose another "
                "name"
            )
        if location is not None and location.rstrip("/") != objects.uri:
            raise InvalidSettings(
                f"an object-store catalog keeps {folder!r} at {objects.uri}, not at {location}"
            )
        metadata = new_table_metadata(
            location=objects.uri,
            schema=self._convert_schema_if_needed(schema, 2),
            partition_spec=partition_spec,
            sort_order=sort_order,
            properties=dict(properties),
        )
        try:
            if self._newest(objects) is not None:
                raise ObjectExists(folder)
            e_tag = self._versions(objects).create(1, _written(metadata))
        except (ObjectExists, StoreUnavailable) as error:
            ours = self._tag_if_ours(objects, metadata)
            if ours is None and isinstance(error, StoreUnavailable):
                raise
            if ours is None:
                exists = TableAlreadyExistsError(f"table {_dotted(identifier)} already exists")
                raise exists from None
            e_tag = ours
        self._remember(objects, 1, metadata, e_tag)
        self._hint(objects, 1)
        return self._table(identifier, objects, 1, metadata)

    def load_table(self, identifier: str | Identifier) -> Table:
        """Load the newest version.

        Raises:
            NoSuchTableError: the folder holds no metadata version.
            StreamMoved: another catalog has the table now.
        """
        return self._load(identifier, None)

    def _load(self, identifier: str | Identifier, owner: str | None) -> Table:
        objects = self.objects.within(self._folder(identifier))
        found = self._versions(objects).read_newest(owner)
        if found is None and holds_delta(objects):
            raise NoSuchIcebergTableError(
                f"{_dotted(identifier)} is a Delta table: open its catalog with type='delta'"
            )
        if found is None:
            raise NoSuchTableError(f"table {_dotted(identifier)} does not exist")
        number, data, e_tag = found
        metadata = _read(data)
        self.check_here(metadata, _dotted(identifier))
        self._remember(objects, number, metadata, e_tag)
        return self._table(identifier, objects, number, metadata)

    def check_here(self, metadata: TableMetadata, name: str) -> None:
        """Raise `StreamMoved` if the folder's newest version says so (`catalogs.moves`)."""
        check_here(metadata, name)

    def refresh_table(self, table: Table) -> Table:
        """The newest version, cheap where ``table`` is the newest: one small request.

        Returns ``table`` itself where nothing has changed.
        """
        objects = self.objects.within(self._folder(table.name()))
        number = version_of(table.metadata_location)
        if self._versions(objects).looks_idle(number):
            return table
        return self._load(table.name(), str(table.metadata.table_uuid))

    def commit_table(
        self,
        table: Table,
        requirements: tuple[TableRequirement, ...],
        updates: tuple[TableUpdate, ...],
    ) -> CommitTableResponse:
        """Write the version after the table's own, or after the newest if that is allowed.

        Raises:
            CommitFailedException: a requirement does not hold, or another commit won.
            CommitStateUnknownException: the store did not say, or the base was cleaned away.
        """
        identifier = table.name()
        objects = self.objects.within(self._folder(identifier))
        base = table
        for requirement in requirements:
            requirement.validate(base.metadata)
        number = version_of(base.metadata_location) + 1
        metadata = update_table_metadata(
            base.metadata, updates, metadata_location=base.metadata_location
        )
        if metadata == base.metadata:
            return CommitTableResponse(
                metadata=base.metadata, metadata_location=base.metadata_location
            )
        try:
            e_tag = self._versions(objects).create(number, _written(metadata))
        except ObjectExists:
            raise CommitFailedException(
                f"version {number} of {_dotted(identifier)} was committed by another writer"
            ) from None
        except StoreUnavailable as error:
            raise CommitStateUnknownException(str(error)) from error
        self._check_base(objects, base, number)
        self._remember(objects, number, metadata, e_tag)
        self._hint(objects, number)
        return CommitTableResponse(
            metadata=metadata, metadata_location=f"{objects.uri}/{version_path(number)}"
        )

    def drop_table(self, identifier: str | Identifier) -> None:
        """Remove the table and all of its files: the folder is the registration.

        Only what was there before its versions went, for its name may be taken again at once; and
        nothing of namespaces and tables that lie inside of the folder. Versions that a live writer
        put on top meanwhile go too; one that begins at 1 again is a namesake's.

        Raises:
            NoSuchTableError: there is no such table.
            StreamMoved: another catalog has the table, and its files, now.
        """
        objects = self.objects.within(self._folder(identifier))
        self.load_table(identifier)
        own = _own_files([info.path for info in objects.list()])
        objects.delete([HINT])
        self._versions(objects).delete_all()
        objects.delete(own)

    def purge_table(self, identifier: str | Identifier) -> None:
        """The same as `drop_table`."""
        self.drop_table(identifier)

    def clean_versions(self, table: Table) -> int:
        """Delete metadata versions that no reader should need, oldest first; return how many.

        Stops at the first deletion that the store does not acknowledge.
        """
        objects = self.objects.within(self._folder(table.name()))
        newest = version_of(table.metadata_location)
        return self._versions(objects).delete_outdated(newest)

    def list_tables(self, namespace: str | Identifier) -> list[Identifier]:
        parts = self.identifier_to_tuple(namespace)
        if not self.namespace_exists(parts):
            raise NoSuchNamespaceError(f"namespace does not exist: {'.'.join(parts)}")
        folders, _ = self.objects.children(join(*parts))
        return [
            (*parts, folder)
            for folder in sorted(folders)
            if self._newest(self.objects.within(join(*parts, folder))) is not None
        ]

    # -- namespaces ------------------------------------------------------------------------

    def create_namespace(
        self, namespace: str | Identifier, properties: Properties = EMPTY_DICT
    ) -> None:
        """Create a namespace.

        Raises:
            NamespaceAlreadyExistsError: it is there.
            TableAlreadyExistsError: its name, or one that it would lie below, is a table's.
        """
        parts = self.identifier_to_tuple(namespace)
        for depth in range(1, len(parts) + 1):
            above = self.objects.within(join(*parts[:depth]))
            if self._newest(above) is not None or holds_delta(above):
                raise TableAlreadyExistsError(
                    f"{'.'.join(parts[:depth])} is a table: nothing can be created below it"
                )
        text = json.dumps(dict(properties)).encode()
        try:
            self.objects.create(join(*parts, NAMESPACE), text)
        except ObjectExists:
            raise NamespaceAlreadyExistsError(f"namespace {'.'.join(parts)} exists") from None

    def drop_namespace(self, namespace: str | Identifier) -> None:
        parts = self.identifier_to_tuple(namespace)
        if self.list_tables(parts) or self.list_namespaces(parts):
            raise NamespaceNotEmptyError(f"namespace {'.'.join(parts)} is not empty")
        self.objects.delete([join(*parts, NAMESPACE)])

    def list_namespaces(self, namespace: str | Identifier = ()) -> list[Identifier]:
        parts = self.identifier_to_tuple(namespace)
        folders, _ = self.objects.children(join(*parts))
        found = [(*parts, folder) for folder in sorted(folders)]
        return [one for one in found if self.namespace_exists(one)]

    def load_namespace_properties(self, namespace: str | Identifier) -> Properties:
        parts = self.identifier_to_tuple(namespace)
        try:
            data, _ = self.objects.get(join(*parts, NAMESPACE))
        except ObjectNotFound:
            raise NoSuchNamespaceError(f"namespace does not exist: {'.'.join(parts)}") from None
        return dict(json.loads(bytes(data)))

    def update_namespace_properties(
        self,
        namespace: str | Identifier,
        removals: set[str] | None = None,
        updates: Properties = EMPTY_DICT,
    ) -> PropertiesUpdateSummary:
        parts = self.identifier_to_tuple(namespace)
        summary, properties = self._get_updated_props_and_update_summary(
            self.load_namespace_properties(parts), removals, updates
        )
        self.objects.overwrite(join(*parts, NAMESPACE), json.dumps(properties).encode())
        return summary

    # -- what a folder cannot do -----------------------------------------------------------

    def register_table(
        self, identifier: str | Identifier, metadata_location: str, overwrite: bool = False
    ) -> Table:
        """A table whose metadata lies in its own place is registered by being there."""
        if not overwrite and metadata_location.startswith(
            f"{self.objects.uri}/{self._folder(identifier)}/"
        ):
            return self.load_table(identifier)
        return _refuse("register a table that lies elsewhere")

    def rename_table(
        self, from_identifier: str | Identifier, to_identifier: str | Identifier
    ) -> Table:
        return _refuse("rename a table: its folder is its name")

    def view_exists(self, identifier: str | Identifier) -> bool:
        return False

    def list_views(self, namespace: str | Identifier) -> list[Identifier]:
        return []

    def load_view(self, identifier: str | Identifier) -> View:
        return _refuse("hold views")

    def register_view(self, identifier: str | Identifier, metadata_location: str) -> View:
        return _refuse("hold views")

    def drop_view(self, identifier: str | Identifier) -> None:
        _refuse("hold views")

    # -- versions --------------------------------------------------------------------------

    def _folder(self, identifier: str | Identifier) -> str:
        return join(*self.identifier_to_tuple(identifier))

    def _versions(self, objects: Objects) -> Versions:
        return Versions(objects, LAYOUT, self._memory)

    def _newest(self, objects: Objects) -> int | None:
        return self._versions(objects).newest()

    def _tag_if_ours(self, objects: Objects, metadata: TableMetadata) -> str | None:
        """The tag of version 1 if it is this table's: the store wrote it, its answer was lost."""
        try:
            data, e_tag = self._versions(objects).get(1)
        except StoreError:
            return None
        return e_tag if _read(data).table_uuid == metadata.table_uuid else None

    def _check_base(self, objects: Objects, base: Table, number: int) -> None:
        """After version ``number`` was created: it counts only if its base is still there."""
        try:
            counts = self._versions(objects).counts(number, _base(base))
        except StoreError as error:
            raise CommitStateUnknownException(str(error)) from error
        if not counts:
            raise CommitStateUnknownException(
                f"version {number - 1} of {_dotted(base.name())} was cleaned up meanwhile"
            )

    def _remember(self, objects: Objects, number: int, metadata: TableMetadata, e_tag: str) -> None:
        self._versions(objects).remember(str(metadata.table_uuid), number, e_tag)

    def _hint(self, objects: Objects, number: int) -> None:
        # The version is committed; the hint is only a courtesy, and the next one renews it.
        with contextlib.suppress(StoreError):
            objects.overwrite(HINT, str(number).encode())

    def _table(
        self, identifier: str | Identifier, objects: Objects, number: int, metadata: TableMetadata
    ) -> Table:
        location = f"{objects.uri}/{version_path(number)}"
        return Table(
            identifier=self.identifier_to_tuple(identifier),
            metadata=metadata,
            metadata_location=location,
            io=self._load_file_io(metadata.properties, location),
            catalog=self,
        )

    def _load_file_io(
        self, properties: Properties = EMPTY_DICT, location: str | None = None
    ) -> FileIO:
        if self.objects.uri.startswith("memory:"):
            return ObjectsFileIO(self.objects)
        own = {k: v for k, v in properties.items() if not k.startswith(STORE_PREFIXES)}
        known = {"py-io-impl": store_io.IMPLEMENTATION, **self.properties}
        return load_file_io({**known, **own}, location)

    def __repr__(self) -> str:
        return f"ObjectStoreCatalog({self.name!r}, warehouse={self.objects.uri!r})"


def _base(table: Table) -> Base:
    """The version that a commit is made on."""

    def judge(data: bytes) -> Found:
        found = _read(data)
        if found.table_uuid != table.metadata.table_uuid:
            return Found.GONE
        return Found.GENUINE if found == table.metadata else Found.DOUBTFUL

    return Base(version_of(table.metadata_location), str(table.metadata.table_uuid), judge)


def _own_files(paths: Iterable[str]) -> list[str]:
    """Of all paths below a table's folder those that are its own, without its versions and hint."""
    listed = list(paths)
    nested = {match.group(1) + "/" for match in map(_NESTED.fullmatch, listed) if match}
    return [
        path
        for path in listed
        if path not in (NAMESPACE, HINT)
        and not _VERSION.fullmatch(path.removeprefix(f"{METADATA}/"))
        and not path.startswith(tuple(nested))
    ]


def _read(data: Buffer) -> TableMetadata:
    return TableMetadataUtil.parse_raw(bytes(data).decode())


def _written(metadata: TableMetadata) -> bytes:
    return metadata.model_dump_json(exclude_none=True).encode()


def _dotted(identifier: str | Identifier) -> str:
    return ".".join(Catalog.identifier_to_tuple(identifier))


def _refuse(what: str) -> NoReturn:
    raise InvalidSettings(f"an object-store catalog cannot {what}")
