"""Who takes part: producers, readers, sealers. `tests.simulation.upkeep` has those who tidy up.

Each drives the core as the real thing does (`batchweave.producer`, `batchweave.reader`), without
its threads, and tells the record what it was told. An actor's label is its name in the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from batchweave.batch import position_to_text
from batchweave.clock import Clock
from batchweave.commit import Retries, commit
from batchweave.dac import Claim
from batchweave.errors import (
    Fenced,
    NotCommitted,
    ObjectNotFound,
    StepReclaimed,
    StoreUnavailable,
    StreamSealed,
)
from batchweave.mesh import Share
from batchweave.parquet import EncodedPart
from batchweave.reader import check_watermark
from batchweave.reader.fetching import fetch_batch
from batchweave.session import Session, Staged
from batchweave.state import seal
from batchweave.table import BatchEntry, Change, Committed, Head, Part, Table
from tests.simulation.content import MESH, Item
from tests.simulation.faults import Faults
from tests.simulation.record import (
    Acknowledged,
    ObservedTable,
    Opened,
    Published,
    Record,
    Seen,
    TurnedAway,
)
from tests.simulation.store import SimulatedObjects, Store
from tests.simulation.tables import ROOT, Kind
from tests.simulation.world import SECOND_US, SimulatedClock, World

TRIES_MAX = 60
PROCESSES = 2
INLINE_BYTES_MAX = 40
RETRIES = Retries(attempts_max=40, seconds_max=60.0, wait_first_s=0.02, wait_max_s=0.5)

T = TypeVar("T")


@dataclass(slots=True)
class Environment:
    """What all actors of one history share."""

    world: World
    store: Store
    faults: Faults
    record: Record
    kind: Kind
    processes: dict[int, dict[str, Any]] = field(default_factory=dict)
    progress: dict[str, int] = field(default_factory=dict)
    grace_s: float = 0.0
    finished: bool = False

    def clock(self) -> Clock:
        """A clock for one process: its own randomness, its own skew."""
        skew_ms = self.faults.profile.skew_ms
        return SimulatedClock(
            self.world,
            self.world.random.getrandbits(64),
            self.world.random.randint(-skew_ms, skew_ms),
        )

    def objects(self) -> SimulatedObjects:
        """One process's way to the store."""
        return SimulatedObjects(self.store, self.world, self.faults, ROOT)

    def turn_away(self, step: int) -> None:
        """Note that the actor was told `StepReclaimed`."""
        self.world.log("turned away", "", "", f"step {step}")
        self.record.turned_away.append(TurnedAway(self.world.label, step, self.world.now_us))

    def open(self, clock: Clock) -> ObservedTable:
        """Open the table for one process."""
        objects = self.objects()
        number = self.world.random.randrange(2 * PROCESSES)
        process = self.processes.setdefault(number, {}) if number < PROCESSES else {}
        table = persistently(lambda: self.kind.open(objects, clock, process), clock, self.world)
        return ObservedTable(table, self.record, self.world.label, self.world)


def persistently(operation: Callable[[], T], clock: Clock, world: World) -> T:
    """Repeat what the store failed to do, as a producer does, up to a bound."""
    for _ in range(TRIES_MAX):
        try:
            return operation()
        except StoreUnavailable:
            clock.sleep(world.random.uniform(0.01, 0.2))
    return operation()


# -- producers ---------------------------------------------------------------------------------


def produce(env: Environment, name: str) -> None:
    """One incarnation of a producer: open, resume at the durable position, publish the rest."""
    clock = env.clock()
    try:
        table = env.open(clock)
        session = Session(table, name, clock=clock, position_bytes_inline_max=INLINE_BYTES_MAX)
        session.open(RETRIES)
        Producing(env, session, clock).run()
    except Fenced:
        env.world.log("fenced", name)
        env.record.fenced.append((name, session.generation))
    except StreamSealed:
        env.world.log("sealed out", name)
        env.record.shut_out.append(name)
    except (NotCommitted, StoreUnavailable) as error:
        env.world.log("gave up", name, "", type(error).__name__)


class Producing:
    """What `batchweave.producer.Producer` does with its session, in one thread."""

    def __init__(self, env: Environment, session: Session, clock: Clock) -> None:
        self._env = env
        self.session = session
        self._clock = clock
        self._random = env.world.random
        self._next_sequence = session.sequence + 1

    def run(self) -> None:
        env, session = self._env, self.session
        position = persistently(lambda: session.position, self._clock, env.world)
        env.record.opened.append(
            Opened(session.name, session.generation, session.sequence, position, session.version)
        )
        env.world.log("opened", session.name, "", f"generation {session.generation} at {position}")
        number = position["next"] if position else 0
        last = env.record.sources[session.name]
        while number < last:
            for _ in range(self._random.choice((1, 1, 2, 3))):
                if number < last:
                    self._publish(number)
                    number += 1
            if self._random.random() < 0.85:
                self._attempt()
            self._clock.sleep(self._random.expovariate(1 / env.faults.profile.idle_s))
        self._flush()

    def _publish(self, number: int) -> None:
        env, session = self._env, self.session
        item = Item(session.name, number, session.generation)
        sequence = self._next_sequence
        self._next_sequence += 1
        count = 2 if number % 3 == 2 else 1
        position = {"next": number + 1}
        if number % 4 == 3:
            position["pad"] = 10**INLINE_BYTES_MAX
        env.record.published.append(
            Published(session.name, session.generation, sequence, item, position)
        )
        encoded = env.kind.encoder.parts(item, count)
        parts, version = upload_parts(self, sequence, encoded)
        text = persistently(
            lambda: session.store_position(sequence, position_to_text(position)),
            self._clock,
            env.world,
        )
        session.stage(
            Staged(
                sequence=sequence,
                encoded=encoded,
                parts=parts,
                upload_version=version,
                position=text,
                done=lambda step: self._landed(sequence, step),
            )
        )

    def upload_one(self, sequence: int, index: int, part: EncodedPart) -> tuple[Part, int]:
        """Upload one part, whatever it takes."""
        return persistently(
            lambda: self.session.upload(sequence, index, part), self._clock, self._env.world
        )

    def _landed(self, sequence: int, step: int) -> None:
        session, world = self.session, self._env.world
        world.log("receipt", f"{session.name} {sequence}", "", f"step {step}")
        self._env.record.acknowledged.append(
            Acknowledged(session.name, session.generation, sequence, step, world.now_us)
        )

    def _attempt(self) -> None:
        session = self.session
        try:
            head = session.refresh()
            claim = Claim(head.state.pace, self._random.randrange(SECOND_US))
            outcome = session.attempt(claim if self._random.random() < 0.7 else None)
        except StoreUnavailable:
            self._clock.sleep(self._random.uniform(0.01, 0.1))
            return
        if isinstance(outcome, Committed):
            steps = outcome.head.state.next_step
            self._env.world.log("committed", session.name, "", f"steps below {steps}")
            session.table.tidy(outcome.head)
        elif outcome is not None:
            self._env.world.log(type(outcome).__name__.lower(), session.name)
            self._clock.sleep(self._random.uniform(0, 0.1))

    def _flush(self) -> None:
        session = self.session
        for _ in range(TRIES_MAX):
            if not session.staged:
                break
            self._attempt()
        if session.staged:
            raise NotCommitted(f"{len(session.staged)} batches are pending")
        self._env.world.log("flushed", session.name, "", f"to sequence {session.sequence}")
        self._env.record.flushed.append((session.name, session.generation, self._next_sequence - 1))


def upload_parts(
    producing: Producing, sequence: int, encoded: tuple[EncodedPart, ...]
) -> tuple[tuple[Part, ...], int]:
    """Upload all parts of a batch; return them and the oldest version known meanwhile."""
    uploads = [producing.upload_one(sequence, at, part) for at, part in enumerate(encoded)]
    return tuple(part for part, _ in uploads), min(version for _, version in uploads)


# -- readers -----------------------------------------------------------------------------------


class Reading:
    """What `batchweave.reader` does, in one thread: follow the stream from a step on.

    ``start`` is None for the first step that there is, ``fetch`` the share of batches whose data is
    read, ``pause_s`` how long a batch takes.
    """

    def __init__(
        self,
        env: Environment,
        table: Table,
        clock: Clock,
        start: int | None,
        fetch: float,
        pause_s: float,
    ) -> None:
        self._env = env
        self._table = table
        self._clock = clock
        self._fetch = fetch
        self._pause_s = pause_s
        self._head = persistently(table.head, clock, env.world)
        self.step = self._head.state.watermark if start is None else start

    def batches(self) -> Iterator[BatchEntry]:
        """Each batch that there is, until all is done and was read; raises `StepReclaimed`."""
        env, clock = self._env, self._clock
        env.record.starts.setdefault(env.world.label, self.step)
        last_look = False
        while True:
            before = self.step
            check_watermark(self._head, self.step, self._table.name)
            try:
                found = list(self._known())
            except (ObjectNotFound, FileNotFoundError):
                self._renew()
                continue
            except StoreUnavailable:
                clock.sleep(0.05)
                continue
            for entry in found:
                self._saw(entry)
                yield entry
            if self.step == before and last_look:
                return
            last_look = env.finished
            clock.sleep(env.world.random.uniform(0.05, 0.6))
            known = None if last_look else self._head
            self._head = persistently(partial(self._table.head, known), clock, env.world)

    def _known(self) -> Iterator[BatchEntry]:
        """What the head known has from this step on."""
        return self._table.entries(self._head, self.step, self._head.state.next_step)

    def _renew(self) -> None:
        renewed = persistently(self._table.head, self._clock, self._env.world)
        if renewed.version == self._head.version:
            raise AssertionError(f"version {renewed.version} names metadata that is not there")
        self._head = renewed

    def _saw(self, entry: BatchEntry) -> None:
        env, world = self._env, self._env.world
        if world.random.random() < self._fetch:
            self._read(entry)
        digests = tuple(part.digest for part in entry.parts)
        world.log("read", f"{entry.producer} {entry.sequence}", "", f"step {entry.step}")
        env.record.seen.append(
            Seen(world.label, entry.step, entry.producer, entry.sequence, digests, world.now_us)
        )
        self.step = env.progress[world.label] = entry.step + 1
        if self._pause_s:
            self._clock.sleep(world.random.expovariate(1 / self._pause_s))

    def _read(self, entry: BatchEntry) -> None:
        """Decode one slice as a rank does; it must carry what the metadata says."""
        share = Share((self._env.world.random.randrange(MESH.slices),))
        batch = persistently(
            lambda: fetch_batch(self._table, entry, share, None), self._clock, self._env.world
        )
        item = Item.parse(batch.sources[0] or "")
        if item.name != entry.producer:
            raise AssertionError(f"step {entry.step} of {entry.producer!r} carries {item}")


def read(env: Environment, start: int | None, fetch: float, pause_s: float = 0.0) -> None:
    """Follow the stream from a step until all is done, or until that step is reclaimed."""
    clock = env.clock()
    reading = Reading(env, env.open(clock), clock, start, fetch, pause_s)
    try:
        for _ in reading.batches():
            pass
    except StepReclaimed:
        env.turn_away(reading.step)
        raise


# -- others ------------------------------------------------------------------------------------


def seal_stream(env: Environment) -> None:
    """Seal, as `Stream.seal` does."""
    clock = env.clock()
    table = env.open(clock)

    def plan(head: Head) -> Change | None:
        return None if head.state.sealed else Change(seal(head.state))

    try:
        head = commit(table, plan, clock=clock, retries=RETRIES, what="sealing")
    except NotCommitted:
        return
    env.world.log("sealed", "", "", f"at step {head.state.next_step}")
    env.record.sealed_at.append(head.state.next_step)
