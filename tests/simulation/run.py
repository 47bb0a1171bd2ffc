"""One history: a seed makes the actors, the profile of faults, and every choice after that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from batchweave.errors import StepReclaimed
from batchweave.objects import MemoryObjects
from batchweave.retention import Policy
from tests.simulation import actors, invariants, invariants_of_retention, upkeep
from tests.simulation.actors import Environment
from tests.simulation.evidence import Evidence, Violation, violations
from tests.simulation.faults import Faults, Profile, pick
from tests.simulation.record import Record
from tests.simulation.store import Store
from tests.simulation.tables import Kind, in_memory, kind, read_final
from tests.simulation.world import Crash, Line, SimulatedClock, World

FINAL_ROUNDS_MAX = 12
WAITS_MAX = 60
LIVES_MAX = 12
RUNS_MAX = 40
STORE_AHEAD_MS_MAX = 600_000


@dataclass(slots=True)
class Result:
    """What one seed came to."""

    seed: int
    kind: str
    profile: str
    violations: list[Violation]
    history: list[Line] = field(repr=False)
    digest: str
    steps: int
    commits: int

    @property
    def ok(self) -> bool:
        """Whether every promise held."""
        return not self.violations

    def invariants(self) -> list[str]:
        """Names of the broken ones, in order, each once."""
        return list(dict.fromkeys(one.invariant for one in self.violations))

    def report(self, lines_max: int = 100_000) -> str:
        """The broken promises and the history, its most relevant lines marked with ``>>``."""
        marks = tuple(dict.fromkeys(mark for one in self.violations for mark in one.marks if mark))
        head = [
            f"seed {self.seed}, table {self.kind}, profile {self.profile}, "
            f"{self.commits} commits, {self.steps} steps"
        ]
        head += [f"  {one.invariant}: {one.message}" for one in self.violations]
        body = [_formatted(at, line, marks) for at, line in enumerate(self.history)]
        return "\n".join([*head, *body[:lines_max]])


def simulate(seed: int, kind_name: str = "register", profile: Profile | None = None) -> Result:
    """Run one history and check it."""
    which = kind(kind_name)
    with which.limits():
        history = _History(seed, which, profile)
        history.world.run()
        return history.result(kind_name)


class _History:
    """The cast of one seed."""

    def __init__(self, seed: int, which: Kind, profile: Profile | None) -> None:
        self.world = world = World(seed)
        self.random = world.random
        self.profile = profile or pick(self.random)
        faults = Faults(self.profile, self.random)
        ahead_ms = self.random.randint(-STORE_AHEAD_MS_MAX, STORE_AHEAD_MS_MAX)
        store = Store(world, ahead_ms=ahead_ms, resolution_ms=self.random.choice((1, 1000)))
        foreign = {which.folder + path: b"not ours" for path in upkeep.FOREIGN}
        for path, data in (*which.first_objects().items(), *foreign.items()):
            store.put(path, data, True)
        grace_s = self.random.choice((0.0, self.random.uniform(0.2, 4.0)))
        record = Record(seed, grace_us=int(grace_s * 1e6), foreign=foreign)
        self.env = Environment(world, store, faults, record, which, grace_s=grace_s)
        self.small = which.folder != ""  # Iceberg commits cost a hundred times as much
        self.lives = 0
        self.runs = 0
        self.busy = 0
        self.alive = 0
        self._cast()

    def _cast(self) -> None:
        chance, env = self.random.random, self.env
        count = 2 if self.small else self.random.choice((1, 2, 2, 3))
        names = ["a", "b", "c", "d", "e"][: count + self.profile.crowd]
        for name in names:
            env.record.sources[name] = self.random.randint(2, 5 if self.small else 7)
            self._live(name, chance())
            if chance() < self.profile.twins:
                self._live(name, self.random.uniform(0.2, 3.0))
        for number in range(1 if self.small else self.random.choice((1, 1, 2))):
            start = 0 if chance() < 0.7 else self.random.randint(0, 3)
            pause_s = self.random.choice((0.0, 0.4, 1.2))
            self._follow(f"reader-{number}", start, pause_s, chance())
        if chance() < 0.4:
            changes = 2 if self.small else 3
            self._spawn("changer", partial(upkeep.note, env, "changer", changes), chance())
        longer_s = 0.0
        if env.kind.reclaims and chance() < self.profile.retention:
            self._cast_retention()
            longer_s = 2.0
        elif chance() < 0.3:
            self._keep("sweeper", partial(upkeep.sweep, env, 3), chance())
        if chance() < 0.1:
            self._spawn("early-sealer", partial(actors.seal_stream, env), 3 * chance())
        ends_s = longer_s + self.random.uniform(2.0, 6.0)
        self.world.spawn("conductor", self._conduct, ends_s)

    def _cast_retention(self) -> None:
        """Training runs that restart, those who reclaim behind them, and those who sweep."""
        env, chance = self.env, self.random.random
        for name in ("run-a", "run-b", "run-c")[: self.random.choice((1, 2, 3))]:
            self._train(name, 4 * chance() ** 2)
        for number in range(self.random.choice((1, 2))):
            policy = Policy(
                keep_checkpoints=self.random.choice((1, 1, 2, None)),
                keep_steps=self.random.choice((0, 0, 0, 2)),
            )
            env.record.policies.append(policy)
            self._keep(f"reclaimer-{number}", partial(upkeep.reclaim, env, policy, 5), chance())
        for number in range(self.random.choice((0, 0, 1, 2))):
            self._keep(f"sweeper-{number}", partial(upkeep.sweep, env, 3), chance())

    def _spawn(self, label: str, body: Callable[[], None], after_s: float) -> None:
        """Start an actor that the conductor waits for."""

        def living() -> None:
            try:
                body()
            finally:
                self.alive -= 1

        self.alive += 1
        self.world.spawn(label, living, after_s)

    def _keep(self, label: str, body: Callable[[], None], after_s: float) -> None:
        """Start somebody who is started again if he dies."""

        def kept() -> None:
            try:
                body()
            except Crash:
                if not self.env.faults.quiet:
                    self._keep(f"{label}'", body, 0.3)
                raise

        self._spawn(label, kept, after_s)

    def _live(self, name: str, after_s: float) -> None:
        """Start an incarnation of a producer that is started again if it dies."""
        self.lives += 1
        self.busy += 1
        label = f"{name}#{self.lives}"
        self._spawn(label, lambda: self._one_life(name), after_s)

    def _follow(self, label: str, start: int | None, pause_s: float, after_s: float) -> None:
        """Start a reader; if it dies it is started again where it was."""
        env = self.env

        def body() -> None:
            try:
                actors.read(env, env.progress.get(label, start), 0.4, pause_s)
                env.record.readers.append(label)
            except StepReclaimed:
                self._follow(f"{label}'", None, pause_s, 0.2)
            except Crash:
                self._follow(label, start, pause_s, 0.5)
                raise

        self._spawn(label, body, after_s)

    def _train(self, consumer: str, after_s: float) -> None:
        """Start a training run; it goes on from its checkpoints until all is read."""
        env = self.env
        self.runs += 1
        label = f"{consumer}#{self.runs}"

        def again() -> None:
            if self.runs < RUNS_MAX:
                self._train(consumer, self.random.uniform(0.1, 1.0))

        def body() -> None:
            try:
                if upkeep.train(env, consumer):
                    env.record.readers.append(label)
                else:
                    again()
            except StepReclaimed:
                again()
            except Crash:
                again()
                raise

        self._spawn(label, body, after_s)

    def _one_life(self, name: str) -> None:
        try:
            actors.produce(self.env, name)
        finally:  # also when the process crashed: its supervisor starts it again
            self.busy -= 1
            if not self.env.faults.quiet and self.lives < LIVES_MAX and self._unfinished(name):
                self._live(name, self.random.uniform(0.1, 2.0))

    def _unfinished(self, name: str) -> bool:
        return not any(flushed[0] == name for flushed in self.env.record.flushed)

    def _conduct(self) -> None:
        """End the faults, let every producer finish, perhaps seal, tell the readers, tidy up."""
        env = self.env
        env.faults.quiet = True
        self.world.log("no more faults")
        try:
            self._finish()
        finally:
            env.finished = True
        self._wait(lambda: not self.alive)
        self.world.pause(self.profile.late_s + 1.0)  # what was sent by the dead arrives, or never
        upkeep.settle(env)

    def _finish(self) -> None:
        env = self.env
        for name in env.record.sources:
            for _ in range(FINAL_ROUNDS_MAX):
                actors.produce(env, name)
                if env.record.shut_out or self._complete(name):
                    break
                self.world.pause(self.random.uniform(0.1, 1.0))
            else:
                env.record.incomplete.append(name)
        self._wait(lambda: not self.busy)
        if self.random.random() < 0.5:
            actors.seal_stream(env)

    def _wait(self, ready: Callable[[], bool]) -> None:
        for _ in range(WAITS_MAX):
            if ready():
                return
            self.world.pause(0.5)

    def _complete(self, name: str) -> bool:
        """Whether the life that just ended published to the end of its source."""
        record = self.env.record
        return bool(record.flushed) and record.flushed[-1][0] == name

    def result(self, kind_name: str) -> Result:
        """Check everything and sum up."""
        record, world = self.env.record, self.world
        record.exhausted = world.exhausted
        record.errors += [(one.label, one.error) for one in world.actors if one.error]
        items = {path: stored.data for path, stored in self.env.store.items.items()}
        found, steps, commits = self._checked(items, in_memory(items))
        return Result(
            seed=record.seed,
            kind=kind_name,
            profile=self.profile.name,
            violations=found,
            history=world.history,
            digest=world.digest(),
            steps=steps,
            commits=commits,
        )

    def _checked(
        self, items: dict[str, bytes], objects: MemoryObjects
    ) -> tuple[list[Violation], int, int]:
        """Broken promises, steps and commits."""
        env, record = self.env, self.env.record
        try:
            clock = SimulatedClock(self.world, 0)
            table = env.kind.open(objects, clock, {})
            ledger = env.kind.open_ledger(objects, clock) if env.kind.reclaims else None
            chronicle = env.kind.chronicle(env.store.writes())
            final = read_final(env.kind, items, table, ledger, chronicle)
        except Exception as error:  # noqa: BLE001 - whatever it is, the table is unreadable
            message = f"seed {record.seed}: the final table is not readable: {error!r}"
            marks = tuple(str(error).rpartition("/")[2].split("'")[:1])
            return [Violation("the_final_table_is_readable", message, marks)], 0, 0
        evidence = Evidence(record, final, env.kind.encoder)
        found = violations(evidence, invariants.invariant, invariants_of_retention.invariant)
        return found, final.state.next_step, final.version


def _formatted(at: int, line: Line, marks: tuple[str, ...]) -> str:
    text = f"{line.operation} {line.subject}"
    outcome = f" [{line.fault}]" if line.fault else ""
    found = f"{line.at_us / 1e6:9.3f} {line.actor:<14} {text}{outcome} -> {line.outcome or '-'}"
    relevant = line.fault or any(mark in found for mark in marks)
    return f"{at:5d} {'>>' if relevant and any(m in found for m in marks) else '  '} {found}"
