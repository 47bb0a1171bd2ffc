"""Writers for tests: many small commits, without threads, stopped wherever a test wants.

A `Writer` is the session that a producer drives from its threads, driven by hand: it commits one
batch at a time, or falls asleep between reading the head and committing. Imports: standard library,
clock, dac, errors, session, table, batch, parquet, samples.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from batchweave.batch import check_slices, position_to_text
from batchweave.clock import SystemClock
from batchweave.dac import Claim
from batchweave.parquet import encode
from batchweave.session import Session, Staged
from batchweave.settings import ProducerSettings
from batchweave.stream import Stream
from batchweave.table import Committed, Outcome
from batchweave.testing.samples import batch_number, sample_batch

QUICK = ProducerSettings(freshness_s=0.01, commit_timeout_s=240)
ATTEMPTS_MAX = 200
THREADS_S_MAX = 240.0
POSITION_BYTES_INLINE_MAX = 4096


class Writer:
    """One opener of a producer name, driven by hand. Batch n is `sample_batch` n, position n."""

    def __init__(self, stream: Stream, name: str) -> None:
        self._stream = stream
        self.session = Session(
            stream.table,
            name,
            clock=SystemClock(),
            position_bytes_inline_max=POSITION_BYTES_INLINE_MAX,
        )
        self.session.open()

    def stage(self, number: int) -> None:
        """Upload batch ``number`` and queue it for the next attempt; nothing of it is visible."""
        stream, session = self._stream, self.session
        slices = sample_batch(number, stream.mesh.slices, stream.schema)
        data = check_slices(slices, [None] * len(slices), stream.mesh, stream.schema)
        schema = stream.table.file_schema
        encoded = encode(data, 0, file_schema=schema, compression="none", compression_level=None)
        sequence = session.sequence + 1 + len(session.staged)
        part, version = session.upload(sequence, 0, encoded)
        session.stage(
            Staged(
                sequence=sequence,
                encoded=(encoded,),
                parts=(part,),
                upload_version=version,
                position=session.store_position(sequence, position_to_text(number)),
            )
        )

    def attempt(self) -> Outcome | None:
        """Read the head and try once to commit what is staged."""
        return self.session.attempt()

    def sleep_before_commit(self) -> Callable[[], Outcome | None]:
        """Read the head now; the result commits upon that head, however late it is called."""
        head = self.session.refresh()
        claim = Claim(head.state.pace, turn_us=0)
        return lambda: self.session.attempt(claim)

    def commit(self, number: int) -> None:
        """Publish batch ``number`` in a commit of its own.

        Raises:
            AssertionError: it did not succeed in many attempts.
        """
        self.stage(number)
        for _ in range(ATTEMPTS_MAX):
            outcome = self.session.attempt()
            if isinstance(outcome, Committed):
                self._stream.table.tidy(outcome.head)
            if not self.session.staged:
                return
        raise AssertionError(f"batch {number} was not committed in {ATTEMPTS_MAX} attempts")


def commit_each(stream: Stream, producer: str, numbers: Sequence[int]) -> None:
    """Publish batches under one producer name, each in a commit of its own."""
    writer = Writer(stream, producer)
    for number in numbers:
        writer.commit(number)


def numbers_of(stream: Stream, index: int = 0) -> list[int]:
    """Which batches a stream holds, in the order of its steps, as the reader of a slice sees it."""
    with stream.read(slice=index) as reader:
        return [batch_number(batch.table) for batch in reader]


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Make the calls at the same time; their results, or what the first that failed raised.

    One that failed is told at once: the others may wait for it.

    Raises:
        AssertionError: one did not return.
    """
    together = threading.Barrier(len(calls))
    returned = threading.Semaphore(0)
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            together.wait()
            results[index] = calls[index]()
        except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
            errors.append(error)
        finally:
            returned.release()

    for at in range(len(calls)):
        threading.Thread(target=run, args=(at,), daemon=True).start()
    for _ in calls:
        in_time = returned.acquire(timeout=THREADS_S_MAX)
        if errors:
            raise errors[0]
        if not in_time:
            raise AssertionError(f"a call did not return within {THREADS_S_MAX:g} s")
    return results
