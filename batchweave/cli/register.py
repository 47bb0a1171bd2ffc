"""``register``: adopt a stream's table folder into the catalog."""

from __future__ import annotations

import click

from batchweave.cli.options import global_options, open_catalog
from batchweave.cli.output import print_json, say, waiting
from batchweave.cli.streams import confirm, json_option, yes_option


@click.command()
@click.argument("folder")
@click.argument("stream")
@click.option(
    "--take-over",
    is_flag=True,
    help="Also if it was moved to another catalog before: for one that is lost.",
)
@yes_option
@json_option
@global_options()
def register(folder: str, stream: str, take_over: bool, yes: bool, as_json: bool) -> None:
    """Adopt the stream whose table lies in FOLDER (a path or URI) under the name STREAM.

    A catalog of type sql, rest, glue and the like takes the folder over: whoever writes or reads
    the stream through the folder itself is stopped and told where it is, because two catalogs that
    commit to one folder would make two streams of it. Catalogs of type object-store and delta find
    streams by their folders, so only the folder of that very name can be adopted.

    batchweave -p type=sql -p uri=sqlite:////srv/catalog.db register ./warehouse/demo/tokens
    demo.tokens
    """
    catalog = open_catalog(may_create=True)
    confirm(f"Adopt {folder} as {stream}? Those who use it through its folder are stopped.", yes)
    with waiting(f"registering {stream}"):
        adopted = catalog.register_stream(stream, folder, take_over=take_over)
        state = adopted.head()
    if as_json:
        print_json({"stream": adopted.name, "location": adopted.table.objects.uri,
                    "next_step": state.next_step})  # fmt: skip
        return
    say(f"registered {adopted.name}: {adopted.table.objects.uri}, {state.next_step} steps")
