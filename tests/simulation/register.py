"""A small, fast `Table`: a versioned register of whole states, for histories by the thousand.

Version N is one object ``register/v<N>.json``, written with put-if-absent; old ones are cleaned up,
oldest first, and a writer checks afterwards that its base is still there. The protocol is that of
`batchweave.catalogs.object_store`, without Iceberg; the session, commit and state code is the real.
A commit that moves the watermark takes the batches below it out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import pyarrow as pa

from batchweave.clock import Clock
from batchweave.errors import (
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    StreamCorrupted,
)
from batchweave.mesh import Mesh
from batchweave.objects import Objects
from batchweave.state import StreamState, from_properties, to_properties
from batchweave.table import (
    FILE_COLUMNS,
    BatchEntry,
    Change,
    Committed,
    Head,
    Lost,
    Outcome,
    Part,
    Unknown,
)
from tests.simulation.content import MESH, SCHEMA

FOLDER = "register"
POLLS_PER_LIST = 4

_NAME = re.compile(r"v(\d+)\.json")


def version_path(number: int) -> str:
    """Where a version lies."""
    return f"{FOLDER}/v{number}.json"


@dataclass(frozen=True, slots=True)
class Detail:
    """What a head of the register remembers: the object's tag, and its batches, a line each."""

    tag: str
    lines: tuple[str, ...]


class RegisterTable:
    """`batchweave.table.Table` over one object a version."""

    def __init__(
        self,
        objects: Objects,
        clock: Clock,
        *,
        name: str = "simulated.register",
        schema: pa.Schema = SCHEMA,
        mesh: Mesh = MESH,
        versions_kept: int = 4,
        tidy_every: int = 3,
    ) -> None:
        self._objects = objects
        self._clock = clock
        self._name = name
        self._schema = schema
        self._mesh = mesh
        self._versions_kept = versions_kept
        self._tidy_every = tidy_every
        self._polls = 0

    @classmethod
    def created(cls, objects: Objects, state: StreamState) -> None:
        """Write version 0."""
        objects.create(version_path(0), _document(0, "first", state, ()))

    # -- what it is ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def id(self) -> str:
        return self._name

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    @property
    def file_schema(self) -> pa.Schema:
        return physical(self._schema)

    @property
    def mesh(self) -> Mesh:
        return self._mesh

    @property
    def objects(self) -> Objects:
        return self._objects

    # -- reading ---------------------------------------------------------------------------

    def head(self, known: Head | None = None) -> Head:
        if known is not None and self._looks_idle(known.version):
            return known
        while True:
            versions = self._versions()
            number = max(versions)
            try:
                data, tag = self._objects.get(version_path(number))
            except ObjectNotFound:
                continue  # cleaned up while we looked
            if self._is_the_listed(tag, versions[number]):
                return _head(bytes(data), tag)

    def entries(self, head: Head, start: int, stop: int) -> Iterator[BatchEntry]:
        expected = start
        for batch in map(_batch, head.detail.lines):
            if not start <= batch.step < stop:
                continue
            if batch.step != expected:
                raise StreamCorrupted(f"step {expected} is missing or twice, found {batch.step}")
            expected += 1
            yield batch
        if expected < min(stop, head.state.next_step):
            raise StreamCorrupted(f"step {expected} is missing")

    def _looks_idle(self, number: int) -> bool:
        self._polls += 1
        if self._polls % POLLS_PER_LIST == 0:
            return max(self._versions()) == number
        try:
            self._objects.head(version_path(number + 1))
        except ObjectNotFound:
            return True
        return False

    def _is_the_listed(self, tag: str, listed: str) -> bool:
        """Whether what was read is what was listed, and not a sleeper's work in its place."""
        return tag == listed

    def _versions(self) -> dict[int, str]:
        """Numbers and version tags."""
        found = {}
        for one in self._objects.list(FOLDER):
            match = _NAME.fullmatch(one.path.rpartition("/")[2])
            if match:
                found[int(match.group(1))] = one.e_tag
        return found

    # -- committing ------------------------------------------------------------------------

    def commit(self, base: Head, change: Change) -> Outcome:
        number = base.version + 1
        lines = (*self._kept(base, change.state.watermark), *map(_line, change.added))
        data = _document(number, self._clock.token(), change.state, lines)
        try:
            tag = self._write(number, data)
            genuine = self._still_there(base)
        except ObjectExists:
            return Lost()
        except StoreUnavailable as error:
            return Unknown(error)
        if not genuine:
            return Unknown(StoreUnavailable(f"version {base.version} was cleaned up meanwhile"))
        return Committed(Head(number, change.state, Detail(tag, lines)))

    def _kept(self, base: Head, watermark: int) -> tuple[str, ...]:
        """The base's lines that a commit leaves in the table."""
        lines: tuple[str, ...] = base.detail.lines
        if watermark == base.state.watermark:
            return lines
        return tuple(line for line in lines if _batch(line).step >= watermark)

    def _write(self, number: int, data: bytes) -> str:
        return self._objects.create(version_path(number), data)

    def _still_there(self, base: Head) -> bool:
        try:
            return bool(self._objects.head(version_path(base.version)).e_tag == base.detail.tag)
        except ObjectNotFound:
            return False

    # -- upkeep ----------------------------------------------------------------------------

    def tidy(self, head: Head) -> None:
        if head.version % self._tidy_every:
            return
        try:
            newest = head.version - self._versions_kept
            self._delete_versions(sorted(one for one in self._versions() if one <= newest))
        except StoreError:
            pass

    def _delete_versions(self, ascending: list[int]) -> None:
        for number in ascending:
            self._objects.delete([version_path(number)])


@cache
def physical(schema: pa.Schema) -> pa.Schema:
    """The files' schema: the declared columns, then those that every file has."""
    return pa.schema([*schema, *FILE_COLUMNS.items()])


def document(data: bytes) -> tuple[int, StreamState, list[BatchEntry]]:
    """Version, state and batches of a version's bytes."""
    version, state, lines = _parsed(data)
    return version, state, [_batch(line) for line in lines]


def _document(number: int, token: str, state: StreamState, lines: tuple[str, ...]) -> bytes:
    header = json.dumps({"version": number, "token": token, "properties": to_properties(state)})
    return "\n".join((header, *lines)).encode()


@lru_cache(maxsize=1024)
def _parsed(data: bytes) -> tuple[int, StreamState, tuple[str, ...]]:
    header, *lines = data.decode().split("\n")
    found = json.loads(header)
    return found["version"], from_properties(found["properties"], "register"), tuple(lines)


def _head(data: bytes, tag: str) -> Head:
    version, state, lines = _parsed(data)
    return Head(version, state, Detail(tag, lines))


def _line(batch: BatchEntry) -> str:
    parts = [
        (
            part.path,
            part.digest,
            part.first_slice,
            part.slices,
            part.rows,
            part.bytes,
            part.offsets,
            part.data_end,
            part.column_bytes,
            part.source,
        )
        for part in batch.parts
    ]
    fields = (batch.step, batch.producer, batch.sequence, batch.committed_at_ms, parts)
    return json.dumps(fields)


@lru_cache(maxsize=4096)
def _batch(line: str) -> BatchEntry:
    step, producer, sequence, committed_at_ms, parts = json.loads(line)
    return BatchEntry(step, producer, sequence, committed_at_ms, tuple(map(_part, parts)))


def _part(fields: list[Any]) -> Part:
    part = Part(*fields)
    return replace(part, offsets=tuple(part.offsets), column_bytes=tuple(part.column_bytes))
