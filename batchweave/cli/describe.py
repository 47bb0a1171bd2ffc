"""``describe``: everything about one stream on one page."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import click

import batchweave as bw
from batchweave.batch import position_from_text
from batchweave.checkpoints import listed
from batchweave.cli.checkpoints import checkpoint_of, print_checkpoints
from batchweave.cli.options import global_options, open_stream
from batchweave.cli.output import (
    age,
    cell,
    moment,
    print_json,
    print_table,
    say,
    shorten,
    size,
    waiting,
)
from batchweave.cli.streams import columns_of, json_option
from batchweave.clock import SystemClock

LAST_BATCHES = 5
POSITION_LENGTH = 40


@dataclass
class _Sizes:
    """What the batch history adds up to."""

    batches: int = 0
    rows: int = 0
    bytes: int = 0
    last: deque[bw.BatchEntry] = field(default_factory=lambda: deque(maxlen=LAST_BATCHES))

    def add(self, entry: bw.BatchEntry) -> None:
        self.batches += 1
        self.rows += entry.rows
        self.bytes += entry.bytes
        self.last.append(entry)


@click.command()
@click.argument("stream")
@json_option
@global_options()
def describe(stream: str, as_json: bool) -> None:
    """Show a stream: columns, head, producers, checkpoints, what waits for deletion, last batches.

    Of each producer also how far behind it is.
    """
    opened = open_stream(stream)
    state, sizes = opened.head(), _Sizes()
    with waiting("adding up the batches"):
        for entry in opened.batches(stop=state.next_step):
            sizes.add(entry)
    if as_json:
        print_json(_described(opened, state, sizes))
        return
    say(f"{opened.name}  {state.mesh}  {state.mesh.slices} slices")
    for key, value in _head_of(state).items():
        if key != "checkpoints":
            say(f"  {key.replace('_', ' '):<12} {cell(value)}")
    say(f"  {'size':<12} {sizes.batches} batches, {sizes.rows} rows, {size(sizes.bytes)}")
    if state.lineage_columns:
        say(f"  {'lineage':<12} {', '.join(state.lineage_columns)}")
    say(f"  {'location':<12} {opened.table.objects.uri}")
    if state.reclaims:
        say(f"  {'waiting':<12} {_waiting(state)}")
    say("")
    print_table(("column", "type", "nullable"), [tuple(one.values()) for one in columns_of(opened)])
    if state.producers:
        say("")
        print_table(
            (
                "producer", "generation", "sequence", "position", "last step", "steps behind",
                "last commit",
            ),
            [
                (
                    one["producer"],
                    one["generation"],
                    one["sequence"],
                    shorten(cell(one["position"]), POSITION_LENGTH),
                    one["last_step"],
                    one["lag_steps"],
                    f"{age(one['lag_s'])} ago",
                )
                for one in _producers_of(state)
            ],
        )  # fmt: skip
    if state.checkpoints:
        say("")
        print_checkpoints(listed(state))
    if sizes.last:
        say("")
        print_table(
            ("step", "producer", "sequence", "committed at", "rows", "size"),
            [
                (one.step, one.producer, one.sequence, moment(one.committed_at_ms), one.rows,
                 size(one.bytes))
                for one in sizes.last
            ],
        )  # fmt: skip


def _described(stream: bw.Stream, state: bw.StreamState, sizes: _Sizes) -> dict[str, Any]:
    return {
        "stream": stream.name,
        "location": stream.table.objects.uri,
        "mesh": state.mesh.axes,
        "slices": state.mesh.slices,
        "columns": columns_of(stream),
        "lineage_columns": state.lineage_columns,
        "head": _head_of(state),
        "producers": _producers_of(state),
        "checkpoints": [checkpoint_of(one) for one in listed(state)],
        "reclaims": _reclaims_of(state),
        "size": {"batches": sizes.batches, "rows": sizes.rows, "bytes": sizes.bytes},
        "last_batches": [batch_of(entry) for entry in sizes.last],
    }


def _head_of(state: bw.StreamState) -> dict[str, Any]:
    return {
        "next_step": state.next_step,
        "sealed": state.sealed,
        "watermark": state.watermark,
        "chain": state.chain,
        "checkpoints": {name: one.next_step for name, one in state.checkpoints.items()},
    }


def _reclaims_of(state: bw.StreamState) -> list[dict[str, Any]]:
    """Reclaims whose files are still there, oldest first: for readers of older versions."""
    return [
        {
            "below_step": int(name),
            "version": one.version,
            "grace_began_at": moment(one.at_ms) if one.at_ms else None,
        }
        for name, one in sorted(state.reclaims.items(), key=lambda item: int(item[0]))
    ]


def _waiting(state: bw.StreamState) -> str:
    """What is out of the table and still in the store, as one line."""
    found = _reclaims_of(state)
    count = f"{len(found)} reclaim{'s' if len(found) > 1 else ''}"
    began = found[0]["grace_began_at"]
    since = f"since {began}" if began else "until a sweep meets it"
    return f"files of {count} below step {found[-1]['below_step']}, in their grace period {since}"


def _producers_of(state: bw.StreamState) -> list[dict[str, Any]]:
    now_ms = SystemClock().now_ms()
    return [
        {
            "producer": name,
            "generation": one.generation,
            "sequence": one.sequence if one.sequence >= 0 else None,
            "position": position_from_text(one.position),
            "last_step": one.step if one.step >= 0 else None,
            "lag_steps": state.next_step - 1 - one.step,
            "lag_s": round((now_ms - one.committed_at_ms) / 1000, 3),
        }
        for name, one in sorted(state.producers.items())
    ]


def batch_of(entry: bw.BatchEntry) -> dict[str, Any]:
    """One batch of the history for ``--json``."""
    return {
        "step": entry.step,
        "producer": entry.producer,
        "sequence": entry.sequence,
        "committed_at": moment(entry.committed_at_ms),
        "rows": entry.rows,
        "bytes": entry.bytes,
        "digests": [part.digest for part in entry.parts],
    }
