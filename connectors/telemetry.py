"""The figures of `StreamDataset.stats` as OpenTelemetry metrics, where that package is installed.

Nothing has to be switched on: what a program's meter provider exports includes them. Datasets of
one stream and rank are one series: their sums together, and the furthest ``next_step``.
Imports: standard library, reading_stats, opentelemetry if it is there.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from batchweave.connectors.placement import Placement
from batchweave.connectors.reading_stats import ReadingStats

try:
    from opentelemetry import metrics
except ModuleNotFoundError:
    metrics = None  # type: ignore[assignment]  # the package is optional

INSTALLED = metrics is not None

SUMS = {
    "steps": ("batchweave.reader.steps", "{step}", "Steps that the trainer received"),
    "waited_s": ("batchweave.reader.wait", "s", "Time that the trainer waited for data"),
    "bytes": ("batchweave.reader.bytes", "By", "Bytes of columns read"),
    "fetched_bytes": ("batchweave.reader.fetched", "By", "Bytes of data files from the store"),
    "requests": ("batchweave.reader.requests", "{request}", "Requests for data files"),
    "cache_hits": ("batchweave.reader.cache.hits", "{range}", "Ranges found in the local cache"),
    "cache_misses": ("batchweave.reader.cache.misses", "{range}", "Ranges not found in it"),
    "skipped_rows": ("batchweave.reader.rows.skipped", "{row}", "Rows left out by on_error='skip'"),
}
LEVELS = {
    "next_step": ("batchweave.reader.next_step", "{step}", "First step not received yet"),
    "prefetched": ("batchweave.reader.prefetched", "{step}", "Steps that are ready"),
}


class Measured(Protocol):
    """A dataset, as far as its figures go."""

    @property
    def name(self) -> str:
        """Its stream's name."""
        ...

    @property
    def placement(self) -> Placement:
        """Its rank."""
        ...

    def stats(self) -> ReadingStats:
        """Its figures."""
        ...


_lock = threading.Lock()
_datasets: weakref.WeakSet[Any] = weakref.WeakSet()
_registered = False


def observe(dataset: Measured) -> None:
    """Have a dataset's figures exported for as long as it lives."""
    global _registered
    if not INSTALLED:
        return
    with _lock:
        _datasets.add(dataset)
        if _registered:
            return
        _registered = True
    meter = metrics.get_meter("batchweave")
    for field, (name, unit, text) in SUMS.items():
        meter.create_observable_counter(name, [_reader(field)], unit, text)
    for field, (name, unit, text) in LEVELS.items():
        meter.create_observable_gauge(name, [_reader(field)], unit, text)


def _reader(field: str) -> Callable[[Any], Iterable[Any]]:
    def observed(options: Any) -> Iterable[Any]:
        with _lock:
            datasets = list(_datasets)
        found: dict[tuple[str, int], float] = {}
        for dataset in datasets:
            place, value = (dataset.name, dataset.placement.rank), getattr(dataset.stats(), field)
            known = found.get(place, 0)
            found[place] = max(known, value) if field == "next_step" else known + value
        for (stream, rank), value in found.items():
            labels: dict[str, Any] = {"batchweave.stream": stream, "batchweave.rank": rank}
            yield metrics.Observation(value, labels)

    return observed
