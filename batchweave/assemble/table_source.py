"""A source in memory: one Arrow table. Imports: standard library, pyarrow, errors, sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from batchweave.assemble.sources import Chunk, Fault, Position, as_schema, normal_schema
from batchweave.errors import InvalidInput, SchemaMismatch

CHUNK_ROWS = 8192


class TableSource:
    """The rows of an Arrow table (or record batch), in order. A position is a row's number.

    Give the same table when resuming, or one that only grew at its end.

    Raises:
        InvalidInput: not a table.
        SchemaMismatch: two columns of one name.
    """

    def __init__(self, table: pa.Table | pa.RecordBatch, *, name: str = "table") -> None:
        """``name`` is what messages and lineage call it."""
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        if not isinstance(table, pa.Table):
            raise InvalidInput(f"a TableSource is made of an Arrow table, got {type(table)}")
        if len(set(table.schema.names)) < len(table.schema.names):
            raise SchemaMismatch(f"column names must differ, got {table.schema.names}")
        self._table = table
        self._name = name
        self._schema = normal_schema(table.schema)

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    def read(self, position: Position = None) -> Iterator[Chunk | Fault]:
        first = 0 if position is None else int(position["row"])
        total = self._table.num_rows
        if first > total:
            reason = f"{self._name} has {total} rows, the position is row {first}"
            yield Fault("shrunk", reason, {"row": total}, self._name, total)
            return
        for batch in self._table.slice(first).to_batches(max_chunksize=CHUNK_ROWS):
            if batch.num_rows:
                rows = as_schema(batch, self._schema)
                yield Chunk(rows, self._name, range(first, first + batch.num_rows))
                first += batch.num_rows

    def progress(self, position: Position) -> float | None:
        done = 0 if position is None else int(position["row"])
        return min(1.0, done / self._table.num_rows) if self._table.num_rows else 1.0

    def __repr__(self) -> str:
        return f"TableSource({self._name!r}, {self._table.num_rows} rows)"
