"""A stream as an Iceberg v2 table, on any catalog that pyiceberg can load.

Commits go through the public ``Catalog.commit_table`` with ``AssertRefSnapshotId``: pyiceberg's own
``Transaction`` re-bases appends by itself, which would give two batches one step, and cleans up
after an unknown outcome, which would delete live manifests. Manifests are written by
``pyiceberg.manifest``. Sources: Iceberg spec, "Snapshots", "Manifests", "Optimistic concurrency".

The cost of a commit does not grow with history: the metadata keeps `SNAPSHOTS_LIVE` snapshots, the
winner keeps its manifest list in memory as its next base, and manifests are merged in tiers
(`batchweave.catalogs.manifests`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    ForbiddenError,
    NoSuchTableError,
    UnauthorizedError,
)
from pyiceberg.manifest import ManifestContent, ManifestEntry, ManifestFile, read_manifest_list
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table as IcebergHandle
from pyiceberg.table.metadata import TableMetadata, TableMetadataV1
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertRefSnapshotId,
    AssertTableUUID,
    RemovePropertiesUpdate,
    RemoveSnapshotsUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)
from pyiceberg.transforms import IdentityTransform

from batchweave.catalogs import iceberg_schema
from batchweave.catalogs.files import ObjectsFileIO
from batchweave.catalogs.manifests import Manifests, covering
from batchweave.catalogs.object_store import STORE_PREFIXES, ObjectStoreCatalog
from batchweave.clock import Clock, SystemClock
from batchweave.columns import schema_from_text
from batchweave.errors import (
    StoreDenied,
    StoreError,
    StoreUnavailable,
    StreamCorrupted,
    StreamNotFound,
)
from batchweave.mesh import Mesh
from batchweave.objects import Objects, open_objects
from batchweave.state import PREFIX, changed_properties, check_format, from_properties
from batchweave.table import (
    COMMIT_COLUMNS,
    BatchEntry,
    Change,
    Committed,
    Head,
    Lost,
    Outcome,
    Unknown,
)

MAIN = "main"
SNAPSHOTS_LIVE = 32
"""Snapshots kept in the metadata besides tagged ones: any past view is a prefix by step."""

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
        self._identifier = handle.name()
        self._name = ".".join(self._identifier)
        self._uuid = handle.metadata.table_uuid
        self._clock = clock or SystemClock()
        check_format(handle.properties, self._name)
        self._schema = schema_from_text(_property(handle, "schema"))
        self._mesh = Mesh.from_json(_property(handle, "mesh"))
        self._file_schema = iceberg_schema.file_schema(self._schema, handle.schema())
        self._objects = _table_objects(catalog, handle)
        self._io = ObjectsFileIO(self._objects)
        self._manifests = Manifests(self._io, self._objects, self._clock, self._file_schema)
        self._read_lock = threading.Lock()
        self._read: tuple[str, list[ManifestFile]] = ("", [])
        self._tidied = 0

    # -- what it is ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

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
        expected = start
        for batch in self._batches(head, start, stop):
            if batch.step != expected:
                what = "is missing" if batch.step > expected else "is there twice"
                raise StreamCorrupted(f"step {min(expected, batch.step)} of {self._name} {what}")
            expected += 1
            yield batch
        if expected < min(stop, head.state.next_step):
            raise StreamCorrupted(f"step {expected} of {self._name} is missing")

    def _batches(self, head: Head, start: int, stop: int) -> Iterator[BatchEntry]:
        listed = self._manifest_list(head)
        for manifest in listed:
            if manifest.content != ManifestContent.DATA and _has_files(manifest):
                raise StreamCorrupted(
                    f"another program deleted rows of {self._name}: {manifest.manifest_path}"
                )
        for manifests in covering(listed, start, stop):
            grouped: dict[int, list[ManifestEntry]] = {}
            for manifest in manifests:
                for entry in self._manifests.read(manifest):
                    step = self._step(entry)
                    if start <= step < stop:
                        grouped.setdefault(step, []).append(entry)
            for step in sorted(grouped):
                yield self._batch(step, grouped[step])

    def _step(self, entry: ManifestEntry) -> int:
        values = entry.data_file.partition._data
        if len(values) < len(COMMIT_COLUMNS) or None in values[: len(COMMIT_COLUMNS)]:
            raise StreamCorrupted(
                f"{self._name} has rows that BatchWeave did not write: {entry.data_file.file_path}"
            )
        return int(values[0])

    def _batch(self, step: int, entries: list[ManifestEntry]) -> BatchEntry:
        parts = sorted(
            (self._manifests.part(entry.data_file) for entry in entries),
            key=lambda part: part.first_slice,
        )
        _, producer, sequence, committed_at_us, *_ = entries[0].data_file.partition._data
        if any(one.data_file.partition._data[1:3] != [producer, sequence] for one in entries):
            raise StreamCorrupted(f"step {step} of {self._name} is of more than one batch")
        slice_at = 0
        for part in parts:
            if part.first_slice != slice_at:
                raise StreamCorrupted(f"step {step} of {self._name} lacks slice {slice_at}")
            slice_at += part.slices
        if slice_at != self._mesh.slices:
            what = f"lacks slice {slice_at}" if slice_at < self._mesh.slices else "has too many"
            raise StreamCorrupted(
                f"step {step} of {self._name} {what}: the mesh has {self._mesh.slices} slices"
            )
        return BatchEntry(step, producer, sequence, committed_at_us // 1000, tuple(parts))

    def _load(self, known: Head | None) -> IcebergHandle:
        try:
            if known is not None and isinstance(self._catalog, ObjectStoreCatalog):
                return self._catalog.refresh_table(known.detail.handle)
            return self._catalog.load_table(self._identifier)
        except NoSuchTableError as error:
            raise StreamNotFound(f"stream {self._name} does not exist") from error
        except (ForbiddenError, UnauthorizedError) as error:
            raise StoreDenied(f"the catalog refused to load {self._name}: {error}") from error
        except StoreError:
            raise
        except Exception as error:
            raise StoreUnavailable(f"the catalog failed to load {self._name}: {error}") from error

    def _head(self, detail: Detail) -> Head:
        metadata = detail.metadata
        state = from_properties(metadata.properties, self._name)
        return Head(version_of_snapshots(metadata), state, detail)

    def _manifest_list(self, head: Head) -> list[ManifestFile]:
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
        except (ForbiddenError, UnauthorizedError) as error:
            raise StoreDenied(f"the catalog refused a commit to {self._name}: {error}") from error
        except NoSuchTableError as error:
            raise StreamNotFound(f"stream {self._name} does not exist") from error
        except (StoreDenied, StreamCorrupted):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, only the head can tell
            return Unknown(error)
        written = IcebergHandle(
            identifier=handle.name(),
            metadata=response.metadata,
            metadata_location=response.metadata_location,
            io=handle.io,
            catalog=self._catalog,
        )
        return Committed(self._head(Detail(written, manifests)))

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
        manifests = self._manifests.with_added(
            metadata, self._manifest_list(base), change.added, snapshot_id, version
        )
        location = self._manifests.write_list(
            manifests, snapshot_id, parent.snapshot_id if parent else None, version
        )
        snapshot = Snapshot(
            snapshot_id=snapshot_id,
            parent_snapshot_id=parent.snapshot_id if parent else None,
            sequence_number=version,
            timestamp_ms=max(self._clock.now_ms(), metadata.last_updated_ms),
            manifest_list=location,
            summary=_summary(change, parent),
            schema_id=metadata.current_schema_id,
        )
        requirements = (
            AssertTableUUID(uuid=metadata.table_uuid),
            AssertRefSnapshotId(ref=MAIN, snapshot_id=parent.snapshot_id if parent else None),
        )
        updates = _updates(base, change, snapshot, metadata)
        return base.detail.handle, requirements, updates, _numbered(manifests, snapshot)

    # -- upkeep ----------------------------------------------------------------------------

    def tidy(self, head: Head) -> None:
        metadata, handle = head.detail.metadata, head.detail.handle
        try:
            self._manifests.merge_ahead(metadata, self._manifest_list(head), head.version)
            turn = head.version // TIDY_EVERY
            if turn != self._tidied:  # 0 in the beginning: nothing is old before the first turn
                self._tidied = turn
                self._manifests.clean(metadata)
                if isinstance(self._catalog, ObjectStoreCatalog):
                    self._catalog.clean_versions(handle)
        except Exception as error:  # noqa: BLE001 - the commit is durable, whatever happens here
            # Left to the next writer: folders are listed afresh each time.
            _log.warning("upkeep of %s failed and is left to the next: %r", self._name, error)


def version_of_snapshots(metadata: TableMetadata) -> int:
    """The table version: the sequence number of the newest snapshot, 0 before the first."""
    return 0 if isinstance(metadata, TableMetadataV1) else metadata.last_sequence_number


def _updates(
    base: Head, change: Change, snapshot: Snapshot, metadata: TableMetadata
) -> tuple[TableUpdate, ...]:
    updates: list[TableUpdate] = [
        AddSnapshotUpdate(snapshot=snapshot),
        SetSnapshotRefUpdate(
            ref_name=MAIN,
            type=SnapshotRefType.BRANCH,
            snapshot_id=snapshot.snapshot_id,
            max_ref_age_ms=None,
            max_snapshot_age_ms=None,
            min_snapshots_to_keep=None,
        ),
    ]
    changed, removed = changed_properties(base.state, change.state)
    if changed:
        updates.append(SetPropertiesUpdate(updates=changed))
    if removed:
        updates.append(RemovePropertiesUpdate(removals=list(removed)))
    expired = _expired(metadata)
    if expired:
        updates.append(RemoveSnapshotsUpdate(snapshot_ids=expired))
    return tuple(updates)


def _expired(metadata: TableMetadata) -> list[int]:
    """Snapshots that leave the metadata: all but the newest and those that a ref names."""
    named = {ref.snapshot_id for ref in metadata.refs.values()}
    others = [one.snapshot_id for one in metadata.snapshots if one.snapshot_id not in named]
    return others[: max(0, len(others) + 2 - SNAPSHOTS_LIVE)]


def _numbered(manifests: list[ManifestFile], snapshot: Snapshot) -> list[ManifestFile]:
    """The manifests as a reader of the new list would see them: sequence numbers assigned."""
    version = snapshot.sequence_number or 0
    for manifest in manifests:
        if manifest.sequence_number == -1:
            manifest.sequence_number = version
        if manifest.min_sequence_number == -1:
            manifest.min_sequence_number = version
    return manifests


def _summary(change: Change, parent: Snapshot | None) -> Summary:
    before: Mapping[str, Any] = parent.summary if parent and parent.summary else {}
    parts = [part for batch in change.added for part in batch.parts]
    files, rows = len(parts), sum(part.rows for part in parts)
    size = sum(part.bytes for part in parts)
    totals = {
        "total-data-files": files,
        "total-records": rows,
        "total-files-size": size,
    }
    properties = {key: str(int(before.get(key) or 0) + value) for key, value in totals.items()} | {
        "total-delete-files": "0",
        "total-position-deletes": "0",
        "total-equality-deletes": "0",
    }
    if files:
        properties |= {
            "added-data-files": str(files),
            "added-records": str(rows),
            "added-files-size": str(size),
            PREFIX + "first-step": str(change.added[0].step),
            PREFIX + "last-step": str(change.added[-1].step),
            PREFIX + "producer": change.added[0].producer,
        }
    return Summary(operation=Operation.APPEND, **properties, **change.summary)


def stream_schema(schema: pa.Schema) -> tuple[Schema, PartitionSpec]:
    """The Iceberg schema and identity-partition spec of a stream with this declared schema."""
    full = assign_fresh_schema_ids(iceberg_schema.full_schema(schema))
    fields = [
        PartitionField(
            source_id=full.find_field(name).field_id,
            field_id=1000 + at,
            transform=IdentityTransform(),
            name=name,
        )
        for at, name in enumerate(COMMIT_COLUMNS)
    ]
    return full, PartitionSpec(*fields)


def _property(handle: IcebergHandle, name: str) -> str:
    try:
        return handle.properties[PREFIX + name]
    except KeyError:
        raise StreamCorrupted(
            f"{'.'.join(handle.name())} lacks the table property {PREFIX + name}"
        ) from None


def _has_files(manifest: ManifestFile) -> bool:
    counts = (manifest.added_files_count, manifest.existing_files_count)
    return None in counts or any(counts)


def store_properties(handle: IcebergHandle) -> dict[str, str]:
    """How to reach a table's files: as its catalog says, never as a property of the table says."""
    catalog = handle.catalog.properties
    given = {
        key: value
        for key, value in handle.io.properties.items()
        if not (key.startswith(STORE_PREFIXES) and handle.properties.get(key) == value)
    }
    return {**catalog, **given}


def _table_objects(catalog: Catalog, handle: IcebergHandle) -> Objects:
    if isinstance(catalog, ObjectStoreCatalog):
        return catalog.objects.within("/".join(handle.name()))
    return open_objects(handle.location(), store_properties(handle))
