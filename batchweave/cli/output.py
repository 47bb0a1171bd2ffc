"""What is printed, and where: results to stdout, progress and messages to stderr.

On a terminal tables are drawn; elsewhere they are plain text without escapes, and nothing is cut.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID  # noqa: TID251 - the class, not the generators

import click
import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

NARROW_LENGTH = 200
FOLDED_LENGTH = 28
HASH_LENGTH = 10
WIDTH_MIN = 4
READABLE_WIDTH = 6
CELL_LENGTH = 400
BORDER = 4
Advance: TypeAlias = Callable[[int, int], None]
_HASH = re.compile(r"[0-9a-f]{24,}")


def messages() -> Console:
    """The console of progress and messages. Made anew: tests and pipes change the streams."""
    return Console(file=sys.stderr, highlight=False, markup=False, soft_wrap=True)


def is_terminal() -> bool:
    """Whether results go to a person's terminal."""
    return sys.stdout.isatty()


def say(text: str) -> None:
    """One line of result."""
    click.echo(text)


def note(text: str) -> None:
    """One line about what is done, beside the results."""
    messages().print(text)


def complain(text: str, hints: Iterable[str]) -> None:
    """One red line, and what to do about it."""
    console = messages()
    console.print(Text.assemble(("error: ", "bold red"), (text, "red")))
    for hint in hints:
        console.print(Text.assemble(("hint: ", "bold"), hint))


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on a terminal that something slow is going on."""
    console = messages()
    if not console.is_terminal:
        yield
        return
    with console.status(f"{text} …"):
        yield


@contextmanager
def progress(doing: str, then: str, *, unit: str) -> Iterator[Advance]:
    """What is done, how far and for how long, on a terminal; nothing elsewhere.

    The function takes what is done and what there is in all, 0 where that is not known. Once all of
    it is done, ``then`` follows.
    """
    console = messages()
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{doing} …", total=None, count="")

        def advance(done: int, total: int) -> None:
            if total and done >= total:
                bar.update(task, description=f"{then} …", total=None, count="")
            else:
                count = f"{done} of {total} {unit}" if total else f"{done} {unit}"
                bar.update(task, completed=done, total=total or None, count=count)

        yield advance


def print_json(value: Any) -> None:
    """One JSON document."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """One JSON document on one line."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None
) -> None:
    """Rows under headings; numbers stand at the right."""
    cells = [[cell(value) for value in row] for row in rows]
    right = [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(columns))]
    if is_terminal():
        _draw(columns, cells, right, title)
        return
    if title:
        say(title)
    widths = [max([len(name), *(len(row[at]) for row in cells)]) for at, name in enumerate(columns)]
    for row in (list(columns), *cells):
        padded = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, right, strict=True)
        )
        say("  ".join(padded).rstrip())


def _draw(
    columns: Sequence[str], cells: list[list[str]], right: list[bool], title: str | None
) -> None:
    from rich.box import SIMPLE_HEAD

    console = Console(file=sys.stdout, highlight=False)
    room = console.width - BORDER * len(columns)
    if sum(_widths(columns, cells)) > room:
        cells = [[_short_hash(text) for text in row] for row in cells]
    cells = [[shorten(text, CELL_LENGTH) for text in row] for row in cells]
    widths = _widths(columns, cells)
    if sum(map(_narrowest, columns, widths)) > room:
        _draw_records(columns, cells, title)
        return
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", header_style="bold")
    for name, number, width, fits in zip(
        columns, right, widths, _fitted(widths, room), strict=True
    ):
        long = width > FOLDED_LENGTH
        table.add_column(
            name,
            justify="right" if number else "left",
            overflow="fold" if long else "ellipsis",
            no_wrap=not long,  # what is short is cut, never written downwards
            width=fits,
        )
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    console.print(table)


def _draw_records(columns: Sequence[str], cells: list[list[str]], title: str | None) -> None:
    """One line a value: for rows of more columns than the terminal has room for."""
    console = Console(file=sys.stdout, highlight=False)
    if title:
        console.print(Text(title, style="italic"))
    width = max(map(cell_len, columns))
    for number, row in enumerate(cells, 1):
        console.rule(f"row {number}", align="left", style="dim", characters="─")
        for name, text in zip(columns, row, strict=True):
            console.print(Text.assemble((name.ljust(width), "bold"), "  ", text), soft_wrap=True)


def _narrowest(name: str, width: int) -> int:
    """The narrowest that a column can be read in."""
    return min(width, max(cell_len(name), READABLE_WIDTH))


def _widths(columns: Sequence[str], cells: list[list[str]]) -> list[int]:
    return [
        max([cell_len(name), *(cell_len(row[at]) for row in cells)])
        for at, name in enumerate(columns)
    ]


def _fitted(widths: list[int], room: int) -> list[int]:
    """Widths that have room: the widest give way first."""
    found = [min(width, max(room, WIDTH_MIN)) for width in widths]
    while sum(found) > room and max(found) > WIDTH_MIN:
        found[found.index(max(found))] -= 1
    return found


def _short_hash(text: str) -> str:
    return text[:HASH_LENGTH] + "…" if _HASH.fullmatch(text) else text


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def cell(value: Any) -> str:
    """A value as one line of text."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (str, int, float, Decimal)):
        return _one_line(str(value))
    found = plain(value)
    return _one_line(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text, ensure_ascii=False)[1:-1]


def shorten(text: str, length: int = NARROW_LENGTH) -> str:
    """Cut a long text for a terminal; elsewhere nothing is cut."""
    if not is_terminal() or len(text) <= length:
        return text
    return text[: length - 1] + "…"


def python_values(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """As Python values; times for which Python has none (nanoseconds) as text."""
    from batchweave.columns.arrow_types import plain_type

    try:
        return list(values.to_pylist())
    except ValueError:  # Arrow would need pandas
        return list(values.cast(plain_type(values.type, _text_for_ns)).to_pylist())


def _text_for_ns(kind: pa.DataType) -> pa.DataType:
    counts_ns = pa.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns"
    return pa.string() if counts_ns else kind


def plain(value: Any) -> Any:
    """A value as JSON has it: bytes as base64, times as ISO 8601, what is not a number as null."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else cell(key): plain(one) for key, one in value.items()
        }
    if isinstance(value, pa.MonthDayNano):
        return _interval(value)
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, (Decimal, UUID)) else repr(value)


def _interval(value: Any) -> str:
    """An interval as SQL writes it: ``1 month 2 days 03:04:05.678``."""
    counts = [(value.months, "month"), (value.days, "day")]
    words = [f"{count} {unit}{'s' * (abs(count) != 1)}" for count, unit in counts if count]
    seconds, rest = divmod(abs(value.nanoseconds), 10**9)
    sign = "-" * (value.nanoseconds < 0)
    clock = f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    return " ".join([*words, clock + fraction])


def moment(milliseconds: int) -> str:
    """A commit's time in UTC, to the millisecond."""
    if milliseconds <= 0:
        return "-"
    when = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return when.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def size(count: int) -> str:
    """Bytes for people: ``1.5 MB``, powers of 1,000."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def age(seconds: float) -> str:
    """A duration for people: ``3.2 s``, ``4 min 10 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
