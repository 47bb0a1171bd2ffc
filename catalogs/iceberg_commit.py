"""What one commit asks of an Iceberg catalog: requirements, updates, the snapshot's summary.

Pure functions over the metadata of the base. Iceberg compares the snapshot of ``main`` and nothing
else, so two more things are asserted: the schema (a foreign engine that changes a column makes no
snapshot), and, where snapshots are removed, the refs (a tag that was made after the base was read
would be removed with its snapshot without a word; Iceberg has no requirement for that).

- A catalog that checks requirements in this process, and then swaps a pointer to what it checked,
  is asked for `AssertNothingNamed`. A pin made meanwhile is a lost race.
- A ``rest`` server knows only the specification's requirements. Snapshots are removed there in lots
  of `SNAPSHOTS_LIVE`, by a commit whose base was read right before it: what was pinned until then
  is kept; a pin of a snapshot that old, made within that one round trip, is lost with it.

Sources: Iceberg spec, "Snapshots", "Snapshot References"; REST catalog spec, "TableRequirement".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import Field
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertCurrentSchemaId,
    AssertRefSnapshotId,
    AssertTableUUID,
    RemovePropertiesUpdate,
    RemoveSnapshotRefUpdate,
    RemoveSnapshotsUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
    ValidatableTableRequirement,
)

from batchweave.catalogs.removal import Removal
from batchweave.errors import StepsPinned
from batchweave.state import FORMAT_VERSION, PREFIX, StreamState, changed_properties
from batchweave.table import Change, Head

MAIN = "main"
TAG = "checkpoint-"
SNAPSHOTS_LIVE = 32
"""Snapshots kept in the metadata besides tagged ones: any past view is a prefix by step."""


class AssertNothingNamed(ValidatableTableRequirement):
    """None of these snapshots is named by a ref, and all of them are there still.

    ``moved`` are refs that the same commit sets anew.
    """

    type: Literal["assert-nothing-named"] = "assert-nothing-named"
    snapshot_ids: frozenset[int] = Field(alias="snapshot-ids")
    moved: frozenset[str] = frozenset()

    def validate(  # type: ignore[override]  # as all of pyiceberg's requirements do
        self, base_metadata: TableMetadata | None
    ) -> None:
        if base_metadata is None:
            raise CommitFailedException("Requirement failed: the table is gone")
        for name, ref in base_metadata.refs.items():
            if ref.snapshot_id in self.snapshot_ids and name not in self.moved:
                raise CommitFailedException(
                    f"Requirement failed: {name} names snapshot {ref.snapshot_id} by now"
                )
        if self.snapshot_ids - {one.snapshot_id for one in base_metadata.snapshots}:
            raise CommitFailedException("Requirement failed: others removed snapshots meanwhile")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Snapshots that a commit removes, and refs to them that it sets anew.

    ``checked_here`` says that the catalog validates requirements in this process.
    """

    snapshot_ids: tuple[int, ...] = ()
    moved: frozenset[str] = frozenset()
    checked_here: bool = False


def requirements(metadata: TableMetadata, outgoing: Outgoing) -> tuple[TableRequirement, ...]:
    """What must hold of the newest metadata, or the race is lost."""
    parent = metadata.current_snapshot()
    found: list[Any] = [
        AssertTableUUID(uuid=metadata.table_uuid),
        AssertRefSnapshotId(ref=MAIN, snapshot_id=parent.snapshot_id if parent else None),
        AssertCurrentSchemaId(current_schema_id=metadata.current_schema_id),
    ]
    if outgoing.snapshot_ids and outgoing.checked_here:
        ids = frozenset(outgoing.snapshot_ids)
        found.append(AssertNothingNamed(snapshot_ids=ids, moved=outgoing.moved))
    return cast(tuple[TableRequirement, ...], tuple(found))


def updates(
    base: Head, change: Change, snapshot: Snapshot, outgoing: Outgoing
) -> tuple[TableUpdate, ...]:
    """The snapshot, the state's properties and tags that changed, and the snapshots that leave."""
    found: list[TableUpdate] = [
        AddSnapshotUpdate(snapshot=snapshot),
        SetSnapshotRefUpdate(
            ref_name=MAIN,
            type=SnapshotRefType.BRANCH,
            snapshot_id=snapshot.snapshot_id,
            max_ref_age_ms=None,
            max_snapshot_age_ms=None,
            min_snapshots_to_keep=None,
        ),
    ]
    changed, gone = changed_properties(base.state, change.state)
    if changed:
        found.append(SetPropertiesUpdate(updates=changed))
    if gone:
        found.append(RemovePropertiesUpdate(removals=list(gone)))
    found += _tags(base, change, snapshot)
    if outgoing.snapshot_ids:
        found.append(RemoveSnapshotsUpdate(snapshot_ids=list(outgoing.snapshot_ids)))
    return tuple(found)


def _tags(base: Head, change: Change, snapshot: Snapshot) -> list[TableUpdate]:
    """A tag for each checkpoint: on the snapshot that registered it, or that last took steps out.

    So a tag's snapshot names only files that are there.
    """
    before, after = base.state.checkpoints, change.state.checkpoints
    moved = change.state.watermark > base.state.watermark
    found: list[TableUpdate] = [
        SetSnapshotRefUpdate(
            ref_name=TAG + name,
            type=SnapshotRefType.TAG,
            snapshot_id=snapshot.snapshot_id,
            max_ref_age_ms=None,
            max_snapshot_age_ms=None,
            min_snapshots_to_keep=None,
        )
        for name in after
        if moved or before.get(name) != after[name]
    ]
    refs = base.detail.metadata.refs
    gone = [TAG + name for name in before if name not in after and TAG + name in refs]
    return [*found, *(RemoveSnapshotRefUpdate(ref_name=name) for name in gone)]


def reclaimed(
    metadata: TableMetadata, state: StreamState, name: str, *, checked_here: bool
) -> Outgoing:
    """All snapshots, which a reclaim removes, as they name files that go.

    Raises:
        StepsPinned: a tag or branch that is not ours names one of them.
    """
    ours = frozenset((MAIN, *(TAG + one for one in state.checkpoints)))
    foreign = sorted(set(metadata.refs) - ours)
    if foreign:
        raise StepsPinned(
            f"nothing of {name} can be reclaimed: another program's tag or branch "
            f"{', '.join(foreign)} names steps that would go; drop it, or register a checkpoint "
            "in its place"
        )
    return Outgoing(tuple(one.snapshot_id for one in metadata.snapshots), ours, checked_here)


def outlived(metadata: TableMetadata) -> list[int]:
    """Snapshots that leave the metadata: all but the newest and those that a ref names."""
    named = {ref.snapshot_id for ref in metadata.refs.values()}
    others = [one.snapshot_id for one in metadata.snapshots if one.snapshot_id not in named]
    return others[: max(0, len(others) + 2 - SNAPSHOTS_LIVE)]


def summary(change: Change, parent: Snapshot | None, removal: Removal | None) -> Summary:
    """What people and engines see of the commit: totals, and the steps that it added or removed."""
    before: Mapping[str, Any] = parent.summary if parent and parent.summary else {}
    parts = [part for batch in change.added for part in batch.parts]
    added = {
        "data-files": len(parts),
        "records": sum(part.rows for part in parts),
        "files-size": sum(part.bytes for part in parts),
    }
    gone = {"data-files": 0, "records": 0, "files-size": 0}
    if removal is not None:
        counts = (removal.files, removal.rows, removal.bytes)
        gone = dict(zip(gone, counts, strict=True))
    properties = (
        {PREFIX + "format-version": str(FORMAT_VERSION)}
        | {
            f"total-{key}": str(int(before.get(f"total-{key}") or 0) + number - gone[key])
            for key, number in added.items()
        }
        | {
            "total-delete-files": "0",
            "total-position-deletes": "0",
            "total-equality-deletes": "0",
        }
    )
    if parts:
        properties |= {f"added-{key}": str(number) for key, number in added.items()}
        properties |= {
            PREFIX + "first-step": str(change.added[0].step),
            PREFIX + "last-step": str(change.added[-1].step),
            PREFIX + "producer": change.added[0].producer,
        }
    if removal is None:
        return Summary(operation=Operation.APPEND, **properties, **change.summary)
    properties |= {
        "deleted-data-files": str(gone["data-files"]),
        "deleted-records": str(gone["records"]),
        "removed-files-size": str(gone["files-size"]),
        PREFIX + "watermark": str(change.state.watermark),
    }
    return Summary(operation=Operation.DELETE, **properties, **change.summary)
