"""The ledger: one row a batch that outlives the batch's data, so that audits answer years later.

It is a stream of its own beside the stream (``<name>__ledger``), with a mesh of one slice. Rows are
published by the same exactly-once protocol, by a producer whose position is the next step to
record: a retry after a crash never doubles a row, and two reclaims at once fence each other. Rows
are written *before* the commit that removes the batches, so they may be ahead of the watermark,
never behind. Each carries the stream's chain up to its batch, which must go on through the live
history to the head's, and a running hash of the rows themselves, whose end is in the ledger's
state: so the first row that was changed, lost or moved is named.

`rows` says what a row is and how rows hold together, without I/O; `sources` reads what only the
batch's files know; `records` writes rows and reads them back; `restart` goes on without rows that
are lost for good.
Imports: standard library, pyarrow, errors, clock, mesh, objects, state, table, parquet, batch,
commit, session, reader, checkpoints.
"""

from batchweave.ledger.records import PRODUCER, SUFFIX, Ledger, is_left_over
from batchweave.ledger.restart import (
    LedgerRestart,
    is_sound,
    lost_rows,
    restart,
    telling_the_way_out,
)
from batchweave.ledger.rows import MESH, SCHEMA, LedgerRow, Place, next_record, verify_rows
from batchweave.ledger.sources import Origins, batch_origins, lineage_text

__all__ = [
    "MESH",
    "PRODUCER",
    "SCHEMA",
    "SUFFIX",
    "Ledger",
    "LedgerRestart",
    "LedgerRow",
    "Origins",
    "Place",
    "batch_origins",
    "is_left_over",
    "is_sound",
    "lineage_text",
    "lost_rows",
    "next_record",
    "restart",
    "telling_the_way_out",
    "verify_rows",
]
