"""``reclaim``, ``sweep`` and ``maintain``: keeping a stream from growing without bound."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

import click

import batchweave as bw
from batchweave.cli.options import find_stream, global_options, open_catalog, open_stream
from batchweave.cli.output import complain, note, print_json, print_json_line, progress, say
from batchweave.cli.output import size as readable
from batchweave.cli.program import hints_of
from batchweave.cli.streams import confirm, json_option, yes_option
from batchweave.clock import SystemClock
from batchweave.errors import BatchWeaveError, InvalidInput, StreamNotFound
from batchweave.retention import Policy, ReclaimReport
from batchweave.sweep import SweepReport, check_grace

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
NAMED_MAX = 5
LOOK_S = 0.2
"""How soon `maintain` sees in its pause that it is to end."""

FOR_GOOD = "It cannot be undone."
LOOKING = ("looking for what may go", "looking for what may go")
RECLAIMING = ("reclaiming", "deleting files")
DELETING = ("deleting files", "deleting files")


class Duration(click.ParamType[float]):
    """Seconds, or a number with a unit: ``90s``, ``15m``, ``1h``, ``2d``."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds as a float; anything else ends the command with what is expected."""
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"expected a duration as 90s, 15m, 1h or 2d, got {value!r}", param, ctx)
        return float(match.group(1)) * _UNITS[match.group(2)]


def duration_text(seconds: float) -> str:
    """Seconds in the largest unit that holds them in whole numbers: the inverse of `Duration`."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:g} {'min' if unit == 'm' else unit}"
    return f"{seconds:g} s"


grace_option = click.option(
    "--grace",
    type=Duration(),
    default="1h",
    show_default=True,
    metavar="90s|15m|1h|2d",
    help="How long files stay that left the table, or that no commit names yet.",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would go, and change nothing."
)
keep_checkpoints_option = click.option(
    "--keep-checkpoints",
    type=click.IntRange(min=1),
    metavar="N",
    help="Retain the N furthest checkpoints of each consumer, drop the others. [default: all]",
)
keep_steps_option = click.option(
    "--keep-steps",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Keep at least the newest N steps.",
)


@click.command()
@click.argument("stream")
@keep_checkpoints_option
@keep_steps_option
@grace_option
@dry_run_option
@yes_option
@json_option
@global_options()
def reclaim(
    stream: str,
    keep_checkpoints: int | None,
    keep_steps: int,
    grace: float,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Take out the steps that no retained checkpoint needs; the ledger keeps a row of each.

    Their files are deleted by this or a later call, once the grace period is over.
    """
    opened = open_stream(stream)

    def run(dry: bool) -> ReclaimReport:
        with progress(*(LOOKING if dry else RECLAIMING), unit="steps") as advance:
            return opened.reclaim(
                keep_checkpoints=keep_checkpoints,
                keep_steps=keep_steps,
                grace_s=grace,
                dry_run=dry,
                progress=advance,
            )

    if not dry_run and not yes:
        plan = run(dry=True)
        if plan.steps or plan.dropped_checkpoints:
            note(_reclaimed(plan))
            confirm(f"Reclaim {_many(plan.steps, 'step')} of {opened.name}? {FOR_GOOD}", yes)
    report = run(dry=dry_run)
    if as_json:
        print_json(_document(report))
        return
    say(_reclaimed(report))
    if report.swept is not None:
        say(_swept(report.swept, grace))
    if report.steps and dry_run:
        note(f"the files of these steps would stay for {duration_text(grace)} after the reclaim")
    if not report.steps and not report.retained_checkpoints:
        note("no checkpoint is registered, so every step is kept: see `batchweave checkpoint`")


@click.command()
@click.argument("stream")
@grace_option
@click.option(
    "--deletes-per-s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Delete at most so many files a second. [default: no limit]",
)
@dry_run_option
@yes_option
@json_option
@global_options()
def sweep(
    stream: str,
    grace: float,
    deletes_per_s: float | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete files that no commit names: of crashed producers, and of steps reclaimed long enough.

    Safe beside live producers and readers.
    """
    opened = open_stream(stream)

    def run(dry: bool) -> SweepReport:
        with progress(*(LOOKING if dry else DELETING), unit="files") as advance:
            return opened.sweep(
                grace_s=grace,
                dry_run=dry,
                deletes_per_s=deletes_per_s,
                progress=lambda files, size: advance(files, 0),
            )

    if not dry_run and not yes:
        plan = run(dry=True)
        if plan.files:
            note(_swept(plan, grace))
            confirm(f"Delete {_many(plan.files, 'file')} of {opened.name}? {FOR_GOOD}", yes)
    report = run(dry=dry_run)
    if as_json:
        print_json(asdict(report))
    else:
        say(_swept(report, grace))


@click.command()
@click.argument("streams", nargs=-1, metavar="[STREAM]...")
@keep_checkpoints_option
@keep_steps_option
@grace_option
@click.option(
    "--every",
    type=Duration(),
    default="5m",
    show_default=True,
    metavar="90s|15m|1h|2d",
    help="Pause between rounds.",
)
@click.option("--once", is_flag=True, help="One round, for a cron job; exits 1 if one failed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a stream and round.")
@global_options()
def maintain(
    streams: tuple[str, ...],
    keep_checkpoints: int | None,
    keep_steps: int,
    grace: float,
    every: float,
    once: bool,
    as_json: bool,
) -> None:
    """Reclaim and sweep in a loop, without a question: all streams of the catalog, or those named.

    What fails is reported and tried again in the next round. SIGTERM and Ctrl-C end it between two
    streams; whatever was begun can be repeated.
    """
    policy = Policy(keep_checkpoints=keep_checkpoints, keep_steps=keep_steps)
    check_grace(grace)
    catalog, clock = open_catalog(), SystemClock()
    for name in streams:
        find_stream(catalog, name)  # a name that is not there is a mistake, and known at once

    def show(report: ReclaimReport) -> None:
        if as_json:
            print_json_line(_document(report))
        else:
            swept = _swept(report.swept, grace) if report.swept else "no sweep"
            say(f"{report.stream}: {_reclaimed(report)}; {swept}")

    with _until_terminated() as ended:
        while True:
            failed = _round(catalog, streams, policy, grace, ended, show)
            if once:
                click.get_current_context().exit(1 if failed else 0)
            until_s = clock.monotonic_s() + every
            while not ended() and clock.monotonic_s() < until_s:
                clock.sleep(min(LOOK_S, every))
            if ended():
                return


def _round(
    catalog: bw.Catalog,
    streams: tuple[str, ...],
    policy: Policy,
    grace_s: float,
    ended: Callable[[], bool],
    show: Callable[[ReclaimReport], None],
) -> int:
    """Reclaim and sweep each stream once; how many failed. One that fails stops no other."""
    failed = 0
    try:
        names = streams or catalog.list_streams()
    except BatchWeaveError as error:
        complain(str(error), hints_of(error))
        return 1
    for name in names:
        if ended():
            break
        try:
            report = catalog.load_stream(name).reclaim(
                keep_checkpoints=policy.keep_checkpoints,
                keep_steps=policy.keep_steps,
                grace_s=grace_s,
            )
        except InvalidInput:
            raise
        except BatchWeaveError as error:
            if isinstance(error, StreamNotFound) and not streams:
                continue  # dropped since it was listed
            failed += 1
            complain(f"{name}: {error}", getattr(error, "__notes__", []))
        else:
            show(report)
    return failed


def _document(report: ReclaimReport) -> dict[str, Any]:
    return {**asdict(report), "steps": report.steps}


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _reclaimed(report: ReclaimReport) -> str:
    verb = "would reclaim" if report.dry_run else "reclaimed"
    files = f"{_many(report.files, 'file')}, {readable(report.bytes)}"
    text = f"{verb} {_many(report.steps, 'step')} ({files}); steps from {report.watermark} on stay"
    if report.dropped_checkpoints:
        verb = "would drop" if report.dry_run else "dropped"
        count = len(report.dropped_checkpoints)
        what = "checkpoint" if count == 1 else "checkpoints"
        text += f"; {verb} {what} {', '.join(report.dropped_checkpoints[:NAMED_MAX])}"
        text += f" and {count - NAMED_MAX} more" if count > NAMED_MAX else ""
    return text


def _swept(report: SweepReport, grace_s: float) -> str:
    verb = "would delete" if report.dry_run else "deleted"
    text = f"{verb} {_many(report.files, 'file')} ({readable(report.bytes)}) that no commit names"
    waiting = report.pending_reclaims
    if not waiting:
        return text
    verb = "waits for its" if waiting == 1 else "wait for their"
    return f"{text}; {_many(waiting, 'reclaim')} {verb} grace period of {duration_text(grace_s)}"


@contextmanager
def _until_terminated() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come, as containers are stopped: asked for between two streams."""
    came = False

    def note_it(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, note_it)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
