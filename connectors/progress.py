"""Progress: what the trainer has received, counted in the process that trains.

One `Progress` a dataset. An iteration has a token; a newer iteration, or a state that was loaded,
makes the tokens before it void, so that what an old iterator still holds cannot count.
Imports: standard library, the core, read_state, reading_stats.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from batchweave.connectors.read_state import ReadState, SkippedRow
from batchweave.connectors.reading_stats import Counts
from batchweave.errors import InvalidInput, StreamCorrupted


class Progress:
    """The state of a run, and whose deliveries change it. Safe to use from several threads."""

    def __init__(self, state: ReadState, counts: Counts) -> None:
        self._state = state
        self._counts = counts
        self._token = 0
        self._iteration_start = state.next_step
        self._lock = threading.Lock()

    @property
    def state(self) -> ReadState:
        """The state after the last step that the trainer received."""
        with self._lock:
            return self._state

    @property
    def iteration_start(self) -> int:
        """Where the newest iteration began; where the next one will, if a state was loaded."""
        with self._lock:
            return self._iteration_start

    def load(self, state: ReadState) -> None:
        """Go on from another state, with the next iteration."""
        with self._lock:
            self._token += 1
            self._state = state
            self._iteration_start = state.next_step

    def begin(self) -> tuple[int, int]:
        """A new iteration: its token, and the step it starts with."""
        with self._lock:
            self._token += 1
            self._iteration_start = self._state.next_step
            return self._token, self._state.next_step

    def started(self, token: int, first: int) -> None:
        """The iteration goes on where its workers were told to, by states of their own."""
        with self._lock:
            if token == self._token and first != self._state.next_step:
                self._state = replace(self._state, next_step=first)
                self._iteration_start = first

    def check(self, token: int) -> None:
        """Raise `InvalidInput` if the iteration was replaced by a newer one."""
        with self._lock:
            self._check(token)

    def _check(self, token: int) -> None:
        if token != self._token:
            raise InvalidInput(
                "this iterator is void: its dataset was iterated anew, or a state was loaded "
                "into it. Use one iterator of a dataset at a time"
            )

    def received(
        self, token: int, step: int | None, skipped: Sequence[SkippedRow], waited_s: float
    ) -> None:
        """The trainer gets the next step. ``step`` is what the element says of itself, if it does.

        Raises:
            InvalidInput: the iteration was replaced by a newer one.
            StreamCorrupted: it is not the step that is due.
        """
        with self._lock:
            self._check(token)
            due = self._state.next_step
            if step is not None and step != due:
                raise StreamCorrupted(
                    f"step {step} of {self._state.stream} came where step {due} is due"
                )
            self._state = self._state.received(due, skipped)
        self._counts.add(steps=1, waited_s=waited_s)
