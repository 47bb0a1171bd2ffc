"""The embedded default: an Iceberg catalog that is nothing but an object store.

Metadata versions lie beside the data as ``metadata/v<N>.metadata.json``, each written with
put-if-absent: that is the whole compare-and-swap, no server and no database. The newest version is
the table. ``metadata/version-hint.text`` is for engines that look for it (DuckDB, Hadoop tables);
this catalog never trusts it.

**Finding the head.** Opening lists the folder and takes the largest N: live versions are never
cleaned up, so nothing stale can be larger. Following probes N + 1, one small request.

**Stale writers.** Old versions are deleted (`clean_versions`), oldest first, each deletion
acknowledged before the next. A writer that slept at N may then find N + 1 free although it
existed once. So whoever creates N + 1 checks *afterwards* that N is still there, byte for byte (its
version tag): as N is deleted before N + 1, an N still present means that N + 1 had not been
deleted, so it was never free twice. A writer that finds N gone cannot tell what became of its
commit and says so (`CommitStateUnknownException`). What it wrote stays until the next cleaning, and
is no head: whoever listed the number while it was the newest, and slept before reading it, sees by
its tag that this is another object and lists again. Only tags of versions found genuine in one of
these two ways are kept to compare with.
Alternatives: tombstones grow without bound; a durable boundary (SlateDB RFC 26) needs one more
object and one more read for the same answer.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum
from typing import NoReturn

import pyarrow as pa
from pyiceberg.catalog import Catalog, MetastoreCatalog, PropertiesUpdateSummary
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
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

from batchweave.catalogs.files import ObjectsFileIO
from batchweave.errors import (
    InvalidSettings,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
)
from batchweave.objects import Objects, join, open_objects

METADATA = "metadata"
HINT = f"{METADATA}/version-hint.text"
NAMESPACE = "namespace.json"
VERSIONS_KEPT = 64
"""Metadata versions that a slow reader can still rely on; cleaning leaves at least these."""

IDLE_POLLS_PER_LIST = 8

_VERSION = re.compile(r"v(\d+)\.metadata\.json")
_NESTED = re.compile(r"(.+)/(?:namespace\.json|metadata/v\d+\.metadata\.json)")
STORE_PREFIXES = ("s3.", "client.", "gcs.", "adls.", "hdfs.", "py-io-impl")
"""Properties that say where the store is and who asks: the catalog's, never a table's."""

_TAGS_REMEMBERED_MAX = 1024


def version_path(number: int) -> str:
    """Where metadata version ``number`` lies below the table's folder."""
    return f"{METADATA}/v{number}.metadata.json"


def version_of(location: str) -> int:
    """The number in a metadata location of this catalog.

    Raises:
        StoreUnavailable: the location was not written by this catalog.
    """
    match = _VERSION.fullmatch(location.rpartition("/")[2])
    if match is None:
        raise StoreUnavailable(f"{location!r} is not a metadata version of an object-store catalog")
    return int(match.group(1))


class _Base(Enum):
    """What was found of a commit's base afterwards."""

    GENUINE = "it was there all the time"
    DOUBTFUL = "it may have been cleaned up and written again"
    GONE = "it is gone, or another table's"


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
        self._tags: OrderedDict[str, str] = OrderedDict()
        self._idle_polls: dict[str, int] = {}
        self._lock = threading.Lock()

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
            e_tag = self._put_version(objects, 1, metadata)
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
        """
        objects = self.objects.within(self._folder(identifier))
        while listed := self._listed(objects):
            number = max(listed)
            try:
                metadata, e_tag = self._get_version(objects, number)
            except ObjectNotFound:
                continue  # dropped, or cleaned while we looked: look again
            if not self._is_the_listed(objects, number, e_tag, listed[number]):
                continue
            self._remember(objects, number, metadata, e_tag)
            return self._table(identifier, objects, number, metadata)
        raise NoSuchTableError(f"table {_dotted(identifier)} does not exist")

    def refresh_table(self, table: Table) -> Table:
        """The newest version, cheap where ``table`` is the newest: one small request.

        Returns ``table`` itself where nothing has changed.
        """
        objects = self.objects.within(self._folder(table.name()))
        number = version_of(table.metadata_location)
        if self._looks_idle(objects, number):
            return table
        return self.load_table(table.name())

    def _looks_idle(self, objects: Objects, number: int) -> bool:
        """Whether no version follows ``number``.

        Now and then this lists instead of probing: a version so old that its successors have been
        cleaned away has nothing right behind it either.
        """
        with self._lock:
            polls = self._idle_polls.get(objects.uri, 0) + 1
            self._idle_polls[objects.uri] = polls
        if polls % IDLE_POLLS_PER_LIST == 0:
            return self._newest(objects) == number
        try:
            objects.head(version_path(number + 1))
        except ObjectNotFound:
            return True
        return False

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
            e_tag = self._put_version(objects, number, metadata)
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
        """
        objects = self.objects.within(self._folder(identifier))
        if self._newest(objects) is None:
            raise NoSuchTableError(f"table {_dotted(identifier)} does not exist")
        own = _own_files([info.path for info in objects.list()])
        objects.delete([HINT])
        dropped = 0
        while (versions := sorted(self._versions(objects))) and versions[0] > dropped:
            self._delete_versions(objects, versions)
            dropped = versions[-1]
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
        found = sorted(self._versions(objects))
        old = [number for number in found if number <= newest - VERSIONS_KEPT]
        self._delete_versions(objects, old)
        return len(old)

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
            if self._newest(self.objects.within(join(*parts[:depth]))) is not None:
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

    def _listed(self, objects: Objects) -> dict[int, str]:
        """The versions that are there: number -> version tag."""
        _, files = objects.children(METADATA)
        matches = ((_VERSION.fullmatch(one.path.rpartition("/")[2]), one.e_tag) for one in files)
        return {int(match.group(1)): e_tag for match, e_tag in matches if match}

    def _versions(self, objects: Objects) -> list[int]:
        return list(self._listed(objects))

    def _newest(self, objects: Objects) -> int | None:
        return max(self._versions(objects), default=None)

    def _is_the_listed(self, objects: Objects, number: int, found: str, listed: str) -> bool:
        """Whether the version that was read is the one that was listed as the newest.

        Between the two it may have been cleaned away, and its number filled again by a writer
        that slept. The newest version is never cleaned, so if it is still the newest it is the one;
        that also serves stores that write a tag in two ways.
        """
        return found == listed or self._newest(objects) == number

    def _get_version(self, objects: Objects, number: int) -> tuple[TableMetadata, str]:
        data, e_tag = objects.get(version_path(number))
        return TableMetadataUtil.parse_raw(bytes(data).decode()), e_tag

    def _tag_if_ours(self, objects: Objects, metadata: TableMetadata) -> str | None:
        """The tag of version 1 if it is this table's: the store wrote it, its answer was lost."""
        try:
            found, e_tag = self._get_version(objects, 1)
        except StoreError:
            return None
        return e_tag if found.table_uuid == metadata.table_uuid else None

    def _put_version(self, objects: Objects, number: int, metadata: TableMetadata) -> str:
        data = metadata.model_dump_json(exclude_none=True).encode()
        return objects.create(version_path(number), data)

    def _check_base(self, objects: Objects, base: Table, number: int) -> None:
        """After version ``number`` was created: it counts only if its base is still there."""
        try:
            found = self._base_now(objects, base, number - 1)
        except StoreError as error:
            raise CommitStateUnknownException(str(error)) from error
        if found is _Base.GENUINE:
            return
        if found is _Base.GONE and self._newest(objects) == number:
            # Cleaning never reaches the newest versions: the table was dropped under us, and may
            # have been created again. Ours must not become the head of its namesake.
            self._delete_versions(objects, [number])
        raise CommitStateUnknownException(
            f"version {number - 1} of {_dotted(base.name())} was cleaned up meanwhile"
        )

    def _base_now(self, objects: Objects, base: Table, number: int) -> _Base:
        """What became of version ``number``, the base.

        A tag that is the same proves that it is the same object; another one proves nothing (a
        restored or touched file, a store that writes tags in two ways). Then the same content is
        the base, unless it is so old that it may have been deleted and a late repetition of its
        own request wrote it again.
        """
        with self._lock:
            expected = self._tags.get(_tag_key(objects, number, base.metadata))
        try:
            if expected is not None and objects.head(version_path(number)).e_tag == expected:
                return _Base.GENUINE
            found, e_tag = self._get_version(objects, number)
        except ObjectNotFound:
            return _Base.GONE
        if found.table_uuid != base.metadata.table_uuid:
            return _Base.GONE
        newest = self._newest(objects)
        if found != base.metadata or newest is None or number <= newest - VERSIONS_KEPT:
            return _Base.DOUBTFUL
        self._remember(objects, number, base.metadata, e_tag)
        return _Base.GENUINE

    def _remember(self, objects: Objects, number: int, metadata: TableMetadata, e_tag: str) -> None:
        """Keep the tag of a version that is known to be genuine, and of no other."""
        with self._lock:
            self._tags[_tag_key(objects, number, metadata)] = e_tag
            while len(self._tags) > _TAGS_REMEMBERED_MAX:
                self._tags.popitem(last=False)

    def _delete_versions(self, objects: Objects, ascending: list[int]) -> None:
        for number in ascending:  # one request each: the order is the safety
            objects.delete([version_path(number)])

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
        return load_file_io({**self.properties, **own}, location)

    def __repr__(self) -> str:
        return f"ObjectStoreCatalog({self.name!r}, warehouse={self.objects.uri!r})"


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


def _tag_key(objects: Objects, number: int, metadata: TableMetadata) -> str:
    return f"{objects.uri}#{metadata.table_uuid}#{number}"


def _dotted(identifier: str | Identifier) -> str:
    return ".".join(Catalog.identifier_to_tuple(identifier))


def _refuse(what: str) -> NoReturn:
    raise InvalidSettings(f"an object-store catalog cannot {what}")
