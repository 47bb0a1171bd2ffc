"""What the tests of training share: small streams of which every row is told apart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import batchweave as bw
from batchweave.connectors.torch_dataset import StreamDataset
from tests.streams import QUICK, make_stream

SCHEMA = pa.schema([("tokens", pa.list_(pa.int32())), ("name", pa.string())])
SLICES = 4
ROWS = 4


def numbered(step: int, slices: int = SLICES, rows: int = ROWS) -> list[dict[str, Any]]:
    """A batch in which every token tells its step, slice and row."""
    return [
        {
            "tokens": np.arange(rows * 3, dtype=np.int32).reshape(rows, 3) + 1000 * step + 100 * at,
            "name": [f"{step}/{at}/{row}" for row in range(rows)],
        }
        for at in range(slices)
    ]


def numbered_stream(
    folder: Path, steps: int, *, slices: int = SLICES, sealed: bool = True
) -> bw.Stream:
    """A stream of `numbered` batches."""
    stream = make_stream(folder, schema=SCHEMA, mesh=bw.Mesh(dp=slices))
    publish(stream, 0, steps, slices=slices)
    if sealed:
        stream.seal()
    return stream


def publish(stream: bw.Stream, first: int, count: int, *, slices: int = SLICES) -> None:
    """Append `numbered` batches."""
    if count:
        with stream.producer("p", QUICK) as producer:
            for step in range(first, first + count):
                producer.publish(numbered(step, slices), position=step)


def alone(stream: bw.Stream, **options: Any) -> StreamDataset:
    """A dataset of a world of one."""
    return StreamDataset(stream, rank=0, world_size=1, **options)


def steps_of(elements: Any) -> list[int]:
    """The steps that elements say they are, checked against their content."""
    found = []
    for element in elements:
        assert int(element["tokens"].flatten()[0]) // 1000 == element.step
        found.append(element.step)
    return found


@contextmanager
def no_threads_left() -> Iterator[None]:
    """Fails if the block leaves threads of ours behind."""
    before = set(threading.enumerate())
    yield
    ours = [one for one in threading.enumerate() if one.name.startswith("batchweave")]
    for thread in ours:
        if thread not in before:
            thread.join(60)
    left = [one for one in threading.enumerate() if one not in before and one in ours]
    assert left == []
