"""BatchWeave: transactional global batches for training, in open tables.

Producers publish each training step's data for all ranks at once; ranks read their slice of each
step, in one global order, exactly once; analysts query the same table with SQL.
"""

from __future__ import annotations

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
    InvalidSettings,
    NotAStream,
    NotCommitted,
    ObjectExists,
    ObjectNotFound,
    PendingLimit,
    ProducerClosed,
    ProducerError,
    SchemaMismatch,
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

    Raises:
        InvalidSettings: an unknown type, or a property missing.
    """
    # Here and not above: the formats take a second to import, and a reader of a class needs none.
    from batchweave.catalogs import open_tables

    return Catalog(name, open_tables(name, properties), _query)


def _query(stream: Stream, sql: str) -> Any:
    from batchweave.sql.session import query

    return query(stream, sql)


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
