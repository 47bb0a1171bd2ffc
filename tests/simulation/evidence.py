"""What the invariants look at, and how they are written down.

An invariant is a function from the evidence to what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.simulation.content import Encoder, Item
from tests.simulation.record import Final, FinalRow, Record


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise; ``marks`` are texts whose lines of history matter most."""

    invariant: str
    message: str
    marks: tuple[str, ...] = ()


@dataclass(slots=True)
class Evidence:
    """What the invariants look at."""

    record: Record
    final: Final
    encoder: Encoder
    _batches: dict[int, list[FinalRow]] = field(default_factory=dict)

    def batches(self) -> dict[int, list[FinalRow]]:
        """The rows of every step, reclaimed or in the final table, by step, in order."""
        if not self._batches:
            for row in (*self.final.former, *self.final.rows):
                self._batches.setdefault(row.step, []).append(row)
        return self._batches

    def live(self) -> dict[int, list[FinalRow]]:
        """The final table's rows by step, in order."""
        found: dict[int, list[FinalRow]] = {}
        for row in self.final.rows:
            found.setdefault(row.step, []).append(row)
        return found

    def item(self, row: FinalRow) -> Item | None:
        """What a row's file carries, if it can be read."""
        if row.data is None:
            return None
        try:
            return self.encoder.item(row.data)
        except Exception:  # noqa: BLE001 - foreign bytes may fail in any way
            return None


Finding: TypeAlias = tuple[str, tuple[str, ...]]
Invariant: TypeAlias = Callable[[Evidence], Iterator[Finding]]


class Invariants(list[Invariant]):
    """Invariants of one subject; used as a decorator it adds one."""

    def __call__(self, function: Invariant) -> Invariant:
        self.append(function)
        return function


def violations(evidence: Evidence, *subjects: Invariants) -> list[Violation]:
    """Everything that is wrong, each with the seed, and the step or producer that it is about."""
    seed = evidence.record.seed
    return [
        Violation(one.__name__, f"seed {seed}: {message}", marks)
        for subject in subjects
        for one in subject
        for message, marks in one(evidence)
    ]


def batch_name(producer: str, sequence: int) -> str:
    """A batch as messages name it."""
    return f"producer {producer!r} sequence {sequence}"


def batch_marks(producer: str, sequence: int) -> tuple[str, ...]:
    """Texts that the lines of history about a batch have."""
    return (f"-q{sequence}-", f"{producer} {sequence}")
