"""What tests of assembly share: documents, sources that misbehave, and the proof of resuming."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa

from batchweave.assemble import Assembler, Chunk, Fault, GlobalBatch

DOCUMENTS = pa.schema([("tokens", pa.list_(pa.int32())), ("doc_id", pa.string())])


def documents(count: int, *, name: str = "d", seed: int = 0, longest: int = 60) -> pa.Table:
    """Documents of 1 to ``longest`` tokens; every token of document n is n."""
    chance = random.Random(seed)
    rows = [
        {"tokens": [number] * chance.randint(1, longest), "doc_id": f"{name}{number}"}
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=DOCUMENTS)


class ChunkedSource:
    """A table in chunks of random lengths, with rows that are broken."""

    def __init__(self, table: pa.Table, seed: int, faults: Mapping[int, Fault] | None = None):
        self._table, self._chance = table, random.Random(seed)
        self._faults = dict(faults or {})

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    def progress(self, position: Any) -> float | None:
        return None

    def read(self, position: Any = None) -> Iterator[Chunk | Fault]:
        at = 0 if position is None else position["row"]
        while at < self._table.num_rows:
            if at in self._faults:
                yield self._faults[at]
                at += 1
                continue
            following = [row for row in self._faults if row > at]
            end = min([at + self._chance.randint(0, 9), self._table.num_rows, *following])
            for rows in self._table.slice(at, end - at).combine_chunks().to_batches():
                yield Chunk(rows, "table", range(at, end))
            at = end


def fault_at(row: int, kind: str = "corrupt") -> Fault:
    """A row that cannot be read."""
    return Fault(kind, f"row {row} is broken", {"row": row + 1}, "table", row, 1)


def all_of(assembler: Assembler, limit: int | None = None) -> list[GlobalBatch]:
    """Every batch that an assembler gives, or the first ones."""
    return list(islice(assembler, limit))


def content(batches: list[GlobalBatch]) -> list[Any]:
    """What must be the same of two runs."""
    return [(one.slices, one.sources, one.rows, one.tokens) for one in batches]


def wrong_cuts(make: Callable[[], Assembler], limit: int | None = None) -> list[int]:
    """Batches behind which a new assembler, resumed there, does not give the very same ones.

    ``limit`` is for those that never end.
    """
    whole = all_of(make(), limit)
    assert len(whole) > 1, "nothing to cut"
    wrong = []
    for number, batch in enumerate(whole):
        resumed = make()
        resumed.resume(json.loads(json.dumps(batch.position)))
        following = all_of(resumed, None if limit is None else limit - number - 1)
        same = content(following) == content(whole[number + 1 :])
        if not same or [x.position for x in following] != [x.position for x in whole[number + 1 :]]:
            wrong.append(number)
    return wrong


def doc_ids(batches: list[GlobalBatch]) -> list[str]:
    """Whose documents are in the batches, in slice order."""
    found: list[str] = []
    for batch in batches:
        for table in batch.slices:
            for value in table.column("doc_id").to_pylist():
                found += value if isinstance(value, list) else [value]
    return found
