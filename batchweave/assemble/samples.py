"""Samples: the rows of all sources in one order, each checked, and those that wait for a batch.

Imports: standard library, pyarrow, errors, and this package's draws, items, layouts, mixture,
skips, sources, state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from batchweave.assemble.draws import Draws
from batchweave.assemble.items import Item, sizes_of
from batchweave.assemble.layouts import Layout
from batchweave.assemble.mixture import Mixture
from batchweave.assemble.skips import Skips
from batchweave.assemble.sources import Chunk, Fault, Source, drift, normal_schema
from batchweave.assemble.state import config_of
from batchweave.errors import InvalidInput, InvalidSample, InvalidSettings, SchemaMismatch

AT_END = ("continue", "stop", "repeat")
ON_BAD = ("stop", "skip")
MIX_BY = ("rows", "tokens")
DEFAULT_NAME = "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How samples are ordered and checked; `Assembler` says what each means."""

    mix_by: str
    at_end: str
    seed: int
    shuffle_window: int
    on_bad: str

    def __post_init__(self) -> None:
        for name, choices in (("mix_by", MIX_BY), ("at_end", AT_END), ("on_bad", ON_BAD)):
            check_choice(name, getattr(self, name), choices)
        check_whole("shuffle_window", self.shuffle_window)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InvalidSettings(f"seed is a whole number, got {self.seed!r}")


class Samples:
    """The samples of a mixture of sources, in the order in which batches take them."""

    def __init__(
        self,
        sources: Source | Mapping[str, Source],
        layout: Layout,
        order: Order,
        weights: Mapping[str, float] | None,
    ) -> None:
        named = _named(sources)
        self.names = list(named)
        self.schema = _one_schema(named)
        self.skips = Skips()
        self.waiting: deque[Item] = deque()
        """Samples that were taken once and are in no batch yet: they come first."""
        self._layout = layout
        self._order = order
        self.config = config_of(named, order.seed, order.shuffle_window)
        self.mixture = Mixture(self.names, weights)
        self._given_weights = self.mixture.weights
        self._next_weights: dict[str, float] | None = None
        self._draws = [
            Draws(
                source,
                schema=self.schema,
                key=f"{order.seed}/{name}",
                window=order.shuffle_window,
                repeat=order.at_end == "repeat",
                on_fault=partial(self._fault, name),
            )
            for name, source in named.items()
        ]
        self._live = list(range(len(self._draws)))
        """Sources that have not ended."""

    @property
    def progress(self) -> float | None:
        """How much of all sources was read, 0.0 to 1.0; None if that cannot be known."""
        found = [draws.progress for draws in self._draws]
        known = [one for one in found if one is not None]
        return sum(known) / len(found) if len(known) == len(found) else None

    def rows_waiting(self) -> int:
        """Rows that wait, or of which a piece does."""
        return len({(item.source, item.draw) for item in self.waiting})

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """The weights from the next batch on."""
        self._next_weights = self.mixture.checked(weights)

    def begin_batch(self) -> None:
        """A batch begins: weights that were set hold from here on."""
        weights, self._next_weights = self._next_weights, None
        if weights is not None:
            self.mixture.set_weights(weights)

    def put_back(self, items: Sequence[Item]) -> None:
        """These come next, in this order."""
        self.waiting.extendleft(reversed(items))

    # -- taking ----------------------------------------------------------------------------

    def take(self) -> Item | None:
        """The next sample: one that waits, or one that is drawn. None at the end."""
        if self.waiting:
            return self.waiting.popleft()
        while (index := self._turn()) is not None:
            number = self._draws[index].drawn
            found = self._draws[index].draw()
            if found is None:
                self._live = [at for at in self._live if at != index]
                continue
            size = self._size(*found)
            items = self._usable(index, number, *found, size)
            if items and isinstance(size, int):
                if len(self._draws) > 1:
                    by_tokens = self._order.mix_by == "tokens"
                    self.mixture.charge(index, size if by_tokens else 1, self._live)
                self.waiting.extend(items[1:])
                return items[0]
        return None

    def _turn(self) -> int | None:
        """The source that gives the next sample; None if none does."""
        if len(self._live) == len(self._draws) == 1:
            return 0
        if self._order.at_end == "stop" and len(self._live) < len(self._draws):
            return None
        return self.mixture.choose(self._live)

    def _size(self, chunk: Chunk, row: int) -> int | str:
        """How much a row counts for, or why it cannot be counted."""
        if chunk.sizes is None:
            chunk.sizes = sizes_of(chunk, self._layout.column, self._layout.aligned)
        return chunk.sizes[row]

    def _usable(
        self, source: int, draw: int, chunk: Chunk, row: int, size: int | str, start: int = 0
    ) -> list[Item]:
        """The sample, or its pieces; none if it cannot be used and that is to be skipped."""
        limit = self._layout.capacity
        kind, reason = "row", str(size)
        if isinstance(size, int):
            whole = size == self._size(chunk, row)
            if limit is None or size <= limit:
                return [Item(source, draw, chunk, row, size, start, whole)]
            if self._layout.splits:
                end = start + size
                return [
                    Item(source, draw, chunk, row, min(limit, end - at), at, False)
                    for at in range(start, end, limit)
                ]
            kind, reason = "large", f"{size} tokens, more than the {limit} that have room"
        number = int(chunk.numbers[row])
        reason = f"{chunk.origin} row {number}: {reason}"
        if self._order.on_bad == "stop":
            raise InvalidSample(f"source {self.names[source]!r}: {reason}")
        self.skips.add(self.names[source], kind, reason, origin=chunk.origin, row=number)
        return []

    def _fault(self, name: str, fault: Fault) -> None:
        if self._order.on_bad == "stop":
            raise fault.error(name)
        self.skips.add(
            name, fault.kind, fault.reason, origin=fault.origin, row=fault.row, rows=fault.rows
        )

    # -- resuming --------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON."""
        oldest: dict[int, int] = {}
        carried = []
        for item in self.waiting:
            oldest[item.source] = min(item.draw, oldest.get(item.source, item.draw))
            piece = [] if item.whole else [item.start, item.size]
            carried.append([self.names[item.source], item.draw, *piece])
        return {
            "config": self.config,
            "sources": {
                name: draws.state(oldest.get(index))
                for index, (name, draws) in enumerate(zip(self.names, self._draws, strict=True))
            },
            "carried": carried,
            "mixture": {**self.mixture.state(), "given": self._given_weights},
            "skipped": self.skips.to_json(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a checked ``state`` was taken."""
        self.skips = Skips.from_json(state["skipped"])
        mixture = state["mixture"]
        # Sources that the state does not know wait for the new weights, which hold at once.
        known = {**dict.fromkeys(self.names, 0), **mixture["weights"]}
        self.mixture.restore({**mixture, "weights": known})
        if mixture["given"] != self._given_weights and self._next_weights is None:
            self._next_weights = self._given_weights
        carried: list[list[Any]] = state["carried"]
        found = {}
        for name, saved in state["sources"].items():
            wanted = {one[1] for one in carried if one[0] == name}
            found[name] = self._draws[self.names.index(name)].restore(saved, wanted)
        # One that had ended must not be owed anything: all choices after it would differ.
        self._live = [at for at, draws in enumerate(self._draws) if not draws.ended]
        self.waiting = deque()
        for name, draw, *piece in carried:
            if draw not in found[name]:
                self.skips.add(name, "changed", "a row that waited is gone", origin="", row=0)
                continue
            chunk, row = found[name][draw]
            start, size = piece or (0, self._size(chunk, row))
            index = self.names.index(name)
            self.waiting.extend(self._usable(index, draw, chunk, row, size, start))


def _named(sources: Source | Mapping[str, Source]) -> dict[str, Source]:
    found = {DEFAULT_NAME: sources} if isinstance(sources, Source) else dict(sources)
    if not found:
        raise InvalidInput("an assembler needs at least one source")
    for name, source in found.items():
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 64:
            raise InvalidInput(f"a source's name is 1 to 64 printable characters, got {name!r}")
        if not isinstance(source, Source):
            raise InvalidInput(f"{name!r} is no source: it has no schema, settings, read, progress")
    return found


def _one_schema(sources: Mapping[str, Source]) -> pa.Schema:
    (first, *others) = sources.items()
    schema = normal_schema(first[1].schema)
    for name, source in others:
        found = drift(source.schema, schema, exact=True)
        if found or source.schema.names != schema.names:
            raise SchemaMismatch(
                f"sources {first[0]!r} and {name!r} must have the same columns in the same order: "
                f"{found or source.schema.names}"
            )
    return schema


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise `InvalidSettings` unless the value is one of the choices."""
    if value not in choices:
        raise InvalidSettings(f"{name} is one of {', '.join(choices)}, got {value!r}")


def check_whole(name: str, value: int) -> None:
    """Raise `InvalidSettings` unless the value is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSettings(f"{name} is a whole number above 0, got {value!r}")
