"""Iceberg manifests: writing what a commit adds, merging in tiers, reading by step, cleaning up.

**Tiers.** Each commit adds one small manifest. When `FAN_IN` neighbours of about one size have
gathered they are merged into one, as in a log-structured merge tree, up to `ENTRIES_MAX` entries;
so n commits leave about n / `ENTRIES_MAX` + 7 log(n) manifests and each entry is rewritten at most
log(`ENTRIES_MAX`) / log(`FAN_IN`) times. Only neighbours are merged, so that each manifest holds a
run of steps that no other overlaps, and a reader finds a step by the bounds in the list.

**Off the critical path.** A merge only rearranges entries that never change, so it can be written
*before* the commit that uses it and stays valid as long as its inputs are all in the base. The
writer whose commit made a merge due prepares it afterwards and hands it in with its next commit.

**Cleaning.** File names carry the table version they were written for. A merge is handed in at
most `MERGE_AGE_MAX` versions after it was written, else it is dropped: so a manifest older than the
oldest live snapshot by that much, and not in that snapshot's list (or a tag's), is in no list.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass

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
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.typedef import Record
from pyiceberg.types import IntegerType, LongType

from batchweave.catalogs.files import relative_path
from batchweave.catalogs.iceberg_schema import field_id, leaf_ids
from batchweave.clock import Clock
from batchweave.errors import StreamCorrupted
from batchweave.objects import Objects
from batchweave.table import SLICE, BatchEntry, Part

FAN_IN = 8
TIERS = 3
ENTRIES_MAX = 2 * FAN_IN**TIERS
MERGE_AGE_MAX = 1024
CACHED_MANIFESTS = 8

MANIFESTS = "metadata/manifests"
LISTS = "metadata/lists"
_FILE = re.compile(r"(?:manifests/m|lists/l)-(\d+)-[0-9a-f]+\.avro$")

PARQUET_MAGIC_BYTES = 4


@dataclass(frozen=True, slots=True)
class Merge:
    """A merged manifest, written and not yet in any list."""

    inputs: tuple[str, ...]
    manifest: ManifestFile
    version: int


class Manifests:
    """The manifests of one table, for one writer or reader in this process. Thread-safe."""

    def __init__(self, io: FileIO, objects: Objects, clock: Clock, file_schema: pa.Schema) -> None:
        self._io = io
        self._objects = objects
        self._clock = clock
        self._leaf_ids = leaf_ids(file_schema)
        self._slice_id = field_id(file_schema.field(SLICE))
        self._prepared: Merge | None = None
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
        """The base's manifests, a prepared merge in place of its inputs, and one for ``added``."""
        manifests = self._with_merge(base, snapshot_id, version)
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
            manifests.append(self._write(metadata, entries, snapshot_id, version))
        return manifests

    def write_list(
        self,
        manifests: Sequence[ManifestFile],
        snapshot_id: int,
        parent_id: int | None,
        version: int,
    ) -> str:
        """Write a manifest list and return where."""
        path = f"{LISTS}/l-{version:012d}-{self._clock.token()}.avro"
        output = self._io.new_output(f"{self._objects.uri}/{path}")
        with write_manifest_list(2, output, snapshot_id, parent_id, version, "null") as writer:
            writer.add_manifests(list(manifests))
        return output.location

    def _write(
        self,
        metadata: TableMetadata,
        entries: Sequence[ManifestEntry],
        snapshot_id: int,
        version: int,
    ) -> ManifestFile:
        path = f"{MANIFESTS}/m-{version:012d}-{self._clock.token()}.avro"
        output = self._io.new_output(f"{self._objects.uri}/{path}")
        with write_manifest(
            2, metadata.spec(), metadata.schema(), output, snapshot_id, "null"
        ) as writer:
            for entry in entries:
                if entry.status == ManifestEntryStatus.ADDED and entry.sequence_number is None:
                    writer.add(entry)
                else:
                    writer.existing(entry)
        return writer.to_manifest_file()

    def _data_file(self, batch: BatchEntry, part: Part) -> DataFile:
        last = part.first_slice + part.slices - 1
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
            lower_bounds={self._slice_id: to_bytes(IntegerType(), part.first_slice)},
            upper_bounds={self._slice_id: to_bytes(IntegerType(), last)},
            split_offsets=list(part.offsets),
            spec_id=0,
        )

    # -- merging ---------------------------------------------------------------------------

    def merge_ahead(
        self, metadata: TableMetadata, manifests: Sequence[ManifestFile], version: int
    ) -> None:
        """Prepare the merge that this writer's commit of ``version`` made due, if it did."""
        with self._lock:
            merge = self._prepared
            busy = merge is not None and _place(merge, manifests) is not None
        run = due_merge(manifests, version)
        if busy or run is None:
            return
        entries = [entry for manifest in run for entry in self.read(manifest)]
        merged = self._write(metadata, entries, -1, version)
        with self._lock:
            self._prepared = Merge(tuple(one.manifest_path for one in run), merged, version)

    def _with_merge(
        self, base: Sequence[ManifestFile], snapshot_id: int, version: int
    ) -> list[ManifestFile]:
        manifests = list(base)
        with self._lock:
            merge = self._prepared
            if merge is None:
                return manifests
            at = _place(merge, manifests)
            if at is None or version - merge.version > MERGE_AGE_MAX:
                self._prepared = None
                return manifests
        merged = copy(merge.manifest)
        merged._data = list(merged._data)
        merged._data[6] = snapshot_id  # added_snapshot_id: known only now
        manifests[at : at + len(merge.inputs)] = [merged]
        return manifests

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
        bound = (file.lower_bounds or {}).get(self._slice_id)
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
        )

    # -- cleaning --------------------------------------------------------------------------

    def clean(self, metadata: TableMetadata) -> int:
        """Delete lists and manifests that no live or tagged snapshot can name; return how many."""
        current = metadata.current_snapshot()
        if current is None:
            return 0
        tagged = {
            ref.snapshot_id
            for ref in metadata.refs.values()
            if ref.snapshot_ref_type == SnapshotRefType.TAG
        }
        live = [one for one in metadata.snapshots if one.snapshot_id not in tagged] or [current]
        oldest = min(live, key=lambda one: one.sequence_number or 0)
        floor = oldest.sequence_number or 0
        kept = {
            relative_path(self._objects, one.manifest_list) for one in metadata.snapshots
        } | self._manifest_paths(
            {oldest.manifest_list, current.manifest_list}
            | {one.manifest_list for one in metadata.snapshots if one.snapshot_id in tagged}
        )
        doomed = [
            *self._older_than(LISTS, floor),
            *self._older_than(MANIFESTS, floor - MERGE_AGE_MAX),
        ]
        doomed = [path for path in doomed if path not in kept]
        self._objects.delete(doomed)
        return len(doomed)

    def _manifest_paths(self, lists: set[str]) -> set[str]:
        return {
            relative_path(self._objects, manifest.manifest_path)
            for location in sorted(lists)
            for manifest in read_manifest_list(self._io.new_input(location))
        }

    def _older_than(self, folder: str, version: int) -> list[str]:
        found = []
        for info in self._objects.children(folder)[1]:
            match = _FILE.search(info.path)
            if match and int(match.group(1)) < version:
                found.append(info.path)
        return found


def _place(merge: Merge, manifests: Sequence[ManifestFile]) -> int | None:
    """Where the inputs of a merge lie, as neighbours still; None if they do not."""
    paths = [manifest.manifest_path for manifest in manifests]
    if merge.inputs[0] not in paths:
        return None
    at = paths.index(merge.inputs[0])
    return at if tuple(paths[at : at + len(merge.inputs)]) == merge.inputs else None


def due_merge(manifests: Sequence[ManifestFile], version: int) -> list[ManifestFile] | None:
    """The neighbours that should become one manifest now, by the writer of ``version``.

    That is the writer whose commit made a merge due. If that one went away and twice as many wait,
    it is whoever commits a version divisible by `FAN_IN`, so that not all do the same work.
    """
    tier, run = _waiting(manifests)
    before, _ = _waiting([one for one in manifests if one.sequence_number != version])
    late = version % FAN_IN == 0 and _waiting(manifests, times=2)[0] >= 0
    return run if tier > before or late else None


def _waiting(
    manifests: Sequence[ManifestFile], times: int = 1
) -> tuple[int, list[ManifestFile] | None]:
    """The newest manifests of at most some tier, once they are enough for one of the next.

    Enough in entries, so that each merge lifts its entries by a tier; or in number, because
    commits of mixed sizes may lie between each other. The highest such tier; -1 if there is none.
    """
    for tier in reversed(range(TIERS)):
        at = len(manifests)
        while at > 0 and _plain(manifests[at - 1]) and _tier(manifests[at - 1]) <= tier:
            at -= 1
        run = list(manifests[at:])
        entries = sum(_count(one) for one in run)
        enough = times * FAN_IN ** (tier + 1)
        if len(run) > 1 and (entries >= enough or len(run) >= times * 2 * FAN_IN * (tier + 1)):
            return tier, _at_most(run, ENTRIES_MAX)
    return -1, None


def _at_most(run: list[ManifestFile], entries_max: int) -> list[ManifestFile]:
    """The oldest of a run that together have no more entries than that."""
    total = 0
    for at, manifest in enumerate(run):
        total += _count(manifest)
        if total > entries_max:
            return run[:at]
    return run


def covering(
    manifests: Sequence[ManifestFile], start: int, stop: int
) -> list[list[ManifestFile]]:
    """Manifests that may hold steps of the range, in step order.

    Manifests whose bounds overlap (a foreign rewrite) come together, to be sorted as one.
    """
    found: list[tuple[int, int, list[ManifestFile]]] = []
    bounded = [(*_steps(one), one) for one in manifests]
    for low, high, manifest in sorted(bounded, key=lambda item: item[:2]):
        if high < start or low >= stop:
            continue
        if found and low <= found[-1][1]:
            before = found[-1]
            found[-1] = (before[0], max(before[1], high), [*before[2], manifest])
        else:
            found.append((low, high, [manifest]))
    return [group for _, _, group in found]


def _steps(manifest: ManifestFile) -> tuple[int, int]:
    summaries = manifest.partitions
    if not summaries or summaries[0].lower_bound is None or summaries[0].upper_bound is None:
        return 0, 2**63 - 1
    low, high = summaries[0].lower_bound, summaries[0].upper_bound
    return int(from_bytes(LongType(), low)), int(from_bytes(LongType(), high))


def _count(manifest: ManifestFile) -> int:
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)


def _tier(manifest: ManifestFile) -> int:
    tier, count = 0, _count(manifest)
    while count >= FAN_IN:
        tier, count = tier + 1, count // FAN_IN
    return tier


def _plain(manifest: ManifestFile) -> bool:
    """Whether a manifest may be merged: ours, only live data files, and not full yet."""
    return (
        manifest.partition_spec_id == 0
        and not manifest.deleted_files_count
        and _count(manifest) < FAN_IN**TIERS
    )
