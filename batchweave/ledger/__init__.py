"""The ledger: one row a batch that outlives the batch's data, so that audits answer years later.

It is a stream of its own beside the stream (``<name>__ledger``), with a mesh of one slice. Rows are
published by the same exactly-once protocol, by a producer whose position is the next step to
record: a retry after a crash never doubles a row, and two reclaims at once fence each other. Rows
are written *before* the commit that removes the batches, so they may be ahead of the watermark,
never behind. Each carries the stream's chain up to its batch, which must go on through the live
history to the head's, and a running hash of the rows themselves, whose end is in the ledger's
state: so the first row that was changed, lost or moved is named.

`rows` says what a row is and how rows hold together, without I/O; `sources` reads what only the
batch's files know; `records` writes rows and reads them back.
Imports: standard library, pyarrow, errors, clock, mesh, objects, state, table, parquet, batch,
commit, session, reader, checkpoints.
"""

from batchweave.ledger.records import PRODUCER, SUFFIX, Ledger, is_left_over
from batchweave.ledger.rows import MESH, SCHEMA, LedgerRow, Place, next_record, verify_rows
from batchweave.ledger.sources import batch_sources

__all__ = [
    "MESH",
    "PRODUCER",
    "SCHEMA",
    "SUFFIX",
    "Ledger",
    "LedgerRow",
    "Place",
    "batch_sources",
    "is_left_over",
    "next_record",
    "verify_rows",
]
