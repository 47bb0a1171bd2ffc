"""What ``import`` refuses before it reads a row: columns and files that do not fit the stream."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

import batchweave as bw
from batchweave import assemble
from batchweave.assemble.state import places_of
from batchweave.columns import slice_to_table
from batchweave.errors import SchemaMismatch, SourceChanged


def check_columns(found: pa.Schema, stream: bw.Stream) -> None:
    """Refuse columns that the stream would not take; its own check decides, on no rows.

    Raises:
        SchemaMismatch: it would not; with a note of what to do.
    """
    try:
        slice_to_table(found.empty_table(), stream.schema, where=f"the rows for {stream.name}")
    except SchemaMismatch as error:
        error.add_note(
            "nothing was imported. Rows must have exactly the stream's columns and types: "
            f"`batchweave describe {stream.name}` shows them, --columns chooses among the rows' "
            "own; numbers in JSON lines are int64 or double"
        )
        raise


def check_named(sources: Mapping[str, assemble.Source], producer: bw.Producer) -> None:
    """Refuse to go on without the file in which the producer stopped.

    Raises:
        SourceChanged: the command does not name it.
    """
    for name, position in places_of(producer.position).items():
        source = sources.get(name)
        if not isinstance(source, assemble.FileSource):
            continue
        missing = source.unnamed(position)
        if missing is None:
            continue
        file, row = missing
        error = SourceChanged(
            f"this command does not name {file}, where producer {producer.name!r} stopped "
            f"(row {row})"
        )
        error.add_note(
            f"name it again together with the new file (as {name}={file} and more=NEW), or use "
            "--producer NAME for a source of its own"
        )
        raise error
