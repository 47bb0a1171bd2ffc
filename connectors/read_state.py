"""The state of a reading run: which step comes next. Topology-free, versioned, JSON.

Owns the dictionary that `StreamDataset.state_dict` returns and what is refused when one is loaded.
Imports: standard library, the core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchweave.errors import InvalidInput, StepReclaimed, UnsupportedFormat
from batchweave.state import StreamState

STATE_VERSION = 1
SKIPPED_ROWS_KEPT = 64
"""How many of the rows left out are named in the state; all of them are counted."""

SkippedRow = tuple[int, int, int]
"""Step, slice, and the row within that slice."""


@dataclass(frozen=True, slots=True)
class ReadState:
    """The first step that the trainer has not received, and the rows that were left out so far.

    ``lanes`` is zero but in the snapshots that a worker process takes of itself: there,
    ``next_step`` is the next of every ``lanes``-th step.
    """

    stream: str
    next_step: int
    skipped_rows: int = 0
    skipped: tuple[SkippedRow, ...] = ()
    lanes: int = 0
    skips: bool = False
    """Whether rows may be left out; then the state always says how many were."""

    def received(self, step: int, skipped: Sequence[SkippedRow] = ()) -> ReadState:
        """The state after the trainer got ``step``, of which these rows were left out."""
        if not skipped:
            return replace(self, next_step=step + 1)
        return replace(
            self,
            next_step=step + 1,
            skipped_rows=self.skipped_rows + len(skipped),
            skipped=(*self.skipped, *skipped)[-SKIPPED_ROWS_KEPT:],
        )

    def to_dict(self) -> dict[str, Any]:
        """``{"version": 1, "stream": …, "next_step": n}``; more only if rows may be left out."""
        found: dict[str, Any] = {
            "version": STATE_VERSION,
            "stream": self.stream,
            "next_step": self.next_step,
        }
        if self.skips or self.skipped_rows:
            recent = [list(row) for row in self.skipped]
            found["skipped"] = {"rows": self.skipped_rows, "recent": recent}
        if self.lanes:
            found["lanes"] = self.lanes
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], stream: str, *, skips: bool = False) -> ReadState:
        """The inverse of `to_dict`, for a run that reads ``stream``.

        Raises:
            InvalidInput: not a state, or the state of another stream.
            UnsupportedFormat: written by a newer BatchWeave.
        """
        if not isinstance(values, Mapping) or "next_step" not in values:
            raise InvalidInput(
                f"a state is what state_dict() returned, {{'version', 'stream', 'next_step'}}, "
                f"got {_shown(values)}"
            )
        version = _whole(values.get("version"), "version")
        if version > STATE_VERSION:
            raise UnsupportedFormat(
                f"the state has version {version}, this BatchWeave reads up to {STATE_VERSION}: "
                "upgrade it, or resume with the BatchWeave that wrote the state"
            )
        if values.get("stream") != stream:
            raise InvalidInput(
                f"the state is of stream {values.get('stream')!r}, this run reads {stream!r}"
            )
        skipped = values.get("skipped", {})
        try:
            recent = tuple((int(s), int(p), int(r)) for s, p, r in skipped.get("recent", ()))
            rows = int(skipped.get("rows", 0))
        except (AttributeError, TypeError, ValueError):
            raise InvalidInput(f"the state's 'skipped' cannot be read: {_shown(skipped)}") from None
        next_step = _whole(values["next_step"], "next_step")
        lanes = _whole(values.get("lanes", 0), "lanes")
        return cls(stream, next_step, rows, recent, lanes, skips)


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(f"the state's {what} is a whole number from 0, got {value!r}")
    return value


def _shown(value: object) -> str:
    """Enough of a value to recognise it; a wrong one may be a whole model."""
    if isinstance(value, Mapping):
        return f"a mapping with keys {sorted(str(key) for key in value)[:8]}"
    return f"{type(value).__name__} {value!r:.80}"


def check_readable(state: ReadState, head: StreamState) -> None:
    """Refuse to resume where the stream has nothing, now or any more.

    Raises:
        InvalidInput: beyond the head: the state was taken on more than the stream holds.
        StepReclaimed: below the watermark.
    """
    if state.next_step > head.next_step:
        raise InvalidInput(
            f"the state resumes at step {state.next_step} of {state.stream}, which ends at step "
            f"{head.next_step}: it belongs to another stream of that name"
        )
    if state.next_step < head.watermark:
        raise StepReclaimed(
            f"the state resumes at step {state.next_step} of {state.stream}, whose data is kept "
            f"from step {head.watermark} on: register checkpoints that must stay resumable"
        )


def from_loader_state(values: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the dataset within that of torchdata's ``StatefulDataLoader``.

    What a loader saved with one number of workers resumes with any: give the result to
    `StreamDataset.load_state_dict` instead of giving ``values`` to the loader.

    Raises:
        InvalidInput: no state of a loader over a `StreamDataset`.
    """
    try:
        if values.get("dataset_state") is not None:
            return dict(values["dataset_state"])
        workers = values["_snapshot"]["_worker_snapshots"].values()
        states = [dict(worker["dataset_state"]) for worker in workers]
        first = min(states, key=lambda state: int(state["next_step"]))
        since = int(values["_steps_since_snapshot"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidInput(
            f"expected the state_dict() of a StatefulDataLoader over a StreamDataset, "
            f"got {_shown(values)}"
        ) from None
    first.pop("lanes", None)
    return {**first, "next_step": int(first["next_step"]) + since}
