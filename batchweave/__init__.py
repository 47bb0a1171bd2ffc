"""BatchWeave: transactional global batches for training, in open tables.

Producers publish each training step's data for all ranks at once; ranks read their slice of each
step, in one global order, exactly once; analysts query the same table with SQL.
"""

from __future__ import annotations

import os
from typing import Any

from batchweave.batch import Batch
from batchweave.catalog import Catalog
from batchweave.checkpoints import Checkpoint, Checkpoints
from batchweave.errors import (
    BatchWeaveError,
    CheckpointExists,
    CheckpointNotFound,
    Fenced,
    InvalidBatch,
    InvalidInput,
    InvalidMesh,
    InvalidName,
    InvalidSample,
    InvalidSettings,
    NotAStream,
    NotCommitted,
    ObjectExists,
    ObjectNotFound,
    PendingLimit,
    ProducerClosed,
    ProducerError,
    SchemaMismatch,
    SourceChanged,
    SourceCorrupted,
    SourceError,
    StepReclaimed,
    StepsPinned,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    StreamCorrupted,
    StreamError,
    StreamExists,
    StreamMoved,
    StreamNotFound,
    StreamSealed,
    StreamStalled,
    TransformFailed,
    UnsupportedFormat,
    UnsupportedType,
)
from batchweave.mesh import Mesh, Share
from batchweave.producer import Producer, Receipt
from batchweave.reader import Reader
from batchweave.settings import ProducerSettings, ReaderSettings
from batchweave.state import CheckpointState, ProducerState, StreamState
from batchweave.stream import Stream
from batchweave.table import BatchEntry, Part


def load_catalog(name: str = "default", **properties: str) -> Catalog:
    """Open a catalog of streams, following pyiceberg's conventions.

    Properties given here win over ``~/.pyiceberg.yaml`` and ``PYICEBERG_CATALOG__…``. The embedded
    default needs no server: ``load_catalog("local", type="object-store", warehouse="./here")``.

    With ``BATCHWEAVE_OPENLINEAGE=1`` in the environment, what is done to the catalog's streams is
    told in OpenLineage events (see `batchweave.connectors.openlineage_events`).

    Raises:
        InvalidSettings: an unknown type, or a property missing.
    """
    # Here and not above: the formats take a second to import, and a reader of a class needs none.
    from batchweave.catalogs import open_tables

    return Catalog(name, open_tables(name, properties), _DuckDB(), _opened)


def _opened(stream: Stream) -> None:
    if os.environ.get("BATCHWEAVE_OPENLINEAGE", "").lower() not in ("1", "true", "yes"):
        return
    try:
        from batchweave.connectors.openlineage_events import shared
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"BATCHWEAVE_OPENLINEAGE is set, and {error}") from error
    shared().follow(stream)


class _DuckDB:
    """`batchweave.sql`, imported when it is first asked."""

    def sql(self, stream: Stream, query: str, parameters: Any, at: Any) -> Any:
        from batchweave.sql import session

        return session.query(stream, query, parameters, at)

    def audit(self, stream: Stream, **options: Any) -> Any:
        from batchweave.sql import audit

        return audit.audit(stream, **options)

    def lineage(self, stream: Stream, at: Any) -> Any:
        from batchweave.sql import lineage

        return lineage.Lineage(stream, at=at)


__all__ = [
    "Batch",
    "BatchEntry",
    "BatchWeaveError",
    "Catalog",
    "Checkpoint",
    "CheckpointExists",
    "CheckpointNotFound",
    "CheckpointState",
    "Checkpoints",
    "Fenced",
    "InvalidBatch",
    "InvalidInput",
    "InvalidMesh",
    "InvalidName",
    "InvalidSample",
    "InvalidSettings",
    "Mesh",
    "NotAStream",
    "NotCommitted",
    "ObjectExists",
    "ObjectNotFound",
    "Part",
    "PendingLimit",
    "Producer",
    "ProducerClosed",
    "ProducerError",
    "ProducerSettings",
    "ProducerState",
    "Reader",
    "ReaderSettings",
    "Receipt",
    "SchemaMismatch",
    "Share",
    "SourceChanged",
    "SourceCorrupted",
    "SourceError",
    "StepReclaimed",
    "StepsPinned",
    "StoreDenied",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "Stream",
    "StreamCorrupted",
    "StreamError",
    "StreamExists",
    "StreamMoved",
    "StreamNotFound",
    "StreamSealed",
    "StreamStalled",
    "StreamState",
    "TransformFailed",
    "UnsupportedFormat",
    "UnsupportedType",
    "load_catalog",
]
