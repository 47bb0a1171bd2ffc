"""Which workers are killed, and when: chosen by a seed, timed by what the worker has done."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchweave.demo.corpus import PRODUCERS, SLICES, Plan, batch_chunks
from batchweave.errors import InvalidInput

FROM = 0.25
TO = 0.5
BATCHES_MIN = 6


@dataclass
class Kill:
    """One planned kill: which worker, at which of its batches; then what came of it.

    ``back`` says where the worker resumed; ``unproven`` why that proves nothing about restarts.
    """

    worker: str
    at: int
    total: int
    killed_s: float | None = None
    steps_then: int = 0
    restarted: bool = False
    back: str = ""
    unproven: str = "it was done before it could be killed"

    def is_due(self, told: Mapping[str, Any]) -> bool:
        """Whether now is the moment: a producer must have batches committed and on their way."""
        if self.killed_s is not None:
            return False
        if "step" in told:
            return int(told["step"]) + 1 >= self.at
        published, pending = int(told["sequence"]) + 1, int(told["pending"])
        return published >= self.at and 0 < pending < published

    def take_back(self, plan: Plan, told: Mapping[str, Any]) -> None:
        """Take what the worker says when it is up again."""
        if "resumed" in told:
            begun, done = told["resumed"] > 0, told["resumed"] >= self.total
            self.back = f"resumes at step {told['resumed']}"
        else:
            share = plan.shares[int(self.worker.partition("-")[2])]
            position = told["position"] or {"file": 0, "offset": 0}
            begun, done = told["position"] is not None, position["file"] >= len(share)
            self.back = f"generation {told['generation']} "
            if done:
                self.back += "finds nothing left to do"
            else:
                self.back += f"resumes in {share[position['file']].path}"
            if position["offset"]:
                self.back += f" at byte {position['offset']:,}"
        self.unproven = ""
        if not begun or done:
            when = "after all" if done else "before any"
            self.unproven = f"it was killed {when} of its work was done"


def plan_kills(plan: Plan, seed: int) -> list[Kill]:
    """Choose one producer and one rank, and the batch at which each is killed.

    Raises:
        InvalidInput: there are so few batches that no kill would be in the middle.
    """
    producer, rank = _pick(seed, "producer", PRODUCERS), _pick(seed, "rank", SLICES)
    kills = [
        Kill(f"producer-{producer}", 0, len(batch_chunks(plan.shares[producer]))),
        Kill(f"rank-{rank}", 0, plan.steps),
    ]
    for kill in kills:
        if kill.total < BATCHES_MIN:
            raise InvalidInput(
                f"{kill.worker} would have {kill.total} batches, a kill in the middle takes "
                f"{BATCHES_MIN}: take more files, or --no-kill"
            )
        share = FROM + (TO - FROM) * _pick(seed, kill.worker, 1000) / 1000
        kill.at = max(2, int(kill.total * share))
    return kills


def _pick(seed: int, what: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:8], "big") % count
