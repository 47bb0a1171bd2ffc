"""What producers publish: item i of a name's source, told apart by name, item and generation.

Bytes are equal for equal arguments, so they are made once a process. `Encoder` says how a kind of
table wants them.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

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


class Encoder(Protocol):
    """Items as parts, and back."""

    def parts(self, item: Item, count: int) -> tuple[EncodedPart, ...]:
        """The item as a batch of one or two parts."""
        ...

    def item(self, data: bytes) -> Item:
        """The item that a part's bytes carry."""
        ...


class TextEncoder:
    """Parts that only look like files: a line of JSON."""

    def parts(self, item: Item, count: int) -> tuple[EncodedPart, ...]:
        return _text_parts(item, count)

    def item(self, data: bytes) -> Item:
        return _text_item(data)


@lru_cache(maxsize=8192)
def _text_item(data: bytes) -> Item:
    return Item.parse(data.decode().partition("\n")[0])


@lru_cache(maxsize=4096)
def _text_parts(item: Item, count: int) -> tuple[EncodedPart, ...]:
    slices = MESH.slices // count
    found = []
    for index in range(count):
        data = f"{item.text()}\n{index}/{count}".encode()
        found.append(
            EncodedPart(
                data=pa.py_buffer(data),
                digest=hashlib.sha256(data).hexdigest(),
                first_slice=index * slices,
                slices=slices,
                rows=slices,
                offsets=tuple(range(slices)),
                data_end=len(data),
                column_bytes=(len(data),),
            )
        )
    return tuple(found)


class ParquetEncoder:
    """Parts as tiny, real Parquet files; the item stands in the source column."""

    def __init__(self, file_schema: pa.Schema) -> None:
        self._file_schema = file_schema
        self._known: dict[tuple[Item, int], tuple[EncodedPart, ...]] = {}

    def parts(self, item: Item, count: int) -> tuple[EncodedPart, ...]:
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
        return _parquet_item(data)


@lru_cache(maxsize=4096)
def _parquet_item(data: bytes) -> Item:
    file = pq.ParquetFile(io.BytesIO(data), pre_buffer=False)
    table = file.read(columns=["item", "source"], use_threads=False)
    sources = set(table["source"].to_pylist())
    if len(sources) != 1:
        raise ValueError(f"one file carries {len(sources)} items")
    return Item.parse(sources.pop())
