"""The simulated object store: `Objects` whose every operation is a turn of the scheduler.

One `Store` is the truth that all share; each actor has its own `SimulatedObjects`, which is where
its requests fail, get lost, come late or come twice. The store itself is strongly consistent and
its put-if-absent is atomic, as on S3; version tags are unique a write. It dates objects by a clock
of its own, in whole seconds where it is one of those stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from batchweave.errors import BatchWeaveError, ObjectExists, ObjectNotFound, StoreUnavailable
from batchweave.objects import Buffer, ObjectInfo, join
from tests.simulation.chronicle import Written
from tests.simulation.faults import Faults
from tests.simulation.world import EPOCH_MS, World

LATENCY_S = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    """One object, with the span of time in which it is there."""

    data: bytes
    tag: str
    from_us: int


class Store:
    """What is durable."""

    def __init__(self, world: World, *, ahead_ms: int = 0, resolution_ms: int = 1) -> None:
        self.items: dict[str, Stored] = {}
        self.former: list[tuple[str, Stored, int]] = []
        self._world = world
        self._ahead_ms = ahead_ms
        self._resolution_ms = resolution_ms
        self._tags = 0

    def put(self, key: str, data: bytes, absent: bool) -> str:
        """Write, or raise `ObjectExists`."""
        if absent and key in self.items:
            raise ObjectExists(f"an object exists at {key}")
        self._retire(key)
        self._tags += 1
        self.items[key] = Stored(data, str(self._tags), self._world.now_us)
        return str(self._tags)

    def get(self, key: str) -> Stored:
        """What is there, or `ObjectNotFound`."""
        try:
            return self.items[key]
        except KeyError:
            raise ObjectNotFound(f"no object at {key}") from None

    def remove(self, key: str) -> None:
        """Delete, if it is there."""
        self._retire(key)

    def as_of(self, at_us: int) -> dict[str, Stored]:
        """What was there at an earlier time."""
        found = {key: one for key, one in self.items.items() if one.from_us <= at_us}
        for key, one, until_us in self.former:
            if one.from_us <= at_us < until_us:
                found[key] = one
        return found

    def modified_ms(self, stored: Stored) -> int:
        """When an object was written, by the store's clock."""
        exact_ms = EPOCH_MS + self._ahead_ms + stored.from_us // 1000
        return exact_ms - exact_ms % self._resolution_ms

    def writes(self) -> list[Written]:
        """All that was ever written."""
        there = [(key, one, None) for key, one in self.items.items()]
        return [
            Written(key, one.data, int(one.tag), one.from_us, until_us)
            for key, one, until_us in (*self.former, *there)
        ]

    def _retire(self, key: str) -> None:
        before = self.items.pop(key, None)
        if before is not None:
            self.former.append((key, before, self._world.now_us))


class SimulatedObjects:
    """One actor's way to the store."""

    def __init__(
        self, store: Store, world: World, faults: Faults, uri: str, prefix: str = ""
    ) -> None:
        self._store = store
        self._world = world
        self._faults = faults
        self._uri = uri
        self._prefix = prefix

    @property
    def uri(self) -> str:
        return self._uri

    def within(self, prefix: str) -> SimulatedObjects:
        return SimulatedObjects(
            self._store,
            self._world,
            self._faults,
            f"{self._uri}/{prefix}",
            join(self._prefix, prefix),
        )

    def get(self, path: str) -> tuple[Buffer, str]:
        def effect() -> tuple[Buffer, str]:
            found = self._store.get(key)
            return found.data, found.tag

        key = self._key(path)
        return self._request("get", path, effect, partial(self._stale_get, key))

    def get_range(self, path: str, start: int, length: int) -> Buffer:
        key = self._key(path)
        return self._request(
            "range", path, lambda: memoryview(self._store.get(key).data)[start : start + length]
        )

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        key = self._key(path)

        def effect() -> list[Buffer]:
            data = memoryview(self._store.get(key).data)
            return [data[start : start + length] for start, length in ranges]

        return self._request("range", path, effect)

    def local_file(self, path: str) -> str | None:
        return None

    def head(self, path: str) -> ObjectInfo:
        key = self._key(path)
        return self._request("head", path, lambda: self._info(path, self._store.get(key)))

    def create(self, path: str, data: Buffer) -> str:
        key, kept = self._key(path), bytes(data)
        return self._request("create", path, lambda: self._store.put(key, kept, True))

    def overwrite(self, path: str, data: Buffer) -> str:
        key, kept = self._key(path), bytes(data)
        return self._request("overwrite", path, lambda: self._store.put(key, kept, False))

    def children(self, prefix: str = "") -> tuple[list[str], list[ObjectInfo]]:
        folders: dict[str, None] = {}
        objects = []
        skip = len(prefix.strip("/")) + 1 if prefix.strip("/") else 0
        for info in self.list(prefix):
            folder, slash, _ = info.path[skip:].partition("/")
            if slash:
                folders[folder] = None
            else:
                objects.append(info)
        return [*folders], objects

    def delete(self, paths: Iterable[str]) -> None:
        wanted = [*paths]
        if not wanted:
            return
        keys = [self._key(path) for path in wanted]

        def effect() -> None:
            for key in keys:
                self._store.remove(key)

        if len(keys) > 1:  # one request, in the store's own order, perhaps not to its end
            self._world.random.shuffle(keys)
        self._request("delete", " ".join(wanted), effect)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        root = join(self._prefix, prefix)
        below = f"{root}/" if root else ""
        skip = len(self._prefix) + 1 if self._prefix else 0

        def listed(items: dict[str, Stored]) -> list[ObjectInfo]:
            found = sorted(key for key in items if key.startswith(below))
            return [self._info(key[skip:], items[key]) for key in found]

        lag_us = int(self._faults.profile.listing_lag_s * 1e6)
        return iter(
            self._request(
                "list",
                prefix,
                lambda: listed(self._store.items),
                lambda: listed(self._store.as_of(self._world.now_us - lag_us)),
            )
        )

    # -- one request -----------------------------------------------------------------------

    def _request(
        self,
        operation: str,
        path: str,
        effect: Callable[[], T],
        stale: Callable[[], T] | None = None,
    ) -> T:
        world = self._world
        fault = self._faults.choose(operation, path)
        wait_s = world.random.expovariate(1 / LATENCY_S)
        if fault == "asleep":
            wait_s += world.random.uniform(0.3, self._faults.profile.sleep_s)
        world.pause(wait_s)
        if fault in ("", "asleep"):
            return self._answered(operation, path, fault, effect)
        if fault == "again":
            self._later(operation, path, effect)
            return self._answered(operation, path, fault, effect)
        if fault == "stale" and stale is not None:
            return self._answered(operation, path, fault, stale)
        self._disturbed(operation, path, fault, effect)
        raise AssertionError(f"{fault} must raise")

    def _answered(self, operation: str, path: str, fault: str, effect: Callable[[], T]) -> T:
        try:
            result = effect()
        except BatchWeaveError as error:
            self._world.log(operation, self._key(path), fault, type(error).__name__)
            raise
        self._world.log(operation, self._key(path), fault, "ok")
        return result

    def _disturbed(
        self, operation: str, path: str, fault: str, effect: Callable[[], object]
    ) -> None:
        happens = fault in ("lost", "duplicate", "died")
        outcome = self._attempted(effect) if happens else "nothing happened"
        if fault in ("late", "claimed", "dying"):
            self._later(operation, path, effect)
        self._world.log(operation, self._key(path), fault, outcome)
        if fault in ("crash", "died", "dying"):
            raise self._world.crash()
        if fault in ("duplicate", "conflict", "claimed"):
            raise ObjectExists(f"an object exists at {path!r}")
        raise StoreUnavailable(f"simulated {fault}: {operation} {path!r}")

    def _later(self, operation: str, path: str, effect: Callable[[], object]) -> None:
        world = self._world
        who = world.label

        def land() -> None:
            world.log(
                operation, self._key(path), "arrives late", self._attempted(effect), f"({who})"
            )

        world.at(world.random.uniform(0.01, self._faults.profile.late_s), land)

    @staticmethod
    def _attempted(effect: Callable[[], object]) -> str:
        try:
            effect()
        except BatchWeaveError as error:
            return type(error).__name__
        return "happened"

    # -- helpers ---------------------------------------------------------------------------

    def _stale_get(self, key: str) -> tuple[Buffer, str]:
        before = [one for name, one, _ in self._store.former if name == key]
        found = self._world.random.choice(before) if before else self._store.get(key)
        return found.data, found.tag

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def _info(self, path: str, stored: Stored) -> ObjectInfo:
        modified_ms = self._store.modified_ms(stored)
        return ObjectInfo(path, len(stored.data), stored.tag, modified_ms)

    def __repr__(self) -> str:
        return f"Objects({self._uri!r})"
