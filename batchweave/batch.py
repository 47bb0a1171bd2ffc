"""Batches as people hold them: slices on their way in, a `Batch` on its way out.

Imports: standard library, numpy, pyarrow, errors, mesh, columns, table, parquet.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from batchweave.columns import ArrayType, slice_to_table, table_to_numpy, to_storage
from batchweave.errors import InvalidBatch
from batchweave.mesh import Mesh
from batchweave.parquet import SliceData

Position: TypeAlias = Any
"""A producer's resume point: any JSON value, or bytes."""

SOURCE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's part of a global batch.

    Attributes:
        step: its place in the stream's order.
        table: the rows, a `pyarrow.Table` in the stream's schema; slices in order.
        slices: which slices the rows come from.
        producer, sequence: who published it.
        committed_at_ms: the producer's wall clock at the commit.
        sources: what the producer said of each slice's origin.
        rows: which rows of each of these slices ``table`` holds.
    """

    step: int
    table: pa.Table = field(repr=False)
    slices: tuple[int, ...]
    producer: str
    sequence: int
    committed_at_ms: int
    sources: tuple[str | None, ...] = field(repr=False)
    arrays: Mapping[str, ArrayType] = field(repr=False, default_factory=dict)
    rows: tuple[range, ...] = field(repr=False, default=())

    def numpy(self) -> dict[str, Any]:
        """The rows as NumPy arrays, one a column, zero-copy (read-only) where Arrow allows.

        A column that was published as an array has the shape ``(rows, ...)`` and the dtype that
        went in; other columns are 1-D or 2-D arrays, or lists where rows differ in length.
        """
        return table_to_numpy(self.table, self.arrays)


def check_slices(
    slices: Sequence[Any], sources: Sequence[str | None], mesh: Mesh, schema: pa.Schema
) -> list[SliceData]:
    """Check and convert the slices of one global batch; nothing is written if one is wrong.

    Raises:
        InvalidBatch: not one slice for each place of the mesh, or an empty slice.
        SchemaMismatch: columns or types are not the stream's, or a value cannot be kept exactly.
    """
    if isinstance(slices, (Mapping, pa.Table, str, bytes)) or not hasattr(slices, "__len__"):
        raise InvalidBatch(
            f"publish takes a sequence with one item for each of the {mesh.slices} slices "
            f"of {mesh}, got {type(slices).__name__}"
        )
    if len(slices) != mesh.slices:
        raise InvalidBatch(f"{mesh} has {mesh.slices} slices, got {len(slices)}")
    found = []
    for index, (value, source) in enumerate(zip(slices, sources, strict=True)):
        table, arrays = slice_to_table(value, schema, where=f"slice {index}")
        if table.num_rows == 0:
            raise InvalidBatch(f"slice {index} is empty: every slice needs at least one row")
        found.append(SliceData(to_storage(table, schema), arrays, source))
    return found


def check_source(source: Any, slices: int) -> list[str | None]:
    """One short text (or None) for each slice: what ``publish(source=)`` accepts.

    A string is kept as it is, other JSON values become JSON; a list gives each slice its own.

    Raises:
        InvalidBatch: not JSON, too long, or a list of another length.
    """
    each = source if isinstance(source, (list, tuple)) else [source] * slices
    if len(each) != slices:
        raise InvalidBatch(f"source lists {len(each)} items for {slices} slices")
    return [_source_text(one) for one in each]


def _source_text(source: Any) -> str | None:
    if source is None:
        return None
    text = source if isinstance(source, str) else _to_json(source, "source")
    if len(text.encode()) > SOURCE_BYTES_MAX:
        raise InvalidBatch(
            f"a source is a short description, at most {SOURCE_BYTES_MAX} bytes, "
            f"got {len(text.encode())}"
        )
    return text


def position_to_text(position: Position) -> str | None:
    """A position as the text that the stream's state keeps. Tuples come back as lists.

    Raises:
        InvalidBatch: neither JSON nor bytes.
    """
    if position is None:
        return None
    if isinstance(position, (bytes, bytearray, memoryview)):
        return json.dumps({"base64": base64.b64encode(bytes(position)).decode()})
    _check_keys(position)
    return _to_json({"json": position}, "position")


def position_from_text(text: str | None) -> Position:
    """The inverse of `position_to_text`."""
    if text is None:
        return None
    value = json.loads(text)
    return base64.b64decode(value["base64"]) if "base64" in value else value["json"]


def _check_keys(value: Any) -> None:
    """JSON would turn a number that is a key into text: refuse it rather than change it."""
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise InvalidBatch(f"keys within a position must be strings, got {odd[0]!r}")
    if isinstance(value, (Mapping, list, tuple)):
        for one in value.values() if isinstance(value, Mapping) else value:
            _check_keys(one)


def _to_json(value: Any, what: str) -> str:
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidBatch(f"a {what} must be a JSON value: {error}") from None
    if json.loads(text) != value and not isinstance(value, (list, tuple, dict)):
        raise InvalidBatch(f"a {what} must come back from JSON as it went in, got {value!r}")
    return text
