"""Assembly: samples in, global batches out, deterministic and resumable from any batch on.

::

    source    rows in an order of its own, from any row on          TableSource, FileSource, yours
    draws     one source's rows, shuffled within windows, numbered
    mixture   whose turn it is, by weights that may change at any batch
    layout    what a slice is made of                 FixedRows, TokenBudget, PackedRows
    assembler all of them; its state is the producer's position
    publish   from the producer's position to the end of the sources

::

    source = assemble.open_source("./parquet")
    assembler = assemble.Assembler(source, assemble.FixedRows(8), stream.mesh, seed=1)
    with stream.producer("import") as producer:
        report = assemble.publish(assembler, producer)

No row is part of the state: what waits for its batch is remembered by its number and read again.
"""

from __future__ import annotations

from batchweave.assemble.assembler import Assembler, GlobalBatch
from batchweave.assemble.file_source import FileSource
from batchweave.assemble.layouts import FixedRows, Layout, PackedRows, TokenBudget
from batchweave.assemble.publishing import Progress, Report, publish
from batchweave.assemble.skips import Skips
from batchweave.assemble.sources import Chunk, Fault, Source, open_source, register_source
from batchweave.assemble.state import Totals
from batchweave.assemble.table_source import TableSource

__all__ = [
    "Assembler",
    "Chunk",
    "Fault",
    "FileSource",
    "FixedRows",
    "GlobalBatch",
    "Layout",
    "PackedRows",
    "Progress",
    "Report",
    "Skips",
    "Source",
    "TableSource",
    "TokenBudget",
    "Totals",
    "open_source",
    "publish",
    "register_source",
]
