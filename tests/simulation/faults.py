"""What may go wrong with one store operation, and how often: a seed picks a profile.

A fault is a name; `Faults.choose` draws one for each operation:

========== ===========================================================================
fail       nothing happens, the client is told `StoreUnavailable`
lost       it happens, the answer is lost: `StoreUnavailable`
late       `StoreUnavailable` now, it happens later: whoever runs then, or nobody
duplicate  the transport sends it twice: a put-if-absent meets its own first write
again      it happens and is answered, and a copy of the request arrives once more later
conflict   a put-if-absent is told `ObjectExists` although nothing landed (S3's 409)
claimed    like conflict, and then it does land, later
crash      the process dies before it happens
died       the process dies after it happened
dying      the process dies, and it happens later
asleep     the process (or its request) sleeps for long before it happens, then all goes well
stale      a read shows what was there a while ago (only where a store may do that)
========== ===========================================================================
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

READS = ("fail", "crash", "asleep")
DELETES = ("fail", "lost", "late", "crash", "died", "dying", "asleep")
OVERWRITES = (*DELETES, "again")
CREATES = (*OVERWRITES, "duplicate", "conflict", "claimed")
APPLICABLE: Mapping[str, tuple[str, ...]] = {
    "get": READS,
    "range": READS,
    "head": READS,
    "list": READS,
    "delete": DELETES,
    "overwrite": OVERWRITES,
    "create": CREATES,
}

_VERSION = re.compile(r"(?:^|/)v\d+(?:\.metadata)?\.json$")
VERSION, DATA, HINT, OTHER = "version", "data", "hint", "other"


def subject_of(path: str) -> str:
    """What kind of object a path names, as far as faults care."""
    if _VERSION.search(path):
        return VERSION
    if "data/" in path or "positions/" in path:
        return DATA
    return HINT if path.endswith("version-hint.text") else OTHER


@dataclass(frozen=True, slots=True)
class Profile:
    """Fault rates for operations on versions, and what share of them other objects get.

    ``sleep_s`` is how long a sleeper sleeps at most, ``late_s`` how late a late effect is at most,
    ``idle_s`` how long a producer idles on average, ``twins`` how likely a producer name is opened
    twice at once, ``crowd`` how many more producers take part, ``listing_lag_s`` is 0 as on S3,
    ``retention`` how likely somebody reclaims.
    """

    name: str
    rates: Mapping[str, float]
    data_share: float = 0.3
    other_share: float = 0.1
    sleep_s: float = 6.0
    late_s: float = 3.0
    twins: float = 0.2
    idle_s: float = 0.25
    skew_ms: int = 5_000
    listing_lag_s: float = 0.0
    crowd: int = 0
    retention: float = 0.7
    weight: int = 1
    overrides: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)


_ACKS = {"fail": 0.03, "lost": 0.12, "late": 0.08, "duplicate": 0.08, "again": 0.03}
_DEATHS = {"crash": 0.03, "died": 0.04, "dying": 0.03}
_SLEEPERS = {
    ("create", VERSION): {"asleep": 0.2},
    ("delete", VERSION): {"asleep": 0.15},
    ("get", VERSION): {"asleep": 0.08},
}

PROFILES = (
    Profile("calm", {"fail": 0.01, "lost": 0.01}),
    Profile("acknowledgements", {**_ACKS, "conflict": 0.06, "claimed": 0.04}, weight=3),
    Profile("deaths", {**_DEATHS, "fail": 0.05, "lost": 0.03}, data_share=0.5, weight=3),
    Profile(
        "sleepers",
        {"asleep": 0.03, "crash": 0.01, "lost": 0.02},
        other_share=0.3,
        overrides=_SLEEPERS,
        idle_s=0.12,
        weight=3,
    ),
    Profile(
        "cleaners",
        {"asleep": 0.02, "lost": 0.02},
        overrides={
            ("create", VERSION): {"asleep": 0.15},
            ("delete", VERSION): {"asleep": 0.3, "crash": 0.1},
        },
        sleep_s=3.0,
        idle_s=0.1,
        crowd=2,
        weight=2,
    ),
    Profile(
        "ghosts",
        {"asleep": 0.01, "late": 0.02},
        overrides={
            ("create", VERSION): {"asleep": 0.15, "late": 0.15},
            ("get", VERSION): {"asleep": 0.25},
        },
        sleep_s=2.0,
        late_s=4.0,
        idle_s=0.08,
        crowd=2,
    ),
    Profile("twins", {"lost": 0.05, "late": 0.04, "asleep": 0.04}, twins=1.0, weight=2),
    Profile(
        "uploads",
        {**_ACKS, **_DEATHS, "conflict": 0.1},
        data_share=1.0,
        other_share=0.4,
        weight=2,
    ),
    Profile(
        "upkeep",
        {"fail": 0.02, "late": 0.04, "asleep": 0.05, "crash": 0.004, "died": 0.004},
        data_share=1.0,
        other_share=1.0,
        overrides={
            ("create", VERSION): {"asleep": 0.15, "late": 0.08, "lost": 0.1, "died": 0.02},
            ("delete", DATA): {"asleep": 0.15, "late": 0.1, "crash": 0.1, "died": 0.05},
        },
        retention=1.0,
        weight=3,
    ),
    Profile(
        "storm",
        {**_ACKS, **_DEATHS, "conflict": 0.04, "claimed": 0.04, "asleep": 0.04},
        overrides={("delete", VERSION): {"asleep": 0.1, "crash": 0.05, "late": 0.1}},
        twins=0.6,
        weight=2,
    ),
)


class Faults:
    """Draws faults for one history."""

    def __init__(self, profile: Profile, generator: random.Random) -> None:
        self.profile = profile
        self.quiet = False
        self._random = generator
        self._tables: dict[tuple[str, str], list[tuple[float, str]]] = {}

    def choose(self, operation: str, path: str) -> str:
        """The fault of the next operation; empty if all goes well."""
        if self.quiet:
            return ""
        key = (operation, subject_of(path))
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = self._table(*key)
        draw = self._random.random()
        for bound, fault in table:
            if draw < bound:
                return fault
        return ""

    def _table(self, operation: str, subject: str) -> list[tuple[float, str]]:
        profile = self.profile
        share = {VERSION: 1.0, DATA: profile.data_share}.get(subject, profile.other_share)
        if operation in ("get", "range", "head", "list"):
            share = min(share, profile.data_share)
        rates = {name: rate * share for name, rate in profile.rates.items()}
        rates.update(profile.overrides.get((operation, subject), {}))
        if operation in ("get", "list") and self._may_be_stale(operation, subject):
            rates["stale"] = 0.3
        bound, found = 0.0, []
        for name, rate in rates.items():
            if name in APPLICABLE[operation] or name == "stale":
                bound += rate
                found.append((bound, name))
        return found

    def _may_be_stale(self, operation: str, subject: str) -> bool:
        return subject == HINT or (operation == "list" and self.profile.listing_lag_s > 0)


def named(name: str) -> Profile:
    """The profile of that name."""
    return next(one for one in PROFILES if one.name == name)


def pick(generator: random.Random) -> Profile:
    """A profile for one history."""
    return generator.choices(PROFILES, [one.weight for one in PROFILES])[0]
