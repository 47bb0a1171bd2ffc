"""``demo``: the whole system on this machine, with its own proof."""

from __future__ import annotations

from typing import Any

import click

from batchweave.cli.options import (
    check_configured,
    check_folder,
    configured,
    global_options,
    settings,
)

PROOF_FAILED = 1


@click.command()
@click.option("--stream", default="demo.stdlib", show_default=True, help="The stream to make.")
@click.option(
    "--format",
    "table_format",
    type=click.Choice(("iceberg", "delta")),
    help="The tables' format; delta is the same as --catalog delta.",
)
@click.option(
    "--store",
    type=click.Choice(("local", "s3")),
    help="Where the files lie. Without a --warehouse, s3 is a server of the demo's own "
    "(SeaweedFS, from the extra `demo`) that ends with it.",
)
@click.option(
    "--steps", type=click.IntRange(min=24), help="Take only as many files as make about N steps."
)
@click.option("--limit-files", type=click.IntRange(min=1), metavar="N", help="Take only N files.")
@click.option(
    "--seconds", type=click.IntRange(min=1), default=600, show_default=True, help="Give up after."
)
@click.option(
    "--kill/--no-kill", default=True, show_default=True, help="Kill two of the processes."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which are killed, and when.")
@click.option("--keep", is_flag=True, help="Keep the stream and the ranks' logs.")
@global_options()
def demo(
    stream: str,
    table_format: str | None,
    store: str | None,
    **options: Any,
) -> None:
    """Tokenise Python's own library in 3 processes, read it on 4 ranks, kill two, prove the result.

    Works offline in a temporary folder, unless --warehouse, --catalog or -p name a catalog (the
    environment's warehouse is not used). --catalog object-store, sqlite, rest or delta makes one of
    that type, unless ~/.pyiceberg.yaml has it; rest brings its own server. Progress goes to stderr,
    the verdict to stdout; the exit code is 1 if any part of the proof fails.
    """
    from batchweave.demo.places import KINDS, kind_of
    from batchweave.demo.run import Options, run

    chosen = settings()
    name, properties, named = "demo", {}, None
    if chosen.given:
        name = chosen.catalog
        properties = {**configured(name), **chosen.all_properties()}
        named = name if name in KINDS and not configured(name) else None
        if not (named or table_format or store):
            check_configured(name, properties)
    kind = kind_of(properties.pop("type", None) or named, table_format)
    check_folder(properties.get("warehouse"), must_exist=False)
    made = Options(
        catalog=name, kind=kind, store=store, properties=properties, stream=stream, **options
    )
    if not run(made):
        click.get_current_context().exit(PROOF_FAILED)
