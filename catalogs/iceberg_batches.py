"""The batches of a stream out of its manifests, checked: every step once, whole, and ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyiceberg.manifest import ManifestContent, ManifestEntry, ManifestFile

from batchweave.catalogs.manifests import Manifests, covering, has_files
from batchweave.errors import StreamCorrupted
from batchweave.table import COMMIT_COLUMNS, BatchEntry


class Batches:
    """Reads the batches of one table, which has ``slices`` slices in each."""

    def __init__(self, name: str, slices: int, manifests: Manifests) -> None:
        self._name = name
        self._slices = slices
        self._manifests = manifests

    def read(self, listed: Sequence[ManifestFile], start: int, stop: int) -> Iterator[BatchEntry]:
        """Batches of steps ``start`` to ``stop`` (exclusive), in order, those that are there.

        Raises:
            StreamCorrupted: other programs wrote or deleted rows, or a batch is not whole.
        """
        for manifest in listed:
            if manifest.content != ManifestContent.DATA and has_files(manifest):
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
        if slice_at != self._slices:
            what = f"lacks slice {slice_at}" if slice_at < self._slices else "has too many"
            raise StreamCorrupted(
                f"step {step} of {self._name} {what}: the mesh has {self._slices} slices"
            )
        version = entries[0].sequence_number or 0
        return BatchEntry(step, producer, sequence, committed_at_us // 1000, tuple(parts), version)
