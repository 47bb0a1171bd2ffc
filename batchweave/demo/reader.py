"""A rank of the demo: read my slice of every step and log it, from where my log ends.

The log stands for a training run: one line a step, synced to the disk before the next step is
taken. Run as ``python -m batchweave.demo.reader RANK LOG``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

import batchweave as bw
from batchweave.demo.worker import Report, end_with_parent, open_stream, report

SETTINGS = bw.ReaderSettings(poll_interval_s=0.1)


@dataclass(frozen=True, slots=True)
class Line:
    """One step that a rank has consumed."""

    step: int
    sha256: str

    def to_bytes(self) -> bytes:
        """The line as it stands in the log."""
        return json.dumps({"step": self.step, "sha256": self.sha256}).encode() + b"\n"


def read_log(path: Path) -> tuple[list[Line], int]:
    """The whole lines of a log and their length in bytes: what follows was torn by a crash.

    Raises:
        ValueError: a line that is not the last cannot be read.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    return [Line(**json.loads(text)) for text in whole.splitlines()], len(whole)


def slice_hash(table: pa.Table) -> str:
    """SHA-256 over a slice's rows: path, offset and tokens of each."""
    found = hashlib.sha256()
    columns = (table.column(name) for name in ("path", "offset", "tokens"))
    for path, offset, tokens in zip(*columns, strict=True):
        values = tokens.values.to_numpy(zero_copy_only=False)
        found.update(json.dumps([path.as_py(), offset.as_py(), len(values)]).encode())
        found.update(np.ascontiguousarray(values, "<i4").tobytes())
    return found.hexdigest()


def consume(stream: bw.Stream, rank: int, log: Path, tell: Report) -> None:
    """Read slice ``rank`` of every step until the stream is sealed, each step into the log."""
    lines, length = read_log(log)
    start = lines[-1].step + 1 if lines else 0
    tell(resumed=start)
    with (
        open(log, "ab") as file,
        stream.read(slice=rank, start=start, follow=True, settings=SETTINGS) as reader,
    ):
        file.truncate(length)
        for batch in reader:
            file.write(Line(batch.step, slice_hash(batch.table)).to_bytes())
            file.flush()
            os.fsync(file.fileno())
            tell(step=batch.step)


def main() -> None:
    """Run one rank."""
    end_with_parent()
    consume(open_stream(), int(sys.argv[1]), Path(sys.argv[2]), report)


if __name__ == "__main__":
    main()
