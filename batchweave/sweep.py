"""The orphan sweep: deleting files that no commit names, now or later.

Files of crashed or fenced producers, of batches that were reclaimed, superseded positions: all are
files of ours below ``data/`` that the head does not name. Two rules make it safe
to delete them, and neither rests on a clock:

1. **The horizon goes first.** A file's name carries the table version that its writer knew when the
   upload began. The sweep commits a horizon H, and only then deletes unnamed files older than H.
   Every commit checks the horizon on the head that it is based on: a producer that still holds such
   an upload writes it again under a new name. So whatever is named after the horizon's commit is
   named in it already, or is not older than H.
2. **The files of a reclaim are out of reach** as long as its grace period lasts: nothing is deleted
   that is as young as the oldest of them (`batchweave.state.sweepable_below`). The period begins
   when a sweep first meets the reclaim, by the store's own clock: never before its commit.

Clocks only choose H, from the store's own times: no file that was written within the grace period
is older than it. It works by listing; a crash at any point leaves work for the next sweep, and
two sweeps at once do no harm. Where there is nothing new to delete, nothing is committed.
Imports: standard library, pyarrow, errors, clock, objects, paths, side_objects, state, table,
commit.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import pyarrow as pa

from batchweave.clock import Clock
from batchweave.commit import commit
from batchweave.errors import InvalidSettings, ObjectNotFound, StoreUnavailable
from batchweave.objects import ObjectInfo, Objects
from batchweave.paths import CLOCK, DATA, POSITIONS, folder_version, upload_version
from batchweave.runs import runs
from batchweave.side_objects import encode_text
from batchweave.state import StreamState, advance_horizon, age_reclaims, sweepable_below
from batchweave.table import Change, Head, Table, newer_head

GRACE_S = 3600.0
GRACE_S_MAX = 3650 * 24 * 3600.0
DELETES_PER_REQUEST = 200
DELETES_PER_REQUEST_MIN = 5
FAILURES_MAX = 6
PAUSE_S = 0.2
"""A store that does not manage so many within a request's time is asked for a quarter of them."""
RESOLUTION_MS = 1000
"""S3 and Azure date objects in whole seconds, rounded down: so much later they may be."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep deleted (or, dry, would delete): files that no commit names."""

    stream: str
    dry_run: bool
    horizon: int
    files: int
    bytes: int
    pending_reclaims: int


class Sweep:
    """Sweeps one stream."""

    def __init__(
        self,
        table: Table,
        clock: Clock,
        *,
        grace_s: float = GRACE_S,
        deletes_per_s: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """``deletes_per_s`` limits the rate; ``progress`` is told files and bytes as they go."""
        self._table = table
        self._clock = clock
        self._grace_ms = round(check_grace(grace_s) * 1000)
        if self._grace_ms:
            self._grace_ms += RESOLUTION_MS
        if deletes_per_s is not None and not deletes_per_s > 0:
            raise InvalidSettings(f"deletes_per_s is above zero, got {deletes_per_s!r}")
        self._deletes_per_s = deletes_per_s
        self._per_request = DELETES_PER_REQUEST
        self._progress = progress or (lambda files, size: None)

    def run(self, *, dry_run: bool = False) -> SweepReport:
        """Delete what may be deleted. Dry, nothing is written, not even the horizon.

        Raises:
            NotCommitted: the horizon could not be committed; nothing was deleted.
            StoreError: the store failed; what is left is for the next sweep.
        """
        head = self._table.head()
        now_ms = self._clock.now_ms() if dry_run else store_now_ms(self._table.objects)
        horizon = self._horizon(head.version, now_ms)
        if dry_run:
            head = replace(head, state=self._aged(head.state, horizon, now_ms))
        else:
            plan = partial(self._plan, horizon)
            head = commit(self._table, plan, clock=self._clock, what="moving the horizon")
            self._table.tidy(head)
        files = size = 0
        for doomed in runs(self._orphans(head), DELETES_PER_REQUEST):
            if not dry_run:
                self._delete(doomed)
            files += len(doomed)
            size += sum(info.size for info in doomed)
            self._progress(files, size)
        state = head.state
        if not dry_run:
            self._remove_folders(state.horizon)
        return SweepReport(
            self._table.name, dry_run, state.horizon, files, size, len(state.reclaims)
        )

    # -- the horizon -----------------------------------------------------------------------

    def _plan(self, horizon: int, head: Head) -> Change | None:
        """Move the horizon and age the reclaims, dated after the head was read."""
        reclaims = bool(head.state.reclaims)
        now_ms = store_now_ms(self._table.objects) if reclaims else 0
        after = self._aged(head.state, horizon, now_ms)
        return None if after == head.state else Change(after)

    def _aged(self, state: StreamState, horizon: int, now_ms: int) -> StreamState:
        return advance_horizon(age_reclaims(state, now_ms, self._grace_ms), horizon)

    def _horizon(self, version: int, now_ms: int) -> int:
        """The least horizon above the uploads that are old enough; it is above no younger one.

        The commit that sets it makes the next version, so an upload that is renewed because of it
        is never older.
        """
        horizon, bound = 0, version + 1
        for upload, info in self._own_files():
            if info.modified_ms > now_ms - self._grace_ms:
                bound = min(bound, upload)
            else:
                horizon = max(horizon, upload + 1)
        return min(horizon, bound)

    # -- the files -------------------------------------------------------------------------

    def _orphans(self, head: Head) -> Iterator[ObjectInfo]:
        """Files of ours that may be deleted, and that the head does not name."""
        if sweepable_below(head.state) == 0:
            return
        bound, named = self._spared(head)
        for upload, info in self._own_files():
            if upload < bound and hash(info.path) not in named:
                yield info

    def _spared(self, head: Head) -> tuple[int, set[int]]:
        """The version from which on, and the names by which, files are spared.

        Where metadata was cleaned up meanwhile this goes on with a newer head: what an older one
        named is spared as well. Names are kept as hashes: should two be equal, a file is kept.
        """
        bound, named, at = sweepable_below(head.state), _positions(head.state), 0
        while True:
            state = head.state
            try:
                for entry in self._table.entries(head, max(at, state.watermark), state.next_step):
                    named.update(hash(part.path) for part in entry.parts)
                    at = entry.step + 1
                return bound, named
            except (ObjectNotFound, FileNotFoundError):
                head = newer_head(self._table, head)
                bound = min(bound, sweepable_below(head.state))
                named |= _positions(head.state)

    def _own_files(self) -> Iterator[tuple[int, ObjectInfo]]:
        """Every file of ours with the version of its upload: all in one listing, page by page."""
        for info in self._table.objects.list(DATA):
            version = upload_version(info.path)
            if version is not None:
                yield version, info

    def _delete(self, doomed: list[ObjectInfo]) -> None:
        """Delete files that were listed before a look that shows the table to be the same still.

        After a drop the folder may be a namesake's, whose files are named like ours.
        """
        began_s = self._clock.monotonic_s()
        paths = [info.path for info in doomed]
        failures = 0
        while paths:
            some = paths[: self._per_request]
            self._table.head()
            try:
                self._table.objects.delete(some)
            except StoreUnavailable:
                failures += 1
                if self._per_request == DELETES_PER_REQUEST_MIN and failures >= FAILURES_MAX:
                    raise
                self._per_request = max(DELETES_PER_REQUEST_MIN, self._per_request // 4)
                self._clock.sleep(PAUSE_S * failures)
            else:
                failures = 0
                self._per_request = min(DELETES_PER_REQUEST, 2 * self._per_request)
                paths = paths[len(some) :]
        if self._deletes_per_s is not None:
            took_s = self._clock.monotonic_s() - began_s
            self._clock.sleep(max(0.0, len(doomed) / self._deletes_per_s - took_s))

    def _remove_folders(self, horizon: int) -> None:
        """On a file system folders outlive their files; those that are not empty stay.

        A writer that is slow enough to lose its folder here gets an error and makes it again.
        """
        for kind in (DATA, POSITIONS):
            if self._table.objects.local_file(kind) is None:
                return
            for name in self._table.objects.children(kind)[0]:
                path = self._table.objects.local_file(f"{kind}/{name}")
                version = folder_version(name)
                if path is not None and version is not None and version < horizon:
                    with contextlib.suppress(OSError):
                        os.rmdir(path)


def _positions(state: StreamState) -> set[int]:
    """Hashes of the paths of the positions that are objects."""
    texts = (one.position for one in state.producers.values() if one.position is not None)
    values = (json.loads(text) for text in texts)
    return {hash(value["object"]) for value in values if "object" in value}


def store_now_ms(objects: Objects) -> int:
    """The store's own time, which all of its files are dated by: that of an object just written."""
    objects.overwrite(CLOCK, _tick())
    return objects.head(CLOCK).modified_ms


@cache
def _tick() -> pa.Buffer:
    return encode_text("")


def check_grace(grace_s: float) -> float:
    """The grace period, or `InvalidSettings`."""
    number = isinstance(grace_s, (int, float)) and not isinstance(grace_s, bool)
    if not number or not 0 <= grace_s <= GRACE_S_MAX:
        raise InvalidSettings(f"grace_s is a number of seconds from 0 on, got {grace_s!r}")
    return float(grace_s)
