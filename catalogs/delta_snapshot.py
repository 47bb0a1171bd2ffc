"""A stream's Delta table at one version: a checkpoint, and what came after it. Pure.

A snapshot is never copied as a whole: it refers to an opened checkpoint, and to a chain of links,
one a version, which all snapshots since that checkpoint share. So a new version costs what it
changes, and memory is bounded by what was committed since the last checkpoint.
Imports: delta_actions, errors, table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from batchweave.catalogs.delta_actions import Entry, Foreign, Metadata, Removed
from batchweave.errors import StreamCorrupted
from batchweave.state import PREFIX
from batchweave.table import BatchEntry


class Anchor(Protocol):
    """An opened checkpoint, as far as a snapshot needs to know."""

    @property
    def version(self) -> int:
        """The version that it holds."""
        ...

    @property
    def files(self) -> int:
        """How many data files it names."""
        ...

    @property
    def entry(self) -> Entry:
        """Everything that it says besides the stream's own files."""
        ...


@dataclass(frozen=True, slots=True)
class Link:
    """One version's files, and the version before it. ``own`` are those that BatchWeave wrote."""

    version: int
    own: bool
    batches: tuple[BatchEntry, ...]
    removed: tuple[Removed, ...]
    foreign: tuple[Foreign, ...]
    before: Link | None = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The table at one version.

    ``digest`` is that of the newest entry. ``properties`` are the stream's own state; ``domains``
    and ``transactions`` are other programs'. ``removed`` are files that went since the anchor,
    ``foreign`` all files that are there but not the stream's. ``links`` counts those since the
    anchor, ``files`` the stream's files that were added, removed ones included.
    """

    version: int
    digest: str
    protocol: Mapping[str, Any] | None
    metadata: Metadata | None
    properties: Mapping[str, str]
    domains: Mapping[str, Mapping[str, Any]]
    transactions: Mapping[str, Mapping[str, Any]]
    removed: tuple[Removed, ...] = ()
    foreign: tuple[Foreign, ...] = ()
    anchor: Anchor | None = None
    tail: Link | None = field(default=None, repr=False)
    links: int = 0
    files: int = 0

    @property
    def configuration(self) -> dict[str, str]:
        """The table's properties as a stream has them: configuration, then the state."""
        configured = self.metadata.configuration if self.metadata else {}
        return {**configured, **self.properties}

    @property
    def table_id(self) -> str:
        """The table's own identity; a namesake has another."""
        return self.metadata.id if self.metadata else ""


EMPTY = Snapshot(-1, "", None, None, {}, {}, {})


def opened(anchor: Anchor) -> Snapshot:
    """The table as a checkpoint has it."""
    start = replace(EMPTY, anchor=anchor, files=anchor.files)
    found = apply(start, anchor.entry)
    # Its files are the anchor's to tell; files that it remembers as removed are in no version here.
    return replace(found, tail=None, links=0, removed=(), files=anchor.files)


def apply(snapshot: Snapshot, entry: Entry) -> Snapshot:
    """The table after one more entry. Source: Delta protocol, "Action Reconciliation"."""
    removed, foreign = _reconciled(snapshot, entry)
    link = Link(
        entry.version,
        entry.table_id is not None,
        entry.batches,
        entry.removed,
        entry.foreign,
        snapshot.tail,
    )
    return replace(
        snapshot,
        version=entry.version,
        digest=entry.digest,
        protocol=entry.protocol or snapshot.protocol,
        metadata=entry.metadata or snapshot.metadata,
        properties=_changed(snapshot.properties, entry.properties),
        domains=_domains(snapshot.domains, entry.domains),
        transactions={**snapshot.transactions, **entry.transactions},
        removed=removed,
        foreign=foreign,
        tail=link,
        links=snapshot.links + 1,
        files=snapshot.files + sum(len(batch.parts) for batch in entry.batches),
    )


def _changed(before: Mapping[str, str], changes: Mapping[str, str | None]) -> Mapping[str, str]:
    if not changes:
        return before
    merged = {**before, **changes}
    return {key: text for key, text in merged.items() if text is not None}


def _domains(
    before: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Mapping[str, Any]]:
    merged = {**before, **changes}
    return {key: body for key, body in merged.items() if not body["removed"]}


def _reconciled(
    snapshot: Snapshot, entry: Entry
) -> tuple[tuple[Removed, ...], tuple[Foreign, ...]]:
    """Removed and foreign files after an entry: what is added again is removed no more."""
    removed, foreign = snapshot.removed, snapshot.foreign
    if removed and entry.batches:
        again = {part.path for batch in entry.batches for part in batch.parts}
        if any(one.path in again for one in removed):
            removed = tuple(one for one in removed if one.path not in again)
    if foreign and entry.removed:
        gone = {one.path for one in entry.removed}
        foreign = tuple(one for one in foreign if one.path not in gone)
    if not entry.removed and not entry.foreign:
        return removed, foreign
    return (*removed, *entry.removed), (*foreign, *entry.foreign)


def anchored(snapshot: Snapshot, anchor: Anchor) -> Snapshot:
    """The same table on a newer checkpoint: the links that it holds are let go."""
    if anchor.version > snapshot.version:
        raise ValueError(f"checkpoint {anchor.version} is newer than version {snapshot.version}")
    newer: list[Link] = []
    link = snapshot.tail
    while link is not None and link.version > anchor.version:
        newer.append(link)
        link = link.before
    tail: Link | None = None
    for one in reversed(newer):
        tail = replace(one, before=tail)
    gone = {removed.path for one in newer for removed in one.removed}
    return replace(
        snapshot,
        anchor=anchor,
        tail=tail,
        links=len(newer),
        files=anchor.files + sum(len(b.parts) for one in newer for b in one.batches),
        removed=tuple(one for one in snapshot.removed if one.path in gone),
    )


def batches_since(snapshot: Snapshot, step: int) -> list[BatchEntry]:
    """Batches that were named since the anchor, from ``step`` on, in step order.

    One that another program named anew is there twice, the newer one last.
    """
    found: list[tuple[BatchEntry, ...]] = []
    link = snapshot.tail
    while link is not None:
        if link.batches:
            found.append(link.batches)
            if link.own and link.batches[0].step <= step:
                break  # all before it is older; another program may name any step
        link = link.before
    batches = [batch for one in reversed(found) for batch in one if batch.step >= step]
    return sorted(batches, key=lambda batch: batch.step)


def same_files(one: BatchEntry, other: BatchEntry) -> bool:
    """Whether two actions name the same batch."""
    return one.step == other.step and [p.path for p in one.parts] == [p.path for p in other.parts]


def check_files(snapshot: Snapshot, table: str, watermark: int, start: int, stop: int) -> None:
    """Let other programs neither add files to a stream nor remove one that a reader wants.

    Files below the watermark were reclaimed.

    Raises:
        StreamCorrupted: one did; the message names the file.
    """
    if snapshot.foreign:
        raise StreamCorrupted(
            f"{table} has rows that BatchWeave did not write: {snapshot.foreign[0].path}"
        )
    for one in snapshot.removed:
        if one.step is None or max(start, watermark) <= one.step < stop:
            raise StreamCorrupted(
                f"another program removed a file of {table}: {one.path}"
                + ("" if one.step is None else f" of step {one.step}")
            )


def is_stream(snapshot: Snapshot) -> bool:
    """Whether the table is a stream of BatchWeave, of whatever format version."""
    return PREFIX + "format-version" in snapshot.configuration
