"""Events: what this process does to a stream, told to whoever listens.

A listener hears of what went through the `Stream` object that it was given to, after it is
durable: each batch once. It is called in the thread that did it (for batches the one that commits),
so it returns at once and waits for nobody; what takes time it hands to a thread of its own.
Whatever it raises is logged, once, and changes nothing.
Imports: standard library.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

_log = logging.getLogger("batchweave.events")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """Something that happened to a stream.

    ``version`` is the table version at which it was seen, ``at_ms`` this machine's clock, in
    milliseconds since 1970 (UTC).
    """

    stream: str
    version: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOpened(StreamEvent):
    """A producer has taken its name; earlier openers of it are fenced."""

    producer: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCommitted(StreamEvent):
    """A batch is in the stream. ``bytes`` are those of its ``files``."""

    producer: str
    generation: int
    sequence: int
    step: int
    rows: int
    bytes: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerFailed(StreamEvent):
    """A producer will commit nothing more, and why: it was fenced, the stream was sealed, …"""

    producer: str
    generation: int
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerClosed(StreamEvent):
    """A producer was closed, also after it failed; the last that is heard of it.

    ``left`` are batches that were published and not committed. ``error`` is what it failed of, or
    what made its caller leave the ``with`` block.
    """

    producer: str
    generation: int
    left: int
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRegistered(StreamEvent):
    """A model checkpoint that has consumed all steps below ``next_step`` is in the stream."""

    checkpoint: str
    consumer: str
    next_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDropped(StreamEvent):
    """A checkpoint was forgotten, by its owner or by a reclaim's policy."""

    checkpoint: str
    consumer: str
    next_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsReclaimed(StreamEvent):
    """One commit took the steps from ``start`` to below ``watermark`` out of the table.

    ``rows``, ``bytes`` and ``files`` are theirs.
    """

    start: int
    watermark: int
    rows: int
    bytes: int
    files: int


Listener: TypeAlias = Callable[[StreamEvent], object]
"""Anything that can be called with an event. It returns at once."""


class Listeners:
    """Those who listen to one stream. Safe to use from many threads."""

    def __init__(self) -> None:
        self._all: tuple[Listener, ...] = ()
        self._lock = threading.Lock()
        self._failed: set[int] = set()

    @property
    def present(self) -> bool:
        """Whether anybody listens. Nobody need make an event for nobody."""
        return bool(self._all)

    def add(self, listener: Listener) -> Callable[[], None]:
        """Have a listener told from now on; what is returned ends that."""
        with self._lock:
            self._all = (*self._all, listener)

        def stop() -> None:
            with self._lock:
                self._all = tuple(one for one in self._all if one is not listener)

        return stop

    def tell(self, event: StreamEvent) -> None:
        """Call every listener. Never raises for one of them."""
        for listener in self._all:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - what was done is done, whoever hears of it
                if id(listener) not in self._failed:
                    self._failed.add(id(listener))
                    # Not its text: that may hold what only the listener may know.
                    _log.warning(
                        "a listener of %s raised %s when told of a %s; this is said once",
                        event.stream,
                        type(error).__name__,
                        type(event).__name__,
                    )
