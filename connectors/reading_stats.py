"""What reading a stream has cost so far: `ReadingStats`, and the counts that it is made of.

Imports: standard library.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ReadingStats:
    """What one `StreamDataset` did in this process since it was made.

    Attributes:
        steps: elements that the trainer received.
        next_step: the first step that it has not.
        waited_s: seconds that it spent waiting for them.
        bytes: bytes of their columns in memory, before transforms.
        fetched_bytes: bytes of data files that came from the store; local files are not counted.
        requests: requests to the store for data files, one a range, and local files opened.
        cache_hits, cache_misses: ranges found in the local cache, and not.
        prefetched: steps that are ready now and wait for the trainer.
        skipped_rows: rows left out because a transform failed on them, of all runs resumed from.
    """

    steps: int
    next_step: int
    waited_s: float
    bytes: int
    fetched_bytes: int
    requests: int
    cache_hits: int
    cache_misses: int
    prefetched: int
    skipped_rows: int

    def to_dict(self) -> dict[str, Any]:
        """The same as a dictionary."""
        return asdict(self)


class Counts:
    """Sums that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.steps = 0
        self.waited_s = 0.0
        self.bytes = 0
        self.fetched_bytes = 0
        self.requests = 0
        self.cache_hits = 0
        self.cache_misses = 0

    def add(
        self,
        *,
        steps: int = 0,
        waited_s: float = 0.0,
        bytes: int = 0,  # noqa: A002 - the attribute's name
        fetched_bytes: int = 0,
        requests: int = 0,
        cache_hits: int = 0,
        cache_misses: int = 0,
    ) -> None:
        """Add to the sums, all at once."""
        with self._lock:
            self.steps += steps
            self.waited_s += waited_s
            self.bytes += bytes
            self.fetched_bytes += fetched_bytes
            self.requests += requests
            self.cache_hits += cache_hits
            self.cache_misses += cache_misses
