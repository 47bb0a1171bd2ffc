"""What an assembler's position holds beside its parts' own states, and whether it still fits.

Imports: standard library, errors, sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batchweave.assemble.sources import Position, Source
from batchweave.errors import InvalidInput, InvalidSettings

VERSION = 1
_PARTS = {"config", "sources", "carried", "mixture", "totals", "skipped"}


@dataclass(frozen=True, slots=True)
class Totals:
    """What a producer's batches hold together, from its first one on.

    ``rows`` are samples (documents); ``tokens`` is 0 where they are not counted.
    """

    batches: int = 0
    rows: int = 0
    tokens: int = 0

    def plus(self, rows: int, tokens: int) -> Totals:
        """With one more batch."""
        return Totals(self.batches + 1, self.rows + rows, self.tokens + tokens)

    def to_json(self) -> dict[str, int]:
        """As the position keeps it."""
        return asdict(self)


def config_of(sources: Mapping[str, Source], seed: int, window: int) -> dict[str, Any]:
    """What decides the order of the samples: a position is good for the same only."""
    settings = {name: dict(source.settings) for name, source in sources.items()}
    return {"seed": seed, "shuffle_window": window, "sources": settings}


def check_state(state: Any, config: Mapping[str, Any]) -> None:
    """Refuse a position that is not an assembler's, or not one of this assembler's.

    Raises:
        InvalidInput: no assembler made it.
        InvalidSettings: an assembler with another seed, window, or sources did.
    """
    if not _is_state(state):
        raise InvalidInput(
            "no assembler made the producer's position: take another producer name, or go on with "
            "the program that published under this one"
        )
    theirs = state["config"]
    for key in ("seed", "shuffle_window"):
        if theirs[key] != config[key]:
            raise InvalidSettings(
                f"the producer's position was made with {key}={theirs[key]!r}, now it is "
                f"{config[key]!r}: rows would come twice or never. Give the same, or take another "
                "producer name"
            )
    for name, settings in theirs["sources"].items():
        if name not in config["sources"]:
            raise InvalidSettings(
                f"the producer's position is in source {name!r} too, and there is only "
                f"{sorted(config['sources'])}: keep it, with weight 0 if nothing more is wanted"
            )
        if settings != config["sources"][name]:
            raise InvalidSettings(
                f"source {name!r} was read with {settings}, now with {config['sources'][name]}: "
                "give the same, or take another producer name"
            )


def places_of(state: Any) -> dict[str, Position]:
    """Where each source goes on, by its name; empty if no assembler made the state."""
    if not _is_state(state):
        return {}
    return {name: one["at"] for name, one in state["sources"].items()}


def _is_state(state: Any) -> bool:
    return isinstance(state, dict) and state.get("assembler") == VERSION and set(state) >= _PARTS
