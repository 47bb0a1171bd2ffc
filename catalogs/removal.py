"""Taking batches out of an Iceberg table: what the commit of a reclaim does to the manifests.

The new snapshot lists only manifests with steps from the watermark on. A manifest that lies across
it is written again with what stays; what goes is written once more as deleted, as the specification
asks of the snapshot that removes files, and left out by the next commit. Each manifest is read once
when it goes, so the cost is that of what is removed, and not of what stays.
Source: Iceberg spec, "Manifests", "Snapshots".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyiceberg.manifest import ManifestEntry, ManifestEntryStatus, ManifestFile
from pyiceberg.table.metadata import TableMetadata

from batchweave.catalogs.manifests import Manifests, has_files, step_bounds

DELETED_PER_MANIFEST = 8192


@dataclass(frozen=True, slots=True)
class Removal:
    """The manifests that are left, and what went."""

    manifests: list[ManifestFile]
    files: int = 0
    rows: int = 0
    bytes: int = 0


def without_steps_below(
    manifests: Manifests,
    metadata: TableMetadata,
    base: Sequence[ManifestFile],
    watermark: int,
    snapshot_id: int,
    version: int,
) -> Removal:
    """Remove every batch below ``watermark`` from the manifests of ``base``."""
    left: list[ManifestFile] = []
    gone: list[ManifestEntry] = []
    for manifest in base:
        if not has_files(manifest):
            continue
        if step_bounds(manifest)[0] >= watermark:
            left.append(manifest)
            continue
        entries = manifests.read(manifest)
        stays = [entry for entry in entries if entry.data_file.partition[0] >= watermark]
        gone += [entry for entry in entries if entry.data_file.partition[0] < watermark]
        if stays:
            left.append(manifests.write(metadata, stays, snapshot_id, version))
    for first in range(0, len(gone), DELETED_PER_MANIFEST):
        run = [_deleted(entry, snapshot_id) for entry in gone[first : first + DELETED_PER_MANIFEST]]
        left.append(manifests.write(metadata, run, snapshot_id, version))
    return Removal(
        left,
        len(gone),
        sum(entry.data_file.record_count for entry in gone),
        sum(entry.data_file.file_size_in_bytes for entry in gone),
    )


def _deleted(entry: ManifestEntry, snapshot_id: int) -> ManifestEntry:
    return ManifestEntry.from_args(
        status=ManifestEntryStatus.DELETED,
        snapshot_id=snapshot_id,
        sequence_number=entry.sequence_number,
        file_sequence_number=entry.file_sequence_number,
        data_file=entry.data_file,
    )
