"""Faults at a commit: it did not land, or it landed and the answer was lost or was a wrong one.

`Faults` decides, `interrupted` puts it around any call that commits, `FaultyTables` around the
table protocol for whoever has no transport of its own to fail. Imports: standard library, pyarrow,
errors, catalog, table.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa

from batchweave.catalog import TableCatalog
from batchweave.errors import ObjectExists, StoreUnavailable
from batchweave.mesh import Mesh
from batchweave.objects import Buffer, Objects
from batchweave.table import BatchEntry, Change, Head, Lost, Outcome, Table, Unknown

P = ParamSpec("P")
T = TypeVar("T")


class Fault(Enum):
    """What happens to one commit."""

    NOT_SENT = "it did not land, and the answer was lost"
    ANSWER_LOST = "it landed, and the answer was lost"
    TOLD_LOST = "it landed, and the store said that another had won: a retry met its own write"


class Faults:
    """Which of the next commits fail, and how. Safe to use from many threads."""

    def __init__(self) -> None:
        self._next: list[Fault] = []
        self._fired = 0
        self._lock = threading.Lock()

    def arm(self, fault: Fault, count: int = 1) -> None:
        """Let the next ``count`` commits that are not spoken for fail in this way."""
        with self._lock:
            self._next += [fault] * count

    @property
    def fired(self) -> int:
        """How many commits failed so far: 0 means that nothing was put to the test."""
        with self._lock:
            return self._fired

    def take(self) -> Fault | None:
        """The fault of the commit that is about to be made."""
        with self._lock:
            if not self._next:
                return None
            self._fired += 1
            return self._next.pop(0)


def interrupted(
    commit: Callable[P, T],
    faults: Faults,
    *,
    lost: Callable[[], Exception],
    told_lost: Callable[[], Exception],
) -> Callable[P, T]:
    """``commit`` with faults: ``lost`` makes the error of a lost answer, ``told_lost`` that of a
    lost race.
    """

    def failing(*args: P.args, **kwargs: P.kwargs) -> T:
        fault = faults.take()
        if fault is Fault.NOT_SENT:
            raise lost()
        result = commit(*args, **kwargs)
        if fault is Fault.ANSWER_LOST:
            raise lost()
        if fault is Fault.TOLD_LOST:
            raise told_lost()
        return result

    return failing


def lost_answer() -> StoreUnavailable:
    """What a store that gave no answer looks like."""
    return StoreUnavailable("the connection ended before the answer")


class WrappedTable:
    """`batchweave.table.Table` that passes everything on: a base for tables that misbehave."""

    def __init__(self, inner: Table) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def id(self) -> str:
        return self.inner.id

    @property
    def schema(self) -> pa.Schema:
        return self.inner.schema

    @property
    def mesh(self) -> Mesh:
        return self.inner.mesh

    @property
    def file_schema(self) -> pa.Schema:
        return self.inner.file_schema

    @property
    def objects(self) -> Objects:
        return self.inner.objects

    def head(self, known: Head | None = None) -> Head:
        return self.inner.head(known)

    def commit(self, base: Head, change: Change) -> Outcome:
        return self.inner.commit(base, change)

    def entries(self, head: Head, start: int, stop: int) -> Iterator[BatchEntry]:
        return self.inner.entries(head, start, stop)

    def tidy(self, head: Head) -> None:
        self.inner.tidy(head)


class FaultyObjects:
    """`Objects` of which the writes of some paths are interrupted: the commits of a format."""

    def __init__(self, inner: Objects, faults: Faults, commits: str) -> None:
        """``commits``: a regular expression, searched for in paths below these objects' folder."""
        self.inner = inner
        self._faults = faults
        self._commits = commits

    def within(self, prefix: str) -> FaultyObjects:
        return FaultyObjects(self.inner.within(prefix), self._faults, self._commits)

    def create(self, path: str, data: Buffer) -> str:
        if not re.search(self._commits, path):
            return self.inner.create(path, data)
        create = interrupted(
            self.inner.create,
            self._faults,
            lost=lost_answer,
            told_lost=lambda: ObjectExists(f"an object exists at {path!r}"),
        )
        return create(path, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class FaultyTable(WrappedTable):
    """A table whose commits `Faults` interrupts."""

    def __init__(self, inner: Table, faults: Faults) -> None:
        super().__init__(inner)
        self._faults = faults

    def commit(self, base: Head, change: Change) -> Outcome:
        fault = self._faults.take()
        if fault is Fault.NOT_SENT:
            return Unknown(lost_answer())
        outcome = self.inner.commit(base, change)
        if fault is Fault.ANSWER_LOST:
            return Unknown(lost_answer())
        return Lost() if fault is Fault.TOLD_LOST else outcome


class WrappedTables:
    """`batchweave.catalog.TableCatalog` that wraps each table that it gives out."""

    def __init__(
        self, inner: TableCatalog, wrap: Callable[[Table], Table] = lambda table: table
    ) -> None:
        self.inner = inner
        self.wrap = wrap

    def create(self, name: tuple[str, ...], schema: pa.Schema, properties: dict[str, str]) -> Table:
        return self.wrap(self.inner.create(name, schema, properties))

    def load(self, name: tuple[str, ...]) -> Table:
        return self.wrap(self.inner.load(name))

    def streams(self) -> list[str]:
        return self.inner.streams()

    def drop(self, name: tuple[str, ...]) -> None:
        self.inner.drop(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
