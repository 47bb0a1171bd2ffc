"""Streams for the tests of audits: a sound one with a history, and ways to damage it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
from pyiceberg.table import Table as IcebergHandle

import batchweave as bw
from batchweave.batch import check_slices
from batchweave.catalogs.delta import DeltaTable
from batchweave.catalogs.delta_checkpoint import LOG
from batchweave.clock import SystemClock
from batchweave.ledger import MESH, SCHEMA, LedgerRow
from batchweave.ledger.rows import to_arrow
from batchweave.parquet import encode
from batchweave.paths import data_path
from batchweave.sql.audit_report import AuditReport
from batchweave.state import Numbered, StreamState, append
from batchweave.table import BatchEntry, Change, Committed
from tests.streams import QUICK, TOKENS, tokens

KINDS = ("object-store", "delta")
STEPS = 12
WATERMARK = 4
DAY_S = 24 * 3600


def sound(folder: Path, kind: str) -> bw.Stream:
    """Steps 0 to 11 of two producers, ``q`` before ``p``; those below 4 are in the ledger alone."""
    catalog = bw.load_catalog("local", type=kind, warehouse=str(folder))
    stream = catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2))
    for name, first in (("q", 0), ("p", 6)):
        with stream.producer(name, QUICK) as producer:
            for number in range(first, first + 6):
                publish(producer, number)
            producer.flush()
    stream.checkpoints.register("a", next_step=WATERMARK)
    assert stream.reclaim(grace_s=0).watermark == WATERMARK
    return stream


def publish(producer: bw.Producer, number: int, **changed: Any) -> None:
    """Batch ``number``: lines 10n to 10n + 10 of the producer's file, and the position after."""
    source = {"file": f"{producer.name}.jsonl", "start": 10 * number, "end": 10 * number + 10}
    position = {"file": source["file"], "offset": source["end"]}
    values = {"position": position, "source": source} | changed
    producer.publish(values.pop("slices", [tokens(number), tokens(-number - 1)]), **values)


def commit(stream: bw.Stream, state: StreamState, *added: BatchEntry) -> None:
    """Commit whatever it is, as a faulty writer would."""
    outcome = stream.table.commit(stream.table.head(), Change(state, added))
    assert isinstance(outcome, Committed)


def following(stream: bw.Stream, count: int) -> tuple[list[BatchEntry], StreamState]:
    """The next batches of ``p``, whose files are in the store, and the state after them."""
    head = stream.table.head()
    state, producer = head.state, head.state.producers["p"]
    model = next(iter(stream.batches(start=state.watermark)))
    data, _ = stream.table.objects.get(model.parts[0].path)
    found = []
    for at in range(count):
        token = hashlib.md5(f"{head.version}-{at}".encode()).hexdigest()
        path = data_path(head.version, "p", 1, producer.sequence + 1 + at, 0, token)
        stream.table.objects.create(path, data)
        part = replace(model.parts[0], path=path, digest=token * 2, source=None)
        found.append(
            BatchEntry(
                state.next_step + at,
                "p",
                producer.sequence + 1 + at,
                producer.committed_at_ms,
                (part,),
            )
        )
    numbered = [Numbered(one.sequence, (one.parts[0].digest,), producer.position) for one in found]
    after = append(
        state, "p", 1, numbered, version=head.version + 1, now_ms=producer.committed_at_ms
    )
    return found, after


def ledger_rows(stream: bw.Stream) -> list[LedgerRow]:
    """The rows of the ledger's only file."""
    ledger = stream.ledger
    assert ledger is not None
    return list(ledger.read())


def rewrite_ledger(stream: bw.Stream, rows: Sequence[LedgerRow]) -> None:
    """Put other rows into the ledger's file, as someone who can write to the bucket would."""
    ledger = stream.ledger
    assert ledger is not None
    (entry,) = ledger.table.entries(ledger.table.head(), 0, 1)
    encoded = encode(
        check_slices([to_arrow(rows)], [None], MESH, SCHEMA),
        0,
        file_schema=ledger.table.file_schema,
        compression="zstd",
        compression_level=1,
    )
    ledger.table.objects.overwrite(entry.parts[0].path, encoded.data)


def age(stream: bw.Stream, path: str, seconds: float) -> None:
    """Date a file back."""
    local = stream.table.objects.local_file(path)
    assert local is not None
    then = SystemClock().now_ms() / 1000 - seconds
    os.utime(local, (then, then))


def commit_as_another_program(stream: bw.Stream) -> None:
    """A commit without rows by pyiceberg, or into the log of Delta."""
    table = stream.table
    if isinstance(table, DeltaTable):
        version = deltalake.DeltaTable(table.objects.uri).version() + 1
        action = {"commitInfo": {"timestamp": 1, "operation": "OPTIMIZE"}}
        table.objects.create(f"{LOG}/{version:020d}.json", json.dumps(action).encode())
        return
    handle = table.head().detail.handle
    assert isinstance(handle, IcebergHandle)
    handle.append(handle.schema().as_arrow().empty_table())


def failed(report: AuditReport) -> set[str]:
    """Names of the audits that failed; none may be unable to run."""
    broken = [(one.name, one.note) for one in report.findings if one.verdict == "error"]
    assert broken == []
    return set(report.failed)


def evidence(report: AuditReport, name: str) -> list[dict[str, Any]]:
    """The rows that speak against the stream."""
    table = report[name].evidence
    assert isinstance(table, pa.Table)
    return list(table.to_pylist())
