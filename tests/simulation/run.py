"""One history: a seed makes the actors, the profile of faults, and every choice after that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from batchweave.objects import MemoryObjects
from tests.simulation import actors
from tests.simulation.actors import Environment
from tests.simulation.faults import Faults, Profile, pick
from tests.simulation.invariants import Evidence, Violation, violations
from tests.simulation.record import Record
from tests.simulation.store import Store
from tests.simulation.tables import Kind, in_memory, kind, read_final
from tests.simulation.world import Crash, Line, SimulatedClock, World

FINAL_ROUNDS_MAX = 12
WAITS_MAX = 60


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
        store = Store(world)
        for path, data in which.first_objects().items():
            store.put(path, data, True)
        self.env = Environment(world, store, faults, Record(seed), which)
        self.small = which.folder != ""  # Iceberg commits cost a hundred times as much
        self.lives = 0
        self.busy = 0
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
            self._follow(f"reader-{number}", start, chance())
        if chance() < 0.6:
            changes = 2 if self.small else 3
            self._spawn("changer", partial(actors.change_state, env, "c", changes), chance())
        if chance() < 0.3:
            self._spawn("sweeper", partial(actors.sweep, env, 3), chance())
        if chance() < 0.05:
            self._spawn("early-sealer", partial(actors.seal_stream, env), 3 * chance())
        self._spawn("conductor", self._conduct, self.random.uniform(2.0, 6.0))

    def _spawn(self, label: str, body: Callable[[], None], after_s: float) -> None:
        self.world.spawn(label, body, after_s)

    def _live(self, name: str, after_s: float) -> None:
        """Start an incarnation of a producer that is started again if it dies."""
        self.lives += 1
        self.busy += 1
        label = f"{name}#{self.lives}"
        self._spawn(label, lambda: self._one_life(name), after_s)

    def _follow(self, label: str, start: int, after_s: float) -> None:
        """Start a reader; if it dies it is started again where it was."""
        env = self.env

        def body() -> None:
            try:
                actors.read(env, env.progress.get(label, start), 0.4)
                env.record.readers.append(label)
            except Crash:
                self._follow(label, start, 0.5)
                raise

        self._spawn(label, body, after_s)

    def _one_life(self, name: str) -> None:
        try:
            actors.produce(self.env, name)
        finally:  # also when the process crashed: its supervisor starts it again
            self.busy -= 1
            if not self.env.faults.quiet and self.lives < 12 and self._unfinished(name):
                self._live(name, self.random.uniform(0.1, 2.0))

    def _unfinished(self, name: str) -> bool:
        return not any(flushed[0] == name for flushed in self.env.record.flushed)

    def _conduct(self) -> None:
        """End the faults, let every producer finish, perhaps seal, and tell the readers."""
        env = self.env
        env.faults.quiet = True
        self.world.log("no more faults")
        try:
            self._finish()
        finally:
            env.finished = True

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
        for _ in range(WAITS_MAX):
            if not self.busy:
                break
            self.world.pause(0.5)
        if self.random.random() < 0.5:
            actors.seal_stream(env)

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
            table = env.kind.open(objects, SimulatedClock(self.world, 0), {})
            final = read_final(env.kind, items, table)
        except Exception as error:  # noqa: BLE001 - whatever it is, the table is unreadable
            message = f"seed {record.seed}: the final table is not readable: {error!r}"
            marks = tuple(str(error).rpartition("/")[2].split("'")[:1])
            return [Violation("the_final_table_is_readable", message, marks)], 0, 0
        found = violations(Evidence(record, final, env.kind.encoder))
        return found, final.state.next_step, final.version


def _formatted(at: int, line: Line, marks: tuple[str, ...]) -> str:
    text = f"{line.operation} {line.subject}"
    outcome = f" [{line.fault}]" if line.fault else ""
    found = f"{line.at_us / 1e6:9.3f} {line.actor:<14} {text}{outcome} -> {line.outcome or '-'}"
    relevant = line.fault or any(mark in found for mark in marks)
    return f"{at:5d} {'>>' if relevant and any(m in found for m in marks) else '  '} {found}"
