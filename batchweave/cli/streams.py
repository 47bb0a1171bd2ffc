"""Commands on whole streams: create, ls, seal, drop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

import batchweave as bw
from batchweave.cli.column_types import parse_type, type_text
from batchweave.cli.options import find_stream, global_options, open_catalog, open_stream
from batchweave.cli.output import (
    note,
    print_json,
    print_table,
    say,
    waiting,
)
from batchweave.errors import InvalidInput, StreamNotFound

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
Callback = Callable[[click.Context, click.Parameter, Any], Any]


def _mesh(context: click.Context, parameter: click.Parameter, text: str) -> bw.Mesh:
    axes: dict[str, int] = {}
    for item in text.split(","):
        name, _, number = (part.strip() for part in item.partition("="))
        if not name or not number.isdigit() or name in axes:
            raise click.BadParameter(f"expected axes as dp=4,cp=2, each once; got {text!r}")
        axes[name] = int(number)
    return bw.Mesh(**axes)


def _columns(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> list[pa.Field]:
    found = []
    for text in values:
        name, equals, kind = text.partition("=")
        if not name.strip() or not equals:
            raise click.BadParameter(f"expected NAME=TYPE, got {text!r}")
        try:
            found.append(pa.field(name.strip(), parse_type(kind)))
        except InvalidInput as error:
            raise click.BadParameter(str(error)) from None
    return found


@click.command()
@click.argument("stream")
@click.option(
    "--mesh", required=True, metavar="dp=4,cp=2", callback=_mesh, help="Data axes and their sizes."
)
@click.option(
    "--column",
    "columns",
    metavar="NAME=TYPE",
    multiple=True,
    callback=_columns,
    help="A column, repeatable: bool, int8…int64, uint8…uint64, float16…float64, string, binary, "
    "date, timestamp, timestamptz, decimal(p,s), list<…>, struct<a: int32, b: string>, map<k, v>.",
)
@click.option(
    "--schema-from",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Take the columns of a Parquet file instead.",
)
@click.option(
    "--lineage-column",
    "lineage_columns",
    metavar="NAME",
    multiple=True,
    help="A column of document IDs (strings, integers, lists of those), repeatable: `lineage` "
    "answers for it even when the data is gone.",
)
@json_option
@global_options()
def create(
    stream: str,
    mesh: bw.Mesh,
    columns: list[pa.Field],
    schema_from: Path | None,
    lineage_columns: tuple[str, ...],
    as_json: bool,
) -> None:
    """Create a stream; its namespace and folder are made if needed."""
    if bool(columns) == bool(schema_from):
        raise click.UsageError("Give the columns: --column NAME=TYPE …, or --schema-from FILE.")
    schema = pa.schema(columns) if schema_from is None else _schema_of(schema_from)
    catalog = open_catalog(may_create=True)
    with waiting(f"creating {stream}"):
        made = catalog.create_stream(
            stream, schema=schema, mesh=mesh, lineage_columns=lineage_columns
        )
    if as_json:
        print_json(
            {
                "stream": made.name,
                "mesh": mesh.axes,
                "columns": columns_of(made),
                "lineage_columns": lineage_columns,
            }
        )
        return
    traced = f", lineage of {', '.join(lineage_columns)}" if lineage_columns else ""
    names = ", ".join(schema.names)
    say(f"created {made.name}: {mesh}, {mesh.slices} slices, columns {names}{traced}")


def _schema_of(path: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInput(f"{path} cannot be read as Parquet: {error}") from None
    # Without metadata: field IDs and pandas' notes are the file's own.
    return pa.schema([pa.field(one.name, one.type, one.nullable) for one in schema])


def columns_of(stream: bw.Stream) -> list[dict[str, Any]]:
    """The users' columns, with types as ``--column`` takes them."""
    return [
        {"name": one.name, "type": type_text(one.type), "nullable": one.nullable}
        for one in stream.schema
    ]


@click.command()
@json_option
@global_options()
def ls(as_json: bool) -> None:
    """List the streams of the catalog."""
    catalog = open_catalog()
    found = []
    with waiting("reading the streams"):
        for name in catalog.list_streams():
            try:
                state = catalog.load_stream(name).head()
            except StreamNotFound:
                continue  # dropped meanwhile
            found.append((name, state))
    if as_json:
        print_json(
            [
                {
                    "stream": name,
                    "mesh": state.mesh.axes,
                    "next_step": state.next_step,
                    "producers": len(state.producers),
                    "sealed": state.sealed,
                }
                for name, state in found
            ]
        )
    elif found:
        print_table(
            ("stream", "mesh", "next step", "producers", "sealed"),
            [
                (name, _axes(state.mesh), state.next_step, len(state.producers), state.sealed)
                for name, state in found
            ],
        )
    else:
        note("no streams yet: `batchweave create` makes one")


def _axes(mesh: bw.Mesh) -> str:
    return ",".join(f"{name}={count}" for name, count in mesh.axes.items())


@click.command()
@click.argument("stream")
@yes_option
@global_options()
def seal(stream: str, yes: bool) -> None:
    """End a stream: its last step is final, readers stop there. It cannot be undone."""
    opened = open_stream(stream)
    state = opened.head()
    if state.sealed:
        say(f"{opened.name} is sealed already, at {state.next_step} steps")
        return
    confirm(f"Seal {opened.name} at {state.next_step} steps? Nothing can be published after.", yes)
    with waiting("sealing"):
        opened.seal()
    say(f"sealed {opened.name} at {opened.head().next_step} steps")


@click.command()
@click.argument("stream")
@yes_option
@global_options()
def drop(stream: str, yes: bool) -> None:
    """Remove a stream with all of its data. It cannot be undone."""
    catalog = open_catalog()
    state = find_stream(catalog, stream).head()
    confirm(f"Remove {stream} with its {state.next_step} steps and all of their data?", yes)
    with waiting("removing the files"):
        catalog.drop_stream(stream)
    say(f"dropped {stream}")


def confirm(question: str, yes: bool) -> None:
    """Ask before what cannot be undone.

    Raises:
        click.Abort: the answer is no.
        InvalidInput: there is no terminal, and no answer in the input.
    """
    if yes:
        return
    if sys.stdin is not None and sys.stdin.isatty():
        agreed = click.confirm(question, err=True)
    else:
        answer = "" if sys.stdin is None else sys.stdin.readline()
        if not answer:
            error = InvalidInput("nobody is there to confirm")
            error.add_note("give --yes to do it without a question")
            raise error
        agreed = answer.strip().lower() in ("y", "yes")
    if not agreed:
        raise click.Abort
