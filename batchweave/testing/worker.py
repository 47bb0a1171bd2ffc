"""The other process of a conformance test: finds a stream by its name and publishes to it.

    python -m batchweave.testing.worker < task

A task is one line of JSON: the suite's class if that opens the catalog in its own way, the
catalog's properties, the stream, the producer and the numbers of the batches. It says ``ready``
once the producer is open, and then goes on.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import batchweave as bw
from batchweave.testing.samples import sample_batch
from batchweave.testing.suite import Conformance
from batchweave.testing.writing import QUICK


def main() -> None:
    """Do the task on standard input."""
    task = json.loads(sys.stdin.readline())
    stream = _open_catalog(task["suite"], task["properties"]).load_stream(task["stream"])
    with stream.producer(task["producer"], QUICK) as producer:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for number in task["numbers"]:
            slices = sample_batch(number, stream.mesh.slices, stream.schema)
            producer.publish(slices, position=number).step()


def _open_catalog(suite: Sequence[str] | None, properties: Mapping[str, str]) -> bw.Catalog:
    """Open the catalog as the suite does; None stands for one that opens it as everybody does."""
    if suite is None:
        return Conformance.open_catalog(properties)
    module, qualified = suite
    found: Any = functools.reduce(getattr, qualified.split("."), importlib.import_module(module))
    catalog: bw.Catalog = found.open_catalog(properties)
    return catalog


if __name__ == "__main__":
    main()
