"""``sql``: ask a stream's history with DuckDB."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from typing import Any

import click
import pyarrow as pa

from batchweave.cli.options import global_options, open_stream
from batchweave.cli.output import plain, print_table, python_values, say, waiting
from batchweave.errors import BatchWeaveError, InvalidInput, InvalidSettings, StoreError

ROWS_AT_ONCE = 2048


@click.command()
@click.argument("stream")
@click.argument("query")
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "csv", "json")),
    default="table",
    show_default=True,
    help="json is one array of objects.",
)
@global_options()
def sql(stream: str, query: str, form: str) -> None:
    """Run one SELECT on a stream.

    Views: samples (all rows, with step, slice, source, producer, sequence, committed_at, digest),
    batches (one row a step) and producers. The query sees one version of the stream.

    batchweave sql demo.tokens "select producer, count(*) from batches group by all"
    """
    import duckdb

    _check_single(query)
    opened = open_stream(stream)
    try:
        with waiting("running the query"):
            found = opened.sql(query).to_arrow_reader(ROWS_AT_ONCE)
        _write(found, form)
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


def _write(found: pa.RecordBatchReader, form: str) -> None:
    names = found.schema.names
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_csv(value) for value in row] for row in _rows(found))
    elif form == "json":
        _write_json(names, found)
    else:
        with waiting("running the query"):
            rows = list(_rows(found))
        print_table(names, rows)


def _rows(found: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    for batch in found:
        yield from zip(*(python_values(column) for column in batch.columns), strict=True)


def _csv(value: Any) -> Any:
    text = plain(value)
    return json.dumps(text, ensure_ascii=False) if isinstance(text, (list, dict)) else text


def _write_json(names: list[str], found: pa.RecordBatchReader) -> None:
    opening = "["
    for row in _rows(found):
        item = plain(dict(zip(names, row, strict=True)))
        say(opening + "\n  " + json.dumps(item, ensure_ascii=False))
        opening = ","
    say("]" if opening == "," else "[]")
