"""Results of queries, written as a table, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from batchweave.cli.output import note, plain, print_table, python_values, waiting
from batchweave.errors import InvalidInput, StoreError

FORMS = ("table", "csv", "json", "parquet")
TABLE_ROWS_MAX = 1000
"""More rows than that say little on a screen; the other forms have no limit."""


def write(
    found: pa.RecordBatchReader,
    form: str,
    output: Path | None = None,
    table_rows_max: int = TABLE_ROWS_MAX,
) -> None:
    """Write a result; to a file where ``output`` names one, which is there whole or not at all.

    Raises:
        InvalidInput: Parquet would go to a terminal, or a table to a file.
        StoreError: the file cannot be written.
    """
    if form == "parquet":
        _write_parquet(found, output)
    elif form == "table":
        if output is not None:
            raise InvalidInput("a table goes to the screen: give --format csv, json or parquet")
        _write_table(found, table_rows_max)
    else:
        writer = {"csv": _write_csv, "json": _write_json}[form]
        with _opened(output) as file:
            writer(found, file)
    if output is not None:
        note(f"written to {output}")


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with _whole(output) as partial, partial.open("w", newline="") as file:
        yield file


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    partial = output.with_name(output.name + ".part")
    try:
        yield partial
        partial.replace(output)
    except OSError as error:
        raise StoreError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(found: pa.RecordBatchReader, output: Path | None) -> None:
    if output is None:
        if sys.stdout.isatty():
            raise InvalidInput("Parquet is no text: give --output FILE, or redirect it to a file")
        _copy(found, pa.PythonFile(sys.stdout.buffer, mode="w"))
        return
    with _whole(output) as partial:
        _copy(found, partial)


def _copy(found: pa.RecordBatchReader, sink: Any) -> None:
    with pq.ParquetWriter(sink, found.schema) as writer:
        for batch in found:
            writer.write_batch(batch)


def _write_table(found: pa.RecordBatchReader, rows_max: int) -> None:
    rows: list[tuple[Any, ...]] = []
    with waiting("running the query"):
        for row in _rows(found):
            rows.append(row)
            if len(rows) > rows_max:
                break
    print_table(found.schema.names, rows[:rows_max])
    if len(rows) > rows_max:
        note(f"the first {rows_max:,} rows: the format csv or json gives all")


def _write_csv(found: pa.RecordBatchReader, file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(found.schema.names)
    writer.writerows([_csv(value) for value in row] for row in _rows(found))


def _csv(value: Any) -> Any:
    text = plain(value)
    return json.dumps(text, ensure_ascii=False) if isinstance(text, (list, dict)) else text


def _write_json(found: pa.RecordBatchReader, file: TextIO) -> None:
    names, opening = found.schema.names, "["
    for row in _rows(found):
        item = plain(dict(zip(names, row, strict=True)))
        print(opening + "\n  " + json.dumps(item, ensure_ascii=False), end="", file=file)
        opening = ","
    print("\n]" if opening == "," else "[]", file=file)


def _rows(found: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    for batch in found:
        yield from zip(*(python_values(column) for column in batch.columns), strict=True)
