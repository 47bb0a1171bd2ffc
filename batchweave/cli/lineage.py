"""``lineage``: what a checkpoint has seen, and which checkpoints have seen a document."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import click

from batchweave.cli.options import global_options, open_stream
from batchweave.cli.output import note, print_json, print_table, say, waiting
from batchweave.errors import InvalidInput

if TYPE_CHECKING:
    from batchweave.sql.lineage import Lineage
    from batchweave.sql.lineage_answers import Answer
    from batchweave.sql.lineage_queries import Match

FORMATS = ("table", "json", "dot", "svg", "html")
ROWS_MAX = 20

P = ParamSpec("P")


@dataclass
class _Asked:
    stream: str


class _StreamFirst(click.Group):
    """Says where the stream stands, to those who put the question before it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        question = ctx.params.get("stream")
        if question in self.commands and args[0] in ctx.help_option_names:
            return super().resolve_command(ctx, [str(question), *args])
        if args[0] not in self.commands and question in self.commands:
            raise click.UsageError(
                f"the stream comes first: batchweave lineage STREAM {question} …", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_StreamFirst)
@click.argument("stream")
@global_options()
def lineage(stream: str) -> None:
    """Ask who has seen what: sources, documents and checkpoints.

    Which checkpoints were trained on this document?

        batchweave lineage demo.tokens document doc_id crawl-17

    Steps whose data is reclaimed are answered for by the ledger, which keeps each slice's sources
    and its values of the lineage columns (`create --lineage-column`). The answer says which steps
    these are, and what could not be asked.
    """
    click.get_current_context().meta[__name__] = _Asked(stream)


def _answered(
    function: Callable[Concatenate[Lineage, P], Answer],
) -> Callable[..., None]:
    """Ask a question of the stream, and write its answer in the form that is wanted."""

    @click.option(
        "--format",
        "form",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="dot, svg and html draw the graph; html has the tables too.",
    )
    @click.option(
        "--output",
        "-o",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write to a file instead.",
    )
    @click.option(
        "--all", "every", is_flag=True, help=f"Show more than {ROWS_MAX} rows of each list."
    )
    @click.option(
        "--at",
        metavar="MOMENT",
        help="Look at an older moment: N, step:N, checkpoint:ID, version:N, snapshot:ID, time:…",
    )
    @global_options()
    @functools.wraps(function)
    def asked(
        form: str,
        output: Path | None,
        every: bool,
        at: str | None,
        *arguments: P.args,
        **options: P.kwargs,
    ) -> None:
        from batchweave.sql.lineage import Lineage

        if output is not None and not output.absolute().parent.is_dir():
            raise InvalidInput(f"there is no folder {str(output.parent)!r} to write {output.name}")
        opened = open_stream(click.get_current_context().meta[__name__].stream)
        with waiting("asking"), Lineage(opened, at) as history:
            answer = function(history, *arguments, **options)
        if output is None:
            _write(answer, form, every=every)
            return
        try:
            with output.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
                _write(answer, form, every=every)
        except OSError as error:
            raise InvalidInput(f"{output} cannot be written: {error.strerror}") from None
        note(f"wrote {output}")

    return asked


def _write(answer: Answer, form: str, *, every: bool) -> None:
    if form == "table":
        _write_tables(answer, None if every else ROWS_MAX)
    elif form == "json":
        print_json(answer.to_dict())
    elif form == "html" and every:
        click.echo(answer.to_html(None), nl=False)
    else:
        drawn = {"dot": answer.to_dot, "svg": answer.to_svg, "html": answer.to_html}
        click.echo(drawn[form](), nl=False)


def _write_tables(answer: Answer, rows_max: int | None) -> None:
    say(answer.title)
    say(f"  {answer.told}")
    for sentence in answer.unasked:
        say(f"  {sentence}")
    for listing in answer.listings(rows_max):
        say("")
        say(listing.title)
        if listing.columns:
            print_table(listing.columns, listing.rows)
        if listing.more:
            say(f"… {listing.more:,} more: --all shows them, --format json has all")


world_option = click.option(
    "--world-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tell which of N ranks have read it.",
)


@lineage.command("checkpoint")
@click.argument("checkpoint_id", metavar="ID")
@_answered
def of_checkpoint(history: Lineage, checkpoint_id: str) -> Answer:
    """What a checkpoint has seen: steps, producers and sources."""
    return history.checkpoint(checkpoint_id)


@lineage.command("document")
@click.argument("column")
@click.argument("value")
@world_option
@_answered
def of_document(history: Lineage, column: str, value: str, world_size: int | None) -> Answer:
    """Which checkpoints were trained on a document.

    It is a VALUE in a COLUMN, or in one of the column's lists.
    A number that is below zero stands after --: document -- shard -1
    """
    return history.document(column, history.value_of(column, value), world_size=world_size)


@lineage.command("source")
@click.argument("text")
@click.option(
    "--prefix", "match", flag_value="prefix", help="TEXT is the beginning of what is looked for."
)
@click.option("--glob", "match", flag_value="glob", help="TEXT is a pattern with *, ? and […].")
@world_option
@_answered
def of_source(history: Lineage, text: str, match: Match | None, world_size: int | None) -> Answer:
    """Which checkpoints were trained on a source.

    TEXT is the whole text that the producer gave as the source of a slice; --glob '*part*' finds a
    part of it.
    """
    return history.source(text, match or "exact", world_size=world_size)


@lineage.command("where")
@click.argument("predicate")
@world_option
@_answered
def of_rows(history: Lineage, predicate: str, world_size: int | None) -> Answer:
    """Which checkpoints were trained on some rows.

    PREDICATE is one SQL expression on the view samples:

    batchweave lineage demo.tokens where "lang = 'de' and step < 1000"
    """
    return history.where(predicate, world_size=world_size)


@lineage.command("diff")
@click.argument("a")
@click.argument("b")
@_answered
def of_two(history: Lineage, a: str, b: str) -> Answer:
    """What one checkpoint has seen and another has not.

    They may be of one training run or of two.
    """
    return history.difference(a, b)
