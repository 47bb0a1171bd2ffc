"""``audit``: is the history of a stream all there, in order, and unchanged?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchweave.cli.options import global_options, open_stream
from batchweave.cli.output import (
    Advance,
    note,
    print_json,
    print_table,
    progress,
    python_values,
    say,
    waiting,
)
from batchweave.cli.program import FAILED, UNSOUND
from batchweave.cli.streams import json_option

if TYPE_CHECKING:
    from batchweave.sql.audit_files import AuditFile
    from batchweave.sql.audit_report import AuditReport, AuditResult

EVIDENCE_ROWS = 10
READING = ("reading files again", "comparing")


def _settings(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    found = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            raise click.BadParameter(f"expected AUDIT.PARAMETER=VALUE, got {text!r}")
        found[key] = value
    return found


@click.command(epilog="Exit codes: 0 no problem was found, 4 an audit failed.")
@click.argument("stream", required=False)
@click.option("--deep", is_flag=True, help="Read every live file again, compare with its digest.")
@click.option("--only", multiple=True, metavar="NAME", help="Run this audit; repeatable.")
@click.option("--skip", multiple=True, metavar="NAME", help="Leave this audit out; repeatable.")
@click.option(
    "--audits",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Run the *.sql files of a folder, too.",
)
@click.option(
    "--set",
    "values",
    multiple=True,
    callback=_settings,
    metavar="AUDIT.PARAMETER=VALUE",
    help="A parameter as --list shows it, or how many rows AUDIT.allowed; repeatable.",
)
@click.option(
    "--skew",
    metavar="EXPR",
    help='Measure slices by an expression over their rows, too: "len(tokens)".',
)
@click.option("--list", "listing", is_flag=True, help="List the audits and their parameters.")
@json_option
@global_options()
def audit(
    stream: str | None,
    deep: bool,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    folder: Path | None,
    values: dict[str, str],
    skew: str | None,
    listing: bool,
    as_json: bool,
) -> None:
    """Check a stream: missing steps, changed files, orphaned files and more.

    Each audit is one SELECT; the rows that it returns are the evidence. Nothing is written.

    batchweave audit demo.tokens --deep --set stalled.seconds=600
    """
    from batchweave.sql.audit import audit as run
    from batchweave.sql.audit import available

    if listing:
        _list(available(folder), as_json)
        return
    if stream is None:
        raise click.UsageError("Missing argument 'STREAM'.")
    opened = open_stream(stream)
    with _shown(deep) as advance:
        report = run(
            opened,
            deep=deep,
            only=only or None,
            skip=skip,
            folder=folder,
            parameters=values,
            skew=skew,
            progress=advance,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        _tell(report)
    if not report.ok:
        click.get_current_context().exit(UNSOUND if report.failed else FAILED)


@contextmanager
def _shown(deep: bool) -> Iterator[Advance | None]:
    """What is going on, on a terminal; only where files are read it is known how far."""
    if deep:
        with progress(*READING, unit="files") as advance:
            yield advance
    else:
        with waiting("auditing"):
            yield None


def _list(known: dict[str, AuditFile], as_json: bool) -> None:
    if as_json:
        print_json([_described(one) for one in known.values()])
        return
    rows = [(one.name, _when(one), _parameters(one) or None, one.checks) for one in known.values()]
    print_table(("audit", "runs", "parameters", "checks"), rows)


def _when(one: AuditFile) -> str:
    """What it takes for the audit to run."""
    missing = [name for name, of in one.parameters.items() if of.default is None]
    needed = (["--deep"] if one.deep else []) + [f"--set {one.name}.{name}" for name in missing]
    return f"with {', '.join(needed)}" if needed else "always"


def _parameters(one: AuditFile) -> str:
    return ", ".join(f"{name}={json.dumps(of.default)}" for name, of in one.parameters.items())


def _described(one: AuditFile) -> dict[str, object]:
    return {
        "name": one.name,
        "checks": one.checks,
        "deep": one.deep,
        "allowed": one.allowed,
        "parameters": [
            {"name": of.name, "type": of.kind, "default": of.default, "about": of.about}
            for of in one.parameters.values()
        ],
    }


def _tell(report: AuditReport) -> None:
    rows = [
        (one.name, one.verdict, one.measured, one.threshold, one.note or one.checks)
        for one in report.findings
    ]
    print_table(("audit", "verdict", "found", "allowed", ""), rows)
    for one in report.findings:
        if one.measured and one.evidence is not None and not one.ok:
            _show(one, one.evidence.num_rows)
    counts = [f"{_count(report, verdict)} {verdict}" for verdict in _verdicts(report)]
    say("")
    say(f"{report.stream} at version {report.version}: {', '.join(counts)}")


def _show(one: AuditResult, kept: int) -> None:
    """The first rows of evidence."""
    assert one.evidence is not None
    shown = one.evidence.slice(0, EVIDENCE_ROWS)
    say("")
    columns = [python_values(column) for column in shown.columns]
    print_table(
        shown.schema.names,
        list(zip(*columns, strict=True)),
        title=f"{one.name}: {one.measured} found",
    )
    if one.measured and one.measured > shown.num_rows:
        note(f"{shown.num_rows} of {one.measured} are shown; --json has up to {kept}")


def _verdicts(report: AuditReport) -> list[str]:
    return sorted({one.verdict for one in report.findings})


def _count(report: AuditReport, verdict: str) -> int:
    return sum(one.verdict == verdict for one in report.findings)
