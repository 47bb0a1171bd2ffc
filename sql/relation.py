"""A query's result: DuckDB's relation, with the errors of the tree.

DuckDB computes late: what is wrong with the store, or with a value, shows when rows are fetched.
Imports: errors, DuckDB.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb

from batchweave.errors import (
    BatchWeaveError,
    InvalidSettings,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)

_REFUSED = re.compile(r"\b(401|403|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch)\b")


class Relation:
    """A `duckdb.DuckDBPyRelation` that raises `BatchWeaveError` where DuckDB raises its own.

    All that a relation offers is there (``fetchall``, ``df``, ``pl``, ``to_arrow_table``,
    ``filter``, ``aggregate``, the Arrow stream …), and what is made of it is guarded alike. The
    exception are readers that fetch later still (``to_arrow_reader``, the Arrow stream): their
    errors are Arrow's. ``bare`` is the relation itself, for what insists on DuckDB's own class.
    """

    __slots__ = ("bare",)

    def __init__(self, bare: duckdb.DuckDBPyRelation) -> None:
        self.bare = bare

    def __getattr__(self, name: str) -> Any:
        with told():
            found = getattr(self.bare, name)
        return _guarded(found) if callable(found) else _wrapped(found)

    def __getitem__(self, name: str) -> Any:
        with told():
            return _wrapped(self.bare[name])

    def __len__(self) -> int:
        with told():
            return len(self.bare)

    def __contains__(self, name: str) -> bool:
        return name in self.bare

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        with told():
            return self.bare.__arrow_c_stream__(requested_schema)

    def __str__(self) -> str:
        with told():
            return str(self.bare)

    def __repr__(self) -> str:
        with told():
            return repr(self.bare)


@contextmanager
def told() -> Iterator[None]:
    """Raise what DuckDB says in words of the error tree.

    Raises:
        InvalidSettings: the query is wrong: no such column, a value that does not convert.
        StoreDenied, StoreUnavailable, StoreError: what it reads cannot be read.
    """
    try:
        yield
    except duckdb.Error as error:
        raise told_as(error) from error


def told_as(error: Exception, what: str = "the query failed") -> BatchWeaveError:
    """The error of the tree for one of DuckDB's: its class says what to do next."""
    text = f"{what}: {error}"
    if not isinstance(error, (duckdb.IOException, duckdb.HTTPException)):
        return InvalidSettings(text)
    if _REFUSED.search(text):
        return StoreDenied(text)
    remote = isinstance(error, duckdb.HTTPException) or "://" in text
    return (StoreUnavailable if remote else StoreError)(text)


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        bare = [one.bare if isinstance(one, Relation) else one for one in arguments]
        with told():
            return _wrapped(function(*bare, **options))

    return called


def _wrapped(value: Any) -> Any:
    return Relation(value) if isinstance(value, duckdb.DuckDBPyRelation) else value
