"""A stream as a Delta table. No server, no database: the log is the compare-and-swap.

**Why log entries are written here and not by deltalake** (1.6.6):

* State has to change in the same commit as the batches. Its API (``create_write_transaction``)
  takes files and ``txn`` actions, but no ``domainMetadata``, and refuses tables that have one; a
  ``txn`` holds one integer, of which a lower one is accepted too.
* "Another writer has the version", "the transaction conflicts" and "it landed, but the answer was
  lost" all raise ``CommitFailedError``; a post-commit hook that fails turns a durable commit into
  an error. Here the three outcomes are values.
* It re-bases appends by itself unless told not to, which would give two batches one step.
* A handle that lives on gets slower with each version.
* It looks at the version before the put, not after it: a writer that sleeps in between, while the
  log is cleaned up, reports success for a commit that nobody sees. Here the base is checked after
  the put (`batchweave.catalogs.versions`).

So a commit is one put-if-absent of ``_delta_log/<N + 1>.json`` and one look at entry N, whatever
the table's age. The log is plain protocol (reader version 1 where the types allow it, writer
version 7 with ``domainMetadata``), and other programs may commit in between: a new column or
property is carried on from; files that they add or remove are told to readers as corruption.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from batchweave.catalogs import delta_schema
from batchweave.catalogs.delta_actions import (
    Entry,
    add_actions,
    check_protocol,
    commit_info,
    digest_of,
    domain_actions,
    entry_bytes,
    parse_remove,
    remove_actions,
)
from batchweave.catalogs.delta_checkpoint import Checkpoint
from batchweave.catalogs.delta_log import DeltaLog
from batchweave.catalogs.delta_parts import check_batch, whole
from batchweave.catalogs.delta_snapshot import (
    Snapshot,
    apply,
    batches_since,
    check_files,
    same_files,
)
from batchweave.catalogs.delta_upkeep import Upkeep
from batchweave.clock import Clock, SystemClock
from batchweave.columns import schema_from_text
from batchweave.errors import (
    ObjectExists,
    ObjectNotFound,
    StepsPinned,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    StreamCorrupted,
    StreamNotFound,
)
from batchweave.mesh import Mesh
from batchweave.objects import Objects
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

_logger = logging.getLogger(__name__)


class DeltaTable:
    """`batchweave.table.Table` over one Delta table."""

    def __init__(
        self,
        name: str,
        log: DeltaLog,
        snapshot: Snapshot,
        *,
        clock: Clock | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self.store_properties = dict(properties or {})
        self._log = log
        self._clock = clock or SystemClock()
        self._table_id = snapshot.table_id
        configuration = snapshot.configuration
        check_format(configuration, name)
        self._schema = schema_from_text(_property(configuration, "schema", name))
        self._mesh = Mesh.from_json(_property(configuration, "mesh", name))
        self._table_schema = delta_schema.table_schema(self._schema)
        self._file_schema = delta_schema.file_schema(self._schema)
        self._upkeep = Upkeep(log, self._clock)
        self._latest = snapshot
        self._lock = threading.Lock()
        self._check(snapshot)

    # -- what it is ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def id(self) -> str:
        return self._table_id

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
        return self._log.objects

    # -- reading ---------------------------------------------------------------------------

    def head(self, known: Head | None = None) -> Head:
        with self._lock:
            before: Snapshot = self._latest if known is None else known.detail
        if known is None:
            snapshot = self._log.reopen(before)
        else:
            snapshot = self._log.advance(before)
            if snapshot is before:
                return known
        if snapshot.table_id != self._table_id:
            raise StreamNotFound(f"stream {self._name} was dropped and created again: load it anew")
        if snapshot.protocol is not before.protocol or snapshot.metadata is not before.metadata:
            self._check(snapshot)
        state = from_properties(snapshot.configuration, self._name)
        return self._known(Head(snapshot.version, state, snapshot))

    def _known(self, head: Head) -> Head:
        """The head, remembered if it is the newest."""
        with self._lock:
            if head.version >= self._latest.version:
                self._latest = head.detail
        return head

    def entries(self, head: Head, start: int, stop: int) -> Iterator[BatchEntry]:
        snapshot: Snapshot = head.detail
        check_files(snapshot, self._name, head.state.watermark, start, stop)
        expected = start
        for batch in self._batches(snapshot, start, stop):
            if batch.step != expected:
                what = "is missing" if batch.step > expected else "is there twice"
                raise StreamCorrupted(f"step {min(expected, batch.step)} of {self._name} {what}")
            expected += 1
            found = whole(self._log.objects, batch)
            yield check_batch(found, self._mesh.slices, self._name)
        if expected < min(stop, head.state.next_step):
            raise StreamCorrupted(f"step {expected} of {self._name} is missing")

    def _batches(self, snapshot: Snapshot, start: int, stop: int) -> Iterator[BatchEntry]:
        """Batches of the range in step order, each as it was named last."""
        recent = [batch for batch in batches_since(snapshot, start) if batch.step < stop]
        first = recent[0].step if recent else stop
        older: Iterator[BatchEntry] = iter(())
        if first > start or len(recent) < stop - start:
            older = self._anchored(snapshot, start, stop)
        waiting: BatchEntry | None = None
        for batch in heapq.merge(older, recent, key=lambda batch: batch.step):
            if waiting is not None and not same_files(waiting, batch):
                yield waiting
            waiting = batch
        if waiting is not None:
            yield waiting

    def _anchored(self, snapshot: Snapshot, start: int, stop: int) -> Iterator[BatchEntry]:
        """Batches of the range that the snapshot's checkpoint names."""
        anchor = snapshot.anchor
        if not isinstance(anchor, Checkpoint):
            return
        for batch in anchor.entry.batches:  # of another program's checkpoint
            if start <= batch.step < stop:
                yield batch
        for group in anchor.groups:
            if group.last >= start and group.first < stop:
                for batch in self._log.group(anchor, group):
                    if start <= batch.step < stop:
                        yield batch

    def _check(self, snapshot: Snapshot) -> None:
        """What a stream rests on, after another program may have changed it."""
        check_protocol(snapshot.protocol, self._name)
        if snapshot.metadata is None:
            raise StreamCorrupted(f"the log of {self._name} has no metadata")
        found = snapshot.metadata.partition_columns
        if found != tuple(COMMIT_COLUMNS):
            raise StreamCorrupted(f"{self._name} is partitioned by {', '.join(found)} now")
        delta_schema.check_columns(self._table_schema, snapshot.metadata.schema, self._name)

    # -- committing ------------------------------------------------------------------------

    def commit(self, base: Head, change: Change) -> Outcome:
        snapshot: Snapshot = base.detail
        number = snapshot.version + 1
        changed, dropped = changed_properties(base.state, change.state)
        added = tuple(replace(batch, version=number) for batch in change.added)
        try:
            removes = self._removes(base, change)
        except ObjectNotFound:
            return Lost()  # cleaned up: the base is far behind
        except StoreError as error:
            return Unknown(error)
        data = entry_bytes(
            [
                self._commit_info(change, removes=bool(removes)),
                *domain_actions(changed, dropped),
                *removes,
                *add_actions(added),
            ]
        )
        try:
            e_tag = self._log.versions.create(number, data)
        except ObjectExists:
            return Lost()
        except StoreDenied:
            raise
        except StoreError as error:
            return Unknown(error)
        try:
            counts = self._log.versions.counts(number, self._log.base(snapshot))
        except StoreError as error:
            return Unknown(error)
        if not counts:
            what = f"version {number - 1} of {self._name} was cleaned up meanwhile"
            return Unknown(StoreUnavailable(what))
        self._log.versions.remember(self._table_id, number, e_tag)
        entry = Entry(
            number,
            digest_of(data),
            self._table_id,
            properties={**changed, **dict.fromkeys(dropped)},
            batches=added,
            removed=tuple(parse_remove(one["remove"]) for one in removes),
        )
        after = self._log.fitted(apply(snapshot, entry))
        return Committed(self._known(Head(number, change.state, after)))

    def _removes(self, base: Head, change: Change) -> list[dict[str, Any]]:
        """Takes the steps that the change reclaims out of the table, in the same commit.

        Raises:
            ObjectNotFound: what the base names was cleaned up.
            StepsPinned: another program made the table append-only.
        """
        before, after = base.state.watermark, change.state.watermark
        if after <= before:
            return []
        if base.detail.configuration.get("delta.appendOnly", "").lower() == "true":
            raise StepsPinned(
                f"nothing of {self._name} can be reclaimed: another program has set "
                "delta.appendOnly, which forbids to remove rows"
            )
        gone = self._batches(base.detail, before, after)
        return remove_actions(gone, self._clock.now_ms())

    def _commit_info(self, change: Change, *, removes: bool) -> dict[str, Any]:
        notes = dict(change.summary)
        if change.added:
            notes |= {
                "first-step": str(change.added[0].step),
                "last-step": str(change.added[-1].step),
                "producer": change.added[0].producer,
            }
        operation = "WRITE" if change.added else "DELETE" if removes else "SET STATE"
        now_ms, token = self._clock.now_ms(), self._clock.token()
        return commit_info(self._table_id, token, now_ms, operation, notes)

    # -- upkeep ----------------------------------------------------------------------------

    def tidy(self, head: Head) -> None:
        try:
            self._upkeep.run(head.detail)
        except Exception as error:  # noqa: BLE001 - the commit is durable, whatever happens here
            # Left to the next writer: the log is listed afresh each time.
            _logger.warning("upkeep of %s failed and is left to the next: %r", self._name, error)


def _property(configuration: dict[str, str], name: str, table: str) -> str:
    try:
        return configuration[PREFIX + name]
    except KeyError:
        raise StreamCorrupted(f"{table} lacks the table property {PREFIX + name}") from None
