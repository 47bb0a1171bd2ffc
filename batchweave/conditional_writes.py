"""Whether a store keeps the one promise that streams rest on: put-if-absent.

A store that overwrites where it was asked to create would let two producers give out one step, and
nothing would tell. So it is asked before a stream is made.
Imports: standard library, errors, clock, objects.
"""

from __future__ import annotations

import contextlib

from batchweave.clock import Clock, SystemClock
from batchweave.errors import (
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from batchweave.objects import Objects

PROBE = ".batchweave-probe-"
"""How the names of probes begin; none is left."""

TRIES = 3


def check_conditional_writes(objects: Objects, clock: Clock | None = None) -> None:
    """Create one small object twice: the second time the store must say that it exists.

    Two small writes and a delete, of a name that nobody else has. Do it before anything is made of
    which a lost promise would be a lost batch. A folder of this machine is not asked: there the
    file system's own link is what keeps the promise.

    Raises:
        StoreDenied: the store ignores or refuses the condition, or the credentials may not write.
        StoreUnavailable: the store did not say.
    """
    if objects.local_file("") is not None:
        return
    path = PROBE + (clock or SystemClock()).token()
    try:
        _write_first(objects, path)
        if _is_replaced(objects, path):
            raise StoreDenied(
                f"{objects.uri} cannot hold streams: it overwrote an object that was to be created "
                "only where none is (If-None-Match: *), so two producers could give out one step. "
                "Use a store with conditional writes, or a catalog that keeps the table's versions "
                "itself (sql, rest)"
            )
    finally:
        with contextlib.suppress(StoreError):  # a probe that stays harms nobody
            objects.delete([path])


def _write_first(objects: Objects, path: str) -> None:
    try:
        objects.create(path, b"first")
    except (ObjectExists, StoreUnavailable) as error:  # sent twice, or its answer was lost
        try:
            objects.head(path)
        except ObjectNotFound:
            raise error from None


def _is_replaced(objects: Objects, path: str) -> bool:
    """Whether creating it again writes over it. Lost answers are settled by reading."""
    for _ in range(TRIES):
        try:
            objects.create(path, b"second")
        except ObjectExists:
            return False
        except StoreUnavailable:
            continue
        return True
    return bytes(objects.get(path)[0]) != b"first"
