"""The program around the commands: global options, errors as one line, exit codes.

0 ok, 1 the stream or the store failed, 2 the user's mistake, 3 refused to this producer,
4 an audit failed, 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from batchweave.cli.options import Settings, global_options
from batchweave.cli.output import complain
from batchweave.errors import (
    BatchWeaveError,
    Fenced,
    InvalidInput,
    ProducerError,
    StoreDenied,
    StoreUnavailable,
    StreamMoved,
    StreamNotFound,
)

FAILED = 1
MISTAKE = 2
REFUSED = 3
UNSOUND = 4
STOPPED = 130
PIPE_CLOSED = 141

HINTS: dict[type[BatchWeaveError], str] = {
    StreamMoved: "give that catalog with --catalog or -p type=… -p uri=…",
    StreamNotFound: "`batchweave ls` shows the streams of the catalog",
    StoreDenied: "credentials come from the environment, or as -p s3.access-key-id=… and the like",
    StoreUnavailable: "nothing was lost; the same command can be given again",
    Fenced: "only one process at a time may use a producer's name",
}

NO_SQL = "SQLAlchemy support not installed"  # as pyiceberg says it

EPILOG = """\
Exit codes: 0 ok, 1 the stream or the store failed, 2 wrong usage or input, 3 refused to a producer
(fenced, closed, not committed), 4 an audit failed, 130 stopped by Ctrl-C or by a 'no'.

A first stream: batchweave --warehouse ./warehouse create demo.tokens --mesh dp=4
--column "tokens=list<int32>". With no set-up at all: batchweave demo.

\b
Catalog types, each with what names it:
  object-store  Iceberg, a folder or bucket alone   --warehouse ./warehouse
  delta         Delta, a folder or bucket alone     --catalog-type delta --warehouse ./warehouse
  sql           Iceberg, SQLite or PostgreSQL       --catalog-type sql -p uri=sqlite:////srv/c.db
  rest          Iceberg, a REST server              --catalog-type rest -p uri=https://example.com
  glue          Iceberg, AWS Glue                   --catalog-type glue --warehouse s3://bucket/path
Any but rest also needs a --warehouse, a folder or s3://bucket/path, to create streams in.
"""


class Program(click.Group):
    """A click group whose commands may raise `BatchWeaveError`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except BatchWeaveError as error:
            if ctx.ensure_object(Settings).debug:
                traceback.print_exception(error)
            complain(str(error), hints_of(error))
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(STOPPED)
        except click.Abort:
            complain("stopped: nothing was done", [])
            ctx.exit(STOPPED)
        except BrokenPipeError:
            # Whoever read the output has gone; what is still buffered must not raise at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(PIPE_CLOSED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are added, which is the order of use."""
        return list(self.commands)


def exit_code(error: BatchWeaveError) -> int:
    """What the shell is told of an error."""
    if isinstance(error, InvalidInput):
        return MISTAKE
    return REFUSED if isinstance(error, ProducerError) else FAILED


def hints_of(error: BatchWeaveError) -> list[str]:
    """What to do next: the error's own notes, or what always helps with its class."""
    notes = list(getattr(error, "__notes__", []))
    if NO_SQL in str(error):
        return ["pip install 'batchweave[sqlite]'", *notes]
    return notes or [text for kind, text in HINTS.items() if isinstance(error, kind)][:1]


def _version() -> str:
    try:
        return version("batchweave")
    except PackageNotFoundError:
        return "(not installed)"


@click.group(cls=Program, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="batchweave")
@global_options(environment=True)
def program() -> None:
    """Transactional global batches for training, in open tables.

    A stream is named namespace.name and lives in a catalog: give a folder or bucket with
    --warehouse, or a catalog of ~/.pyiceberg.yaml with --catalog, or its properties with -p.
    These options may stand before or after the command.
    """
