"""Who keeps a stream small: training runs with checkpoints, reclaimers, sweepers.

They call the real thing (`Checkpoints`, `Retention`, `Sweep`), which needs no threads here.
"""

from __future__ import annotations

from batchweave.checkpoints import Checkpoints
from batchweave.errors import Fenced, NotCommitted, StepReclaimed, StoreUnavailable
from batchweave.ledger import Ledger
from batchweave.paths import DATA, POSITIONS
from batchweave.retention import Policy, Retention
from batchweave.sweep import Sweep
from tests.simulation.actors import Environment, Reading, persistently
from tests.simulation.record import Registered

FETCHED = 0.5
PREEMPTED = 0.12
SETTLING_ROUNDS = 3
RESOLUTION_S = 2.1
"""Longer than what the sweep allows for stores that date in whole seconds, twice."""

_HEX = "0123456789abcdef0123456789abcdef"
FOREIGN = (
    f"{DATA}/notes.txt",
    f"{DATA}/v000000000000/part-00000.parquet",
    f"{DATA}/v0/a-g1-q0-p0-{_HEX}.parquet",
    f"{DATA}/v000000000000/a-g1-q0-p0-{_HEX}.parquet.tmp",
    f"{DATA}/v000000000000/a-g1-q0-p0-{_HEX[1:]}.parquet",
    f"{DATA}/v000000000000/deeper/a-g1-q0-p0-{_HEX}.parquet",
    f"{POSITIONS}/v000000000000/a-g1-q0-{_HEX}.json",
    f"{POSITIONS}/v000000000000/offsets.parquet",
    f"elsewhere/{DATA}/v000000000000/a-g1-q0-p0-{_HEX}.parquet",
    f"{DATA}/maintenance/plan.parquet",
)
"""Files that BatchWeave did not write, some of them in its own folders."""


def train(env: Environment, consumer: str) -> bool:
    """One life of a training run: restart from a checkpoint, read on, register more.

    Returns whether it came to the end; otherwise it is to be restarted.
    """
    clock, random = env.clock(), env.world.random
    table = env.open(clock)
    checkpoints = Checkpoints(table, clock)
    known = persistently(lambda: checkpoints.list(consumer), clock, env.world)
    restart = None
    if known:
        restart = known[-1] if random.random() < 0.7 else random.choice(known)
        env.world.log("restarts", consumer, "", f"from {restart.id}")
    start = restart.next_step if restart else None
    reading = Reading(env, table, clock, start, FETCHED, random.choice((0.0, 0.0, 0.3)))
    try:
        for entry in reading.batches():
            if random.random() < 0.5:
                _register(env, checkpoints, consumer, entry.step + 1)
            if random.random() < 0.1:
                _drop_older(env, checkpoints, consumer)
            if random.random() < PREEMPTED and not env.finished:
                return False
    except StepReclaimed:
        env.turn_away(reading.step)
        raise
    return True


def _register(env: Environment, checkpoints: Checkpoints, consumer: str, next_step: int) -> None:
    name = f"{consumer}-{next_step}"
    try:
        checkpoints.register(name, next_step=next_step, consumer=consumer)
    except NotCommitted:
        return
    env.world.log("registered", name)
    env.record.registered.append(Registered(consumer, name, next_step))


def _drop_older(env: Environment, checkpoints: Checkpoints, consumer: str) -> None:
    """Drop a checkpoint that is not the furthest."""
    try:
        older = checkpoints.list(consumer)[:-1]
        if not older:
            return
        name = env.world.random.choice(older).id
        env.record.dropped.append(name)
        checkpoints.drop(name)
    except (NotCommitted, StoreUnavailable):
        return
    env.world.log("dropped", name)


def note(env: Environment, consumer: str, changes: int) -> None:
    """Register checkpoints at the head: commits without data."""
    clock = env.clock()
    table = env.open(clock)
    checkpoints = Checkpoints(table, clock)
    for _ in range(changes):
        clock.sleep(env.world.random.expovariate(1.0))
        next_step = persistently(table.head, clock, env.world).state.next_step
        try:
            _register(env, checkpoints, consumer, next_step)
        except StepReclaimed:
            env.turn_away(next_step)


def reclaim(env: Environment, policy: Policy, rounds: int) -> None:
    """Reclaim again and again, with one policy."""
    clock = env.clock()
    table = env.open(clock)
    retention = Retention(table, lambda: ledger(env), clock)
    for _ in range(rounds):
        clock.sleep(env.world.random.expovariate(1 / 0.8))
        try:
            report = retention.reclaim(policy, grace_s=env.grace_s)
        except (Fenced, NotCommitted, StoreUnavailable) as error:
            env.world.log("did not reclaim", "", "", type(error).__name__)
        else:
            env.world.log("reclaimed", "", "", f"steps below {report.watermark}")


def sweep(env: Environment, rounds: int) -> None:
    """Sweep again and again, sometimes at a limited rate."""
    clock = env.clock()
    table = env.open(clock)
    rate = env.world.random.choice((None, None, 40.0))
    for _ in range(rounds):
        clock.sleep(env.world.random.expovariate(1 / 1.2))
        try:
            Sweep(table, clock, grace_s=env.grace_s, deletes_per_s=rate).run()
        except (NotCommitted, StoreUnavailable) as error:
            env.world.log("did not sweep", "", "", type(error).__name__)


def ledger(env: Environment) -> Ledger:
    """The stream's ledger, for one process."""
    return env.kind.open_ledger(env.objects(), env.clock())


def settle(env: Environment) -> None:
    """With everything quiet: finish what reclaims and sweeps have left."""
    clock = env.clock()
    table = env.open(clock)
    for policy in env.record.policies:
        Retention(table, lambda: ledger(env), clock).reclaim(policy, grace_s=env.grace_s)
    for _ in range(SETTLING_ROUNDS):
        clock.sleep(env.grace_s + RESOLUTION_S)
        Sweep(table, clock, grace_s=env.grace_s).run()
        if env.kind.reclaims:
            Sweep(ledger(env).table, clock, grace_s=env.grace_s).run()
    env.record.swept_clean = True
