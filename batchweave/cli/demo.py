"""``demo``: the whole system on this machine, with its own proof."""

from __future__ import annotations

from typing import Any

import click

from batchweave.cli.options import check_folder, global_options, settings

PROOF_FAILED = 1


@click.command()
@click.option("--stream", default="demo.stdlib", show_default=True, help="The stream to make.")
@click.option(
    "--catalog-type", metavar="TYPE", help="The same as -p type=TYPE: rest, sql, object-store, …"
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
def demo(stream: str, catalog_type: str | None, **options: Any) -> None:
    """Tokenise Python's own library in 3 processes, read it on 4 ranks, kill two, prove the result.

    Works offline in a temporary folder, unless --warehouse, --catalog or -p name a catalog (the
    environment's warehouse is not used). Progress goes to stderr, the verdict to stdout; the exit
    code is 1 if any part of the proof fails.
    """
    from batchweave.demo.run import Options, run

    chosen = settings()
    properties = chosen.all_properties() if chosen.given else {}
    if catalog_type:
        properties["type"] = catalog_type
    check_folder(properties.get("warehouse"), must_exist=False)
    name = chosen.catalog if chosen.given else "demo"
    made = Options(catalog=name, properties=properties, stream=stream, **options)
    if not run(made):
        click.get_current_context().exit(PROOF_FAILED)
