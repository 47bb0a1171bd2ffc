"""Reading: one share of every global batch, in step order, each once, from any point.

`lookout` finds which steps come next in the table's metadata, `fetching` gets and decodes a share
of one batch, `delivery` runs both ahead of the caller and hands out the batches in step order,
`checks` refuses what cannot be read.
Imports: standard library, pyarrow, errors, clock, pauses, settings, mesh, columns, objects, table,
parquet, batch.
"""

from batchweave.reader.checks import check_share, check_watermark, whole_number
from batchweave.reader.delivery import Reader
from batchweave.reader.fetching import fetch_slices, fetch_threads, to_batch

__all__ = [
    "Reader",
    "check_share",
    "check_watermark",
    "fetch_slices",
    "fetch_threads",
    "to_batch",
    "whole_number",
]
