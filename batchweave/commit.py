"""One attempt to commit, and the bounded loop around it.

The core is a versioned register with compare-and-swap: it knows nothing of batches. A *plan* is a
function from the head to the change wanted, or to ``None`` when the head already holds it: that is
how an attempt of our own that landed unseen (a lost acknowledgement, a retry inside of an SDK) is
recognised. An unknown outcome is resolved by reading, never guessed, and nothing is deleted.
Imports: standard library, errors, clock, table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from batchweave.clock import Clock
from batchweave.errors import NotCommitted, StoreUnavailable
from batchweave.table import Change, Committed, Head, Lost, Table

Plan: TypeAlias = Callable[[Head], Change | None]


@dataclass(frozen=True, slots=True)
class Retries:
    """How long to try: bounded in number and in time.

    ``wait_max_s`` caps the full-jitter back-off between attempts (source: AWS Architecture Blog,
    "Exponential Backoff And Jitter").
    """

    attempts_max: int = 100
    seconds_max: float = 120.0
    wait_first_s: float = 0.02
    wait_max_s: float = 2.0


def commit(
    table: Table, plan: Plan, *, clock: Clock, retries: Retries | None = None, what: str = "commit"
) -> Head:
    """Make the plan true of the table and return a head that holds it.

    Used for state changes (opening, sealing, checkpoints), which are rare. The plan is evaluated
    on every head read, so that its checks hold on the base of the commit that wins. What the plan
    raises passes through.

    Raises:
        NotCommitted: the bounds were reached first; what landed last is not known to include it.
    """
    bounds = retries or Retries()
    random = clock.random()
    began_s = clock.monotonic_s()
    cause: Exception | None = None
    for attempt in range(bounds.attempts_max):
        try:
            head = table.head()
            change = plan(head)
            if change is None:
                return head
            outcome = table.commit(head, change)
            if isinstance(outcome, Committed):
                return outcome.head
            if not isinstance(outcome, Lost):
                cause = outcome.cause
        except StoreUnavailable as error:
            cause = error
        if clock.monotonic_s() - began_s > bounds.seconds_max:
            break
        ceiling_s = min(bounds.wait_max_s, bounds.wait_first_s * 2 ** min(attempt, 16))
        clock.sleep(random.uniform(0, ceiling_s))
    seconds = clock.monotonic_s() - began_s
    raise NotCommitted(
        f"{what} on {table.name}: no commit after {attempt + 1} attempts in {seconds:.1f} s"
        + (f"; the store last said: {cause}" if cause else "; others committed first each time")
    ) from cause
