"""``tail``: the last steps of a stream, and those that come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pyarrow as pa

import batchweave as bw
from batchweave.cli.describe import batch_of
from batchweave.cli.options import global_options, open_stream
from batchweave.cli.output import (
    cell,
    is_terminal,
    moment,
    note,
    plain,
    print_json_line,
    python_values,
    say,
    shorten,
    size,
)
from batchweave.clock import SystemClock
from batchweave.errors import StepReclaimed

POLL_S = 0.5
WIDTHS = (8, 20, 9, 25, 8, 10)


@click.command()
@click.argument("stream")
@click.option(
    "-n", "count", type=click.IntRange(min=0), default=10, show_default=True, help="Steps back."
)
@click.option(
    "--follow/--no-follow", default=True, show_default=True, help="Wait for new steps until sealed."
)
@click.option("--slice", "slice_index", type=int, metavar="K", help="Read one slice of each step.")
@click.option("--rows", is_flag=True, help="Print the rows too, one JSON object a line.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a step, one a line.")
@global_options()
def tail(
    stream: str, count: int, follow: bool, slice_index: int | None, rows: bool, as_json: bool
) -> None:
    """Show the last steps, then each new one as it is committed. Ctrl-C ends it.

    Steps that are reclaimed before they could be shown are named, and passed over.
    """
    opened = open_stream(stream)
    state = opened.head()
    start = max(state.watermark, state.next_step - count)
    if slice_index is None and not rows:
        found = _entries(opened, start, follow)
    else:
        found = _batches(opened, start, follow, slice_index)
    if not as_json:
        head = ("step", "producer", "sequence", "committed at", "rows", "size")
        _line(head if slice_index is None and not rows else (*head[:-1], "source"))
    for step in found:
        values = step.pop("values", None)
        if as_json:
            print_json_line(step | ({"data": values} if rows else {}))
            continue
        _line((*list(step.values())[:5], _last(step)))
        for row in values or [] if rows else []:
            say("  " + shorten(cell(row)))


def _last(step: dict[str, Any]) -> str:
    if "bytes" in step:
        return size(step["bytes"])
    sources = step["sources"]
    return cell(sources[0] if len(set(sources)) == 1 else sources)


def _line(values: tuple[Any, ...]) -> None:
    padded = (
        cell(value).ljust(width) if at in (1, 3) else cell(value).rjust(width)
        for at, (value, width) in enumerate(zip(values, WIDTHS, strict=True))
    )
    text = "  ".join(padded).rstrip()
    say(shorten(text) if is_terminal() else text)


def _entries(stream: bw.Stream, start: int, follow: bool) -> Iterator[dict[str, Any]]:
    """Steps out of the metadata alone."""
    clock, head = SystemClock(), stream.table.head()
    while True:
        start = _overtaken(start, head.state.watermark)
        for entry in stream.table.entries(head, start, head.state.next_step):
            start = entry.step + 1
            yield batch_of(entry)
        if head.state.sealed or not follow:
            return
        clock.sleep(POLL_S)
        head = stream.table.head(head)


def _batches(
    stream: bw.Stream, start: int, follow: bool, slice_index: int | None
) -> Iterator[dict[str, Any]]:
    """Steps with the data of one slice, or of all."""
    stop = None if follow else stream.head().next_step
    while True:
        try:
            with stream.read(slice=slice_index, start=start, stop=stop, follow=follow) as reader:
                for batch in reader:
                    start = batch.step + 1
                    yield _batch_of(batch)
            return
        except StepReclaimed:
            watermark = stream.head().watermark
            if watermark <= start:
                raise
            start = _overtaken(start, watermark)
            stop = None if stop is None else max(start, stop)


def _overtaken(start: int, watermark: int) -> int:
    """Where to go on; what was reclaimed before it could be shown is said."""
    if start < watermark:
        note(f"steps {start} to {watermark - 1} were reclaimed before they could be shown")
    return max(start, watermark)


def _batch_of(batch: bw.Batch) -> dict[str, Any]:
    return {
        "step": batch.step,
        "producer": batch.producer,
        "sequence": batch.sequence,
        "committed_at": moment(batch.committed_at_ms),
        "rows": batch.table.num_rows,
        "slices": list(batch.slices),
        "sources": list(batch.sources),
        "values": plain(_rows(batch.table)),
    }


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    columns = [python_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
