"""The end of the demo: each claim with ok or FAILED, one sentence, and a look at it with SQL."""

from __future__ import annotations

import batchweave as bw
from batchweave.cli.output import messages, print_table, say, waiting
from batchweave.demo.proof import Proof

QUERY = """
with read as (
    select producer, count(distinct path) as files, sum(len(tokens))::bigint as tokens
    from samples group by producer
)
select producer, generation, batches as steps, rows as chunks, files, tokens,
    round(bytes / tokens, 2) as "bytes a token"
from producers join read using (producer)
order by producer
"""


def tell(proof: Proof) -> None:
    """Claims and findings to stderr, the verdict to stdout."""
    console = messages()
    for claim in proof.claims:
        word, style = ("ok    ", "bold green") if claim.ok else ("FAILED", "bold red")
        if claim.unproven and not claim.findings:
            word, style = "?     ", "bold yellow"
        console.print(f"  {word}", style=style, end=" ")
        console.print(claim.text)
        for text in claim.findings:
            console.print(f"           {text}", style="red")
        for text in claim.unproven:
            console.print(f"           {text}", style="yellow")
    if proof.refuted:
        count = len(proof.findings)
        say(
            f"PROOF FAILED: {count} finding{'' if count == 1 else 's'}, "
            f"{proof.missing} missing, {proof.doubled} doubled"
        )
        return
    say(
        f"{proof.steps:,} steps, {proof.missing} missing, {proof.doubled} doubled; "
        f"{proof.files:,} files reconstructed byte for byte; "
        f"{proof.ranks} ranks read every step once, in order"
    )
    if not proof.ok:
        say("not killed in the middle: nothing is proven about restarts; take more --steps")


def show_history(stream: bw.Stream) -> None:
    """What DuckDB says of the same history."""
    with waiting("asking DuckDB"):
        found = stream.sql(QUERY)
        rows = found.fetchall()
    say("")
    print_table(found.columns, rows, title="The same history, asked with SQL:")
