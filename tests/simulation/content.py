"""What producers publish: item i of a name's source, told apart by name, item and generation.

They are tiny, real Parquet files, with the item in the source column. Bytes are equal for equal
arguments, so they are made once a process.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchweave.batch import check_slices
from batchweave.mesh import Mesh
from batchweave.parquet import EncodedPart, encode

MESH = Mesh(dp=2)
SCHEMA = pa.schema([("item", pa.int32())])


@dataclass(frozen=True, slots=True)
class Item:
    """One item of one producer name's source, as one incarnation published it."""

    name: str
    number: int
    generation: int

    def text(self) -> str:
        """The item as JSON; what a batch's files carry."""
        return json.dumps([self.name, self.number, self.generation])

    @classmethod
    def parse(cls, text: str) -> Item:
        """The inverse of `text`."""
        return cls(*json.loads(text))


class Encoder:
    """Items as parts in a table's file schema, and back."""

    def __init__(self, file_schema: pa.Schema) -> None:
        self._file_schema = file_schema
        self._known: dict[tuple[Item, int], tuple[EncodedPart, ...]] = {}

    def parts(self, item: Item, count: int) -> tuple[EncodedPart, ...]:
        """The item as a batch of one or two parts."""
        key = (item, count)
        if key not in self._known:
            self._known[key] = self._encoded(item, count)
        return self._known[key]

    def _encoded(self, item: Item, count: int) -> tuple[EncodedPart, ...]:
        rows: list[Any] = [{"item": [item.number]} for _ in range(MESH.slices)]
        slices = check_slices(rows, [item.text()] * len(rows), MESH, SCHEMA)
        run = len(slices) // count
        return tuple(
            encode(
                slices[first : first + run],
                first,
                file_schema=self._file_schema,
                compression="none",
                compression_level=None,
            )
            for first in range(0, len(slices), run)
        )

    def item(self, data: bytes) -> Item:
        """The item that a part's bytes carry."""
        return _parquet_item(data)


@lru_cache(maxsize=4096)
def _parquet_item(data: bytes) -> Item:
    file = pq.ParquetFile(io.BytesIO(data), pre_buffer=False)
    table = file.read(columns=["item", "source"], use_threads=False)
    sources = set(table["source"].to_pylist())
    if len(sources) != 1:
        raise ValueError(f"one file carries {len(sources)} items")
    return Item.parse(sources.pop())
