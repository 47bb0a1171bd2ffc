"""What several tests need: a catalog on a folder, a small stream, slices to publish."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import batchweave as bw

TOKENS = pa.schema([("tokens", pa.list_(pa.int32()))])
QUICK = bw.ProducerSettings(freshness_s=0.01, commit_timeout_s=60)


def catalog_at(folder: Path | str) -> bw.Catalog:
    """The embedded default on a folder."""
    return bw.load_catalog("local", type="object-store", warehouse=str(folder))


def make_stream(
    folder: Path | str,
    *,
    name: str = "demo.tokens",
    schema: pa.Schema = TOKENS,
    mesh: bw.Mesh | None = None,
) -> bw.Stream:
    """A new stream in a catalog on a folder; two slices unless a mesh is given."""
    return catalog_at(folder).create_stream(name, schema=schema, mesh=mesh or bw.Mesh(dp=2))


def tokens(value: int, rows: int = 4, width: int = 8) -> Mapping[str, Any]:
    """A slice of which every token is ``value``."""
    return {"tokens": np.full((rows, width), value, np.int32)}


def publish_numbers(producer: bw.Producer, first: int, count: int, slices: int = 2) -> None:
    """Batches ``first`` to ``first + count``: batch n holds n in every token, position n."""
    for number in range(first, first + count):
        producer.publish([tokens(number)] * slices, position=number, source=f"item {number}")


def numbers(stream: bw.Stream, slice_index: int = 0) -> list[int]:
    """The numbers that `publish_numbers` published, in the order that a reader sees them."""
    with stream.read(slice=slice_index) as reader:
        return [int(batch.numpy()["tokens"][0, 0]) for batch in reader]
