"""The command line: ``batchweave``, also ``python -m batchweave``.

One module a command group; `program` has the exit codes, `options` the catalog, `output` the two
streams. What is slow to import (table formats, SQL) is imported by the command that needs it.
"""

from __future__ import annotations

from batchweave.cli.audit import audit
from batchweave.cli.checkpoints import checkpoint
from batchweave.cli.demo import demo
from batchweave.cli.describe import describe
from batchweave.cli.import_ import import_
from batchweave.cli.ledger import ledger
from batchweave.cli.lineage import lineage
from batchweave.cli.program import program
from batchweave.cli.register import register
from batchweave.cli.retention import maintain, reclaim, sweep
from batchweave.cli.sql import sql
from batchweave.cli.streams import create, drop, ls, seal
from batchweave.cli.tail import tail

for _command in (
    *(create, import_, register, ls, describe, tail, sql, audit, lineage, checkpoint),
    *(reclaim, sweep, maintain, ledger, seal, drop, demo),
):
    program.add_command(_command)

main = program
"""The console script."""

__all__ = ["main"]
