"""A table whose data files are counted, and kept on a local disk if there is a cache for them.

Imports: standard library, the core, disk_cache, reading_stats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from batchweave.connectors.disk_cache import DiskCache
from batchweave.connectors.reading_stats import Counts
from batchweave.mesh import Mesh
from batchweave.objects import Buffer, Objects
from batchweave.table import BatchEntry, Change, Head, Outcome, Table


class MeasuredTable:
    """The same table, for reading: see `batchweave.table.Table`."""

    def __init__(self, table: Table, counts: Counts, cache: DiskCache | None) -> None:
        self._table = table
        measured: Any = _MeasuredObjects(table.objects, counts, cache)
        self._objects: Objects = measured

    @property
    def name(self) -> str:
        return self._table.name

    @property
    def id(self) -> str:
        return self._table.id

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    @property
    def mesh(self) -> Mesh:
        return self._table.mesh

    @property
    def file_schema(self) -> pa.Schema:
        return self._table.file_schema

    @property
    def objects(self) -> Objects:
        return self._objects

    def head(self, known: Head | None = None) -> Head:
        return self._table.head(known)

    def commit(self, base: Head, change: Change) -> Outcome:
        return self._table.commit(base, change)

    def entries(self, head: Head, start: int, stop: int) -> Iterator[BatchEntry]:
        return self._table.entries(head, start, stop)

    def tidy(self, head: Head) -> None:
        self._table.tidy(head)


class _MeasuredObjects:
    """Everything but what is named here is the inner store's."""

    def __init__(self, inner: Objects, counts: Counts, cache: DiskCache | None) -> None:
        self._inner = inner
        self._counts = counts
        self._cache = cache

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def local_file(self, path: str) -> str | None:
        found = self._inner.local_file(path)
        if found is not None and path:
            self._counts.add(requests=1)
        return found

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        if self._cache is None:
            return self._fetched(path, ranges)
        keys = [f"{self._inner.uri}/{path}:{start}+{length}" for start, length in ranges]
        found: list[Buffer | None] = [self._cache.get(key) for key in keys]
        missing = [at for at, data in enumerate(found) if data is None]
        self._counts.add(cache_hits=len(ranges) - len(missing), cache_misses=len(missing))
        if missing:
            fetched = self._fetched(path, [ranges[at] for at in missing])
            for at, data in zip(missing, fetched, strict=True):
                self._cache.put(keys[at], data)
                found[at] = data
        return found

    def _fetched(self, path: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        found = self._inner.get_ranges(path, ranges)
        size = sum(memoryview(data).nbytes for data in found)
        self._counts.add(requests=len(ranges), fetched_bytes=size)
        return found
