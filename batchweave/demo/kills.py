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

    ``back`` says where the worker resumed; ``wrong`` why that proves nothing.
    """

    worker: str
    at: int
    total: int
    killed_s: float | None = None
    steps_then: int = 0
    restarted: bool = False
    back: str = ""
    wrong: str = "it was never killed"

    def is_due(self, told: Mapping[str, Any]) -> bool:
        """Whether now is the moment: a producer must have batches on their way."""
        if self.killed_s is not None:
            return False
        if "step" in told:
            return int(told["step"]) + 1 >= self.at
        return int(told["sequence"]) + 1 >= self.at and int(told["pending"]) > 0

    def take_back(self, plan: Plan, told: Mapping[str, Any]) -> None:
        """Take what the worker says when it is up again."""
        self.wrong = ""
        if "resumed" in told:
            self.back = f"resumes at step {told['resumed']}"
            middle = 0 < told["resumed"] < self.total
        else:
            share = plan.shares[int(self.worker.partition("-")[2])]
            position = told["position"] or {"file": 0, "offset": 0}
            middle = told["position"] is not None and position["file"] < len(share)
            path = share[position["file"]].path if middle else "none of its files"
            self.back = f"generation {told['generation']} resumes in {path}"
            if position["offset"]:
                self.back += f" at byte {position['offset']:,}"
        if not middle:
            self.wrong = f"it was not killed in the middle of its work: it {self.back}"


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
