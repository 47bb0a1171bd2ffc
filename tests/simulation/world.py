"""The scheduler: actors are threads, exactly one runs, and a seeded order says which.

Time is simulated. An actor gives the baton away only in `World.pause`, for a stretch of simulated
time; the event that is due next runs next, ties broken by the seed. So a seed is a history.
"""

from __future__ import annotations

import _thread
import hashlib
import heapq
import random
import threading
import traceback
from collections.abc import Callable
from typing import NamedTuple

EVENTS_MAX = 60_000
EPOCH_MS = 2_000_000_000_000
SECOND_US = 1_000_000


class Crash(BaseException):
    """Ends an actor's thread, as `kill -9` ends a process: no handler takes it for an error."""


class Line(NamedTuple):
    """One line of a history."""

    at_us: int
    actor: str
    operation: str
    subject: str
    fault: str
    outcome: str


class Actor:
    """One simulated process."""

    __slots__ = ("body", "crashed", "error", "finished", "gate", "label", "thread")

    def __init__(self, label: str, body: Callable[[], None]) -> None:
        self.label = label
        self.body = body
        self.gate = _thread.allocate_lock()
        self.gate.acquire()
        self.thread: threading.Thread | None = None
        self.crashed = False
        self.finished = False
        self.error: str | None = None


class World:
    """Simulated time, the actors in it, and the history of what they did."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_us = 0
        self.history: list[Line] = []
        self.actors: list[Actor] = []
        self.exhausted = False
        self._events: list[tuple[int, float, int, Actor | Callable[[], None]]] = []
        self._serial = 0
        self._current: Actor | None = None
        self._main = _thread.allocate_lock()
        self._main.acquire()

    # -- actors ----------------------------------------------------------------------------

    def spawn(self, label: str, body: Callable[[], None], after_s: float = 0.0) -> Actor:
        """A new actor that begins after a while."""
        actor = Actor(label, body)
        self.actors.append(actor)
        self._push(after_s, actor)
        return actor

    def at(self, delay_s: float, effect: Callable[[], None]) -> None:
        """Let something happen later, whoever runs then; it must not pause."""
        self._push(delay_s, effect)

    @property
    def label(self) -> str:
        """Who runs now."""
        return self._current.label if self._current else "network"

    def pause(self, seconds: float) -> None:
        """Let that much time pass for this actor, and others run meanwhile."""
        actor = self._current
        if actor is None or actor.crashed:  # clean-up code of an actor that is gone
            raise Crash
        self._push(seconds, actor)
        if self._pass_on(actor):
            actor.gate.acquire()
        if actor.crashed:
            raise Crash

    def crash(self) -> Crash:
        """The current actor's end; raise what this returns."""
        assert self._current is not None
        self._current.crashed = True
        return Crash()

    def log(
        self, operation: str, subject: str = "", fault: str = "", outcome: str = "", who: str = ""
    ) -> None:
        """Write a line of history."""
        self.history.append(
            Line(self.now_us, who or self.label, operation, subject, fault, outcome)
        )

    # -- running ---------------------------------------------------------------------------

    def run(self) -> None:
        """Run until nothing is left to happen, or `EVENTS_MAX` is reached."""
        if self._pass_on(None):
            self._main.acquire()
        for actor in self.actors:
            if actor.thread is not None:
                if not actor.finished:
                    actor.crashed = True
                    actor.gate.release()
                actor.thread.join()

    def digest(self) -> str:
        """A hash of the whole history: equal seeds have equal ones."""
        text = "\n".join(map(repr, self.history))
        return hashlib.sha256(text.encode()).hexdigest()

    def _push(self, delay_s: float, what: Actor | Callable[[], None]) -> None:
        self._serial += 1
        at_us = self.now_us + max(0, int(delay_s * SECOND_US))
        heapq.heappush(self._events, (at_us, self.random.random(), self._serial, what))

    def _pass_on(self, runner: Actor | None) -> bool:
        """Run what is due up to the next actor's turn; False if that is the runner itself."""
        while self._events and self._serial < EVENTS_MAX:
            self.now_us, _, _, what = heapq.heappop(self._events)
            if not isinstance(what, Actor):
                self._current = None
                what()
                continue
            self._current = what
            if what is runner:
                return False
            self._wake(what)
            return True
        self.exhausted = bool(self._events)
        self._current = None
        if runner is None:
            return False
        self._main.release()
        return True

    def _wake(self, actor: Actor) -> None:
        if actor.thread is not None:
            actor.gate.release()
            return
        actor.thread = threading.Thread(target=self._live, args=(actor,), daemon=True)
        actor.thread.start()

    def _live(self, actor: Actor) -> None:
        try:
            actor.body()
        except Crash:
            actor.crashed = True
        except BaseException:  # noqa: BLE001 - a finding: the invariants report it
            actor.error = traceback.format_exc()
        actor.finished = True
        if self._current is actor:
            self._pass_on(actor)


class SimulatedClock:
    """One actor's `batchweave.clock.Clock`: skewed as its machine is, random as its seed says."""

    def __init__(self, world: World, seed: int, skew_ms: int = 0) -> None:
        self._world = world
        self._random = random.Random(seed)
        self._skew_ms = skew_ms

    def now_ms(self) -> int:
        return EPOCH_MS + self._world.now_us // 1000 + self._skew_ms

    def monotonic_s(self) -> float:
        return self._world.now_us / SECOND_US

    def sleep(self, seconds: float) -> None:
        self._world.pause(seconds)

    def token(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def random(self) -> random.Random:
        return random.Random(self._random.getrandbits(64))
