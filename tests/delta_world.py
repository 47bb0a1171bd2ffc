"""A stream on Delta in a watched store, seen by as many processes as a test wants."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import batchweave as bw
from batchweave.catalogs.delta import DeltaTable
from batchweave.catalogs.delta_catalog import DeltaCatalog
from batchweave.catalogs.delta_checkpoint import LOG
from batchweave.catalogs.versions import Memory
from batchweave.clock import SystemClock
from batchweave.columns import slice_to_table, to_storage
from batchweave.parquet import EncodedPart, SliceData, encode
from batchweave.session import Session, Staged
from batchweave.table import BatchEntry, Committed, Head, Lost, Unknown
from tests.streams import TOKENS, tokens
from tests.watched import Watch, WatchedObjects

NAME = "demo.tokens"
FOLDER = "demo/tokens"


@dataclass
class World:
    """One stream of two slices; ``objects`` is the whole warehouse."""

    catalog: bw.Catalog
    objects: WatchedObjects
    encoded: EncodedPart

    @classmethod
    def make(cls, warehouse: str = "memory://here") -> World:
        catalog = bw.load_catalog("local", type="delta", warehouse=warehouse)
        objects = WatchedObjects(plain(catalog).objects)
        plain(catalog).objects = objects
        stream = catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
        table, arrays = slice_to_table(tokens(1, rows=1, width=4), TOKENS, where="")
        one = SliceData(to_storage(table, TOKENS), arrays)
        encoded = encode(
            [one, one],
            0,
            file_schema=stream.table.file_schema,
            compression="zstd",
            compression_level=1,
        )
        return cls(catalog, objects, encoded)

    @property
    def watch(self) -> Watch:
        return self.objects.watch

    def other(self) -> bw.Catalog:
        """The catalog as another process has it: it shares nothing but the objects."""
        found = bw.load_catalog("local", type="delta", warehouse="memory://elsewhere")
        plain(found).objects = self.objects
        return found

    def table(self) -> DeltaTable:
        """The table as another process opens it."""
        found = self.other().load_stream(NAME).table
        assert isinstance(found, DeltaTable)
        return found

    def writer(self, name: str = "p") -> Writer:
        return Writer(self, name)

    def log(self) -> list[str]:
        """Names of all files in the log, sorted."""
        found = self.objects.inner.list(f"{FOLDER}/{LOG}")
        return sorted(info.path.rpartition("/")[2] for info in found)

    def entry(self, version: int) -> list[dict[str, Any]]:
        """The actions of one entry of the log."""
        data, _ = self.objects.inner.get(f"{FOLDER}/{LOG}/{version:020d}.json")
        return [json.loads(line) for line in bytes(data).decode().splitlines()]

    def append(self, *actions: dict[str, Any]) -> int:
        """Commit as another program would; return the version."""
        version = max(int(name[:20]) for name in self.log() if name.endswith(".json")) + 1
        data = "\n".join(json.dumps(one) for one in actions).encode()
        self.objects.inner.create(f"{FOLDER}/{LOG}/{version:020d}.json", data)
        return version


class Writer:
    """A producer's session of its own process, and what it staged."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.table = world.table()
        self.session = Session(
            self.table, name, clock=SystemClock(), position_bytes_inline_max=4096
        )
        self.session.open()
        self.next = self.session.sequence + 1
        self.steps: dict[int, int] = {}

    def stage(self, count: int = 1, parts: int = 1) -> None:
        for sequence in range(self.next, self.next + count):
            encoded = tuple(self._part(sequence, index, parts) for index in range(parts))
            uploads = [self.session.upload(sequence, at, one) for at, one in enumerate(encoded)]
            self.session.stage(
                Staged(
                    sequence,
                    encoded,
                    tuple(part for part, _ in uploads),
                    min(version for _, version in uploads),
                    f'{{"json":{sequence}}}',
                    partial(self.steps.__setitem__, sequence),
                )
            )
        self.next += count

    def attempt(self) -> Committed | Lost | Unknown | None:
        outcome = self.session.attempt()
        if isinstance(outcome, Committed):
            self.table.tidy(outcome.head)
        return outcome

    def commit(self, count: int = 1, parts: int = 1) -> Head:
        """Stage and commit at once, reading the head as often as it takes."""
        self.stage(count, parts)
        while not isinstance(outcome := self.attempt(), Committed):
            assert isinstance(outcome, Lost)
        return outcome.head

    def _part(self, sequence: int, index: int, parts: int) -> EncodedPart:
        digest = f"{self.name}-{sequence}-{index}"
        one = self.world.encoded
        if parts == 1:
            return replace(one, digest=digest)
        return replace(
            one,
            digest=digest,
            first_slice=index * (one.slices // parts),
            slices=one.slices // parts,
            offsets=one.offsets[: one.slices // parts],
        )


def plain(catalog: bw.Catalog) -> DeltaCatalog:
    assert isinstance(catalog.tables, DeltaCatalog)
    return catalog.tables


def forget(table: DeltaTable) -> None:
    """Let a process remember no tag of any version."""
    memory = table._log.versions._memory
    assert isinstance(memory, Memory)
    memory.clear()


def every(table: DeltaTable, head: Head | None = None) -> list[BatchEntry]:
    head = head or table.head()
    return list(table.entries(head, 0, head.state.next_step))
