"""Retention: taking old steps out of a stream, as far as its checkpoints allow.

A reclaim is one commit: it moves the watermark, and removes all batches below it from the table, so
that every reader and engine sees the same. Before it, the batches' rows are durable in the ledger;
after it, their files stay for a grace period, for readers of an older version. Deleting them is the
sweep's work (`batchweave.sweep`). Each stage is safe to repeat, so a crash at any point leaves
nothing but work for the next call.
Imports: standard library, errors, events, clock, paths, state, table, commit, checkpoints, ledger,
sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from batchweave.checkpoints import dropping, listed
from batchweave.clock import Clock
from batchweave.commit import commit
from batchweave.errors import InvalidInput, ObjectNotFound, StreamError
from batchweave.events import Listeners, StepsReclaimed
from batchweave.ledger import Ledger
from batchweave.paths import upload_version
from batchweave.state import ReclaimState, StreamState, drop_checkpoint, reclaim
from batchweave.sweep import GRACE_S, Sweep, SweepReport, check_grace
from batchweave.table import BatchEntry, Change, Head, Table, newer_head

STEPS_PER_COMMIT = 8192
"""A long way is gone in several commits, so that none holds up the producers."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep. Both limits hold; steps that a retained checkpoint needs are always kept.

    ``keep_checkpoints``: of each consumer, only so many of the checkpoints furthest ahead are
    retained, and the one registered last, which a run that was rolled back goes on from; the others
    are dropped; None drops none. ``keep_steps``: the newest steps are kept,
    whatever the checkpoints say. A stream without any checkpoint keeps everything.
    """

    keep_checkpoints: int | None = None
    keep_steps: int = 0

    def __post_init__(self) -> None:
        for name, least in (("keep_checkpoints", 1), ("keep_steps", 0)):
            value = getattr(self, name)
            if value is None and name == "keep_checkpoints":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidInput(f"{name} is a whole number from {least} on, got {value!r}")

    def dropped(self, state: StreamState) -> tuple[str, ...]:
        """IDs of the checkpoints that the policy does not retain."""
        if self.keep_checkpoints is None:
            return ()
        found: list[str] = []
        for consumer in sorted({one.consumer for one in state.checkpoints.values()}):
            own = [one.id for one in listed(state, consumer)]
            latest = max(reversed(own), key=lambda name: state.checkpoints[name].version)
            found += [name for name in own[: -self.keep_checkpoints] if name != latest]
        return tuple(found)

    def watermark(self, state: StreamState) -> int:
        """The step from which everything is kept; never behind the present watermark."""
        dropped = self.dropped(state)
        needed = [one.next_step for name, one in state.checkpoints.items() if name not in dropped]
        if not needed:
            return state.watermark
        return max(state.watermark, min(*needed, state.next_step - self.keep_steps))


@dataclass(frozen=True, slots=True)
class ReclaimReport:
    """What a reclaim took out of the table (or, dry, would take), and what was deleted.

    ``steps``, ``files`` and ``bytes`` left the table; ``swept`` tells of the files whose grace
    period was over, those of earlier reclaims among them; None if the sweep did not run.
    """

    stream: str
    dry_run: bool
    watermark_before: int
    watermark: int
    files: int
    bytes: int
    dropped_checkpoints: tuple[str, ...]
    retained_checkpoints: tuple[str, ...]
    swept: SweepReport | None = None

    @property
    def steps(self) -> int:
        """Steps that left the table."""
        return self.watermark - self.watermark_before


class Retention:
    """Reclaims steps of one stream. ``ledger`` opens its ledger, making it where there is none."""

    def __init__(
        self,
        table: Table,
        ledger: Callable[[], Ledger],
        clock: Clock,
        *,
        progress: Callable[[int, int], None] | None = None,
        listeners: Listeners | None = None,
    ) -> None:
        """``progress`` is told the steps reclaimed so far and those to reclaim in all."""
        self._table = table
        self._ledger = ledger
        self._clock = clock
        self._progress = progress or (lambda done, total: None)
        self._listeners = Listeners() if listeners is None else listeners

    def reclaim(
        self, policy: Policy, *, grace_s: float = GRACE_S, dry_run: bool = False
    ) -> ReclaimReport:
        """Take out what the policy allows, then delete files whose grace period is over.

        Raises:
            Fenced: another process reclaims this stream at the same time; it carries on.
            NotCommitted: the producers committed first each time, or the store failed.
            StreamCorrupted: the ledger or the table contradicts itself; nothing was removed.
        """
        check_grace(grace_s)
        sweep = Sweep(self._table, self._clock, grace_s=grace_s)
        try:
            report = self._reclaimed(policy, dry_run)
        except StreamError:
            if not dry_run:
                sweep.run()  # what stands in the way of a reclaim is none for orphans
            raise
        return replace(report, swept=sweep.run(dry_run=dry_run))

    def _reclaimed(self, policy: Policy, dry_run: bool) -> ReclaimReport:
        head = self._table.head()
        before = head.state
        dropped = policy.dropped(before)
        target = policy.watermark(before)
        at, files, size = before.watermark, 0, 0
        if dropped and at == target and not dry_run:
            head = self._commit(head, [], at, policy)
        while at < target:
            stop = min(at + STEPS_PER_COMMIT, target)
            try:
                entries = list(self._table.entries(head, at, stop))
            except (ObjectNotFound, FileNotFoundError):
                head = newer_head(self._table, head)
                at = max(at, min(head.state.watermark, target))
                continue
            if not dry_run:
                head = self._commit(head, entries, stop, policy)
            reached = stop if dry_run else min(head.state.watermark, target)
            gone = [entry for entry in entries if entry.step < reached]
            files += sum(len(entry.parts) for entry in gone)
            size += sum(entry.bytes for entry in gone)
            at = reached
            self._progress(at - before.watermark, target - before.watermark)
            if at < stop:
                break  # a checkpoint came in between
        return ReclaimReport(
            stream=self._table.name,
            dry_run=dry_run,
            watermark_before=before.watermark,
            watermark=at,
            files=files,
            bytes=size,
            dropped_checkpoints=dropped,
            retained_checkpoints=tuple(
                one.id for one in listed(head.state) if one.id not in dropped
            ),
        )

    def _commit(self, head: Head, entries: list[BatchEntry], stop: int, policy: Policy) -> Head:
        """Record the batches, then remove them from the table, as far as it is allowed by then."""
        uploads = [upload_version(part.path) or 0 for entry in entries for part in entry.parts]
        if entries:
            self._ledger().record(self._table, head.state, entries)

        def plan(head: Head) -> Change | None:
            state = head.state
            dropped = policy.dropped(state)
            watermark = min(stop, policy.watermark(state))
            if watermark > state.watermark:
                reclaimed = ReclaimState(head.version + 1, min(uploads))
                return Change(reclaim(state, watermark, reclaimed, dropped))
            for checkpoint_id in dropped:
                state = drop_checkpoint(state, checkpoint_id)
            return Change(state) if dropped else None

        what = f"reclaiming below step {stop}"
        after = commit(self._table, plan, clock=self._clock, what=what)
        self._table.tidy(after)
        if self._listeners.present:
            self._tell(head, after, entries, policy.dropped(head.state))
        return after

    def _tell(
        self, before: Head, after: Head, entries: list[BatchEntry], dropped: tuple[str, ...]
    ) -> None:
        """Say what one commit took out: steps, and checkpoints that the policy let go."""
        name, now_ms = self._table.name, self._clock.now_ms()
        for one in dropped:
            if one not in after.state.checkpoints:
                known = before.state.checkpoints[one]
                self._listeners.tell(dropping(name, one, known, after.version, now_ms))
        gone = [entry for entry in entries if entry.step < after.state.watermark]
        if gone:
            self._listeners.tell(
                StepsReclaimed(
                    stream=name,
                    version=after.version,
                    at_ms=now_ms,
                    start=gone[0].step,
                    watermark=gone[-1].step + 1,
                    rows=sum(entry.rows for entry in gone),
                    bytes=sum(entry.bytes for entry in gone),
                    files=sum(len(entry.parts) for entry in gone),
                )
            )
