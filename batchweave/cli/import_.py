"""``import``: rows of files into a stream without a program of one's own; it can be repeated."""

from __future__ import annotations

from typing import Any

import click

import batchweave as bw
from batchweave import assemble
from batchweave.cli.import_checks import check_columns, check_named
from batchweave.cli.import_output import notes, progress_shown, tell
from batchweave.cli.options import configured, global_options, open_catalog, settings
from batchweave.cli.output import note, waiting
from batchweave.cli.streams import _mesh, json_option
from batchweave.clock import SystemClock
from batchweave.errors import InvalidInput, InvalidSettings, StreamNotFound

SIGNS = ("!=", "<=", ">=", "=", "<", ">")  # the longer ones first
Condition = tuple[str, str, str]


def _weights(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in values:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise click.BadParameter(f"expected NAME=NUMBER, got {text!r}")
    return found


def _conditions(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> list[Condition]:
    found = []
    for text in values:
        places = [(text.index(sign), -len(sign), sign) for sign in SIGNS if sign in text]
        if not places or not text[: min(places)[0]].strip():
            raise click.BadParameter(f"expected COLUMN=VALUE (or {' '.join(SIGNS)}), got {text!r}")
        at, _, sign = min(places)
        found.append((text[:at].strip(), sign, text[at + len(sign) :].strip()))
    return found


def _new_mesh(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> bw.Mesh | None:
    found: bw.Mesh | None = None if text is None else _mesh(context, parameter, text)
    return found


POSITIVE = click.IntRange(min=1)


@click.command("import")
@click.argument("sources", nargs=-1, required=True, metavar="[NAME=]SOURCE...")
@click.argument("stream")
@click.option("--rows-per-slice", type=POSITIVE, metavar="N", help="As many rows in each slice.")
@click.option(
    "--tokens-per-slice", type=POSITIVE, metavar="N", help="As many rows as fit so many tokens."
)
@click.option(
    "--pack",
    type=POSITIVE,
    metavar="N",
    help="Pack documents into rows of up to N tokens, with segment_lengths.",
)
@click.option("--pad", type=int, metavar="ID", help="Fill packed rows up to --pack tokens.")
@click.option("--split-long", is_flag=True, help="Cut documents above --pack tokens in pieces.")
@click.option("--token-column", default="tokens", show_default=True, metavar="COLUMN")
@click.option(
    "--keep", multiple=True, metavar="COLUMN", help="A column that packed rows keep, as a list."
)
@click.option("--columns", metavar="A,B", help="Read only these columns.")
@click.option(
    "--where",
    multiple=True,
    callback=_conditions,
    metavar="COLUMN=VALUE",
    help="Only rows that are so (also != < <= > >=); repeatable.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    callback=_weights,
    metavar="NAME=NUMBER",
    help="A source's share of the rows, for each source. A changed weight applies from the next "
    "batch.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the shuffle.")
@click.option(
    "--shuffle-window",
    type=POSITIVE,
    default=1,
    show_default=True,
    metavar="N",
    help="Shuffle each N rows of a source among themselves.",
)
@click.option(
    "--at-end",
    type=click.Choice(("continue", "stop", "repeat")),
    default="continue",
    show_default=True,
    help="When one source ends: go on with the others, stop, or begin it again.",
)
@click.option(
    "--remainder",
    type=click.Choice(("carry", "publish", "drop")),
    default="carry",
    show_default=True,
    help="Rows too few for a last batch: carry = keep for the next run, publish = a smaller batch, "
    "drop = leave out.",
)
@click.option(
    "--on-bad",
    type=click.Choice(("stop", "skip")),
    default="stop",
    show_default=True,
    help="What to do with rows and files that cannot be used.",
)
@click.option(
    "--mesh",
    callback=_new_mesh,
    metavar="dp=4,cp=2",
    help="Creates the stream; needed the first time.",
)
@click.option("--producer", default="import", show_default=True, help="Whose position is used.")
@click.option("--stop-step", type=POSITIVE, metavar="N", help="End when the stream has N steps.")
@click.option("--seal", is_flag=True, help="End the stream when the sources end.")
@json_option
@global_options()
def import_(sources: tuple[str, ...], stream: str, as_json: bool, **options: Any) -> None:
    """Publish rows of Parquet, Arrow or JSON lines files as global batches.

    \b
    batchweave import 'data/*.parquet' demo.web --mesh dp=4 --rows-per-slice 32

    Give one of --rows-per-slice, --tokens-per-slice, --pack. (One of the first two may stand beside
    --pack, and says how many packed rows a slice has.) --mesh is needed the first time: it creates
    the stream.

    A SOURCE is a file, a folder, a quoted pattern, or a URI of these in a store; several are mixed
    by --weight and named: web=./web code=./code. Whenever it ends, the same command goes on behind
    the last row that was committed; files that were added behind the others are imported, too.
    """
    layout = _layout(options)
    if options["at_end"] == "repeat" and options["stop_step"] is None:
        raise click.UsageError("--at-end repeat never ends: give a --stop-step, too.")
    catalog = open_catalog(may_create=options["mesh"] is not None)
    with waiting("looking at the sources"):
        opened = _sources(sources, options)
    target = _stream(catalog, stream, opened, layout, options)
    assembler = assemble.Assembler(
        opened,
        layout,
        target.mesh,
        weights=options["weights"] or None,
        seed=options["seed"],
        shuffle_window=options["shuffle_window"],
        at_end=options["at_end"],
        remainder=options["remainder"],
        on_bad=options["on_bad"],
    )
    check_columns(assembler.schema, target)
    with (
        target.producer(options["producer"]) as producer,
        progress_shown(SystemClock()) as progress,
    ):
        if options["on_bad"] == "stop":
            check_named(opened, producer)
        report = assemble.publish(
            assembler,
            producer,
            stop_step=options["stop_step"],
            head=target.head,
            progress=progress,
        )
    if options["seal"] and report.ended:
        target.seal()
    tell(target.name, report, assembler.totals, as_json)
    if not as_json:
        for text in notes(report, assembler.totals, target.mesh, options):
            note(text)


def _layout(options: dict[str, Any]) -> assemble.Layout:
    rows, tokens, pack = (options[name] for name in ("rows_per_slice", "tokens_per_slice", "pack"))
    column = options["token_column"]
    if pack is None:
        given = {
            "--pad": options["pad"] is not None,
            "--split-long": options["split_long"],
            "--keep": options["keep"],
        }
        for name in (name for name, said in given.items() if said):
            raise click.UsageError(f"{name} goes with --pack.")
        if (rows is None) == (tokens is None):
            raise click.UsageError("Give one of --rows-per-slice, --tokens-per-slice, --pack.")
        if rows is not None:
            return assemble.FixedRows(rows)
        return assemble.TokenBudget(tokens=tokens, column=column)
    if tokens is not None:
        if tokens % pack or rows is not None:
            raise click.UsageError(
                "With --pack N give --rows-per-slice, or --tokens-per-slice as a multiple of N."
            )
        rows = tokens // pack
    return assemble.PackedRows(
        tokens=pack,
        rows=rows or 1,
        column=column,
        lineage=options["keep"],
        pad=options["pad"],
        long="split" if options["split_long"] else "refuse",
    )


def _sources(texts: tuple[str, ...], options: dict[str, Any]) -> dict[str, assemble.Source]:
    found: dict[str, assemble.Source] = {}
    for text in texts:
        name, equals, location = text.partition("=")
        if not equals or "/" in name or "." in name:
            name, location = "data", text
        if name in found:
            raise InvalidInput(
                f"two sources are named {name!r}: give each a name, as web=./web code=./code"
            )
        found[name] = _source(location, options)
    return found


def _source(location: str, options: dict[str, Any]) -> assemble.Source:
    wanted = options["columns"]
    columns = None if wanted is None else [name.strip() for name in wanted.split(",")]
    chosen = settings()
    known = {**configured(chosen.catalog), **chosen.all_properties()}
    properties = {key: str(value) for key, value in known.items()}
    source = assemble.open_source(location, properties=properties)
    if columns is None and not options["where"]:
        return source
    where = [_typed(condition, source.schema) for condition in options["where"]]
    return assemble.open_source(location, columns=columns, where=where, properties=properties)


def _typed(condition: Condition, schema: Any) -> tuple[str, str, Any]:
    """A condition with its value as the column's type has it."""
    import pyarrow as pa

    name, sign, text = condition
    if name not in schema.names:
        raise InvalidInput(f"--where: there is no column {name!r}, only {schema.names}")
    kind = schema.field(name).type
    try:
        return name, sign, pa.array([text], pa.string()).cast(kind)[0].as_py()
    except pa.ArrowException:
        raise InvalidInput(f"--where: column {name!r} is {kind}, got {text!r}") from None


def _stream(
    catalog: bw.Catalog,
    name: str,
    sources: dict[str, assemble.Source],
    layout: assemble.Layout,
    options: dict[str, Any],
) -> bw.Stream:
    """The stream; made for what the layout gives, if a mesh is given and there is none yet."""
    mesh = options["mesh"]
    with waiting(f"loading {name}"):
        try:
            found = catalog.load_stream(name)
        except StreamNotFound as error:
            if mesh is None:
                error.add_note("give --mesh, for example --mesh dp=4, to create it")
                raise
            schema = assemble.Assembler(sources, layout, mesh).schema
            found = catalog.create_stream(name, schema=schema, mesh=mesh)
            note(f"created {found.name}: {mesh}, columns {', '.join(schema.names)}")
            return found
    if mesh is not None and mesh != found.mesh:
        raise InvalidSettings(f"{name} has {found.mesh}, --mesh says {mesh}")
    return found
