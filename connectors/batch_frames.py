"""Frames: batches on their way between two processes of one program, over a socket.

A frame is a kind, a JSON header and, for a batch, its table as an Arrow stream. No pickle.
Imports: standard library, pyarrow, the core.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from multiprocessing.connection import wait
from typing import Any

import pyarrow as pa

from batchweave.batch import Batch
from batchweave.columns import ArrayType

_SIZES = struct.Struct("!BQQ")
LOOK_AROUND_S = 1.0
"""How long a process waits for a frame before it looks whether its other end still lives."""


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1
    """A worker begins an iteration; its lane's next step if it resumes at one of its own."""
    GO = 2
    """Where the iteration begins."""
    BATCH = 3
    END = 4
    """The iteration has no more for this lane, or is over before its end."""
    FAILED = 5


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. ``body`` is the Arrow stream of a batch."""

    kind: Kind
    header: dict[str, Any]
    body: Any = b""


class LaneClosed(Exception):
    """The process at the other end is gone, or has closed the lane."""


def batch_frame(batch: Batch, iteration: int) -> Frame:
    """A batch as a frame."""
    header = {
        "iteration": iteration,
        "step": batch.step,
        "slices": batch.slices,
        "producer": batch.producer,
        "sequence": batch.sequence,
        "committed_at_ms": batch.committed_at_ms,
        "sources": batch.sources,
        "arrays": {name: kind.to_dict() for name, kind in batch.arrays.items()},
        "rows": [[rows.start, rows.stop] for rows in batch.rows],
    }
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.table.schema) as writer:
        writer.write_table(batch.table)
    return Frame(Kind.BATCH, header, sink.getvalue())


def frame_batch(frame: Frame) -> Batch:
    """The inverse of `batch_frame`. The table shares the frame's memory."""
    header = frame.header
    return Batch(
        step=header["step"],
        table=_table(frame.body),
        slices=tuple(header["slices"]),
        producer=header["producer"],
        sequence=header["sequence"],
        committed_at_ms=header["committed_at_ms"],
        sources=tuple(header["sources"]),
        arrays={name: ArrayType.from_dict(kind) for name, kind in header["arrays"].items()},
        rows=tuple(range(start, stop) for start, stop in header["rows"]),
    )


def _table(body: Any) -> pa.Table:
    # No thread pools: this runs in processes that were forked from one that has them.
    options = pa.ipc.IpcReadOptions(use_threads=False)
    return pa.ipc.open_stream(pa.py_buffer(body), options=options).read_all()


def send(lane: socket.socket, frame: Frame) -> None:
    """Write a frame; waits until the other end takes it.

    Raises:
        LaneClosed: nobody will.
    """
    header = json.dumps(frame.header, separators=(",", ":")).encode()
    body = memoryview(frame.body)
    try:
        lane.sendall(_SIZES.pack(frame.kind, len(header), body.nbytes) + header)
        lane.sendall(body)
    except OSError as error:
        raise LaneClosed(str(error)) from None


def receive(lane: socket.socket, alive: Callable[[], bool]) -> Frame:
    """Read the next frame; waits as long as ``alive`` says that one may come.

    Raises:
        LaneClosed: none will.
    """
    kind, header, body = _SIZES.unpack(_exactly(lane, _SIZES.size, alive))
    text = _exactly(lane, header, alive)
    return Frame(Kind(kind), json.loads(bytes(text)), _exactly(lane, body, alive))


def _exactly(lane: socket.socket, size: int, alive: Callable[[], bool]) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    try:
        while view:
            while not wait([lane], LOOK_AROUND_S):  # not select, which knows 1,024 files
                if not alive():
                    raise LaneClosed("the process at the other end is gone")
            count = lane.recv_into(view)
            if not count:
                raise LaneClosed("the other end closed")
            view = view[count:]
    except (OSError, ValueError) as error:
        raise LaneClosed(str(error)) from None
    return data
