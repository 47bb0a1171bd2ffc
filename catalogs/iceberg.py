"""A stream as an Iceberg v2 table, on any catalog that pyiceberg can load.

Commits go through the public ``Catalog.commit_table`` with ``AssertRefSnapshotId``: pyiceberg's own
``Transaction`` re-bases appends by itself, which would give two batches one step, and cleans up
after an unknown outcome, which would delete live manifests. Manifests are written by
``pyiceberg.manifest``. Sources: Iceberg spec, "Snapshots", "Manifests", "Optimistic concurrency".

The cost of a commit does not grow with history: the metadata keeps a bounded number of snapshots
(`batchweave.catalogs.iceberg_commit`), the winner keeps its manifest list in memory as its next
base, and manifests are merged in tiers (`batchweave.catalogs.manifests`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
from pyiceberg.catalog import Catalog, MetastoreCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchNamespaceError, NoSuchTableError
from pyiceberg.manifest import ManifestFile, read_manifest_list
from pyiceberg.schema import Schema
from pyiceberg.table import Table as IcebergHandle
from pyiceberg.table.metadata import TableMetadata, TableMetadataV1
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import TableRequirement, TableUpdate

from batchweave.catalogs import iceberg_commit, iceberg_schema, table_files
from batchweave.catalogs.failures import as_store_error, is_refusal, read
from batchweave.catalogs.files import ObjectsFileIO
from batchweave.catalogs.iceberg_batches import Batches
from batchweave.catalogs.iceberg_commit import SNAPSHOTS_LIVE, Outgoing
from batchweave.catalogs.iceberg_schema import stream_schema
from batchweave.catalogs.manifests import APART, FLAT, Manifests
from batchweave.catalogs.newest import newest
from batchweave.catalogs.object_store import STORE_PREFIXES, ObjectStoreCatalog
from batchweave.catalogs.removal import without_steps_below
from batchweave.clock import Clock, SystemClock
from batchweave.columns import schema_from_text
from batchweave.errors import (
    BatchWeaveError,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StreamCorrupted,
    StreamNotFound,
    UnsupportedFormat,
)
from batchweave.mesh import Mesh
from batchweave.objects import Objects, open_objects
from batchweave.state import PREFIX, check_format, from_properties
from batchweave.table import BatchEntry, Change, Committed, Head, Lost, Outcome, Unknown

__all__ = ["SNAPSHOTS_LIVE", "TIDY_EVERY", "IcebergTable", "store_properties", "stream_schema"]

SUPPORTED_VERSION = 2
FIRST_SCHEMA_ID = 0
TIDY_EVERY = 32
"""A writer does the upkeep at most once in each run of this many versions."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Detail:
    """What a head remembers of Iceberg: the handle, and its manifests once they were read."""

    handle: IcebergHandle
    manifests: list[ManifestFile] | None = field(default=None, repr=False)

    @property
    def metadata(self) -> TableMetadata:
        return self.handle.metadata


class IcebergTable:
    """`batchweave.table.Table` over one Iceberg table."""

    def __init__(
        self, catalog: Catalog, handle: IcebergHandle, *, clock: Clock | None = None
    ) -> None:
        self._catalog = catalog
        self._own = isinstance(catalog, ObjectStoreCatalog)
        self._identifier = handle.name()
        self._name = ".".join(self._identifier)
        self._uuid = handle.metadata.table_uuid
        self._clock = clock or SystemClock()
        check_format(handle.properties, self._name)
        self._schema = schema_from_text(_property(handle, "schema"))
        self._mesh = Mesh.from_json(_property(handle, "mesh"))
        self._file_schema = iceberg_schema.file_schema(self._schema, created_schema(handle))
        self._fitting: int | None = None
        self._objects = table_objects(catalog, handle)
        self._io = ObjectsFileIO(self._objects)
        self._manifests = Manifests(
            self._io, self._objects, self._clock, self._file_schema, APART if self._own else FLAT
        )
        self._batches = Batches(self._name, self._mesh.slices, self._manifests)
        self._read_lock = threading.Lock()
        self._read: tuple[str, list[ManifestFile]] = ("", [])
        self._tidied = 0

    # -- what it is ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def id(self) -> str:
        return str(self._uuid)

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    @property
    def mesh(self) -> Mesh:
        return self._mesh

    @property
    def file_schema(self) -> pa.Schema:
        return self._file_schema

    @property
    def objects(self) -> Objects:
        return self._objects

    # -- reading ---------------------------------------------------------------------------

    def head(self, known: Head | None = None) -> Head:
        handle = self._load(known)
        if handle.metadata.table_uuid != self._uuid:
            raise StreamNotFound(f"stream {self._name} was dropped and created again: load it anew")
        if known is not None and handle is known.detail.handle:
            return known
        return self._head(Detail(handle))

    def entries(self, head: Head, start: int, stop: int) -> Iterator[BatchEntry]:
        try:
            yield from self._entries(head, start, stop)
        except FileNotFoundError as error:
            raise ObjectNotFound(f"metadata of {self._name} was cleaned up: {error}") from error

    def _entries(self, head: Head, start: int, stop: int) -> Iterator[BatchEntry]:
        expected = start
        for batch in self._batches.read(self.manifest_list(head), start, stop):
            if batch.step != expected:
                what = "is missing" if batch.step > expected else "is there twice"
                raise StreamCorrupted(f"step {min(expected, batch.step)} of {self._name} {what}")
            expected += 1
            yield batch
        if expected < min(stop, head.state.next_step):
            raise StreamCorrupted(f"step {expected} of {self._name} is missing")

    def _load(self, known: Head | None) -> IcebergHandle:
        try:
            if known is None:
                return read(lambda: self._catalog.load_table(self._identifier))
            handle: IcebergHandle = known.detail.handle
            return read(lambda: newest(self._catalog, self._identifier, handle, self._io))
        except (NoSuchTableError, NoSuchNamespaceError) as error:
            raise StreamNotFound(f"stream {self._name} does not exist") from error
        except BatchWeaveError:
            raise
        except Exception as error:
            raise self._told(error, f"{self._name} could not be loaded") from error

    def _told(self, error: Exception, what: str) -> StoreError:
        return as_store_error(error, what, self._catalog.properties)

    def _head(self, detail: Detail) -> Head:
        metadata = detail.metadata
        state = from_properties(metadata.properties, self._name)
        return Head(version_of_snapshots(metadata), state, detail)

    def manifest_list(self, head: Head) -> list[ManifestFile]:
        """The manifests of a head's version, read once."""
        detail: Detail = head.detail
        if detail.manifests is not None:
            return detail.manifests
        snapshot = detail.metadata.current_snapshot()
        if snapshot is None:
            return []
        with self._read_lock:
            location, manifests = self._read
            if location != snapshot.manifest_list:
                manifests = list(read_manifest_list(self._io.new_input(snapshot.manifest_list)))
                self._read = (snapshot.manifest_list, manifests)
            return manifests

    # -- committing ------------------------------------------------------------------------

    def commit(self, base: Head, change: Change) -> Outcome:
        self._check_fit(base.detail.metadata)
        try:
            handle, requirements, updates, manifests = self._prepared(base, change)
        except FileNotFoundError as error:
            return self._without_file(base, error)
        except StoreDenied:
            raise
        except (StoreError, OSError) as error:
            return Unknown(error)
        try:
            response = self._catalog.commit_table(handle, requirements, updates)
        except CommitFailedException:
            return Lost()
        except NoSuchTableError as error:
            raise StreamNotFound(f"stream {self._name} does not exist") from error
        except (StoreDenied, StreamCorrupted):
            raise
        except Exception as error:
            told = self._told(error, f"a commit to {self._name} was not acknowledged")
            if is_refusal(error):
                raise told from error
            told.__cause__ = error
            return Unknown(told)  # whatever it was, only the head can tell what became of it
        written = IcebergHandle(
            identifier=handle.name(),
            metadata=response.metadata,
            metadata_location=response.metadata_location,
            io=handle.io,
            catalog=self._catalog,
        )
        return Committed(self._head(Detail(written, manifests)))

    def _check_fit(self, metadata: TableMetadata) -> None:
        """Refuse to write to a table that others have made into something else.

        The commit asserts the schema that was checked. Readers go on: what is there stays readable.
        """
        if metadata.format_version != SUPPORTED_VERSION:
            raise UnsupportedFormat(
                f"another program made {self._name} an Iceberg v{metadata.format_version} table, "
                f"streams are v{SUPPORTED_VERSION}: nothing more can be committed"
            )
        if metadata.current_schema_id != self._fitting:
            iceberg_schema.check_fit(self._schema, self._file_schema, metadata.schema(), self._name)
            self._fitting = metadata.current_schema_id

    def _without_file(self, base: Head, error: FileNotFoundError) -> Outcome:
        """A file of the base is gone: cleaned up, as it is far behind, or the head lacks it."""
        try:
            newest = self.head()
        except StoreDenied:
            raise
        except StoreError as trouble:
            return Unknown(trouble)
        if newest.version == base.version:
            raise StreamCorrupted(f"{self._name} lacks a file that it names: {error}") from error
        return Lost()

    def _prepared(
        self, base: Head, change: Change
    ) -> tuple[
        IcebergHandle,
        tuple[TableRequirement, ...],
        tuple[TableUpdate, ...],
        list[ManifestFile],
    ]:
        metadata: TableMetadata = base.detail.metadata
        parent = metadata.current_snapshot()
        snapshot_id = int(self._clock.token()[:15], 16)
        version = base.version + 1
        listed, removal = self.manifest_list(base), None
        if change.state.watermark > base.state.watermark:
            removal = without_steps_below(
                self._manifests, metadata, listed, change.state.watermark, snapshot_id, version
            )
            manifests = removal.manifests
        else:
            manifests = self._manifests.with_added(
                metadata, listed, change.added, snapshot_id, version
            )
        location = self._manifests.write_list(
            manifests, snapshot_id, parent.snapshot_id if parent else None, version
        )
        snapshot = Snapshot(
            snapshot_id=snapshot_id,
            parent_snapshot_id=parent.snapshot_id if parent else None,
            sequence_number=version,
            timestamp_ms=self._time_ms(metadata, parent),
            manifest_list=location,
            summary=iceberg_commit.summary(change, parent, removal),
            schema_id=metadata.current_schema_id,
        )
        outgoing = self._outgoing(base, change)
        return (
            base.detail.handle,
            iceberg_commit.requirements(metadata, outgoing),
            iceberg_commit.updates(base, change, snapshot, outgoing),
            _numbered(manifests, snapshot),
        )

    def _time_ms(self, metadata: TableMetadata, parent: Snapshot | None) -> int:
        """Now, or what the table says where a clock of some writer is behind: times never fall."""
        latest_ms = max(metadata.last_updated_ms, parent.timestamp_ms if parent else 0)
        return max(self._clock.now_ms(), latest_ms)

    def _outgoing(self, base: Head, change: Change) -> Outgoing:
        """The snapshots that a commit removes: all that name files that go, else the oldest.

        A server that cannot be asked to check them is asked right before what it has.
        """
        metadata: TableMetadata = base.detail.metadata
        reclaims = change.state.watermark > base.state.watermark
        checked_here = isinstance(self._catalog, MetastoreCatalog)
        if not checked_here:
            outlived = iceberg_commit.outlived(metadata)
            if not reclaims and len(outlived) < iceberg_commit.SNAPSHOTS_LIVE:
                return Outgoing()
            metadata = self._load(base).metadata
            if metadata.current_snapshot() != base.detail.metadata.current_snapshot():
                return Outgoing()  # the race is lost already
        if reclaims:
            return iceberg_commit.reclaimed(
                metadata, base.state, self._name, checked_here=checked_here
            )
        return Outgoing(tuple(iceberg_commit.outlived(metadata)), checked_here=checked_here)

    # -- upkeep ----------------------------------------------------------------------------

    def tidy(self, head: Head) -> None:
        try:
            manifests = self.manifest_list(head)
            self._manifests.merge_ahead(head.detail.metadata, manifests, head.version)
            turn = head.version // TIDY_EVERY
            if turn != self._tidied:  # 0 in the beginning: nothing is old before the first turn
                self._tidied = turn
                self._clean(head.detail.handle)
        except Exception as error:  # noqa: BLE001 - the commit is durable, whatever happens here
            # Left to the next writer: folders are listed afresh each time.
            _log.warning("upkeep of %s failed and is left to the next: %r", self._name, error)

    def _clean(self, handle: IcebergHandle) -> None:
        """Delete metadata that nothing can name any more.

        What was listed while the table was still ours is ours: a table that takes its name and its
        folder after a drop can only have come later. So the look at the catalog comes last.
        """
        outdated = self._manifests.outdated(handle.metadata)
        if not self._own:
            outdated += table_files.overtaken(self._objects, handle.metadata_location)
        if outdated and self._load(None).metadata.table_uuid == self._uuid:
            self._objects.delete(outdated)
        if isinstance(self._catalog, ObjectStoreCatalog):
            self._catalog.clean_versions(handle)


def version_of_snapshots(metadata: TableMetadata) -> int:
    """The table version: the sequence number of the newest snapshot, 0 before the first."""
    return 0 if isinstance(metadata, TableMetadataV1) else metadata.last_sequence_number


def _numbered(manifests: list[ManifestFile], snapshot: Snapshot) -> list[ManifestFile]:
    """The manifests as a reader of the new list would see them: sequence numbers assigned."""
    version = snapshot.sequence_number or 0
    for manifest in manifests:
        if manifest.sequence_number == -1:
            manifest.sequence_number = version
        if manifest.min_sequence_number == -1:
            manifest.min_sequence_number = version
    return manifests


def _property(handle: IcebergHandle, name: str) -> str:
    try:
        return handle.properties[PREFIX + name]
    except KeyError:
        raise StreamCorrupted(
            f"{'.'.join(handle.name())} lacks the table property {PREFIX + name}"
        ) from None


def created_schema(handle: IcebergHandle) -> Schema:
    """The schema that the stream was created with, for its files' field IDs: the table's first."""
    first = handle.metadata.schema_by_id(FIRST_SCHEMA_ID)
    return first if first is not None else handle.schema()


def store_properties(handle: IcebergHandle) -> dict[str, str]:
    """How to reach a table's files: as its catalog says, never as a property of the table says."""
    catalog = handle.catalog.properties
    given = {
        key: value
        for key, value in handle.io.properties.items()
        if not (key.startswith(STORE_PREFIXES) and handle.properties.get(key) == value)
    }
    return {**catalog, **given}


def table_objects(catalog: Catalog, handle: IcebergHandle) -> Objects:
    """The store of a table, rooted at its folder."""
    if isinstance(catalog, ObjectStoreCatalog):
        return catalog.objects.within("/".join(handle.name()))
    return open_objects(handle.location(), store_properties(handle))
