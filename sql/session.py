"""SQL over a stream: a DuckDB connection with the views of ``sql/views`` on one version.

The version is that of the head when the session is made: every view, and every query of the
session, sees that one. As streams are append-only, an older view of one is a prefix of its steps:
``at`` bounds the views by a step. Views and tables are temporary, so that sessions of one stream
can share one DuckDB, whose extensions take half a second to load.
Imports: the core, catalogs, DuckDB.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from batchweave.errors import InvalidName, InvalidSettings, ObjectNotFound
from batchweave.sql.extensions import extension_path, open_offline
from batchweave.sql.metadata import local, no_pattern
from batchweave.sql.moments import Moment, stop_at
from batchweave.sql.relation import Relation, told
from batchweave.sql.scans import Rows, Source, source_of
from batchweave.sql.secrets import let_in
from batchweave.sql.statements import check_query, lock
from batchweave.sql.views import (
    STATE_TABLES,
    TEMPORARY,
    VIEWS,
    Views,
    quoted,
    source_of_ledger,
)
from batchweave.stream import Stream
from batchweave.table import Head, newer_head

__all__ = ["VIEWS", "Moment", "Session", "extension_path", "query"]

Parameters: TypeAlias = Mapping[str, Any] | Sequence[Any]

_WORD = re.compile(r"\w+")
_ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_TAKEN = {"main", "memory", "pg_catalog", "information_schema", "system", "temp", "this"}
_EXTENSIONS = ("avro", "httpfs")
"""Besides them a session loads the one of its stream's format."""


class Session:
    """One DuckDB connection with the views of a stream, pinned to one version of it.

    A session is for one thread. Results stay valid after it was closed.

    Args:
        stream: whose history it is.
        at: the moment that is seen, see `batchweave.sql.moments.Moment`; None for the head.
        read_only: take SELECT alone and reach no files but the stream's: no query can write a
            file, change a setting or load an extension.
        connection: one of `open_offline`, or a cursor of it; by default a DuckDB of its own.

    Raises:
        InvalidInput, CheckpointNotFound: there is no such moment.
        UnsupportedFormat: SQL does not know the table's format.
        StoreDenied, StoreUnavailable: the table cannot be read.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        at: Moment | None = None,
        read_only: bool = False,
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> None:
        if read_only and connection is not None:
            raise InvalidSettings("a read-only session has a DuckDB of its own")
        self.stream = stream
        self.read_only = read_only
        self._locked = False
        self._folders: list[str] = []
        self._aliases: set[str] = set()
        self._connection = open_offline(()) if connection is None else connection
        self._connection.execute("set python_enable_replacements = false")
        self._views: dict[str, Views] = {}
        self.head = self._make(stream, at, TEMPORARY)
        self.stop = self._views[TEMPORARY].stop

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """DuckDB's own connection, with all views made."""
        for views in self._views.values():
            views.make((*VIEWS, *STATE_TABLES))
        return self._connection

    def sql(self, query: str, parameters: Parameters | None = None) -> Relation:
        """Run one query. ``parameters`` are bound to its ``$name`` or ``?``, never pasted.

        The result's errors are those of the tree also where they show late, as rows are fetched.

        Raises:
            InvalidSettings: the query is not valid SQL, names a view or column that is not there,
                or is none that the session takes.
            StoreDenied, StoreUnavailable: what it reads cannot be read.
        """
        with told():
            check_query(query, read_only=self.read_only)
            if self.read_only and not self._locked:
                lock(self._connection, self._folders)
                self._locked = True
            self._make_named(query)
            try:
                relation = self._connection.sql(query, params=parameters)
            except duckdb.CatalogException:
                relation = self.connection.sql(query, params=parameters)  # it named no view plainly
        if relation is None:
            raise InvalidSettings("the query returns no rows: give a SELECT")
        return Relation(relation)

    def attach(self, alias: str, stream: Stream, *, at: Moment | None = None) -> None:
        """Make the views of another stream, as ``alias.samples``, ``alias.batches`` and so on.

        Raises:
            InvalidName: the alias is not a plain name, or is taken.
            InvalidSettings: the session is read-only and has run a query already.
        """
        self._check_alias(alias)
        if self._locked:
            raise InvalidSettings("attach streams before the first query of a read-only session")
        self._connection.execute(f"attach ':memory:' as {quoted(alias)}")
        self._aliases.add(alias.lower())
        self._make(stream, at, alias)

    def register(self, name: str, data: Any) -> None:
        """Let queries name a table of the user's own: Arrow, pandas, Polars, a DuckDB relation.

        Raises:
            InvalidName: the name is not a plain one, or is that of a view.
        """
        self._check_alias(name)
        given = data.bare if isinstance(data, Relation) else data
        if isinstance(given, pa.Table):
            given = _without_views(given)
        with told():
            self._connection.register(name, given)
        self._aliases.add(name.lower())

    def interrupt(self) -> None:
        """Stop the query that runs, or was left running by an exception."""
        self._connection.interrupt()

    def close(self) -> None:
        """Close the connection; results that were not fetched yet keep it open for themselves."""
        self._connection.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- making ----------------------------------------------------------------------------

    def _make(self, stream: Stream, at: Moment | None, home: str) -> Head:
        head = stream.table.head()
        while True:
            try:
                return self._made(stream, head, at, home)
            except (ObjectNotFound, FileNotFoundError):
                head = newer_head(stream.table, head)  # its metadata was cleaned up meanwhile

    def _made(self, stream: Stream, head: Head, at: Moment | None, home: str) -> Head:
        rows = source_of(stream.table, head)
        ledger, ledger_folder = source_of_ledger(stream) if head.state.watermark else (None, "")
        self._let_in(stream.table.objects.uri, rows)
        if ledger is not None:
            self._let_in(ledger_folder, ledger)
        views = Views(self._connection, stream, head, rows, ledger, home=home)
        if at is not None:
            views.see(stop_at(at, head, views, self._connection))
        self._views[home] = views
        return head

    def _make_named(self, query: str) -> None:
        """Make the views whose names stand in a query, whatever they stand for there."""
        words = {word.lower() for word in _WORD.findall(query)}
        for home, views in self._views.items():
            if home == TEMPORARY or home.lower() in words:
                views.make(words)

    def _let_in(self, folder: str, source: Source) -> None:
        self._load({*_EXTENSIONS, *source.extensions})
        self._allow(folder)
        if isinstance(source, Rows):
            return
        let_in(self._connection, folder, source.properties)
        if not source.location.startswith(folder):  # metadata that lies apart
            apart = source.location.rpartition("/")[0]
            self._allow(apart)
            let_in(self._connection, apart, source.properties)

    def _allow(self, folder: str) -> None:
        """A read-only session may read below a folder, by any of the names that it is given."""
        names = {folder, local(folder), no_pattern(local(folder))}
        self._folders += sorted(f"{name}/" for name in names)

    def _load(self, extensions: Iterable[str]) -> None:
        loaded = self._connection.execute(
            "select extension_name from duckdb_extensions() where loaded"
        ).fetchall()
        for name in sorted({*extensions} - {str(one) for (one,) in loaded}):
            self._connection.load_extension(str(extension_path(name)))

    def _check_alias(self, alias: str) -> None:
        if not isinstance(alias, str) or not _ALIAS.fullmatch(alias):
            raise InvalidName(f"a name in a session is of letters, digits and '_', got {alias!r}")
        if alias.lower() in {*_TAKEN, *VIEWS, *self._aliases}:
            raise InvalidName(f"the name {alias!r} is taken in this session")


def _without_views(table: pa.Table) -> pa.Table:
    """The table without Arrow's view types, which its own filters, that DuckDB calls, lack."""
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    if not any(field.type in plain for field in table.schema):
        return table
    fields = [field.with_type(plain.get(field.type, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


_shared: weakref.WeakKeyDictionary[Stream, duckdb.DuckDBPyConnection] = weakref.WeakKeyDictionary()
_shared_lock = threading.Lock()


def query(
    stream: Stream,
    sql: str,
    parameters: Parameters | None = None,
    at: Moment | None = None,
) -> Relation:
    """Run one query on the stream's head, or on an older moment of it. Safe from many threads.

    Each has a session of its own; keep a `Session` to ask often.

    Raises:
        InvalidSettings: as `Session.sql`.
        InvalidInput, CheckpointNotFound: there is no such moment.
        StoreDenied, StoreUnavailable: the table's metadata cannot be read.
    """
    with told():
        check_query(sql)
    with _shared_lock, told():  # one at a time: they make the same secret in one DuckDB
        if stream not in _shared:
            _shared[stream] = open_offline(())
        session = Session(stream, at=at, connection=_shared[stream].cursor())
    return session.sql(sql, parameters)
