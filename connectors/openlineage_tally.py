"""What a producer's run has published: counted, and as few ranges of steps as hold it.

Imports: standard library, events, openlineage_facets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from batchweave.connectors.openlineage_facets import Amount, StepRange
from batchweave.events import BatchCommitted


@dataclass(slots=True)
class Tally:
    """Batches since something, each counted once. They come in the order of their steps."""

    batches: int = 0
    rows: int = 0
    bytes: int = 0
    files: int = 0
    version: int = 0
    ranges: list[StepRange] = field(default_factory=list)

    def add(self, event: BatchCommitted) -> None:
        """Count one batch."""
        self.batches += 1
        self.rows += event.rows
        self.bytes += event.bytes
        self.files += event.files
        self.version = event.version
        last = self.ranges[-1] if self.ranges else None
        if last is not None and event.step == last.last + 1:
            last.last = event.step
        else:
            self.ranges.append(StepRange(event.step, event.step))

    def count(self, other: Tally) -> None:
        """Add the sums of another, without its ranges."""
        self.batches += other.batches
        self.rows += other.rows
        self.bytes += other.bytes
        self.files += other.files

    def amount(self) -> Amount:
        """The sums, as facets hold them."""
        return Amount(self.batches, self.rows, self.bytes)
