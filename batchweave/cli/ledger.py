"""``ledger``: what is left of batches whose data is gone, and the way out when it is lost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from batchweave.cli.options import global_options, open_stream
from batchweave.cli.output import note, print_json, say, waiting
from batchweave.cli.streams import confirm, json_option, yes_option
from batchweave.ledger import LedgerRestart


@click.group()
def ledger() -> None:
    """Look after the ledger, which has one row for each batch that was reclaimed.

    `sql` asks it, `audit` verifies it.
    """


@ledger.command("restart")
@click.argument("stream")
@click.option(
    "--discard",
    is_flag=True,
    help="Delete the ledger's table first, with the rows that it still has: for one whose rows "
    "cannot be read.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be given up, and change nothing.")
@yes_option
@json_option
@global_options()
def restart(stream: str, discard: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Go on without rows that are lost, when `reclaim` refuses because they are.

    Try to bring the ledger's table back first, from a backup or an older version of its files: what
    is given up here is gone for good. A table that cannot be opened at all is to be moved away
    before. The ledger goes on where the data begins, and records which
    steps have no row; the stream's chain begins anew there.
    """
    opened = open_stream(stream)
    with waiting("reading the ledger"):
        plan = opened.restart_ledger(discard=discard, dry_run=True)
    if not dry_run:
        if not yes:
            note(_said(plan))
        confirm(f"Give up the history of these steps of {opened.name}? It cannot be undone.", yes)
        with waiting("restarting the ledger"):
            plan = opened.restart_ledger(discard=discard)
    if as_json:
        print_json(_document(plan))
    else:
        say(_said(plan))


def _document(report: LedgerRestart) -> dict[str, Any]:
    return {**asdict(report), "steps": report.steps}


def _said(report: LedgerRestart) -> str:
    verb = "would have" if report.dry_run else "have"
    text = f"steps {report.first} to {report.stop - 1} of {report.stream} {verb} no row for good"
    if report.discarded:
        verb = "would be" if report.dry_run else "was"
        text += f"; the ledger's table {verb} deleted"
    return f"{text}; history is proven from step {report.stop} on"
