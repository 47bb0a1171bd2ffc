"""What the demo's worker processes share: how they are told what to do, and how they tell.

A worker gets the stream in an environment variable (properties may hold credentials, which must
not stand on a command line), writes JSON lines to stdout, and ends when its stdin does: the
process that conducts the demo holds the other end, however it dies.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, Protocol

import batchweave as bw

STREAM = "BATCHWEAVE_DEMO_STREAM"


class Report(Protocol):
    """Tell the conductor something."""

    def __call__(self, **fields: Any) -> None: ...


def write_address(catalog: str, properties: dict[str, str], stream: str) -> str:
    """The value of the environment variable for a worker."""
    return json.dumps({"catalog": catalog, "properties": properties, "stream": stream})


def open_stream() -> bw.Stream:
    """The stream that the environment names."""
    address = json.loads(os.environ[STREAM])
    catalog = bw.load_catalog(address["catalog"], **address["properties"])
    return catalog.load_stream(address["stream"])


def report(**fields: Any) -> None:
    """One JSON line to the conductor."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """End this process when the conductor is gone, whatever is going on."""

    def watch() -> None:
        # Not through sys.stdin: its lock must be free when the interpreter ends.
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="demo-parent", daemon=True).start()
