"""Bugs of retention, planted on purpose: deleting is where storage systems lose data."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from batchweave import checkpoints as checkpoints_module
from batchweave import retention as retention_module
from batchweave import sweep as sweep_module
from batchweave.catalogs import iceberg, iceberg_commit, removal
from batchweave.checkpoints import listed
from batchweave.commit import Plan, commit
from batchweave.ledger import Ledger, Place, records
from batchweave.objects import ObjectInfo
from batchweave.reader.fetching import fetch_slices, to_batch
from batchweave.retention import Policy, Retention
from batchweave.runs import runs
from batchweave.session import Session
from batchweave.state import (
    ReclaimState,
    StreamState,
    drop_checkpoint,
    register_checkpoint,
)
from batchweave.sweep import DELETES_PER_REQUEST, Sweep, SweepReport, store_now_ms
from batchweave.table import BatchEntry, Head, Table
from tests.simulation import actors
from tests.simulation.planting import ICEBERG, REGISTER, Bugs, swap
from tests.simulation.register import RegisterTable, _batch

planted = Bugs()


def _unchecked(
    state: StreamState, watermark: int, reclaimed: ReclaimState, drop: Sequence[str] = ()
) -> StreamState:
    """`batchweave.state.reclaim` that moves the watermark wherever it is told to."""
    for name in drop:
        state = drop_checkpoint(state, name)
    pending = {**state.reclaims, str(watermark): reclaimed}
    return replace(state, watermark=watermark, reclaims=pending)


# -- deleting too early --------------------------------------------------------------------------


@planted(REGISTER, profile="upkeep")
def deleted_before_the_horizon_is_committed(kind: str) -> Iterator[None]:
    """The sweep deletes first and tells the writers afterwards."""
    whole = Sweep.run

    def run(self: Any, *, dry_run: bool = False) -> SweepReport:
        head = self._table.head()
        now_ms = store_now_ms(self._table.objects)
        state = self._aged(head.state, self._horizon(head.version, now_ms), now_ms)
        for doomed in runs(self._orphans(replace(head, state=state)), DELETES_PER_REQUEST):
            self._delete(doomed)
        return whole(self, dry_run=dry_run)

    with swap(Sweep, "run", run):
        yield


@planted(REGISTER, profile="upkeep")
def horizon_not_committed(kind: str) -> Iterator[None]:
    """The sweep keeps its horizon to itself."""

    def silent(table: Table, plan: Plan, **rest: Any) -> Head:
        head = table.head()
        change = plan(head)
        return head if change is None else replace(head, state=change.state)

    with swap(sweep_module, "commit", silent):
        yield


@planted(REGISTER, profile="upkeep")
def horizon_past_reclaimed_files(kind: str) -> Iterator[None]:
    """Files of a reclaim go as soon as the horizon has passed them, in their grace period."""
    with swap(sweep_module, "sweepable_below", lambda state: state.horizon):
        yield


@planted(REGISTER, profile="upkeep")
def grace_begins_before_the_commit(kind: str) -> Iterator[None]:
    """A reclaim is dated when it is begun, however long its commit takes to land."""
    whole, begun = Retention._commit, threading.local()

    def dated(self: Any, *arguments: Any) -> Head:
        begun.at_ms = store_now_ms(self._table.objects)
        return whole(self, *arguments)

    def stamped(version: int, oldest_upload: int) -> ReclaimState:
        return ReclaimState(version, oldest_upload, begun.at_ms)

    with swap(Retention, "_commit", dated), swap(retention_module, "ReclaimState", stamped):
        yield


@planted(REGISTER, seeds_max=1000, profile="upkeep")
def store_dates_taken_as_exact(kind: str) -> Iterator[None]:
    """Dates of whole seconds are taken at their word: a period ends up to a second early."""
    with swap(sweep_module, "RESOLUTION_MS", 0):
        yield


@planted(REGISTER, profile="upkeep")
def files_deleted_before_the_reclaim_is_committed(kind: str) -> Iterator[None]:
    """The files go first, the commit that says so comes after."""
    whole = Retention._commit

    def eager(self: Any, head: Head, entries: list[BatchEntry], stop: int, policy: Policy) -> Head:
        if entries:
            self._ledger().record(self._table, head.state, entries)
        self._table.objects.delete([part.path for one in entries for part in one.parts])
        return whole(self, head, entries, stop, policy)

    with swap(Retention, "_commit", eager):
        yield


@planted(REGISTER, profile="upkeep")
def positions_swept(kind: str) -> Iterator[None]:
    """The sweep does not know that the state names objects, too."""

    with swap(sweep_module, "_positions", lambda state: set()):
        yield


@planted(REGISTER, profile="upkeep")
def foreign_files_swept(kind: str) -> Iterator[None]:
    """Whatever lies in a folder of ours is taken for ours."""

    def anything(path: str) -> int | None:
        match = re.match(r"data/(?:positions/)?v(\d+)/", path)
        return int(match.group(1)) if match else None

    with swap(sweep_module, "upload_version", anything):
        yield


@planted(REGISTER, profile="upkeep")
def orphans_forgotten(kind: str) -> Iterator[None]:
    """One file of each request stays behind."""
    whole = Sweep._delete

    def all_but_one(self: Any, doomed: list[ObjectInfo]) -> None:
        whole(self, doomed[1:])

    with swap(Sweep, "_delete", all_but_one):
        yield


# -- the watermark -------------------------------------------------------------------------------


@planted(REGISTER, profile="upkeep")
def watermark_past_a_checkpoint(kind: str) -> Iterator[None]:
    """Steps go by their number, whatever the checkpoints need."""

    def by_number(self: Policy, state: StreamState) -> int:
        furthest = state.next_step - self.keep_steps
        return max(state.watermark, furthest if state.checkpoints else 0)

    with (
        swap(Policy, "watermark", by_number),
        swap(retention_module, "reclaim", _unchecked),
    ):
        yield


@planted(REGISTER, profile="upkeep")
def consumers_not_told_apart(kind: str) -> Iterator[None]:
    """The furthest checkpoints are retained, whosever they are."""

    def furthest(self: Policy, state: StreamState) -> tuple[str, ...]:
        if self.keep_checkpoints is None:
            return ()
        return tuple(one.id for one in listed(state)[: -self.keep_checkpoints])

    with swap(Policy, "dropped", furthest):
        yield


@planted(REGISTER, profile="upkeep")
def checkpoints_not_looked_at_again(kind: str) -> Iterator[None]:
    """What is retained is decided when a reclaim begins, and not on the base of its commit."""
    whole, begun = Retention._commit, threading.local()

    def begin(self: Any, head: Head, *arguments: Any) -> Head:
        begun.state = head.state
        return whole(self, head, *arguments)

    def decided(table: Table, plan: Plan, **rest: Any) -> Head:
        first = begun.state

        def stale(head: Head) -> Any:
            seen = replace(head.state, checkpoints=first.checkpoints)
            change = plan(replace(head, state=seen))
            if change is None:
                return None
            kept = {
                name: one
                for name, one in head.state.checkpoints.items()
                if name in change.state.checkpoints or name not in first.checkpoints
            }
            return replace(change, state=replace(change.state, checkpoints=kept))

        return commit(table, stale, **rest)

    with (
        swap(Retention, "_commit", begin),
        swap(retention_module, "commit", decided),
        swap(retention_module, "reclaim", _unchecked),
    ):
        yield


@planted(REGISTER, profile="upkeep")
def checkpoint_below_the_watermark(kind: str) -> Iterator[None]:
    """A checkpoint is registered although what it needs is gone."""

    def careless(state: StreamState, *arguments: Any) -> StreamState:
        whole = replace(state, watermark=0)
        after = register_checkpoint(whole, *arguments)
        return state if after is whole else replace(after, watermark=state.watermark)

    with swap(checkpoints_module, "register_checkpoint", careless):
        yield


@planted(REGISTER, profile="upkeep")
def removal_forgets_a_batch(kind: str) -> Iterator[None]:
    """The commit of a reclaim leaves the last batch below the watermark in the table."""
    with _removal(lambda step, watermark: step >= watermark - 1):
        yield


@planted(REGISTER, profile="upkeep")
def removal_takes_one_too_many(kind: str) -> Iterator[None]:
    """The commit of a reclaim takes the batch at the watermark, too."""
    with _removal(lambda step, watermark: step > watermark):
        yield


@planted(ICEBERG, profile="upkeep", tested=ICEBERG)
def removal_goes_too_far_in_the_manifests(kind: str) -> Iterator[None]:
    """The new manifests lack one batch more than the watermark says."""
    whole = removal.without_steps_below

    def further(manifests: Any, metadata: Any, base: Any, watermark: int, *rest: Any) -> Any:
        return whole(manifests, metadata, base, watermark + 1, *rest)

    with swap(iceberg, "without_steps_below", further):
        yield


@planted(ICEBERG, profile="upkeep", tested=ICEBERG)
def tags_left_on_deleted_files(kind: str) -> Iterator[None]:
    """A reclaim leaves the tags of retained checkpoints where they are, and their snapshots."""
    tags, reclaimed = iceberg_commit._tags, iceberg_commit.reclaimed

    def unmoved(base: Head, change: Any, snapshot: Any) -> Any:
        state = replace(change.state, watermark=base.state.watermark)
        return tags(base, replace(change, state=state), snapshot)

    def tagged_stay(metadata: Any, *arguments: Any, **options: Any) -> Any:
        outgoing = reclaimed(metadata, *arguments, **options)
        named = {ref.snapshot_id for name, ref in metadata.refs.items() if name != "main"}
        left = tuple(one for one in outgoing.snapshot_ids if one not in named)
        return replace(outgoing, snapshot_ids=left)

    with (
        swap(iceberg_commit, "_tags", unmoved),
        swap(iceberg_commit, "reclaimed", tagged_stay),
    ):
        yield


def _removal(stays: Callable[[int, int], bool]) -> Any:
    def kept(self: Any, base: Head, watermark: int) -> tuple[str, ...]:
        lines: tuple[str, ...] = base.detail.lines
        if watermark == base.state.watermark:
            return lines
        return tuple(line for line in lines if stays(_batch(line).step, watermark))

    return swap(RegisterTable, "_kept", kept)


# -- readers -------------------------------------------------------------------------------------


@planted(REGISTER, profile="upkeep")
def missing_files_not_explained(kind: str) -> Iterator[None]:
    """A reader whose files are gone is not told why."""

    def bare(table: Table, entry: BatchEntry, share: Any, columns: None) -> Any:
        return to_batch(entry, share, fetch_slices(table, entry, share.slices, columns))

    with swap(actors, "fetch_batch", bare):
        yield


@planted(REGISTER, profile="upkeep")
def watermark_not_looked_at(kind: str) -> Iterator[None]:
    """A reader asks for steps that are no longer in the table."""
    with swap(actors, "check_watermark", lambda *arguments: None):
        yield


# -- the ledger ----------------------------------------------------------------------------------


@planted(REGISTER, profile="upkeep")
def rows_after_the_commit(kind: str) -> Iterator[None]:
    """The ledger is written when the batches have left the table."""
    record, waiting = Ledger.record, threading.local()

    def later(self: Any, *arguments: Any) -> int:
        waiting.rows = (self, *arguments)
        return 0

    def commit_first(table: Table, plan: Plan, **rest: Any) -> Head:
        head = commit(table, plan, **rest)
        if rows := waiting.__dict__.pop("rows", None):
            record(*rows)
        return head

    with swap(Ledger, "record", later), swap(retention_module, "commit", commit_first):
        yield


@planted(REGISTER, profile="upkeep")
def place_read_before_opening(kind: str) -> Iterator[None]:
    """Where to go on is read before others are fenced: rows of both are published."""
    missing, places = Ledger._missing, threading.local()

    def first_look(self: Any, entries: Sequence[BatchEntry], place: Place) -> list[BatchEntry]:
        found = missing(self, entries, getattr(places, "first", place))
        places.first = place
        return found

    def forget(self: Any, *arguments: Any) -> int:
        places.__dict__.clear()
        return record(self, *arguments)

    record = Ledger.record
    with swap(Ledger, "_missing", first_look), swap(Ledger, "record", forget):
        yield


@planted(REGISTER, profile="upkeep")
def rows_without_their_place(kind: str) -> Iterator[None]:
    """The place behind the rows is not in their commit: the next one begins anew."""
    with swap(records, "position_to_text", lambda value: None):
        yield


@planted(REGISTER, profile="acknowledgements")
def rows_published_again(kind: str) -> Iterator[None]:
    """Rows whose commit has an unknown outcome are published again, as new ones."""
    attempt = Session.attempt

    def attempt_again(self: Any, claim: Any = None) -> Any:
        outcome = attempt(self, claim)
        if self.name == "reclaim" and self.staged:
            head = self.table.head()
            self._know(head)
            for at, one in enumerate(self._staged):
                one.sequence = head.state.producers[self.name].sequence + 1 + at
        return outcome

    with swap(Session, "attempt", attempt_again):
        yield


@planted(REGISTER, profile="upkeep")
def rows_of_what_was_never_committed(kind: str) -> Iterator[None]:
    """A row tells of the digest of another file: the chain does not lead on to the head."""
    row = records._row

    def altered(entry: BatchEntry, *arguments: Any) -> Any:
        if entry.step == 1:
            entry = replace(
                entry, parts=tuple(replace(one, digest="0" * 64) for one in entry.parts)
            )
        return row(entry, *arguments)

    with swap(records, "_row", altered):
        yield
