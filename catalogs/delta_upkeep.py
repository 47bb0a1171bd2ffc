"""Checkpoints of a Delta log, and its clean-up; off the critical path.

A checkpoint is written every `links_per_checkpoint` versions: the larger the table, the more
rarely, so that the amortised cost of a commit stays the same. Entries and checkpoints are removed,
oldest first, that a newer checkpoint covers which is itself `VERSIONS_KEPT` versions old (source:
Delta protocol, "Metadata Cleanup"); a few at a time, so that no commit waits long. Other engines'
own clean-up is switched off in the table's configuration: it deletes in no order, which a writer
that sleeps could not notice.
Imports: delta_checkpoint, delta_checkpoint_writer, delta_log, delta_snapshot, versions, clock,
errors.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque

from batchweave.catalogs import versions
from batchweave.catalogs.delta_checkpoint import (
    LOG,
    checkpoint_path,
    open_checkpoint,
)
from batchweave.catalogs.delta_checkpoint_writer import Written, encode_checkpoint
from batchweave.catalogs.delta_log import LAYOUT, DeltaLog, Folder, links_per_checkpoint
from batchweave.catalogs.delta_snapshot import Snapshot
from batchweave.clock import Clock
from batchweave.errors import ObjectExists

HINT = f"{LOG}/_last_checkpoint"
DELETIONS_PER_TURN = 16
RETRY_AFTER_VERSIONS = 16
"""Versions until a checkpoint that could not be written is tried again."""

TOMBSTONES_KEPT_MS = 7 * 24 * 3600 * 1000
"""How long removed files are remembered, for other engines' vacuum: the protocol's default."""

_NUMBERED = re.compile(r"(\d{20})\..+")


class Upkeep:
    """One process's share in the upkeep of a log. Thread-safe."""

    def __init__(self, log: DeltaLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._doomed: deque[str] = deque()
        self._not_before = 0
        self._lock = threading.Lock()

    def run(self, snapshot: Snapshot) -> None:
        """Do what is due after a commit. Raises what the store does."""
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it
        try:
            due = snapshot.links >= links_per_checkpoint(snapshot.files)
            if due and snapshot.version >= self._not_before:
                self._not_before = snapshot.version + RETRY_AFTER_VERSIONS
                self._checkpoint(snapshot)
            self._delete_some()
        finally:
            self._lock.release()

    def _checkpoint(self, snapshot: Snapshot) -> None:
        found = self._log.find_anchor(snapshot)
        due = links_per_checkpoint(snapshot.files)
        if found is None or snapshot.version - found.version >= due:
            self.write_checkpoint(snapshot)
        folder = self._log.folder()
        # Looked at after the listing: so what was listed is not a namesake's.
        genuine = self._is_genuine(snapshot)
        self._doomed = deque(_removable(folder, snapshot.version) if genuine else ())

    def write_checkpoint(self, snapshot: Snapshot) -> None:
        """Write the checkpoint of a version that is known to be genuine."""
        now_ms = self._clock.now_ms()
        written = encode_checkpoint(
            self._log.objects,
            snapshot,
            tombstones_since_ms=now_ms - TOMBSTONES_KEPT_MS,
            created_ms=now_ms,
        )
        objects, path = self._log.objects, checkpoint_path(snapshot.version)
        try:
            objects.create(path, written.data)
        except ObjectExists:
            if self._is_of(snapshot, path):
                return  # another process, or another program, was faster
            if not self._is_genuine(snapshot):
                return  # dropped meanwhile, and what is there is its namesake's
            objects.overwrite(path, written.data)  # left behind by a dropped namesake
        if not self._is_genuine(snapshot):
            if self._is_of(snapshot, path):
                objects.delete([path])  # dropped meanwhile: its namesake must not find it
            return
        objects.overwrite(HINT, _hint(snapshot.version, written))
        info = objects.head(path)
        self._log.anchor_at(open_checkpoint(objects, snapshot.version, info.size, info.e_tag))

    def _is_genuine(self, snapshot: Snapshot) -> bool:
        return self._log.versions.is_genuine(self._log.base(snapshot))

    def _is_of(self, snapshot: Snapshot, path: str) -> bool:
        """Whether the checkpoint there is of the snapshot's table, and not of a namesake."""
        info = self._log.objects.head(path)
        found = open_checkpoint(self._log.objects, snapshot.version, info.size, info.e_tag)
        return found.table_id == snapshot.table_id

    def _delete_some(self) -> None:
        """Delete the next few; stop at the first that the store does not acknowledge."""
        for _ in range(min(DELETIONS_PER_TURN, len(self._doomed))):
            self._log.objects.delete([self._doomed[0]])
            self._doomed.popleft()


def _removable(folder: Folder, version: int) -> list[str]:
    """Files that no reader of the last versions needs: entries, oldest first, then the others."""
    covering = [one for one in folder.checkpoints if one <= version - versions.VERSIONS_KEPT]
    if not covering:
        return []
    floor = max(covering)
    entries = [LAYOUT.path(number) for number in sorted(folder.entries) if number < floor]
    others = []
    for info in folder.files:
        match = _NUMBERED.fullmatch(info.path.rpartition("/")[2])
        if match and int(match.group(1)) < floor and LAYOUT.number(info.path) is None:
            others.append(info.path)
    return [*entries, *sorted(others)]


def _hint(version: int, written: Written) -> bytes:
    return json.dumps(
        {
            "version": version,
            "size": written.actions,
            "sizeInBytes": written.data.size,
            "numOfAddFiles": written.files,
        }
    ).encode()
