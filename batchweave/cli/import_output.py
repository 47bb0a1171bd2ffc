"""What ``import`` shows: how far it is, what came of it, and what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from batchweave import assemble
from batchweave.cli.output import age, messages, note, print_json, say
from batchweave.clock import Clock
from batchweave.mesh import Mesh

NOTE_EVERY_S = 10.0
SKIPS_SHOWN = 3
Show = Callable[[assemble.Progress], None]
_MANY = {"batch": "batches"}


def counted(number: int, what: str) -> str:
    """A number of things: ``1 batch``, ``2 rows``."""
    return f"{number} {what}" if number == 1 else f"{number} {_MANY.get(what, what + 's')}"


@contextmanager
def progress_shown(clock: Clock) -> Iterator[Show]:
    """Show how far it is: a bar on a terminal, else a line now and then."""
    console = messages()
    began_s = clock.monotonic_s()
    began_at: float | None = None

    def text(at: assemble.Progress) -> str:
        nonlocal began_at
        passed_s = max(clock.monotonic_s() - began_s, 1e-9)
        batches, rows = counted(at.batches, "batch"), counted(at.rows, "row")
        found = f"{batches}, {rows}, {at.rows / passed_s:.0f} rows/s"
        if at.done is None:
            return found
        began_at = at.done if began_at is None else began_at
        here = at.done - began_at
        left = f", {age(passed_s * (1 - at.done) / here)} left" if here > 0 else ""
        return f"{found}, {at.done:.0%}{left}"

    if not console.is_terminal:
        noted_s = began_s

        def line(at: assemble.Progress) -> None:
            nonlocal noted_s
            if clock.monotonic_s() - noted_s >= NOTE_EVERY_S:
                noted_s = clock.monotonic_s()
                note(text(at))

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("importing", total=None)
        yield lambda at: bar.update(
            task, description=text(at), completed=at.done, total=None if at.done is None else 1.0
        )


def tell(stream: str, report: assemble.Report, totals: assemble.Totals, as_json: bool) -> None:
    """The result: a line, and what was left out; or one JSON document."""
    if as_json:
        print_json({"stream": stream, **asdict(report), "totals": totals.to_json()})
        return
    what = f"{counted(report.batches, 'batch')}, {counted(report.rows, 'row')}"
    if report.tokens:
        what += f", {counted(report.tokens, 'token')}"
    if report.last_step is not None:
        what += f", up to step {report.last_step}"
    say(f"imported into {stream}: {what}")
    if report.skips.count:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.skips.kinds.items()))
        say(f"left out so far: {counted(report.skips.rows, 'row')} ({kinds}); last:")
        for one in report.skips.last[-SKIPS_SHOWN:]:
            say(f"  {one['source']}: {one['reason']}")


def notes(
    report: assemble.Report, totals: assemble.Totals, mesh: Mesh, options: dict[str, Any]
) -> list[str]:
    """What a person should know beside the figures; ``options`` are the command's."""
    if report.waiting:
        pieces = options["split_long"]
        return [_left_text(report, mesh.slices, remainder=options["remainder"], pieces=pieces)]
    untouched = report.ended and not totals.rows and not report.skips.count
    if untouched and options["where"]:
        asked = " ".join(f"--where {''.join(condition)}" for condition in options["where"])
        return [f"no row matched {asked}"]
    return []


def _left_text(report: assemble.Report, slices: int, *, remainder: str, pieces: bool) -> str:
    """Why rows are in no batch, and what would take them.

    ``pieces`` says that rows may be cut: so fewer rows than slices can be enough for a batch.
    """
    count, rows = report.waiting, counted(report.waiting, "row")
    enough = count >= slices or pieces
    if report.ended and (remainder == "publish" or not enough):
        return (
            f"{rows} {'is' if count == 1 else 'are'} left: a batch needs at least one row for "
            f"each of the {slices} slices"
        )
    fill, come = ("fills", "it comes") if count == 1 else ("fill", "they come")
    text = f"{rows} {fill} no batch yet: {come} first when there are more"
    can_publish = report.ended and remainder != "publish"
    return f"{text}, or with --remainder publish" if can_publish else text
