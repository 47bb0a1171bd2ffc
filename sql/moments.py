"""Which steps a session sees: time travel, as every past view of a stream is a prefix by step.

Imports: errors, checkpoints, DuckDB.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import duckdb

from batchweave.errors import CheckpointNotFound, InvalidInput
from batchweave.sql.views import Views, quoted
from batchweave.table import Head

Moment: TypeAlias = int | str | datetime
"""``100`` or ``"step:100"``: the steps below it. ``"checkpoint:ID"``: those that it has seen.
``"snapshot:ID"`` (Iceberg) or ``"version:N"``: those of that version of the table. A datetime or
``"time:2026-01-31T12:00Z"``: those before the first that was committed later."""

_DIGITS = re.compile(r"[0-9]{1,19}")
_LARGEST = 2**63 - 1
FORMS = "a step, step:N, checkpoint:ID, version:N, snapshot:ID or time:ISO-8601"


def stop_at(moment: Moment, head: Head, views: Views, connection: duckdb.DuckDBPyConnection) -> int:
    """The first step that is not seen, where ``views`` are of the whole version.

    Raises:
        InvalidInput: the moment cannot be understood, or lies beyond the head.
        CheckpointNotFound: no checkpoint has that ID.
    """
    asked = _Asked(head, views, connection)
    if isinstance(moment, bool) or not isinstance(moment, (int, str, datetime)):
        raise InvalidInput(f"at is {FORMS}, got {moment!r}")
    if isinstance(moment, int):
        return asked.step(moment)
    if isinstance(moment, datetime):
        return asked.time(moment)
    kind, colon, text = moment.partition(":")
    if not colon and _DIGITS.fullmatch(moment):
        return asked.step(int(moment))
    if not colon or kind not in _KINDS:
        raise InvalidInput(f"at is {FORMS}, got {moment!r}")
    return _KINDS[kind](asked, text)


class _Asked:
    """The answers for each kind of moment."""

    def __init__(self, head: Head, views: Views, connection: duckdb.DuckDBPyConnection) -> None:
        self._head = head
        self._views = views
        self._connection = connection
        self._home = quoted(views.home)

    def step(self, step: int) -> int:
        if not 0 <= step <= self._head.state.next_step:
            raise InvalidInput(
                f"at: the stream's next step is {self._head.state.next_step}, it never was {step}"
            )
        return step

    def checkpoint(self, text: str) -> int:
        known = self._head.state.checkpoints
        if text not in known:
            raise CheckpointNotFound(
                f"at: there is no checkpoint {text!r}; there are: "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        return known[text].next_step

    def snapshot(self, text: str) -> int:
        found = self._first(
            f"select max(version) from (select version, snapshot from {self._home}.snapshots "
            f"union all select version, snapshot from {self._home}.parts) where snapshot = $wanted",
            wanted=_whole(text, "a snapshot"),
        )
        if found is None:
            raise InvalidInput(f"at: no commit that the table still knows made snapshot {text}")
        return self._of_version(found)

    def version(self, text: str) -> int:
        version = _whole(text, "a version")
        if version > self._head.version:
            raise InvalidInput(
                f"at: the table is at version {self._head.version}, not yet at {version}"
            )
        return self._of_version(version)

    def time_text(self, text: str) -> int:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidInput(
                f"at: a time is written as in ISO 8601, time:2026-01-31T12:00Z, got {text!r}"
            ) from None
        return self.time(moment)

    def time(self, moment: datetime) -> int:
        later = self._first(
            f"select min(step) from {self._home}.batches where committed_at > $moment",
            moment=moment if moment.tzinfo else moment.replace(tzinfo=UTC),
        )
        return self._head.state.next_step if later is None else later

    def _of_version(self, version: int) -> int:
        unknown = self._first(f"select min(step) from {self._home}.batches where version is null")
        if unknown is not None:
            raise InvalidInput(
                f"at: the table does not say which version published step {unknown}: give a step, "
                "a checkpoint or a time instead"
            )
        last = self._first(
            f"select max(step) from {self._home}.batches where version <= $version",
            version=version,
        )
        return 0 if last is None else last + 1

    def _first(self, query: str, **parameters: Any) -> int | None:
        self._views.make(["batches", "parts", "snapshots"])
        found = self._connection.execute(query, parameters).fetchone()
        return None if found is None or found[0] is None else int(found[0])


def _whole(text: str, what: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) > _LARGEST:
        raise InvalidInput(f"at: {what} is a whole number, got {text!r}")
    return int(text)


_KINDS: dict[str, Callable[[_Asked, str], int]] = {
    "step": lambda asked, text: asked.step(_whole(text, "a step")),
    "checkpoint": _Asked.checkpoint,
    "snapshot": _Asked.snapshot,
    "version": _Asked.version,
    "time": _Asked.time_text,
}
