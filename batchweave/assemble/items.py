"""Items: samples on their way into a batch, as references to rows; and rows gathered from them.

Imports: standard library, pyarrow, numpy, batch, sources.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchweave.assemble.sources import Chunk
from batchweave.batch import SOURCE_BYTES_MAX

ORIGINS_MAX = 24
"""Places that the source of one slice names; of what lies beyond only the rows are counted."""


class Item(NamedTuple):
    """A sample, or a piece of one: tokens ``start`` to ``start + size`` of a row."""

    source: int
    draw: int
    chunk: Chunk
    row: int
    size: int
    start: int = 0
    whole: bool = True


def sizes_of(chunk: Chunk, column: str | None, aligned: Sequence[str] = ()) -> list[int | str]:
    """How much each row of a chunk counts for: its list's length, or the number in the column.

    A row that cannot be counted, or whose ``aligned`` lists have another length, has the reason
    instead. Without a column every row counts 1.
    """
    if column is None:
        return [1] * chunk.rows.num_rows
    values = chunk.rows.column(column)
    counts = values if pa.types.is_integer(values.type) else pc.list_value_length(values)
    found: list[int | str] = counts.to_pylist()
    for at, count in enumerate(found):
        if count is None or int(count) < 1:
            found[at] = f"column {column!r} has no tokens"
    for name in aligned:
        lengths = pc.list_value_length(chunk.rows.column(name))
        odd = pc.invert(pc.equal(lengths, counts)).fill_null(True)
        for at in np.flatnonzero(odd.to_numpy(zero_copy_only=False)).tolist():
            if isinstance(found[at], int):
                other = lengths[at].as_py()
                found[at] = f"column {name!r} has {other} values for {found[at]} tokens"
    return found


def gather(items: Sequence[Item]) -> pa.Table:
    """The items' rows in order, as one contiguous table. Rows that lie together are not copied."""
    groups: dict[int, tuple[Chunk, list[int]]] = {}
    places: list[tuple[int, int]] = []
    for item in items:
        key = id(item.chunk)
        if key not in groups:
            groups[key] = (item.chunk, [])
        rows = groups[key][1]
        places.append((key, len(rows)))
        rows.append(item.row)
    parts = [_rows(chunk.rows, rows) for chunk, rows in groups.values()]
    table = pa.Table.from_batches(parts).combine_chunks()
    if len(parts) == 1:
        return table
    offsets, total = {}, 0
    for key, (_, rows) in groups.items():
        offsets[key] = total
        total += len(rows)
    order = [offsets[key] + at for key, at in places]
    if order == list(range(total)):
        return table
    return table.take(pa.array(order, pa.int64()))


def _rows(batch: pa.RecordBatch, rows: list[int]) -> pa.RecordBatch:
    first = rows[0]
    if rows[-1] - first == len(rows) - 1 and rows == list(range(first, first + len(rows))):
        return batch.slice(first, len(rows))
    return batch.take(pa.array(rows, pa.int64()))


def token_indices(items: Sequence[Item], lists: pa.Array) -> np.ndarray[Any, Any] | None:
    """Which of the flattened values of the items' ``lists`` belong to them; None if all do."""
    if all(item.whole for item in items):
        return None
    lengths = np.asarray(pc.list_value_length(lists))
    begins = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    pieces = [
        np.arange(begin + item.start, begin + item.start + item.size)
        for begin, item in zip(begins, items, strict=True)
    ]
    return np.concatenate(pieces)


def origin_text(
    items: Iterable[Item], names: Sequence[str], weights: Mapping[str, float] | None
) -> str:
    """Where a slice's rows came from, as short JSON: what a stream's ``source`` column holds.

    ``{"rows": [{"source": "web", "in": "a.parquet", "first": 0, "last": 99, "rows": 64}], …}``: 64
    of the rows 0 to 99 of that file; all of them if the numbers say so. ``id``, where there is one,
    tells the file from its namesakes; of a source that repeats, ``epoch`` says how often it was
    read before; ``pieces`` counts those that are only a part of their row. In a mixture ``weights``
    are those in force. More than `ORIGINS_MAX` places are counted under ``more``.
    """
    found: dict[tuple[int, str, str, int], list[Item]] = {}
    for item in items:
        chunk = item.chunk
        key = (item.source, chunk.origin, chunk.identity, chunk.epoch)
        found.setdefault(key, []).append(item)
    places = [_place(names[key[0]], *key[1:], found[key]) for key in sorted(found)]
    return _short(places, {} if weights is None else {"weights": dict(weights)})


def _place(
    source: str, origin: str, identity: str, epoch: int, items: Sequence[Item]
) -> dict[str, Any]:
    numbers = {int(item.chunk.numbers[item.row]) for item in items}
    pieces = sum(not item.whole for item in items)
    return {
        "source": source,
        "in": origin,
        **({"id": identity} if identity else {}),
        **({"epoch": epoch} if epoch else {}),
        "first": min(numbers),
        "last": max(numbers),
        "rows": len(numbers),
        **({"pieces": pieces} if pieces else {}),
    }


def _short(places: list[dict[str, Any]], rest: dict[str, Any]) -> str:
    """The JSON, with as many places as there is room for."""
    count = min(len(places), ORIGINS_MAX)
    while True:
        value: dict[str, Any] = {"rows": places[:count], **rest}
        if left := places[count:]:
            value["more"] = {"places": len(left), "rows": sum(one["rows"] for one in left)}
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        if len(text.encode()) <= SOURCE_BYTES_MAX or count == 0:
            return text
        count -= 1
