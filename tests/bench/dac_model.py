"""A discrete-event model of producers that commit to one table.

What is modelled: each producer publishes batches, its policy says when to try, and an attempt
takes one commit window: it reads the head (a third), writes, and does a compare-and-swap that
succeeds only if the table's version did not move since the read, and is answered a tenth of the
window later.  As in the producer, the policy is told when the read began, not when it ended.  A
commit carries all that was pending when the head was read.  Every producer has a monotonic clock
of its own (random origin, drift up to 50 ppm), so that nothing in a policy can lean on a common
clock.

What is left out: uploads, cost that grows with metadata, and commits whose outcome is unknown.
The batches of a busy producer are generated lazily (at its next event), which is exact because
nothing looks at them earlier, and makes a run cost per attempt instead of per batch.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from batchweave.dac import Claim, CommitPolicy, Outcome, Pace, View

PROBE_SHARE = 0.1
# With a `read_share` of zero reads and answers take no time, but a probe its share of a window.
READ_SHARE = 1.0 / 3.0
ANSWER_SHARE = 0.1
CLOCK_ORIGIN_S_MAX = 1e5
CLOCK_DRIFT_MAX = 5e-5
PUBLISH_JITTER = 0.1
STALL_FACTOR = 10.0

PolicyFactory = Callable[[str, random.Random], CommitPolicy]


@dataclass(frozen=True, slots=True)
class Registered:
    """What the table's state says of one producer."""

    version: int
    opened_version: int
    turn_us: int


@dataclass(slots=True, eq=False)
class Worker:
    """One producer of the model."""

    name: str
    policy: CommitPolicy
    clock_origin_s: float
    clock_rate: float
    window_factor: float
    next_publish_s: float
    publishes: bool = True
    alive: bool = True
    opened: bool = False
    frozen_until_s: float = 0.0
    busy: bool = False
    ticket: int = 0
    pending: deque[float] = field(default_factory=deque)
    carried: int = 0
    base_version: int = 0
    took_s: float = 0.0
    won: bool = False
    began_s: float = 0.0
    claim: Claim | None = None
    commits: list[float] = field(default_factory=list)

    def local_s(self, now_s: float) -> float:
        return self.clock_origin_s + now_s * self.clock_rate

    def global_s(self, local_s: float) -> float:
        return (local_s - self.clock_origin_s) / self.clock_rate


@dataclass(frozen=True, slots=True)
class Metrics:
    """What one stretch of a run measured; `round_s` is the ideal round of that stretch."""

    attempts_per_commit: float
    probes_per_commit: float
    p50_rounds: float
    p99_rounds: float
    jain: float
    commits: int
    round_s: float


def jain(counts: Sequence[int]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/N when one has all."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


class Simulation:
    """The table, its producers and the event queue."""

    def __init__(
        self,
        policy_factory: PolicyFactory,
        seed: int,
        window_s: float = 0.05,
        jitter: float = 0.2,
        read_share: float = READ_SHARE,
    ) -> None:
        self.rng = random.Random(seed)
        self.policy_factory = policy_factory
        self.window_s = window_s
        self.jitter = jitter
        self.read_share = read_share
        self.stall_share = 0.0
        self.batches_each = 1
        self.interval_s = 1.0
        self.now_s = 0.0
        self.version = 0
        self.pace = Pace()
        self.registered: dict[str, Registered] = {}
        self.workers: list[Worker] = []
        self.publish_end_s = float("inf")
        self.attempt_ends_s = array("d")
        self.probe_ends_s = array("d")
        self.published_s = array("d")
        self.delays_s = array("d")
        self._queue: list[tuple[float, int, Callable[[Worker, int], None], Worker, int]] = []
        self._pushed = 0

    # -- set-up and disturbances ---------------------------------------------------------------

    def join(self, count: int, factors: Sequence[float] = (1.0,)) -> None:
        """Add producers now; each publishes its first batch at once."""
        for index in range(count):
            name = f"producer-{len(self.workers)}"
            worker = Worker(
                name=name,
                policy=self.policy_factory(name, random.Random(self.rng.getrandbits(64))),
                clock_origin_s=self.rng.uniform(0.0, CLOCK_ORIGIN_S_MAX),
                clock_rate=1.0 + self.rng.uniform(-CLOCK_DRIFT_MAX, CLOCK_DRIFT_MAX),
                window_factor=factors[index % len(factors)],
                next_publish_s=self.now_s,
            )
            self.workers.append(worker)
            self._push(self.now_s, self._on_publish, worker, 0)

    def crash(self, worker: Worker) -> None:
        """The producer is gone without a word; an attempt in flight is never finished."""
        worker.alive = False

    def idle(self, worker: Worker) -> None:
        """The producer lives on but publishes nothing more."""
        self._fill(worker)
        worker.publishes = False

    def freeze(self, worker: Worker, until_s: float) -> None:
        """The process is stopped and goes on later, as under SIGSTOP or a long collection."""
        worker.frozen_until_s = until_s

    def restart(self, worker: Worker) -> None:
        """A new process under the old name: pending batches are kept, the memory is not."""
        worker.policy = self.policy_factory(worker.name, random.Random(self.rng.getrandbits(64)))
        worker.clock_origin_s = self.rng.uniform(0.0, CLOCK_ORIGIN_S_MAX)
        worker.busy = False
        worker.opened = False
        self._plan(worker)

    def flush_all(self) -> None:
        """Production stops now and every producer asks for a flush."""
        self.publish_end_s = self.now_s
        for worker in self.workers:
            if worker.alive:
                self._fill(worker)
                worker.policy.flush()
                self._plan(worker)

    # -- the event loop ------------------------------------------------------------------------

    def run(self, until_s: float) -> None:
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, handler, worker, ticket = heapq.heappop(self._queue)
            if not worker.alive:
                continue
            if worker.frozen_until_s > self.now_s:
                self._push(worker.frozen_until_s, handler, worker, ticket)
                continue
            handler(worker, ticket)
        self.now_s = until_s

    def pending_batches(self) -> int:
        return sum(len(worker.pending) for worker in self.workers if worker.alive)

    def _push(
        self, at_s: float, handler: Callable[[Worker, int], None], worker: Worker, ticket: int
    ) -> None:
        self._pushed += 1
        heapq.heappush(self._queue, (at_s, self._pushed, handler, worker, ticket))

    def _fill(self, worker: Worker) -> None:
        limit_s = min(self.now_s, self.publish_end_s)
        while worker.publishes and worker.next_publish_s <= limit_s:
            worker.pending.extend([worker.next_publish_s] * self.batches_each)
            spread = self.rng.uniform(1.0 - PUBLISH_JITTER, 1.0 + PUBLISH_JITTER)
            worker.next_publish_s += self.interval_s * self.batches_each * spread

    def _plan(self, worker: Worker) -> None:
        if worker.busy:
            return
        self._fill(worker)
        oldest_s = worker.local_s(worker.pending[0]) if worker.pending else None
        worker.policy.pending(len(worker.pending), len(worker.pending), oldest_s)
        worker.ticket += 1
        at_s = worker.policy.next_attempt_s(worker.local_s(self.now_s))
        if at_s is not None:
            wake_s = max(self.now_s, worker.global_s(at_s))
            self._push(wake_s, self._on_wake, worker, worker.ticket)
        elif worker.publishes and worker.next_publish_s <= self.publish_end_s:
            self._push(worker.next_publish_s, self._on_publish, worker, 0)

    def _duration_s(self, worker: Worker) -> float:
        spread = self.rng.uniform(1.0 - self.jitter, 1.0 + self.jitter)
        stalls = self.stall_share > 0.0 and self.rng.random() < self.stall_share
        return self.window_s * worker.window_factor * spread * (STALL_FACTOR if stalls else 1.0)

    def _on_publish(self, worker: Worker, _ticket: int) -> None:
        if not worker.pending:
            self._plan(worker)

    def _on_wake(self, worker: Worker, ticket: int) -> None:
        if ticket != worker.ticket or worker.busy:
            return
        self._fill(worker)
        oldest_s = worker.local_s(worker.pending[0]) if worker.pending else None
        worker.policy.pending(len(worker.pending), len(worker.pending), oldest_s)
        worker.busy = True
        worker.ticket += 1
        worker.began_s = self.now_s
        worker.took_s = self._duration_s(worker)
        if self.read_share > 0.0:
            end_s = self.now_s + self.read_share * worker.took_s
            self._push(end_s, self._on_read, worker, worker.ticket)
        else:
            self._on_read(worker, worker.ticket)

    def _on_read(self, worker: Worker, ticket: int) -> None:
        """The head as it is at the end of the read; the policy is told when the read began."""
        if ticket != worker.ticket:
            return
        view = View(self.version, self.pace, self.registered)
        worker.claim = worker.policy.begin(view, worker.local_s(worker.began_s))
        worker.base_version = self.version
        if worker.claim is None:
            probe_s = 0.0 if self.read_share > 0.0 else PROBE_SHARE * worker.took_s
            self.probe_ends_s.append(self.now_s + probe_s)
            self._push(self.now_s + probe_s, self._on_probed, worker, worker.ticket)
            return
        worker.carried = len(worker.pending)
        answer_share = ANSWER_SHARE if self.read_share > 0.0 else 0.0
        swap_s = worker.began_s + (1.0 - answer_share) * worker.took_s
        self._push(max(self.now_s, swap_s), self._on_swap, worker, worker.ticket)

    def _on_probed(self, worker: Worker, ticket: int) -> None:
        if ticket == worker.ticket:
            worker.busy = False
            self._plan(worker)

    def _on_swap(self, worker: Worker, ticket: int) -> None:
        if ticket != worker.ticket:
            return
        worker.won = self.version == worker.base_version
        if worker.won:
            self._commit(worker)
        if self.read_share > 0.0:
            answered_s = max(self.now_s, worker.began_s + worker.took_s)
            self._push(answered_s, self._on_answer, worker, ticket)
        else:
            self._on_answer(worker, ticket)

    def _on_answer(self, worker: Worker, ticket: int) -> None:
        if ticket != worker.ticket:
            return
        worker.busy = False
        self.attempt_ends_s.append(self.now_s)
        worker.policy.attempted(
            Outcome.COMMITTED if worker.won else Outcome.LOST,
            worker.local_s(worker.began_s),
            worker.local_s(self.now_s),
        )
        self._plan(worker)

    def _commit(self, worker: Worker) -> None:
        assert worker.claim is not None
        self.version += 1
        before = self.registered.get(worker.name)
        opened = before.opened_version if before and worker.opened else self.version
        worker.opened = True
        self.registered[worker.name] = Registered(self.version, opened, worker.claim.turn_us)
        self.pace = worker.claim.pace
        worker.commits.append(self.now_s)
        for _ in range(worker.carried):
            published_s = worker.pending.popleft()
            self.published_s.append(published_s)
            self.delays_s.append(self.now_s - published_s)

    # -- measuring -----------------------------------------------------------------------------

    def measure(self, start_s: float, stop_s: float, round_s: float) -> Metrics:
        """Attempts and commits that ended, and batches published, in `[start_s, stop_s)`.

        Batches published in the stretch and not committed by now count with their age.
        """
        equals = [w for w in self.workers if w.alive and w.publishes]
        counts = [sum(start_s <= at < stop_s for at in w.commits) for w in equals]
        commits = sum(sum(start_s <= at < stop_s for at in w.commits) for w in self.workers)
        attempts = sum(start_s <= at < stop_s for at in self.attempt_ends_s)
        probes = sum(start_s <= at < stop_s for at in self.probe_ends_s)
        pairs = zip(self.published_s, self.delays_s, strict=True)
        delays = [delay for at, delay in pairs if start_s <= at < stop_s]
        for worker in equals:
            delays += [self.now_s - at for at in worker.pending if start_s <= at < stop_s]
        delays.sort()
        return Metrics(
            attempts_per_commit=attempts / max(1, commits),
            probes_per_commit=probes / max(1, commits),
            p50_rounds=delays[len(delays) // 2] / round_s if delays else 0.0,
            p99_rounds=delays[int(0.99 * len(delays))] / round_s if delays else 0.0,
            jain=jain(counts),
            commits=commits,
            round_s=round_s,
        )
