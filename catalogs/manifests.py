"""Iceberg manifests: writing what a commit adds, merging, reading by step, cleaning up.

**Merging off the critical path.** Each commit adds one small manifest; `merging` says which should
become one. A merge only rearranges entries that never change, so it can be written *before* the
commit that uses it and stays valid as long as its inputs are all in the base. Only neighbours are
merged: each manifest holds a run of steps that no other overlaps, and a reader finds a step by the
bounds in the list.

**Cleaning.** File names carry the table version they were written for. A merge is handed in at
most `MERGE_AGE_MAX` versions after it was written, else it is written again: so a manifest older
than the oldest live snapshot by that much, and not in that snapshot's list (or a tag's or another
branch's), is in no list.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

import pyarrow as pa
from pyiceberg.conversions import from_bytes, to_bytes
from pyiceberg.io import FileIO
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    read_manifest_list,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.typedef import Record
from pyiceberg.types import IntegerType, LongType

from batchweave.catalogs.files import relative_path
from batchweave.catalogs.iceberg_schema import field_id, leaf_ids
from batchweave.catalogs.merging import LATE_VERSIONS, Block, Merge, due_blocks
from batchweave.clock import Clock
from batchweave.errors import StreamCorrupted
from batchweave.objects import Objects
from batchweave.table import SLICE, SOURCE, BatchEntry, Part

MERGE_AGE_MAX = 64
PREPARED_MAX = 4
CACHED_MANIFESTS = 8

_FILE = re.compile(r"([lm])-(\d+)-[0-9a-f]+\.avro")

PARQUET_MAGIC_BYTES = 4
SPEC_ID = 0
"""The partition spec that the stream was created with, whatever the default is by now."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders that manifests and their lists are written to."""

    manifests: str
    lists: str


APART = Layout("metadata/manifests", "metadata/lists")
"""Where the metadata folder is listed to find the newest version: nothing else lies in it."""

FLAT = Layout("metadata", "metadata")
"""Where a server owns the folder: table buckets take no folders inside of ``metadata``."""


class Manifests:
    """The manifests of one table, for one writer or reader in this process. Thread-safe."""

    def __init__(
        self,
        io: FileIO,
        objects: Objects,
        clock: Clock,
        file_schema: pa.Schema,
        layout: Layout = APART,
    ) -> None:
        self._layout = layout
        self._io = io
        self._objects = objects
        self._clock = clock
        self._leaf_ids = leaf_ids(file_schema)
        self._slice_id = field_id(file_schema.field(SLICE))
        self._source_id = field_id(file_schema.field(SOURCE))
        self._prepared: list[Merge] = []
        self._cache: OrderedDict[str, list[ManifestEntry]] = OrderedDict()
        self._lock = threading.Lock()

    # -- writing ---------------------------------------------------------------------------

    def with_added(
        self,
        metadata: TableMetadata,
        base: Sequence[ManifestFile],
        added: Iterable[BatchEntry],
        snapshot_id: int,
        version: int,
    ) -> list[ManifestFile]:
        """The base's manifests, merged where that is prepared, and one more for ``added``."""
        live = [manifest for manifest in base if has_files(manifest)]
        manifests = self._with_merges(metadata, live, snapshot_id, version)
        entries = [
            ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED,
                snapshot_id=snapshot_id,
                data_file=self._data_file(batch, part),
            )
            for batch in added
            for part in batch.parts
        ]
        if entries:
            manifests.append(self.write(metadata, entries, snapshot_id, version))
        return manifests

    def write_list(
        self,
        manifests: Sequence[ManifestFile],
        snapshot_id: int,
        parent_id: int | None,
        version: int,
    ) -> str:
        """Write a manifest list and return where."""
        path = f"{self._layout.lists}/l-{version:012d}-{self._clock.token()}.avro"
        output = self._io.new_output(f"{self._objects.uri}/{path}")
        with write_manifest_list(2, output, snapshot_id, parent_id, version, "null") as writer:
            writer.add_manifests(list(manifests))
        return output.location

    def write(
        self,
        metadata: TableMetadata,
        entries: Sequence[ManifestEntry],
        snapshot_id: int,
        version: int,
    ) -> ManifestFile:
        """Write one manifest. Entries keep the sequence numbers that they have."""
        path = f"{self._layout.manifests}/m-{version:012d}-{self._clock.token()}.avro"
        output = self._io.new_output(f"{self._objects.uri}/{path}")
        with write_manifest(
            2, metadata.specs()[SPEC_ID], metadata.schema(), output, snapshot_id, "null"
        ) as writer:
            for entry in entries:
                if entry.status == ManifestEntryStatus.ADDED and entry.sequence_number is None:
                    writer.add(entry)
                elif entry.status == ManifestEntryStatus.DELETED:
                    writer.delete(entry)
                else:
                    writer.existing(entry)
        return writer.to_manifest_file()

    def _data_file(self, batch: BatchEntry, part: Part) -> DataFile:
        last = part.first_slice + part.slices - 1
        lower = {self._slice_id: to_bytes(IntegerType(), part.first_slice)}
        upper = {self._slice_id: to_bytes(IntegerType(), last)}
        if part.source is not None:
            lower[self._source_id] = upper[self._source_id] = part.source.encode()
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=f"{self._objects.uri}/{part.path}",
            file_format=FileFormat.PARQUET,
            partition=Record(
                batch.step,
                batch.producer,
                batch.sequence,
                batch.committed_at_ms * 1000,
                part.digest,
            ),
            record_count=part.rows,
            file_size_in_bytes=part.bytes,
            column_sizes=dict(zip(self._leaf_ids, part.column_bytes, strict=True)),
            value_counts={self._slice_id: part.rows},
            null_value_counts={self._slice_id: 0},
            nan_value_counts={},
            lower_bounds=lower,
            upper_bounds=upper,
            split_offsets=list(part.offsets),
            spec_id=SPEC_ID,
        )

    # -- merging ---------------------------------------------------------------------------

    def merge_ahead(
        self, metadata: TableMetadata, manifests: Sequence[ManifestFile], version: int
    ) -> None:
        """Prepare the merges that this writer's commit of ``version`` made due."""
        with self._lock:
            self._prepared = [one for one in self._prepared if one.place(manifests) is not None]
            known = {one.inputs for one in self._prepared}
        for block in due_blocks(manifests, version):
            if len(known) >= PREPARED_MAX:
                return
            if block.paths in known or not block.completed_by(manifests, version):
                continue
            merge = self._merged(metadata, block, -1, version)
            known.add(merge.inputs)
            with self._lock:
                self._prepared.append(merge)

    def _merged(
        self, metadata: TableMetadata, block: Block, snapshot_id: int, version: int
    ) -> Merge:
        entries = tuple(entry for manifest in block.run for entry in self.read(manifest))
        manifest = self.write(metadata, entries, snapshot_id, version)
        return Merge(block.paths, entries, manifest, version)

    def _with_merges(
        self,
        metadata: TableMetadata,
        base: Sequence[ManifestFile],
        snapshot_id: int,
        version: int,
    ) -> list[ManifestFile]:
        """The base with all merges in place that were prepared for it, or that nobody prepared."""
        manifests = list(base)
        with self._lock:
            merges = list(self._prepared)
        late = [one for one in due_blocks(base, version - 1) if one.end < version - LATE_VERSIONS]
        if late and not merges:
            merges.append(self._merged(metadata, late[0], snapshot_id, version))
        for merge in merges:
            at = merge.place(manifests)
            if at is None:
                continue
            if version - merge.version > MERGE_AGE_MAX:
                merge = self._renewed(metadata, merge, version)
            merged = copy(merge.manifest)
            merged._data = list(merge.manifest._data)
            merged._data[6] = snapshot_id  # added_snapshot_id: known only now
            manifests[at : at + len(merge.inputs)] = [merged]
        return manifests

    def _renewed(self, metadata: TableMetadata, merge: Merge, version: int) -> Merge:
        """The same merge written again, and kept for attempts after this one."""
        manifest = self.write(metadata, merge.entries, -1, version)
        renewed = replace(merge, manifest=manifest, version=version)
        with self._lock:
            self._prepared = [renewed if one is merge else one for one in self._prepared]
        return renewed

    # -- reading ---------------------------------------------------------------------------

    def read(self, manifest: ManifestFile) -> list[ManifestEntry]:
        """The live entries of a manifest; the last few manifests are cached."""
        with self._lock:
            if manifest.manifest_path in self._cache:
                self._cache.move_to_end(manifest.manifest_path)
                return self._cache[manifest.manifest_path]
        entries = manifest.fetch_manifest_entry(self._io)
        with self._lock:
            self._cache[manifest.manifest_path] = entries
            while len(self._cache) > CACHED_MANIFESTS:
                self._cache.popitem(last=False)
        return entries

    def part(self, file: DataFile) -> Part:
        """What a reader needs to know of a data file."""
        offsets = file.split_offsets
        bounds = file.lower_bounds or {}
        bound, source = bounds.get(self._slice_id), bounds.get(self._source_id)
        if not offsets or bound is None or not file.column_sizes:
            raise StreamCorrupted(
                f"{file.file_path} was not written by BatchWeave: it names no row groups or slices"
            )
        return Part(
            path=relative_path(self._objects, file.file_path),
            digest=file.partition[4],
            first_slice=int(from_bytes(IntegerType(), bound)),
            slices=len(offsets),
            rows=file.record_count,
            bytes=file.file_size_in_bytes,
            offsets=tuple(offsets),
            data_end=PARQUET_MAGIC_BYTES + sum(file.column_sizes.values()),
            column_bytes=tuple(file.column_sizes.get(leaf, 0) for leaf in self._leaf_ids),
            source=None if source is None else source.decode(),
        )

    # -- cleaning --------------------------------------------------------------------------

    def outdated(self, metadata: TableMetadata) -> list[str]:
        """Lists and manifests that no live or named snapshot of ``metadata`` can name."""
        current = metadata.current_snapshot()
        if current is None:
            return []
        named = {ref.snapshot_id for name, ref in metadata.refs.items() if name != MAIN_BRANCH}
        live = [one for one in metadata.snapshots if one.snapshot_id not in named] or [current]
        oldest = min(live, key=lambda one: one.sequence_number or 0)
        floor = oldest.sequence_number or 0
        kept = {
            relative_path(self._objects, one.manifest_list) for one in metadata.snapshots
        } | self._manifest_paths(
            {oldest.manifest_list, current.manifest_list}
            | {one.manifest_list for one in metadata.snapshots if one.snapshot_id in named}
        )
        below = {"l": floor, "m": floor - MERGE_AGE_MAX}
        return [
            path
            for kind, version, path in self._written()
            if version < below[kind] and path not in kept
        ]

    def _manifest_paths(self, lists: set[str]) -> set[str]:
        return {
            relative_path(self._objects, manifest.manifest_path)
            for location in sorted(lists)
            for manifest in read_manifest_list(self._io.new_input(location))
        }

    def _written(self) -> Iterator[tuple[str, int, str]]:
        """All lists (``l``) and manifests (``m``) that are there: kind, version, path."""
        layouts = {APART, self._layout}  # a table that was adopted has files of the other one
        for folder in sorted({one.lists for one in layouts} | {one.manifests for one in layouts}):
            for info in self._objects.children(folder)[1]:
                match = _FILE.fullmatch(info.path.rpartition("/")[2])
                if match:
                    yield match.group(1), int(match.group(2)), info.path


def covering(manifests: Sequence[ManifestFile], start: int, stop: int) -> list[list[ManifestFile]]:
    """Manifests that may hold steps of the range, in step order.

    Manifests whose bounds overlap (a foreign rewrite) come together, to be sorted as one.
    """
    found: list[tuple[int, int, list[ManifestFile]]] = []
    bounded = [(*step_bounds(one), one) for one in manifests]
    for low, high, manifest in sorted(bounded, key=lambda item: item[:2]):
        if high < start or low >= stop:
            continue
        if found and low <= found[-1][1]:
            before = found[-1]
            found[-1] = (before[0], max(before[1], high), [*before[2], manifest])
        else:
            found.append((low, high, [manifest]))
    return [group for _, _, group in found]


def has_files(manifest: ManifestFile) -> bool:
    """Whether any file of a manifest is live, as far as the manifest list tells."""
    counts = (manifest.added_files_count, manifest.existing_files_count)
    return None in counts or any(counts)


def step_bounds(manifest: ManifestFile) -> tuple[int, int]:
    """The smallest and the largest step that a manifest may hold."""
    summaries = manifest.partitions
    if not summaries or summaries[0].lower_bound is None or summaries[0].upper_bound is None:
        return 0, 2**63 - 1
    low, high = summaries[0].lower_bound, summaries[0].upper_bound
    return int(from_bytes(LongType(), low)), int(from_bytes(LongType(), high))
