"""What a source of samples is: rows in an order of its own, from any row on.

A source yields `Chunk` after `Chunk`; what it cannot give it names in a `Fault` and goes on behind
it, so that whether to stop is decided in one place. New kinds register by the scheme of their URI.
Imports: standard library, pyarrow, errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa

from batchweave.errors import (
    InvalidInput,
    InvalidSample,
    SourceChanged,
    SourceCorrupted,
    SourceError,
)

Position: TypeAlias = Any
"""Where reading goes on: a JSON value, or None for the beginning."""
Condition: TypeAlias = tuple[str, str, Any]
"""A column, one of ``= != < <= > >= in``, ``not in``, and a value, as pyarrow's filters are."""

FAULTS: Mapping[str, type[SourceError]] = {
    "changed": SourceChanged,
    "shrunk": SourceChanged,
    "corrupt": SourceCorrupted,
    "schema": InvalidSample,
    "row": InvalidSample,
}


@dataclass(slots=True, eq=False)
class Chunk:
    """Neighbouring rows of a source, and how to come back to each of them.

    Attributes:
        rows: the rows, in the source's schema. How many are in a chunk has no meaning.
        origin: what they are from, as people know it: a file's name, a topic's partition.
        numbers: the number of each row within its origin, ascending; gaps are rows left out.
        base: what a position holds beside the row's number. It must not depend on how the rows
            were cut into chunks, if positions are to be the same however they were cut.
        identity: what tells this origin from all others of that name, wherever they are read; ""
            if nothing does. Audits compare what several producers took only where it is given.
    """

    rows: pa.RecordBatch
    origin: str
    numbers: Sequence[int]
    base: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""
    sizes: list[int | str] | None = field(default=None, init=False, repr=False)
    """The assembler's: how much each row counts for."""
    epoch: int = field(default=0, init=False, repr=False)
    """The assembler's: how often the source was read before, where it repeats."""

    def at(self, row: int) -> Position:
        """From here the source goes on with row ``row`` of this chunk."""
        return {**self.base, "row": int(self.numbers[row])}

    def after(self) -> Position:
        """From here the source goes on behind this chunk."""
        return {**self.base, "row": int(self.numbers[-1]) + 1}


@dataclass(frozen=True, slots=True)
class Fault:
    """Rows that a source cannot give.

    Attributes:
        kind: ``changed`` or ``shrunk`` (it is not what the position was made from), ``corrupt``
            (cannot be read), ``schema`` (other columns or types), ``row`` (a row is malformed).
        reason: what was found, in a sentence that names the file and row.
        position: where the source goes on if the fault is skipped.
        origin: the file, or what else the rows are from.
        row: the number of the first row that is lost there.
        rows: how many are lost; 0 where that is not known.
    """

    kind: str
    reason: str
    position: Position
    origin: str
    row: int = 0
    rows: int = 0

    @property
    def of_position(self) -> bool:
        """Whether the position no longer fits the source."""
        return self.kind in ("changed", "shrunk")

    def error(self, source: str) -> SourceError:
        """The fault as an exception."""
        return FAULTS[self.kind](f"source {source!r}: {self.reason}")


@runtime_checkable
class Source(Protocol):
    """Rows in an order that is the same each time, readable from any row on."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of all rows."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides which rows there are, as JSON: a position is good for the same only."""
        ...

    def read(self, position: Position = None) -> Iterator[Chunk | Fault]:
        """The rows from a position on (a chunk's ``at`` or ``after``), or from the beginning.

        The same rows come in the same order from the same position, however often it is asked.
        A position that does not fit any more comes first, as a `Fault`.
        """
        ...

    def progress(self, position: Position) -> float | None:
        """How much of the source lies before a position, 0.0 to 1.0; None if nobody can know."""
        ...


Opener: TypeAlias = Callable[[str, Mapping[str, Any]], Source]
_openers: dict[str, Opener] = {}


def register_source(scheme: str, opener: Opener) -> None:
    """Let `open_source` open URIs of a scheme: ``opener(uri, options)`` makes the source."""
    _openers[scheme] = opener


def open_source(uri: str, **options: Any) -> Source:
    """The source that a URI names: a registered scheme, or else files (`FileSource`).

    Raises:
        InvalidInput: there are no files, or none of a known format; an option is not known.
        StoreError: the store refuses or fails.
    """
    from batchweave.assemble.file_source import FileSource

    scheme, separator, _ = uri.partition("://")
    opener = _openers.get(scheme) if separator else None
    if opener is not None:
        return opener(uri, options)
    return FileSource(uri, **options)


def normal_schema(schema: pa.Schema) -> pa.Schema:
    """One schema for all that hold the same values: no dictionaries, views, or large offsets."""
    fields = [pa.field(one.name, _normal_type(one.type)) for one in schema]
    return pa.schema(fields)


def _normal_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _normal_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_normal_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_normal_type(kind.value_type), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _normal_type(one.type)) for one in kind])
    return kind


def as_schema(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Rows with the columns of a normal schema, in its order; what differs is only laid out anew.

    Raises:
        pa.ArrowException: the values do not fit.
    """
    columns = []
    for one in schema:
        column = rows.column(one.name)
        columns.append(column if column.type.equals(one.type) else column.cast(one.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def drift(found: pa.Schema, wanted: pa.Schema, *, exact: bool) -> str | None:
    """How a schema differs from a normal one, in words; None if it does not.

    Columns may come in any order. ``exact`` objects to columns that are not wanted, too.
    """
    normal = normal_schema(found)
    parts = []
    for one in wanted:
        at = normal.get_field_index(one.name)
        if at < 0:
            parts.append(f"column {one.name!r} is missing")
        elif not normal.field(at).type.equals(one.type):
            parts.append(f"column {one.name!r} is {normal.field(at).type}, not {one.type}")
    if exact:
        extra = [name for name in normal.names if name not in wanted.names]
        parts += [f"column {name!r} is new" for name in extra]
    return "; ".join(parts) or None


def check_columns(schema: pa.Schema, columns: Sequence[str], what: str) -> None:
    """Raise `InvalidInput` unless the schema has these columns."""
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise InvalidInput(f"{what} has no column {missing[0]!r}: it has {schema.names}")
