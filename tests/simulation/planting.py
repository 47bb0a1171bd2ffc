"""How a protocol bug is planted, and how it is hunted.

Each is a patch of the code under test while it is entered, for one or both kinds of table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from tests.simulation.faults import named
from tests.simulation.run import Result, simulate

BOTH = ("register", "iceberg")
REGISTER = ("register",)
ICEBERG = ("iceberg",)


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug: how to plant it, in which kinds of table, and within how many seeds it is found.

    ``profile`` names the faults that it is hunted with; None leaves them to the seed.
    """

    name: str
    kinds: tuple[str, ...]
    tested: tuple[str, ...]
    seeds_max: int
    profile: str | None
    plant: Callable[[str], contextlib.AbstractContextManager[Any]]

    def hunt(self, kind: str, start: int = 0) -> tuple[int, Result] | None:
        """How many seeds it took to catch it, and the history; None if it got away."""
        profile = named(self.profile) if self.profile else None
        with self.plant(kind):
            for count in range(1, self.seeds_max + 1):
                result = simulate(start + count - 1, kind, profile)
                if not result.ok:
                    return count, result
        return None


class Bugs(list[Planted]):
    """Bugs of one subject; as a decorator it adds one under its function's name.

    ``tested`` are the kinds where every run of the tests hunts it; the others take longer.
    """

    def __call__(
        self,
        kinds: tuple[str, ...],
        seeds_max: int = 200,
        tested: tuple[str, ...] = REGISTER,
        profile: str | None = None,
    ) -> Callable[[Callable[[str], Iterator[None]]], None]:
        def add(function: Callable[[str], Iterator[None]]) -> None:
            plant = contextlib.contextmanager(function)
            self.append(Planted(function.__name__, kinds, tested, seeds_max, profile, plant))

        return add


def swap(owner: Any, name: str, value: Any) -> Any:
    """Put something else in a thing's place, while entered."""
    return mock.patch.object(owner, name, value)
