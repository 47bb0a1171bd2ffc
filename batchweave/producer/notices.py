"""Notices: what becomes of one opened producer, told to the stream's listeners.

Imports: standard library, clock, events, session, table.
"""

from __future__ import annotations

from collections.abc import Callable

from batchweave.clock import Clock
from batchweave.events import (
    BatchCommitted,
    Listeners,
    ProducerClosed,
    ProducerFailed,
    ProducerOpened,
)
from batchweave.session import Session
from batchweave.table import Part


class Notices:
    """Makes the events of one session. With nobody listening it does nothing.

    Attributes:
        error: why the producer ends, once something other than its owner's wish ends it.
    """

    def __init__(self, listeners: Listeners | None, session: Session, clock: Clock) -> None:
        self.error: BaseException | None = None
        self._listeners = Listeners() if listeners is None else listeners
        self._session = session
        self._clock = clock

    def opened(self) -> None:
        """The session has the name."""
        session = self._session
        if self._listeners.present:
            self._listeners.tell(
                ProducerOpened(
                    stream=session.table.name,
                    version=session.version,
                    at_ms=self._clock.now_ms(),
                    producer=session.name,
                    generation=session.generation,
                )
            )

    def before(
        self, landed: Callable[[int], None], sequence: int, parts: tuple[Part, ...]
    ) -> Callable[[int], None]:
        """``landed``, with a notice before it: what a caller sees committed was told of."""

        def told(step: int) -> None:
            session = self._session
            if self._listeners.present:
                self._listeners.tell(
                    BatchCommitted(
                        stream=session.table.name,
                        version=session.version,
                        at_ms=self._clock.now_ms(),
                        producer=session.name,
                        generation=session.generation,
                        sequence=sequence,
                        step=step,
                        rows=sum(part.rows for part in parts),
                        bytes=sum(part.bytes for part in parts),
                        files=len(parts),
                    )
                )
            landed(step)

        return told

    def failed(self, error: BaseException) -> None:
        """Nothing more will be committed."""
        session, self.error = self._session, error
        if self._listeners.present:
            self._listeners.tell(
                ProducerFailed(
                    stream=session.table.name,
                    version=session.version,
                    at_ms=self._clock.now_ms(),
                    producer=session.name,
                    generation=session.generation,
                    error=error,
                )
            )

    def closed(self, left: int) -> None:
        """All threads have stopped, and so many batches were not committed."""
        session = self._session
        if self._listeners.present:
            self._listeners.tell(
                ProducerClosed(
                    stream=session.table.name,
                    version=session.version,
                    at_ms=self._clock.now_ms(),
                    producer=session.name,
                    generation=session.generation,
                    left=left,
                    error=self.error,
                )
            )
