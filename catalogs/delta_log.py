"""A Delta log in an object store: opening it, following it, adding to it.

Entries are versions of the register in `batchweave.catalogs.versions`: ``_delta_log/<N>.json``,
each written with put-if-absent, deleted oldest first.

**Opening** lists the folder once, takes the newest checkpoint that can be used, and reads the
entries after it, in parallel. ``_last_checkpoint`` is written for other engines and never believed:
it may be behind, wrong or gone. A checkpoint of another program is used where none of ours
has all entries after it; it is read whole.

**Following** gets entry N + 1 and on until there is none: an idle poll is one small request. What
was read counts only if N is *then* still there, untouched: a reader that slept while N + 1 was
cleaned up could be served what a writer, asleep likewise, put into the free place. So does opening:
what was read must be what was listed.
Imports: delta_actions, delta_checkpoint, delta_snapshot, versions, errors, objects.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from batchweave.catalogs.delta_actions import Entry, digest_of, parse_entry
from batchweave.catalogs.delta_checkpoint import (
    LOG,
    Checkpoint,
    Group,
    open_checkpoint,
    read_group,
)
from batchweave.catalogs.delta_snapshot import EMPTY, Snapshot, anchored, apply, opened
from batchweave.catalogs.versions import Base, Found, Layout, Memory, Versions
from batchweave.errors import (
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    StreamCorrupted,
    StreamNotFound,
)
from batchweave.objects import ObjectInfo, Objects
from batchweave.table import BatchEntry

READ_THREADS = 8
LOOKS_MAX = 20
"""How often opening starts over because the log was cleaned up meanwhile."""

BEHIND_MAX = 16
"""Entries that are followed one by one; who is further behind opens the log anew."""

CHECKPOINTS_TRIED = 4
LINKS_PER_CHECKPOINT_MIN = 64
LINKS_PER_CHECKPOINT_SHARE = 64
GROUPS_CACHED = 8


def _owner(data: bytes) -> str | None:
    try:
        return parse_entry(0, data, "").table_id
    except StreamCorrupted:
        return None


LAYOUT = Layout(LOG, re.compile(r"(\d{20})\.json"), "{:020d}.json".format, _owner)
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies in ``_delta_log``: entries and classic checkpoints by version, and all files."""

    entries: dict[int, ObjectInfo]
    checkpoints: dict[int, ObjectInfo]
    files: tuple[ObjectInfo, ...]


def links_per_checkpoint(files: int) -> int:
    """After how many versions a table of that many files gets its next checkpoint.

    It grows with the table, so that what a commit costs on average does not.
    """
    return max(LINKS_PER_CHECKPOINT_MIN, files // LINKS_PER_CHECKPOINT_SHARE)


class DeltaLog:
    """The log of one table, for one process. Thread-safe."""

    def __init__(self, objects: Objects, name: str, memory: Memory) -> None:
        self.objects = objects
        self.versions = Versions(objects, LAYOUT, memory)
        self._name = name
        self._anchor: Checkpoint | None = None
        self._next_look = 0
        self._cache: OrderedDict[tuple[int, str, int], tuple[BatchEntry, ...]] = OrderedDict()
        self._lock = threading.Lock()

    # -- opening ---------------------------------------------------------------------------

    def folder(self) -> Folder:
        """List the log."""
        _, files = self.objects.children(LOG)
        entries: dict[int, ObjectInfo] = {}
        checkpoints: dict[int, ObjectInfo] = {}
        for info in files:
            number = LAYOUT.number(info.path)
            match = _CHECKPOINT.fullmatch(info.path.rpartition("/")[2])
            if number is not None:
                entries[number] = info
            elif match:
                checkpoints[int(match.group(1))] = info
        return Folder(entries, checkpoints, tuple(files))

    def open(self) -> Snapshot:
        """Read the newest version.

        Raises:
            StreamNotFound: there is no log.
            StreamCorrupted: entries are missing, or are damaged.
        """
        missing = ""
        for _ in range(LOOKS_MAX):
            folder = self._existing()
            try:
                snapshot = self._read_on(folder)
            except ObjectNotFound as error:
                missing = str(error)  # cleaned up while we looked: look again
                continue
            if snapshot is not None:
                if isinstance(snapshot.anchor, Checkpoint) and snapshot.anchor.own:
                    self.anchor_at(snapshot.anchor)
                return snapshot
        raise StreamCorrupted(
            f"the log of {self._name} cannot be put together: "
            + (missing or "what is read differs from what is listed")
        )

    def reopen(self, known: Snapshot) -> Snapshot:
        """The newest version, as listing tells it; reads only what came since ``known``."""
        folder = self._existing()
        anchor = known.anchor
        info = folder.checkpoints.get(anchor.version) if anchor else None
        held = anchor is None or (isinstance(anchor, Checkpoint) and info is not None)
        behind = max(folder.entries) - known.version
        if not held or not 0 <= behind <= BEHIND_MAX:
            return self.open()
        if info is not None and isinstance(anchor, Checkpoint) and info.e_tag != anchor.e_tag:
            return self.open()
        if behind == 0:
            return known if self.versions.is_genuine(self.base(known)) else self.open()
        return self._follow(known)

    def _existing(self) -> Folder:
        folder = self.folder()
        if not folder.entries:
            raise StreamNotFound(f"there is no table {self._name!r}")
        return replace(folder, entries=self.versions.without_strays(folder.entries))

    def _read_on(self, folder: Folder) -> Snapshot | None:
        """Read on the best checkpoint; one that a dropped namesake left behind is none."""
        left: set[int] = set()
        while True:
            anchor = self._choose(folder, left)
            entries = self._entries_on(folder, anchor)
            if entries is None:
                return None
            ids = {entry.table_id for entry in entries if entry.table_id is not None}
            owners = ids | {anchor.table_id} if anchor else ids
            cut = self._without_stray(folder) if len(owners) > 1 else None
            if cut is not None:
                folder = cut
                continue
            if anchor is None or not ids or anchor.table_id in ids:
                return self._put_together(anchor, entries)
            left.add(anchor.version)

    def _without_stray(self, folder: Folder) -> Folder | None:
        """The same without the newest entry, where that is of another table than the one before.

        No table's entry comes after another's: a writer of a dropped namesake left it.
        """
        newest = max(folder.entries)
        if newest - 1 not in folder.entries or not self.versions.differ(newest - 1, newest):
            return None
        entries = {number: one for number, one in folder.entries.items() if number != newest}
        return replace(folder, entries=entries)

    def _choose(self, folder: Folder, left: set[int]) -> Checkpoint | None:
        """The newest checkpoint of ours that has all entries after it, else another program's."""
        newest = max(folder.entries)
        fallback: Checkpoint | None = None
        damage: StreamCorrupted | None = None
        tried = 0
        for version in sorted(folder.checkpoints, reverse=True):
            whole = all(number in folder.entries for number in range(version + 1, newest + 1))
            if version > newest or version in left or not whole or tried == CHECKPOINTS_TRIED:
                continue
            tried += 1
            try:
                found = self._opened(version, folder.checkpoints[version])
            except StreamCorrupted as error:
                damage = error  # what stands in it may be had from an older one
                continue
            if found.own:
                return found
            fallback = fallback or found
        if fallback is None and any(n not in folder.entries for n in range(newest + 1)):
            raise damage or ObjectNotFound(f"entries before {newest}, and no checkpoint has them")
        return fallback

    def _opened(self, version: int, info: ObjectInfo) -> Checkpoint:
        with self._lock:
            known = self._anchor
        if known and (known.version, known.e_tag, known.size) == (version, info.e_tag, info.size):
            return known
        return open_checkpoint(self.objects, version, info.size, info.e_tag)

    def _entries_on(self, folder: Folder, anchor: Checkpoint | None) -> list[Entry] | None:
        """The entries after a checkpoint, at least the newest; None if they are not those listed.

        Tags tell, or a second listing, where a store writes tags in two ways.
        """
        newest = max(folder.entries)
        wanted = [*range(anchor.version + 1 if anchor else 0, newest + 1)] or [newest]
        read = self._entries(wanted)
        listed = [folder.entries[number].e_tag for number in wanted]
        if listed != [e_tag for _, e_tag in read]:
            again = self.folder().entries
            if listed != [again[number].e_tag for number in wanted if number in again]:
                return None
        entries = [
            parse_entry(number, data, self._name)
            for number, (data, _) in zip(wanted, read, strict=True)
        ]
        owner = next((one.metadata.id for one in entries if one.metadata), "")
        self.versions.remember(anchor.table_id if anchor else owner, newest, read[-1][1])
        return entries

    def _put_together(self, anchor: Checkpoint | None, entries: Sequence[Entry]) -> Snapshot:
        snapshot = opened(anchor) if anchor else EMPTY
        for entry in entries:
            if entry.version <= snapshot.version:  # new is only what identifies it
                snapshot = replace(snapshot, digest=entry.digest)
            else:
                snapshot = apply(snapshot, entry)
            if entry.table_id not in (None, snapshot.table_id):
                raise self._namesakes(entry.version)
        return snapshot

    def _entries(self, numbers: Sequence[int]) -> list[tuple[bytes, str]]:
        """Bytes and tags of entries, fetched at the same time."""

        def one(number: int) -> tuple[bytes, str]:
            data, e_tag = self.versions.get(number)
            return bytes(data), e_tag

        if len(numbers) <= 1 or READ_THREADS <= 1:
            return [one(number) for number in numbers]
        with ThreadPoolExecutor(min(READ_THREADS, len(numbers))) as pool:
            return list(pool.map(one, numbers))

    # -- following -------------------------------------------------------------------------

    def advance(self, known: Snapshot) -> Snapshot:
        """The newest version, cheap where ``known`` is close; ``known`` itself if it is it.

        Raises:
            StreamNotFound: the table was dropped.
        """
        if self.versions.time_to_list():
            newest = self.versions.newest()
            if newest == known.version:
                return known
            if newest is None or not known.version < newest <= known.version + BEHIND_MAX:
                return self.open()
        return self._follow(known)

    def _follow(self, known: Snapshot) -> Snapshot:
        snapshot = known
        e_tag = ""
        for number in range(known.version + 1, known.version + BEHIND_MAX + 2):
            try:
                data, e_tag = self.versions.get(number)
            except ObjectNotFound:
                break
            if number > known.version + BEHIND_MAX:
                return self.open()
            entry = parse_entry(number, bytes(data), self._name)
            if entry.table_id not in (None, known.table_id):
                return self._other_table(known, number)
            snapshot = apply(snapshot, entry)
        if snapshot is known:
            return known
        if not self.versions.is_genuine(self.base(known)):
            return self.open()
        self.versions.remember(snapshot.table_id, snapshot.version, e_tag)
        return self.fitted(snapshot)

    def _other_table(self, known: Snapshot, number: int) -> Snapshot:
        """An entry of a namesake: the table was created again, or a late writer of the old one."""
        now = self.open()
        if now.table_id == known.table_id and now.version >= number:
            raise self._namesakes(number)
        return known if now.digest == known.digest else now

    def _namesakes(self, number: int) -> StoreUnavailable:
        return StoreUnavailable(
            f"version {number} of {self._name} is of a dropped table of the same name: "
            "its writer takes it back. If it stays, remove it"
        )

    def fitted(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot on the newest checkpoint known here; looks for one if it is long overdue."""
        with self._lock:
            anchor = self._anchor
        due = links_per_checkpoint(snapshot.files)
        behind = anchor is None or snapshot.version - anchor.version >= 2 * due
        if behind and snapshot.links >= 2 * due and snapshot.version >= self._next_look:
            self._next_look = snapshot.version + LINKS_PER_CHECKPOINT_MIN
            anchor = self.find_anchor(snapshot) or anchor
        here = snapshot.anchor.version if snapshot.anchor else -1
        if anchor is None or not here < anchor.version <= snapshot.version:
            return snapshot
        if anchor.table_id != snapshot.table_id:
            return snapshot
        return anchored(snapshot, anchor)

    def find_anchor(self, snapshot: Snapshot) -> Checkpoint | None:
        """The newest checkpoint of ours up to the snapshot's version, newer than its own."""
        here = snapshot.anchor.version if snapshot.anchor else -1
        try:
            listed = self.folder().checkpoints
            for version in sorted(listed, reverse=True)[:CHECKPOINTS_TRIED]:
                if here < version <= snapshot.version:
                    found = self._opened(version, listed[version])
                    if found.own and found.table_id == snapshot.table_id:
                        self.anchor_at(found)
                        return found
        except (StoreError, StreamCorrupted):
            return None  # cleaned up meanwhile, or out of reach: the snapshot does without
        return None

    def anchor_at(self, checkpoint: Checkpoint) -> None:
        """Let snapshots from now on rest on a checkpoint that was found or written."""
        with self._lock:
            known = self._anchor
            same = known is not None and known.table_id == checkpoint.table_id
            if known is None or not same or known.version < checkpoint.version:
                self._anchor = checkpoint

    def base(self, snapshot: Snapshot) -> Base:
        """The snapshot's version, as the register compares it."""

        def judge(data: bytes) -> Found:
            if digest_of(data) == snapshot.digest:
                return Found.GENUINE
            owner = parse_entry(snapshot.version, data, self._name).table_id
            return Found.DOUBTFUL if owner in (None, snapshot.table_id) else Found.GONE

        return Base(snapshot.version, snapshot.table_id, judge)

    # -- files of old versions -------------------------------------------------------------

    def group(self, checkpoint: Checkpoint, group: Group) -> tuple[BatchEntry, ...]:
        """The batches of a checkpoint's group; the last few groups are cached."""
        key = (checkpoint.version, checkpoint.e_tag, group.row_group)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        found = read_group(self.objects, checkpoint, group)
        with self._lock:
            self._cache[key] = found
            while len(self._cache) > GROUPS_CACHED:
                self._cache.popitem(last=False)
        return found
