"""``checkpoint``: which model checkpoints have seen which steps."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import click

import batchweave as bw
from batchweave.checkpoints import DEFAULT_CONSUMER
from batchweave.cli.options import global_options, open_stream
from batchweave.cli.output import moment, note, print_json, print_table, say, waiting
from batchweave.cli.streams import confirm, json_option, yes_option
from batchweave.errors import CheckpointNotFound


@click.group()
def checkpoint() -> None:
    """Register, list and drop the checkpoints of training runs.

    A registered checkpoint keeps the steps from its next step on: `reclaim` never passes it.
    """


@checkpoint.command("register")
@click.argument("stream")
@click.argument("checkpoint_id", metavar="ID")
@click.option(
    "--next-step",
    type=click.IntRange(min=0),
    required=True,
    metavar="N",
    help="First step that the model has not consumed.",
)
@click.option(
    "--consumer",
    default=DEFAULT_CONSUMER,
    show_default=True,
    metavar="NAME",
    help="Name of the training run that can restart from it.",
)
@json_option
@global_options()
def register(stream: str, checkpoint_id: str, next_step: int, consumer: str, as_json: bool) -> None:
    """Record that a durable model checkpoint has consumed all steps below N."""
    opened = open_stream(stream)
    with waiting("registering"):
        made = opened.checkpoints.register(checkpoint_id, next_step=next_step, consumer=consumer)
    if as_json:
        print_json(checkpoint_of(made))
    else:
        say(f"registered {made.id} of {made.consumer}: next step {made.next_step}")


@checkpoint.command("ls")
@click.argument("stream")
@click.option("--consumer", metavar="NAME", help="Only those of one training run.")
@json_option
@global_options()
def list_(stream: str, consumer: str | None, as_json: bool) -> None:
    """List the checkpoints of a stream, those furthest ahead last."""
    opened = open_stream(stream)
    with waiting("reading the checkpoints"):
        found = opened.checkpoints.list(consumer)
    if as_json:
        print_json([checkpoint_of(one) for one in found])
    elif found:
        print_checkpoints(found)
    elif consumer is not None:
        note(f"{opened.name} has no checkpoints of {consumer}")
    else:
        note(f"{opened.name} has no checkpoints: nothing of it can be reclaimed")


@checkpoint.command("drop")
@click.argument("stream")
@click.argument("checkpoint_id", metavar="ID")
@click.option("--dry-run", is_flag=True, help="Say what would be dropped, and change nothing.")
@yes_option
@json_option
@global_options()
def drop_checkpoint(
    stream: str, checkpoint_id: str, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Forget a checkpoint: the next `reclaim` need not keep its steps. Deletes no data itself."""
    opened = open_stream(stream)
    with waiting("reading the checkpoints"):
        found = _find(opened, checkpoint_id)
    if not dry_run:
        confirm(
            f"Drop checkpoint {found.id} of {found.consumer} (next step {found.next_step})? "
            "Its steps may be reclaimed then.",
            yes,
        )
        with waiting("dropping"):
            opened.checkpoints.drop(checkpoint_id)
    if as_json:
        print_json({**checkpoint_of(found), "dry_run": dry_run})
    else:
        say(f"{'would drop' if dry_run else 'dropped'} {found.id} of {found.consumer}")


def _find(stream: bw.Stream, checkpoint_id: str) -> bw.Checkpoint:
    """The checkpoint of that ID; one that is not there meets its like."""
    try:
        return stream.checkpoints.get(checkpoint_id)
    except CheckpointNotFound as error:
        known = [one.id for one in stream.checkpoints.list()]
        close = difflib.get_close_matches(checkpoint_id, known, n=3, cutoff=0.85)
        if close:
            error.add_note(f"did you mean {' or '.join(close)}?")
        raise


def print_checkpoints(found: Sequence[bw.Checkpoint]) -> None:
    """Checkpoints as a table."""
    print_table(
        ("checkpoint", "consumer", "next step", "registered at"),
        [(one.id, one.consumer, one.next_step, moment(one.registered_at_ms)) for one in found],
    )


def checkpoint_of(found: bw.Checkpoint) -> dict[str, Any]:
    """One checkpoint for ``--json``."""
    return {
        "id": found.id,
        "consumer": found.consumer,
        "next_step": found.next_step,
        "registered_at": moment(found.registered_at_ms),
    }
