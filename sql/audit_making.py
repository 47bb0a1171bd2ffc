"""What the tables that audits need are made of, and when: each by the first audit that needs it.

What a table could not look at is told in its note, which goes into the results of the audits that
use it. Imports: the core, session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from batchweave.clock import Clock
from batchweave.sql.session import Session


@dataclass
class Making:
    """What the tables are made of."""

    session: Session
    clock: Clock
    deep: bool
    skew: str | None
    progress: Callable[[int, int], None]
    tables: Mapping[str, Callable[[Making], pa.Table]]
    notes: dict[str, str] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)

    def need(self, name: str) -> None:
        """Make a table unless it is there."""
        if name not in self._made:
            self.session.register(name, self.tables[name](self))
            self._made.add(name)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query in the session."""
        return list(self.session.sql(query).fetchall())


def table(rows: list[Any], **columns: pa.DataType) -> pa.Table:
    """Rows, given as dictionaries, in these columns."""
    return pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))
