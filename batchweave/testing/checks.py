"""`check_stream`: what has to hold of every stream at every moment, looked up in the stream itself.

Nothing is believed that can be read: every file is fetched and hashed, every slice is decoded, the
chain is computed anew. Source: the invariants of the design, as a user of the stream sees them.
Imports: standard library, errors, state, stream, table.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchweave.errors import BatchWeaveError
from batchweave.state import CHAIN_START, StreamState, next_chain
from batchweave.stream import Stream
from batchweave.table import BatchEntry, Table

SHOWN_MAX = 20
"""Violations that a message lists before it only counts."""


@dataclass(frozen=True, slots=True)
class CheckedStream:
    """How much `check_stream` looked at: steps, rows and bytes of files, and who published."""

    steps: int
    rows: int
    bytes: int
    producers: tuple[str, ...]


def check_stream(stream: Stream, *, deep: bool = True) -> CheckedStream:
    """Assert that a stream keeps its promises; safe beside live producers.

    Holds afterwards, of the version that was the head: steps are dense and no batch is there twice;
    each producer's sequences are dense, in order, and end where its state says; the chain is that
    of the batches; every slice of every batch is there. With ``deep`` also: every file has the
    digest and size that the table names, and every slice is decoded, in step order.

    Args:
        stream: any stream, also one that is being written.
        deep: read the data as well; without it only metadata is read.

    Returns:
        What was looked at, so that a caller can tell a check of nothing from a check.

    Raises:
        AssertionError: a promise is broken; the message lists how.
        StoreError: the store failed.
    """
    head = stream.table.head()
    state = head.state
    found: list[str] = []
    entries: list[BatchEntry] = []
    try:
        entries += stream.table.entries(head, state.watermark, state.next_step)
    except BatchWeaveError as error:
        found.append(f"the table's metadata cannot be read as a stream: {error}")
    else:
        found += _order(entries, state)
        found += _producers(entries, state)
        found += _chain(entries, state)
        found += _slices(entries, stream.mesh.slices)
        found += _checkpoints(state)
        if deep and not found:
            found += _files(entries, stream.table)
            found += _rows(entries, stream)
    if found:
        raise AssertionError(_message(stream, head.version, found))
    return CheckedStream(
        steps=len(entries),
        rows=sum(entry.rows for entry in entries),
        bytes=sum(entry.bytes for entry in entries),
        producers=tuple(sorted({entry.producer for entry in entries})),
    )


def _message(stream: Stream, version: int, found: Sequence[str]) -> str:
    shown = [f"- {one}" for one in found[:SHOWN_MAX]]
    more = [f"- and {len(found) - SHOWN_MAX} more"] if len(found) > SHOWN_MAX else []
    return "\n".join([f"{stream.name} at version {version} breaks its promises:", *shown, *more])


def _order(entries: Sequence[BatchEntry], state: StreamState) -> Iterator[str]:
    expected = range(state.watermark, state.next_step)
    steps = [entry.step for entry in entries]
    if steps != list(expected):
        at = next(
            (at for at, (one, due) in enumerate(zip(steps, expected, strict=False)) if one != due),
            min(len(steps), len(expected)),
        )
        yield (
            f"steps are not dense: place {at} of {len(steps)} batches is not step "
            f"{state.watermark + at}, the state says {expected.start} to {expected.stop}"
        )
    for what, copies in (
        ("step", Counter(steps)),
        ("file", Counter(part.path for entry in entries for part in entry.parts)),
        ("batch", Counter((entry.producer, entry.sequence) for entry in entries)),
    ):
        for one, count in copies.items():
            if count > 1:
                yield f"{what} {one} is there {count} times"


def _producers(entries: Sequence[BatchEntry], state: StreamState) -> Iterator[str]:
    last: dict[str, BatchEntry] = {}
    for entry in entries:
        before = last.get(entry.producer)
        # Below the watermark nobody knows where a producer stood.
        first = 0 if state.watermark == 0 else entry.sequence
        due = first if before is None else before.sequence + 1
        if entry.sequence != due:
            yield (
                f"step {entry.step} is sequence {entry.sequence} of {entry.producer!r} "
                f"where {due} is due"
            )
        last[entry.producer] = entry
    for name, entry in last.items():
        known = state.producers.get(name)
        if known is None or (known.sequence, known.step) != (entry.sequence, entry.step):
            yield (
                f"the last batch of {name!r} is sequence {entry.sequence} at step {entry.step}, "
                f"the state says {known}"
            )
    for name, known in state.producers.items():
        if name not in last and known.step >= state.watermark:
            yield f"the state says {known} of {name!r}, and none of its batches is there"


def _chain(entries: Sequence[BatchEntry], state: StreamState) -> Iterator[str]:
    if state.watermark:  # the beginning was reclaimed
        return
    chain = CHAIN_START
    for entry in entries:
        chain = next_chain(chain, entry.step, [part.digest for part in entry.parts])
    if chain != state.chain:
        yield f"the chain of the batches is {chain[:12]}…, the state says {state.chain[:12]}…"


def _slices(entries: Sequence[BatchEntry], slices: int) -> Iterator[str]:
    for entry in entries:
        at = 0
        for part in entry.parts:
            if part.first_slice != at or part.slices < 1 or len(part.offsets) != part.slices:
                yield f"step {entry.step}: {part.path} does not begin at slice {at}"
            if part.rows < part.slices:
                yield f"step {entry.step}: {part.path} has a slice without rows"
            at += part.slices
        if at != slices:
            yield f"step {entry.step} has {at} slices, the mesh has {slices}"


def _checkpoints(state: StreamState) -> Iterator[str]:
    for name, checkpoint in state.checkpoints.items():
        if not state.watermark <= checkpoint.next_step <= state.next_step:
            yield (
                f"checkpoint {name!r} is at step {checkpoint.next_step}, the stream holds "
                f"{state.watermark} to {state.next_step}"
            )


def _files(entries: Sequence[BatchEntry], table: Table) -> Iterator[str]:
    for entry in entries:
        for part in entry.parts:
            try:
                data, _ = table.objects.get(part.path)
            except LookupError as error:
                yield f"step {entry.step}: {error}"
                continue
            size, digest = memoryview(data).nbytes, hashlib.sha256(data).hexdigest()
            if (size, digest) != (part.bytes, part.digest):
                yield (
                    f"step {entry.step}: {part.path} has {size} bytes and digest {digest[:12]}…, "
                    f"the table says {part.bytes} and {part.digest[:12]}…"
                )


def _rows(entries: Sequence[BatchEntry], stream: Stream) -> Iterator[str]:
    if not entries:
        return
    start, stop = entries[0].step, entries[-1].step + 1
    rows = dict.fromkeys(range(start, stop), 0)
    for index in range(stream.mesh.slices):
        due = start
        try:
            with stream.read(slice=index, start=start, stop=stop) as reader:
                for batch in reader:
                    if batch.step != due:
                        yield f"slice {index}: step {batch.step} was read where {due} is due"
                        return
                    rows[batch.step] += batch.table.num_rows
                    due += 1
        except BatchWeaveError as error:
            yield f"slice {index}: {error}"
        if due != stop:
            yield f"slice {index}: reading ended before step {due}, it should at {stop}"
    for entry in entries:
        if rows[entry.step] != entry.rows:
            yield (
                f"step {entry.step}: {rows[entry.step]} rows were read, the table says {entry.rows}"
            )
