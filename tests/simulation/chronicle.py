"""What the store itself witnessed: each version of a table, and each deletion, with its time.

It is put together afterwards from the store's content and what it had deleted, by parsing alone;
none of the code under test decides which version counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from batchweave.state import StreamState
from batchweave.table import BatchEntry


@dataclass(frozen=True, slots=True)
class Written:
    """One object that was there, from its write to its deletion (None: it is still there).

    ``serial`` is its place among all writes.
    """

    key: str
    data: bytes
    serial: int
    from_us: int
    until_us: int | None


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a table, as it became the newest."""

    number: int
    at_us: int
    state: StreamState
    batches: tuple[BatchEntry, ...]


@dataclass(slots=True)
class Chronicle:
    """All that was written, the versions of a table, oldest first, and those of its ledger.

    Keys are whole; the paths that versions name are relative to the table's folder.
    """

    writes: list[Written] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    ledger: list[Version] = field(default_factory=list)
    folder: str = ""
    ledger_folder: str = ""

    def deleted(self) -> Iterable[Written]:
        """What was written and is gone."""
        return (one for one in self.writes if one.until_us is not None)

    def content(self) -> dict[str, bytes]:
        """The bytes that each key ever had, the newest where there were several."""
        return {one.key: one.data for one in sorted(self.writes, key=lambda one: one.serial)}
