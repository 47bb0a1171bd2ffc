"""The catalog: streams by name. A facade over what a table format's catalog can do.

Imports: everything before it in the core.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pyarrow as pa

from batchweave.columns import schema_to_text, storage_schema
from batchweave.errors import InvalidMesh, InvalidName, SchemaMismatch
from batchweave.mesh import Mesh
from batchweave.state import PREFIX, StreamState, to_properties
from batchweave.stream import Stream
from batchweave.table import RESERVED_COLUMNS, Table

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")


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

    def drop(self, name: tuple[str, ...]) -> None:
        """Remove a stream and its files. Raises `StreamNotFound`, `NotAStream`."""
        ...


class Catalog:
    """Streams by name. Made by `batchweave.load_catalog`."""

    def __init__(
        self, name: str, tables: TableCatalog, query: Callable[[Stream, str], Any]
    ) -> None:
        self.name = name
        self.tables = tables
        self._query = query

    def create_stream(
        self,
        name: str,
        *,
        schema: pa.Schema,
        mesh: Mesh,
        properties: Mapping[str, str] | None = None,
    ) -> Stream:
        """Create a stream: a new table, ready for producers. Its namespace is made if needed.

        ``schema`` is any Arrow schema that Parquet can hold; token columns are best
        ``list<int32>``. ``properties`` are kept with the table.

        Raises:
            InvalidName: the name is not ``namespace.name`` of letters, digits, ``_`` and ``-``.
            SchemaMismatch: a column has a reserved or unusable name.
            UnsupportedType: a type that open tables cannot hold exactly.
            StreamExists: the name is taken.
            StoreDenied: the warehouse cannot be written.
        """
        parts = check_stream_name(name)
        check_schema(schema)
        if not isinstance(mesh, Mesh):
            raise InvalidMesh(f"mesh is a Mesh, for example Mesh(dp=4), got {mesh!r}")
        own = dict(properties or {})
        for key in own:
            if key.startswith(PREFIX):
                raise InvalidName(f"properties beginning with {PREFIX!r} are reserved: {key!r}")
        own |= to_properties(StreamState(mesh=mesh))
        own[PREFIX + "schema"] = schema_to_text(schema)
        return Stream(self.tables.create(parts, schema, own), query=self._query)

    def load_stream(self, name: str) -> Stream:
        """Open an existing stream.

        Raises:
            StreamNotFound: there is no table of that name.
            NotAStream: there is one, but BatchWeave did not make it.
            UnsupportedFormat: a newer BatchWeave made it.
        """
        return Stream(self.tables.load(check_stream_name(name)), query=self._query)

    def list_streams(self) -> list[str]:
        """Names of all streams, sorted. Tables that are not streams are left out."""
        return self.tables.streams()

    def drop_stream(self, name: str) -> None:
        """Remove a stream with all of its data.

        Raises:
            StreamNotFound, NotAStream: nothing was removed.
        """
        self.tables.drop(check_stream_name(name))

    def __repr__(self) -> str:
        return f"Catalog({self.name!r})"


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
