"""Draws: the rows of one source, shuffled within windows, numbered, and found again.

A draw's number says which row it is for good: as long as source, seed and window are the same, draw
n is the same row, however the source's rows come in chunks and however often it was resumed. So a
row that waits for its batch is remembered as a number, and read again when it is needed.
Imports: standard library, numpy, pyarrow, sources.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from batchweave.assemble.sources import Chunk, Fault, Position, Source, as_schema, drift

_GAMMA = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def permutation(key: str, count: int) -> list[int]:
    """The numbers below ``count`` in an order that depends on ``key`` alone, on every machine.

    Source: each number is given the SplitMix64 hash of key and number (Steele, Lea, Flood, "Fast
    Splittable Pseudorandom Number Generators", 2014), and they are sorted by it.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA & _MASK)
    hashes = steps + np.uint64(seed)
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(_MIX[0])
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(_MIX[1])
    hashes ^= hashes >> np.uint64(31)
    return [int(at) for at in np.argsort(hashes, kind="stable")]


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows that were loaded together: a chunk, or a window in its shuffled order."""

    first: int
    start: Position
    window: int
    epoch: int
    told: int
    rows: list[tuple[Chunk, int]]

    @property
    def end(self) -> int:
        """The number of the draw behind the last one."""
        return self.first + len(self.rows)


def checked(chunk: Chunk, schema: pa.Schema) -> Chunk | Fault:
    """A chunk in exactly this schema, or the fault that it has another."""
    if chunk.rows.schema.equals(schema, check_metadata=True):
        return chunk
    reason = drift(chunk.rows.schema, schema, exact=True)
    try:
        if reason is None:
            return replace(chunk, rows=as_schema(chunk.rows, schema))
    except pa.ArrowException as error:
        reason = str(error)
    first, rows = int(chunk.numbers[0]), chunk.rows.num_rows
    where = f"{chunk.origin} row {first}: {reason}"
    return Fault("schema", where, chunk.after(), chunk.origin, first, rows)


class _PositionLost(Exception):
    """The source is not what the position was made from, and that is to be skipped."""


class Draws:
    """One source's rows as numbered draws.

    With a ``window`` above 1, each run of so many rows comes in an order that ``key`` and the
    window's number decide; the rows of one window are held in memory. With ``repeat`` the source
    begins again at its end, in another order.
    """

    def __init__(
        self,
        source: Source,
        *,
        schema: pa.Schema,
        key: str,
        window: int,
        repeat: bool,
        on_fault: Callable[[Fault], None],
    ) -> None:
        """``on_fault`` is told of rows that are left out; to stop, it raises."""
        self._source = source
        self._schema = schema
        self._key = key
        self._window_rows = window
        self._repeat = repeat
        self._on_fault = on_fault
        self._begin(None)

    def _begin(self, state: Mapping[str, Any] | None) -> None:
        state = state or {"at": None, "from": 0, "window": 0, "epoch": 0, "faults": 0}
        self.drawn = int(state["from"])
        """The number of the next draw."""
        self.ended = False
        self._position: Position = state["at"]
        self._window = int(state["window"])
        self._loaded = int(state.get("loaded", 0))
        self._epoch = int(state["epoch"])
        self._reader: Iterator[Chunk | Fault] | None = None
        self._peeked: Chunk | Fault | None = None
        self._barren = self._position is None
        self._chunk: Chunk | None = None
        self._chunk_at = 0
        self._blocks: deque[_Block] = deque()
        self._oldest = deque([self.drawn], maxlen=2)
        self._told = 0
        self._told_before = int(state["faults"])
        self._replaying = False

    # -- drawing ---------------------------------------------------------------------------

    def draw(self) -> tuple[Chunk, int] | None:
        """The next row, or None at the end."""
        while not self.ended:
            block = self._blocks[-1] if self._blocks else None
            if block is not None and self.drawn - block.first < len(block.rows):
                found = block.rows[self.drawn - block.first]
                self.drawn += 1
                return found
            self._load()
        return None

    def _load(self) -> None:
        """Add the next block, or find that the source has ended."""
        some = self._fetch()
        start, told = self._position, self._told  # behind faults that come before its first row
        rows = self._rows_of_block() if some else []
        if rows:
            block = _Block(self.drawn, start, self._window, self._epoch, told, rows)
            self._blocks.append(block)
            self._window += 1
            self._barren = False
        elif self._repeat and not self._barren:
            self._epoch += 1
            self._position, self._reader, self._barren = None, None, True
        else:
            self.ended = True

    def _rows_of_block(self) -> list[tuple[Chunk, int]]:
        if self._window_rows == 1:
            return self._take(None)
        count = self._window_rows
        if self.drawn < self._loaded:  # what the source got behind a short window is in the next
            count = min(count, self._loaded - self.drawn)
        rows = self._take(count)
        while len(rows) < count and self._fetch():
            rows += self._take(count - len(rows))
        return [rows[at] for at in permutation(f"{self._key}/{self._window}", len(rows))]

    def _fetch(self) -> bool:
        """Have a chunk with rows left; False at the end. Faults on the way are told."""
        while self._chunk is None:
            found = self._peek()
            self._peeked = None
            if found is None:
                return False
            if isinstance(found, Chunk) and found.rows.num_rows:
                found = checked(found, self._schema)
            if isinstance(found, Fault):
                self._skip(found)
            elif found.rows.num_rows:
                self._chunk, self._chunk_at = self._of_epoch(found), 0
        return True

    def _of_epoch(self, chunk: Chunk) -> Chunk:
        if chunk.epoch != self._epoch:
            chunk = replace(chunk)  # the source may give the same object again
            chunk.epoch = self._epoch
        return chunk

    def _peek(self) -> Chunk | Fault | None:
        if self._peeked is None:
            if self._reader is None:
                self._reader = self._source.read(self._position)
            self._peeked = next(self._reader, None)
        return self._peeked

    def _take(self, count: int | None) -> list[tuple[Chunk, int]]:
        """Use up rows of the current chunk: ``count`` at most, or all that are left."""
        chunk, first = self._chunk, self._chunk_at
        assert chunk is not None
        end = chunk.rows.num_rows if count is None else min(first + count, chunk.rows.num_rows)
        if end == chunk.rows.num_rows:
            self._chunk, self._position = None, chunk.after()
        else:
            self._chunk_at, self._position = end, chunk.at(end)
        return [(chunk, row) for row in range(first, end)]

    def _skip(self, fault: Fault) -> None:
        self._told += 1
        if fault.of_position or self._told > self._told_before:
            self._on_fault(fault)
        self._position = fault.position
        if fault.of_position and self._replaying:
            raise _PositionLost

    # -- resuming --------------------------------------------------------------------------

    def state(self, oldest: int | None = None) -> dict[str, Any]:
        """What `restore` needs to draw what follows, and again those from ``oldest`` on.

        A batch may be taken apart again after its state was taken: so what one of the two calls
        before asked for is kept.
        """
        oldest = self.drawn if oldest is None else oldest
        while self._blocks and self._blocks[0].end <= min(self._oldest):
            self._blocks.popleft()
        self._oldest.append(oldest)
        block = next((one for one in self._blocks if one.end > oldest), None)
        at, first, window, epoch = self._position, self.drawn, self._window, self._epoch
        told = self._told
        if block is not None:
            at, first, window, epoch = block.start, block.first, block.window, block.epoch
            told = block.told
            if self._window_rows == 1:
                chunk, row = block.rows[oldest - first]
                at, first = chunk.at(row), oldest
        # Where the newest window ends: it may be short, at the end of a source that grows later.
        shuffled = self._window_rows > 1 and self._blocks
        loaded = max(self.drawn, self._blocks[-1].end) if shuffled else self.drawn
        return {
            "at": at,
            "from": first,
            "window": 0 if self._window_rows == 1 else window,  # of chunks nobody keeps count
            "epoch": epoch,
            # Those that were told before this was resumed count, too, before they are met again.
            "faults": max(self._told, self._told_before) - told,
            "drawn": self.drawn,
            "loaded": loaded,
            "epoch_drawn": self._epoch,
            "ended": self.ended,
        }

    def restore(
        self, state: Mapping[str, Any], wanted: Collection[int]
    ) -> dict[int, tuple[Chunk, int]]:
        """Go to where ``state`` was taken, and return the earlier draws that are still wanted.

        A source that is not what it was is told as a fault; if that is to be skipped, drawing goes
        on where the source says, and no wanted draw is found. One that had ended has still ended,
        unless there is more behind its end by now.
        """
        self._begin(state)
        drawn = int(state["drawn"])
        found: dict[int, tuple[Chunk, int]] = {}
        self._replaying = True
        try:
            while self.drawn < drawn:
                number, row = self.drawn, self.draw()
                if row is None or self._epoch > int(state["epoch_drawn"]):
                    self._skip(self._rows_gone(drawn - number))
                elif number in wanted:
                    found[number] = row
            if self._position is not None and self._reader is None:
                first = self._peek()  # a position that does not fit is said at once
                if isinstance(first, Fault) and first.of_position:
                    self._fetch()
            # Positions of older versions do not say it: there the next draw finds out.
            self.ended = bool(state.get("ended")) and not self._has_more()
        except _PositionLost:
            found = {}
            self._blocks.clear()
            self.drawn, self.ended = drawn, False
        self._replaying = False
        return found

    def _has_more(self) -> bool:
        """Whether anything follows what was drawn: rows, or a fault that was not told yet."""
        if self._chunk is not None or (self._blocks and self.drawn < self._blocks[-1].end):
            return True
        while (found := self._peek()) is not None:
            if isinstance(found, Chunk):
                if found.rows.num_rows:
                    return True
            elif found.of_position or self._told >= self._told_before:
                return True
            else:
                self._skip(found)
            self._peeked = None
        return False

    def _rows_gone(self, count: int) -> Fault:
        reason = f"it ends {count} rows before the position"
        return Fault("shrunk", reason, self._position, "", rows=0)

    @property
    def progress(self) -> float | None:
        """How much of the source was loaded; None if it repeats, or nobody can know."""
        return None if self._repeat else self._source.progress(self._position)
