"""The catalog: streams by name. A facade over what a table format's catalog can do.

Imports: everything before it in the core.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import pyarrow as pa

from batchweave.columns import check_lineage_columns, schema_to_text, storage_schema
from batchweave.errors import (
    InvalidMesh,
    InvalidName,
    SchemaMismatch,
    StreamCorrupted,
    StreamExists,
    StreamNotFound,
)
from batchweave.ledger import MESH as LEDGER_MESH
from batchweave.ledger import SCHEMA as LEDGER_SCHEMA
from batchweave.ledger import SUFFIX as LEDGER_SUFFIX
from batchweave.ledger import is_left_over
from batchweave.mesh import Mesh
from batchweave.state import PREFIX, StreamState, to_properties
from batchweave.stream import Analysis, Stream
from batchweave.table import RESERVED_COLUMNS, Table

_PART = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_-]{{0,62}}(?:{LEDGER_SUFFIX})?")


class TableCatalog(Protocol):
    """What a catalog of some table format offers; names are tuples of checked parts."""

    def create(self, name: tuple[str, ...], schema: pa.Schema, properties: dict[str, str]) -> Table:
        """Create a table, atomically. Raises `StreamExists`."""
        ...

    def load(self, name: tuple[str, ...]) -> Table:
        """Load a stream's table. Raises `StreamNotFound`, `NotAStream`, `UnsupportedFormat`."""
        ...

    def streams(self) -> list[str]:
        """Dotted names of all streams, sorted; other tables are left out."""
        ...

    def register(self, name: tuple[str, ...], location: str, *, take_over: bool) -> Table:
        """Adopt the stream in a folder, as `Catalog.register_stream` says."""
        ...

    def drop(self, name: tuple[str, ...]) -> None:
        """Remove a stream and its files. Raises `StreamNotFound`, `NotAStream`."""
        ...


class Catalog:
    """Streams by name. Made by `batchweave.load_catalog`."""

    def __init__(
        self,
        name: str,
        tables: TableCatalog,
        analysis: Analysis,
        opened: Callable[[Stream], object] = lambda stream: None,
    ) -> None:
        """``opened`` is told of each stream before anybody else has it."""
        self.name = name
        self.tables = tables
        self._analysis = analysis
        self._opened = opened

    def create_stream(
        self,
        name: str,
        *,
        schema: pa.Schema,
        mesh: Mesh,
        properties: Mapping[str, str] | None = None,
        lineage_columns: Sequence[str] = (),
    ) -> Stream:
        """Create a stream: a new table, ready for producers. Its namespace is made if needed.

        ``schema`` is any Arrow schema that Parquet can hold; token columns are best
        ``list<int32>``. ``properties`` are kept with the table. ``lineage_columns`` names columns
        that say of a row which document it is made of: strings, integers or lists of those. The
        ledger keeps their distinct values of each slice, so that lineage answers for them when the
        data is gone; they cannot be changed later.

        Raises:
            InvalidName: the name is not ``namespace.name`` of letters, digits, ``_`` and ``-``.
            SchemaMismatch: a column has a reserved or unusable name, or a lineage column is none.
            UnsupportedType: a type that open tables cannot hold exactly, or lineage cannot.
            StreamExists: the name is taken.
            StoreDenied: the warehouse cannot be written.
        """
        parts = check_stream_name(name)
        if name.endswith(LEDGER_SUFFIX):
            raise InvalidName(f"names that end in {LEDGER_SUFFIX!r} are those of ledgers: {name!r}")
        check_schema(schema)
        lineage = check_lineage_columns(schema, lineage_columns)
        if not isinstance(mesh, Mesh):
            raise InvalidMesh(f"mesh is a Mesh, for example Mesh(dp=4), got {mesh!r}")
        own = dict(properties or {})
        for key in own:
            if key.startswith(PREFIX):
                raise InvalidName(f"properties beginning with {PREFIX!r} are reserved: {key!r}")
        own |= to_properties(StreamState(mesh=mesh, lineage_columns=lineage))
        own[PREFIX + "schema"] = schema_to_text(schema)
        return self._stream(parts, self.tables.create(parts, schema, own))

    def load_stream(self, name: str) -> Stream:
        """Open an existing stream.

        Raises:
            StreamNotFound: there is no table of that name.
            NotAStream: there is one, but BatchWeave did not make it.
            UnsupportedFormat: a newer BatchWeave made it.
        """
        parts = check_stream_name(name)
        return self._stream(parts, self.tables.load(parts))

    def list_streams(self) -> list[str]:
        """Names of all streams, sorted. Tables that are not streams are left out."""
        return [name for name in self.tables.streams() if not name.endswith(LEDGER_SUFFIX)]

    def register_stream(self, name: str, location: str, *, take_over: bool = False) -> Stream:
        """Adopt the stream whose table lies in a folder: from then on it is in this catalog alone.

        A catalog that finds streams by their folders (``object-store``, ``delta``) adopts what
        lies at the name's own place below its warehouse. Any other adopts a folder that an
        object-store catalog made, wherever it lies. *Its writers and readers through that folder
        are stopped* (`StreamMoved`), by a commit that wins against theirs: a stream that two
        catalogs could write would become two. Calling it again after a crash goes on where it was.

        ``location`` is the table's folder, a path or URI. ``take_over`` adopts also what is marked
        as moved to another place. That is for a place that is lost: what was committed through it
        since is not seen.

        Raises:
            InvalidName, InvalidSettings: the catalog cannot have this folder under this name.
            StreamNotFound: there is no table in the folder.
            NotAStream, UnsupportedFormat: there is one, but none that can be adopted.
            StreamExists: the name is taken.
            StreamMoved: the stream is in another catalog.
            StoreDenied: the folder or the catalog cannot be written.
            StoreUnavailable: whether it was registered is not known: call it again.
        """
        parts = check_stream_name(name)
        table = self.tables.register(parts, location, take_over=take_over)
        ledger = location.rstrip("/") + LEDGER_SUFFIX
        with contextlib.suppress(StreamNotFound, StreamExists):  # there is one after a reclaim
            self.tables.register(_ledger_name(parts), ledger, take_over=take_over)
        return self._stream(parts, table)

    def drop_stream(self, name: str) -> None:
        """Remove a stream with all of its data, its ledger included.

        Raises:
            StreamNotFound, NotAStream: nothing was removed.
        """
        parts = check_stream_name(name)
        with contextlib.suppress(StreamCorrupted):  # by a drop that died: this one goes on
            self.tables.load(parts)
        with contextlib.suppress(StreamNotFound):  # first, so that a repetition finds the stream
            self.tables.drop(_ledger_name(parts))
        self.tables.drop(parts)

    def _stream(self, parts: tuple[str, ...], table: Table) -> Stream:
        ledger = partial(self._ledger, parts, table.id)
        stream = Stream(table, analysis=self._analysis, ledger=ledger)
        self._opened(stream)
        return stream

    def _ledger(
        self, parts: tuple[str, ...], owner: str, create: bool, discard: bool = False
    ) -> Table | None:
        """The table of a stream's ledger; None if there is none and none is wanted.

        One that a dropped stream of the name has left behind is none of this one's. ``discard``
        deletes the one that is there.
        """
        if parts[-1].endswith(LEDGER_SUFFIX):
            return None
        name = _ledger_name(parts)
        if discard:
            with contextlib.suppress(StreamNotFound):
                self.tables.drop(name)
        with contextlib.suppress(StreamNotFound):
            found = self.tables.load(name)
            if not is_left_over(found, owner):
                return found
            if create:
                self.tables.drop(name)
        if not create:
            return None
        state = to_properties(StreamState(mesh=LEDGER_MESH))
        own = state | {PREFIX + "schema": schema_to_text(LEDGER_SCHEMA)}
        try:
            return self.tables.create(name, LEDGER_SCHEMA, own)
        except StreamExists:
            return self.tables.load(name)

    def __repr__(self) -> str:
        return f"Catalog({self.name!r})"


def _ledger_name(parts: tuple[str, ...]) -> tuple[str, ...]:
    return (*parts[:-1], parts[-1] + LEDGER_SUFFIX)


def check_stream_name(name: str) -> tuple[str, ...]:
    """Split ``namespace.name`` into parts that paths and SQL can carry, or raise `InvalidName`."""
    parts = tuple(name.split(".")) if isinstance(name, str) else ()
    if len(parts) < 2 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidName(
            "a stream name is namespace.name, each of 1 to 63 letters, digits, '_' or '-', "
            f"not beginning with '-'; got {name!r}"
        )
    return parts


def check_schema(schema: pa.Schema) -> None:
    """Refuse what a stream cannot hold, before anything is written.

    Raises:
        SchemaMismatch: a reserved, repeated or unusable column name, or no column at all.
        UnsupportedType: a type that open tables cannot hold exactly.
    """
    if not isinstance(schema, pa.Schema):
        raise SchemaMismatch(f"schema is a pyarrow.Schema, got {type(schema).__name__}")
    reserved = {name for name in schema.names if name.lower() in RESERVED_COLUMNS}
    if reserved:
        raise SchemaMismatch(
            f"column names {', '.join(RESERVED_COLUMNS)} are BatchWeave's own; "
            f"rename {', '.join(sorted(reserved))}"
        )
    folded = [name.lower() for name in schema.names]
    twice = {name for name in folded if folded.count(name) > 1}
    dotted = {name for name in schema.names if "." in name or not name.isprintable()}
    if twice or dotted:
        raise SchemaMismatch(
            "column names must differ by more than case and have no dots: "
            f"{', '.join(sorted(twice | dotted))}"
        )
    storage_schema(schema)
