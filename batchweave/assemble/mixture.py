"""Mixtures: which source gives the next sample, so that proportions hold at every moment.

Pure arithmetic with whole numbers: the same weights and sizes give the same choices on every
machine, and what was realised never strays from the weights by more than about the largest sample.
Imports: standard library, errors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from batchweave.errors import InvalidSettings

PARTS = 1_000_000
"""Weights are kept in millionths of their sum."""


class Mixture:
    """Smooth weighted turns among named sources.

    Each source has a credit: what it was owed by its weight less what it gave. The one with the
    highest credit is next. Source: smooth weighted round-robin as nginx has it (commit 52327e0627,
    2012), with samples that may count for more than one (their tokens).
    """

    def __init__(self, names: Sequence[str], weights: Mapping[str, float] | None = None) -> None:
        """Equal weights unless some are given.

        Raises:
            InvalidSettings: a weight is missing, unknown or no number from 0 up, or all are 0.
        """
        self._names = list(names)
        self._credits = [0] * len(self._names)
        self.set_weights(dict.fromkeys(names, 1) if weights is None else weights)

    @property
    def weights(self) -> dict[str, float]:
        """The weights in force, as they were given."""
        return dict(self._weights)

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Choose by other weights from now on; nobody is owed anything by the old ones.

        Raises:
            InvalidSettings: as the constructor says; the old ones stay.
        """
        self._weights = self.checked(weights)
        total = sum(self._weights.values())
        self._parts = [round(self._weights[name] / total * PARTS) for name in self._names]
        self._credits = [0] * len(self._names)

    def checked(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The weights in the order of the sources, or `InvalidSettings`."""
        if not isinstance(weights, Mapping) or set(weights) != set(self._names):
            raise InvalidSettings(f"give one weight for each of {self._names}, got {weights!r}")
        for name, weight in weights.items():
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not number or not math.isfinite(weight) or weight < 0:
                raise InvalidSettings(f"the weight of {name!r} must be from 0 up, got {weight!r}")
        total = sum(weights.values())
        small = [name for name, weight in weights.items() if 0 < weight < total / PARTS]
        if not total or small:
            raise InvalidSettings(
                f"at least one weight must be above 0, and none of those below a {PARTS:,}th of "
                f"all, got {dict(weights)!r}"
            )
        return {name: weights[name] for name in self._names}

    def choose(self, live: Collection[int]) -> int | None:
        """The source whose turn it is, among those that have samples; None if none may give any."""
        best, most = None, 0
        for index in live:
            owed = self._credits[index] + self._parts[index]
            if self._parts[index] and (best is None or owed > most):
                best, most = index, owed
        return best

    def charge(self, index: int, size: int, live: Collection[int]) -> None:
        """Source ``index`` gave a sample that counts for ``size``; the others are owed for it."""
        for other in live:
            self._credits[other] += self._parts[other] * size
        self._credits[index] -= size * sum(self._parts[other] for other in live)

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        owed = dict(zip(self._names, self._credits, strict=True))
        return {"weights": self.weights, "credits": owed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken; a source that it does not know is owed nothing.

        Raises:
            InvalidSettings: it has weights for other sources than these.
        """
        self.set_weights(state["weights"])
        self._credits = [int(state["credits"].get(name, 0)) for name in self._names]
