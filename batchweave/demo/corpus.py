"""What is tokenised: the sources of Python's standard library, cut into chunks and batches.

Everything here is a function of the files alone, so that a producer that comes back cuts exactly
as the one before it, and the proof knows what must be in the stream.
"""

from __future__ import annotations

import json
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import batchweave as bw
from batchweave.errors import InvalidInput

MESH = bw.Mesh(dp=4)
SLICES = MESH.slices
CHUNK_BYTES = 4096
CHUNKS_PER_BATCH = 2 * SLICES
PRODUCERS = 3
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("tokens", pa.list_(pa.int32()), nullable=False),
    ]
)

_SKIPPED = {"__pycache__", "dist-packages", "site-packages", "idle_test", "test", "tests"}


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its path below the corpus's root, and its size in bytes."""

    path: str
    size: int

    @property
    def chunks(self) -> int:
        """How many chunks it makes; an empty file makes one, so that it is not forgotten."""
        return max(1, -(-self.size // CHUNK_BYTES))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file; ``file`` is the file's number among its producer's."""

    file: int
    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """Which files there are, and which producer has which."""

    root: str
    label: str
    shares: tuple[tuple[Source, ...], ...]

    @property
    def sources(self) -> list[Source]:
        """All files."""
        return [source for share in self.shares for source in share]

    @property
    def size(self) -> int:
        """Bytes, and so tokens, of all files."""
        return sum(source.size for source in self.sources)

    @property
    def steps(self) -> int:
        """How many global batches all files make."""
        return sum(len(batch_chunks(share)) for share in self.shares)

    def read(self, source: Source) -> bytes:
        """The file as it is on the disk now."""
        return (Path(self.root) / source.path).read_bytes()

    def to_json(self) -> str:
        """The plan as a worker reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`."""
        value = json.loads(text)
        shares = tuple(tuple(Source(**one) for one in share) for share in value["shares"])
        return cls(value["root"], value["label"], shares)


def make_plan(
    root: Path | None = None, *, files: int | None = None, steps: int | None = None
) -> Plan:
    """Find the files and deal them; ``files`` and ``steps`` take only as many as that makes.

    Raises:
        InvalidInput: there are too few files for every producer to have a batch.
    """
    label = f"Python {platform.python_version()}'s standard library" if root is None else str(root)
    root = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    sources = find_sources(root)[:files]
    if steps is not None:
        sources = _about(sources, steps * CHUNKS_PER_BATCH)
    shares = deal(sources, PRODUCERS)
    if min(sum(source.chunks for source in share) for share in shares) < SLICES:
        raise InvalidInput(
            f"each of {PRODUCERS} producers needs at least {SLICES} chunks of {CHUNK_BYTES} bytes; "
            f"{len(sources)} files below {root} do not make that"
        )
    return Plan(str(root), label, shares)


def find_sources(root: Path) -> list[Source]:
    """All ``*.py`` files in UTF-8 below a folder, in the order of their paths, tests left out."""
    found = []
    for path in sorted(root.rglob("*.py")):
        below = path.relative_to(root)
        if _SKIPPED & set(below.parts) or not path.is_file():
            continue
        try:
            data = path.read_bytes()
            data.decode()
        except (OSError, UnicodeDecodeError):
            continue
        found.append(Source(below.as_posix(), len(data)))
    return found


def _about(sources: Sequence[Source], chunks: int) -> list[Source]:
    taken: list[Source] = []
    for source in sources:
        if chunks <= 0:
            break
        taken.append(source)
        chunks -= source.chunks
    return taken


def deal(sources: Sequence[Source], producers: int) -> tuple[tuple[Source, ...], ...]:
    """Deal files so that each producer has about as many chunks: the largest first."""
    shares: list[list[Source]] = [[] for _ in range(producers)]
    load = [0] * producers
    for source in sorted(sources, key=lambda one: (-one.size, one.path)):
        least = load.index(min(load))
        shares[least].append(source)
        load[least] += source.chunks
    return tuple(tuple(sorted(share, key=lambda one: one.path)) for share in shares)


def batch_chunks(share: Sequence[Source]) -> list[int]:
    """How many chunks each batch of a share has. The last takes what would leave a slice empty."""
    left = sum(source.chunks for source in share)
    found = []
    while left >= CHUNKS_PER_BATCH + SLICES:
        found.append(CHUNKS_PER_BATCH)
        left -= CHUNKS_PER_BATCH
    return [*found, left] if left else found


def offsets(source: Source) -> range:
    """Where the chunks of a file begin."""
    return range(0, max(1, source.size), CHUNK_BYTES)


def chunks_from(plan: Plan, producer: int, position: dict[str, int] | None) -> Iterator[Chunk]:
    """A producer's chunks, in order, from a position on."""
    place = position or {"file": 0, "offset": 0}
    for number, source in enumerate(plan.shares[producer]):
        if number < place["file"]:
            continue
        data = plan.read(source)
        for offset in offsets(source):
            if number > place["file"] or offset >= place["offset"]:
                yield Chunk(number, source.path, offset, data[offset : offset + CHUNK_BYTES])


def batches_from(
    plan: Plan, producer: int, position: dict[str, int] | None
) -> Iterator[tuple[list[list[Chunk]], dict[str, int]]]:
    """A producer's batches from a position on: the chunks of each slice, and the position after.

    The cuts are the same wherever one begins, because a position is always the end of a batch.
    """
    waiting: list[Chunk] = []
    for chunk in chunks_from(plan, producer, position):
        waiting.append(chunk)
        if len(waiting) == CHUNKS_PER_BATCH + SLICES:
            yield _laid(waiting[:CHUNKS_PER_BATCH]), _start(waiting[CHUNKS_PER_BATCH])
            del waiting[:CHUNKS_PER_BATCH]
    if waiting:
        yield _laid(waiting), {"file": len(plan.shares[producer]), "offset": 0}


def _start(chunk: Chunk) -> dict[str, int]:
    return {"file": chunk.file, "offset": chunk.offset}


def _laid(chunks: list[Chunk]) -> list[list[Chunk]]:
    count = len(chunks)
    return [chunks[at * count // SLICES : (at + 1) * count // SLICES] for at in range(SLICES)]


def to_table(chunks: Sequence[Chunk]) -> pa.Table:
    """Tokenise: one row a chunk, one token a byte, so that the text can be had back exactly."""
    tokens = [np.frombuffer(chunk.data, np.uint8).astype(np.int32) for chunk in chunks]
    ends = np.cumsum([0, *(len(one) for one in tokens)], dtype=np.int32)
    return pa.table(
        {
            "path": pa.array([chunk.path for chunk in chunks], pa.string()),
            "offset": pa.array([chunk.offset for chunk in chunks], pa.int64()),
            "tokens": pa.ListArray.from_arrays(ends, np.concatenate(tokens)),
        },
        schema=SCHEMA,
    )


def source_of(chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """A slice's origin in a few words, for its ``source`` column."""
    return [{"path": one.path, "offset": one.offset, "bytes": len(one.data)} for one in chunks]
