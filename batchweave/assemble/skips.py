"""What was left out: counted for good, and the last ones by name.

It travels in the producer's position, so that it tells of the whole history, not of one run.
Imports: standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAMED_MAX = 16


@dataclass(slots=True)
class Skips:
    """Rows and files that were left out since the producer's first batch.

    Attributes:
        rows: rows left out, as far as they could be counted.
        kinds: how often each kind of fault was met: ``row``, ``schema``, ``corrupt``, ``changed``,
            ``shrunk``, ``large``, and ``remainder`` for rows that filled no last batch.
        last: the last few, each with ``source``, ``in``, ``row``, ``rows``, ``kind``, ``reason``.
    """

    rows: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    last: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, source: str, kind: str, reason: str, *, origin: str, row: int, rows: int = 1
    ) -> None:
        """Record one fault."""
        self.rows += rows
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        one = {"source": source, "in": origin, "row": row, "rows": rows, "kind": kind}
        self.last = [*self.last, {**one, "reason": reason}][-NAMED_MAX:]

    @property
    def count(self) -> int:
        """Faults of all kinds."""
        return sum(self.kinds.values())

    def copy(self) -> Skips:
        """As it is now."""
        return Skips(self.rows, dict(self.kinds), list(self.last))

    def to_json(self) -> dict[str, Any]:
        """As the position keeps it."""
        return {"rows": self.rows, "kinds": dict(self.kinds), "last": list(self.last)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Skips:
        """The inverse of `to_json`."""
        return Skips(int(value["rows"]), dict(value["kinds"]), list(value["last"]))
