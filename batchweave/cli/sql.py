"""``sql``: ask a stream's history with DuckDB."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from batchweave.cli.options import global_options, open_catalog, open_stream
from batchweave.cli.output import waiting
from batchweave.cli.query_output import FORMS, TABLE_ROWS_MAX, write
from batchweave.errors import BatchWeaveError, InvalidInput, InvalidSettings, StoreError

ROWS_AT_ONCE = 2048


@click.command()
@click.argument("stream")
@click.argument("query", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMS),
    default="table",
    show_default=True,
    help="json is one array of objects.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file instead."
)
@click.option(
    "--at",
    metavar="MOMENT",
    help="See the stream as it was: step:N, checkpoint:ID, version:N, snapshot:ID or "
    "time:2026-01-31T12:00Z.",
)
@click.option(
    "--with",
    "others",
    multiple=True,
    metavar="ALIAS=STREAM",
    help="Another stream of the catalog: its views are alias.samples and so on. Repeatable.",
)
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="NAME=FILE",
    help="A table of your own: a Parquet, Arrow, CSV or JSON-lines file. Repeatable.",
)
@click.option(
    "--read-only",
    is_flag=True,
    help="Take SELECT alone, and reach no files but the streams' and those of --table.",
)
@global_options()
def sql(
    stream: str,
    query: str | None,
    form: str,
    output: Path | None,
    at: str | None,
    others: tuple[str, ...],
    tables: tuple[str, ...],
    read_only: bool,
) -> None:
    """Run one SELECT on a stream; without one, open a shell.

    Views: samples (all live rows), batches (one row a step, live and reclaimed), slices, parts,
    sources, commits, producers, checkpoints, consumers, ledger. In the shell, .views tells what
    each holds. A query sees one version of the stream. Without a terminal, the query is read from
    the standard input.

    batchweave sql demo.tokens "select producer, count(*) from batches group by all"
    """
    if query is None and not sys.stdin.isatty():
        query = sys.stdin.read()
        if not query.strip():
            raise InvalidInput("there is no query: give one, or pipe it in")
    if query is not None:
        _check_single(query)
    opened = open_stream(stream)
    with _told():
        from batchweave.sql.session import Session

        with waiting("reading the stream's metadata"):
            session = Session(opened, at=at, read_only=read_only)
            for alias, name in _pairs(others, "--with", "ALIAS=STREAM"):
                session.attach(alias, open_catalog().load_stream(name))
            for alias, path in _pairs(tables, "--table", "NAME=FILE"):
                session.register(alias, _read(alias, Path(path)))
    if query is None:
        from batchweave.cli.sql_shell import Shell

        Shell(session, form).run()
        return
    run(session, query, form, output)


def run(
    session: Any,
    query: str,
    form: str,
    output: Path | None = None,
    table_rows_max: int = TABLE_ROWS_MAX,
) -> None:
    """Run one query and write what it returns."""
    with _told():
        with waiting("running the query"):
            found = session.sql(query).to_arrow_reader(ROWS_AT_ONCE)
        write(found, form, output, table_rows_max)


@contextmanager
def _told() -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise _failed(error) from error
    except InvalidSettings as error:
        if isinstance(error.__context__, duckdb.Error):
            raise _failed(error.__context__) from error
        raise


def _check_single(query: str) -> None:
    import duckdb

    try:
        count = len(duckdb.extract_statements(query))
    except duckdb.Error:
        return  # what is wrong with it, the query itself will say
    if count > 1:
        raise InvalidInput(f"the query has {count} statements: give one SELECT")


def _failed(error: Exception) -> BatchWeaveError:
    """What cannot be read is the store's failure; all else is wrong with the query."""
    import duckdb

    unreadable = isinstance(error, (duckdb.IOException, duckdb.HTTPException))
    return (StoreError if unreadable else InvalidInput)(f"the query failed: {error}")


def _pairs(values: tuple[str, ...], option: str, form: str) -> Iterator[tuple[str, str]]:
    for text in values:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InvalidInput(f"{option} takes {form}, got {text!r}")
        yield name, value


def _read(name: str, path: Path) -> Any:
    """A file of the user's own, as a table."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.json as js

    kinds = {".parquet": "parquet", ".csv": "csv", ".arrow": "ipc", ".feather": "ipc"}
    if not path.is_file():
        raise InvalidInput(f"--table {name}: there is no file {path}")
    try:
        if path.suffix in (".jsonl", ".json", ".ndjson"):
            return js.read_json(path)
        if path.suffix in kinds:
            return ds.dataset(path, format=kinds[path.suffix]).to_table()
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(f"--table {name}: {path} cannot be read: {error}") from None
    raise InvalidInput(f"--table {name}: {path} is none of {', '.join((*kinds, '.jsonl'))}")
