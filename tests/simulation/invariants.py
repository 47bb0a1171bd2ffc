"""The promises of the commit, each from what was acknowledged and what there is to what is wrong.

They know nothing of how the history came about: no store operations, no internals of the code under
test. `invariants_of_retention` has those of keeping a stream small. Source: design.md, section 9.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from batchweave.state import CHAIN_START, next_chain
from tests.simulation.content import MESH
from tests.simulation.evidence import Evidence, Finding, Invariants, batch_marks, batch_name
from tests.simulation.record import FinalRow

invariant = Invariants()


@invariant
def nothing_unexpected_is_raised(evidence: Evidence) -> Iterator[Finding]:
    for actor, text in evidence.record.errors:
        yield f"actor {actor} ended with:\n{text}", (actor,)
    for text in evidence.final.errors:
        yield text, ()


@invariant
def every_history_ends(evidence: Evidence) -> Iterator[Finding]:
    if evidence.record.exhausted:
        yield "the actors were still busy when the history was cut off", ()
    for name in evidence.record.incomplete:
        yield f"producer {name!r} could not finish although nothing failed any more", (name,)


@invariant
def steps_are_dense(evidence: Evidence) -> Iterator[Finding]:
    state = evidence.final.state
    for what, found, wanted in (
        ("ever", sorted(evidence.batches()), range(state.next_step)),
        ("in the final table", sorted(evidence.live()), range(state.watermark, state.next_step)),
    ):
        if found != list(wanted):
            odd = sorted(set(found) ^ set(wanted))
            yield (
                f"steps {odd} are missing or too many {what}, of {wanted}",
                tuple(f"step {step}" for step in odd),
            )


@invariant
def a_batch_is_whole(evidence: Evidence) -> Iterator[Finding]:
    for step, rows in evidence.batches().items():
        runs = [(row.first_slice, row.first_slice + row.slices) for row in rows]
        covered = [at for first, end in runs for at in range(first, end)]
        if sorted(covered) != list(range(MESH.slices)):
            row = rows[0]
            yield (
                f"step {step}, {batch_name(row.producer, row.sequence)}, has slices {covered}",
                batch_marks(row.producer, row.sequence),
            )
        if len({(row.producer, row.sequence) for row in rows}) > 1:
            yield f"step {step} holds several batches", (f"step {step}",)


@invariant
def a_sequence_is_committed_once(evidence: Evidence) -> Iterator[Finding]:
    counts = Counter((rows[0].producer, rows[0].sequence) for rows in evidence.batches().values())
    for (producer, sequence), count in counts.items():
        if count > 1:
            what = f"{batch_name(producer, sequence)} is there {count} times"
            yield what, batch_marks(producer, sequence)


@invariant
def an_acknowledged_batch_is_committed(evidence: Evidence) -> Iterator[Finding]:
    at = {(rows[0].producer, rows[0].sequence): rows for rows in evidence.batches().values()}
    published = {
        (one.name, one.generation, one.sequence): one.item for one in evidence.record.published
    }
    for ack in evidence.record.acknowledged:
        rows = at.get((ack.name, ack.sequence))
        marks = (*batch_marks(ack.name, ack.sequence), f"step {ack.step}")
        what = f"{batch_name(ack.name, ack.sequence)} of generation {ack.generation}"
        if rows is None:
            yield f"{what} was acknowledged at step {ack.step} and is not there", marks
        elif rows[0].step != ack.step:
            yield f"{what} was acknowledged at step {ack.step} and is at {rows[0].step}", marks
        elif any(
            evidence.item(row) not in (None, published[ack.name, ack.generation, ack.sequence])
            for row in rows
        ):
            found = evidence.item(rows[0])
            yield f"{what} was acknowledged at step {ack.step}, which holds {found}", marks


@invariant
def a_flushed_producer_is_committed(evidence: Evidence) -> Iterator[Finding]:
    acknowledged = {
        (one.name, one.generation, one.sequence) for one in evidence.record.acknowledged
    }
    sequences = {(rows[0].producer, rows[0].sequence) for rows in evidence.batches().values()}
    for name, generation, last in evidence.record.flushed:
        for one in evidence.record.published:
            key = (one.name, one.generation, one.sequence)
            if key[:2] != (name, generation) or one.sequence > last:
                continue
            if key not in acknowledged or (name, one.sequence) not in sequences:
                yield (
                    f"{batch_name(name, one.sequence)} was flushed and is not there",
                    batch_marks(name, one.sequence),
                )


@invariant
def a_producers_order_is_kept(evidence: Evidence) -> Iterator[Finding]:
    last: dict[str, int] = defaultdict(lambda: -1)
    for step, rows in sorted(evidence.batches().items()):
        row = rows[0]
        if row.sequence != last[row.producer] + 1:
            found = batch_name(row.producer, row.sequence)
            yield (
                f"step {step} has {found} after {last[row.producer]}",
                batch_marks(row.producer, row.sequence),
            )
        last[row.producer] = row.sequence


@invariant
def the_position_is_that_of_the_last_batch(evidence: Evidence) -> Iterator[Finding]:
    carried = {(one.item.name, one.item): one.position for one in evidence.record.published}
    last: dict[str, FinalRow] = {}
    for _, rows in sorted(evidence.batches().items()):
        last[rows[0].producer] = rows[0]
    for name, position in evidence.final.positions.items():
        row = last.get(name)
        item = evidence.item(row) if row else None
        wanted = carried.get((name, item)) if item else None
        if row is not None and item is None:
            continue  # reported as a missing file
        if position != wanted:
            yield f"producer {name!r} would resume at {position}, not at {wanted}", (name,)
    for opened in evidence.record.opened:
        if (opened.sequence == -1) != (opened.position is None):
            yield (
                f"producer {opened.name!r} generation {opened.generation} opened at sequence "
                f"{opened.sequence} with position {opened.position}",
                (opened.name,),
            )


@invariant
def an_older_generation_commits_nothing(evidence: Evidence) -> Iterator[Finding]:
    newest: dict[str, int] = defaultdict(int)
    for step, rows in sorted(evidence.batches().items()):
        item = evidence.item(rows[0])
        if item is None:
            continue
        if item.generation < newest[item.name]:
            yield (
                f"step {step}: generation {item.generation} of producer {item.name!r} committed "
                f"after generation {newest[item.name]}",
                (f"{item.name}-g{item.generation}-", f"step {step}"),
            )
        newest[item.name] = max(newest[item.name], item.generation)
    ends = {head.version: head.state.next_step for head in evidence.record.heads}
    items = [(step, evidence.item(rows[0])) for step, rows in evidence.batches().items()]
    for opened in evidence.record.opened:
        floor = ends.get(opened.version, len(items))
        for step, item in items:
            if item is None or step < floor or item.name != opened.name:
                continue
            if item.generation < opened.generation:
                yield (
                    f"step {step}: generation {item.generation} of producer {item.name!r} "
                    f"committed after generation {opened.generation} had opened at version "
                    f"{opened.version}, when {floor} was the next step",
                    (f"{item.name}-g{item.generation}-", f"step {step}"),
                )


@invariant
def no_file_is_missing_or_changed(evidence: Evidence) -> Iterator[Finding]:
    for row in evidence.final.rows:
        what = f"step {row.step}, {batch_name(row.producer, row.sequence)}: {row.path}"
        if row.data is None:
            yield f"{what} is not in the store", (row.path.rpartition("/")[2], f"step {row.step}")
        elif hashlib.sha256(row.data).hexdigest() != row.digest:
            yield f"{what} is not what was committed", (row.path.rpartition("/")[2],)


@invariant
def every_item_is_there_once(evidence: Evidence) -> Iterator[Finding]:
    if evidence.record.shut_out:
        return  # sealed while producers had more to publish
    items = [evidence.item(rows[0]) for rows in evidence.batches().values()]
    counts = Counter((item.name, item.number) for item in items if item)
    for name, last in evidence.record.sources.items():
        for number in range(last):
            count = counts.pop((name, number), 0)
            if count != 1:
                yield f"item {number} of producer {name!r} is there {count} times", (name,)
    for name, number in counts:
        yield f"item {number} of producer {name!r} was never published", (name,)


@invariant
def the_chain_verifies(evidence: Evidence) -> Iterator[Finding]:
    chains = {0: CHAIN_START}
    for step, rows in sorted(evidence.batches().items()):
        if step in chains:
            chains[step + 1] = next_chain(chains[step], step, [row.digest for row in rows])
    if chains.get(evidence.final.state.next_step) != evidence.final.state.chain:
        yield "the chain of the final state does not follow from the batches", ()
    for head in evidence.record.heads:
        if chains.get(head.state.next_step) != head.state.chain:
            yield (
                f"version {head.version}, as {head.actor} knew it, has another history than the "
                f"final table below step {head.state.next_step}",
                (f"v{head.version}.", f"v{head.version + 1}."),
            )
            return


@invariant
def one_version_has_one_state(evidence: Evidence) -> Iterator[Finding]:
    states = {evidence.final.version: evidence.final.state}
    for head in evidence.record.heads:
        known = states.setdefault(head.version, head.state)
        if known != head.state:
            yield (
                f"version {head.version} is not the same for {head.actor} and another",
                (f"v{head.version}.", f"v{head.version + 1}."),
            )
            return
    ordered = [state for _, state in sorted(states.items())]
    for before, after in pairwise(ordered):
        shrunk = [
            name
            for name, one in before.producers.items()
            if name not in after.producers
            or (one.generation, one.sequence)
            > (after.producers[name].generation, after.producers[name].sequence)
        ]
        shrunk += [
            name
            for name in ("next_step", "sealed", "watermark", "horizon")
            if getattr(before, name) > getattr(after, name)
        ]
        if shrunk:
            yield f"the state went backwards: {shrunk} at step {before.next_step}", ()
            return


@invariant
def a_new_look_sees_what_was_acknowledged(evidence: Evidence) -> Iterator[Finding]:
    for text in evidence.record.stale_heads:
        yield text, ()


@invariant
def a_reader_sees_each_step_once_and_the_same(evidence: Evidence) -> Iterator[Finding]:
    rows = evidence.batches()
    next_step: dict[str, int] = {}
    for seen in evidence.record.seen:
        marks = (f"step {seen.step}", *batch_marks(seen.producer, seen.sequence))
        wanted = next_step.get(seen.reader, evidence.record.starts.get(seen.reader, -1))
        if seen.step != wanted:
            yield f"reader {seen.reader} got step {seen.step}, not {wanted}", marks
        next_step[seen.reader] = seen.step + 1
        there = rows.get(seen.step, [])
        found = (
            (there[0].producer, there[0].sequence, tuple(row.digest for row in there))
            if there
            else None
        )
        if found != (seen.producer, seen.sequence, seen.digests):
            yield (
                f"reader {seen.reader} got {batch_name(seen.producer, seen.sequence)} at step "
                f"{seen.step}, where the final table has {found and found[:2]}",
                marks,
            )
            return
    for reader in evidence.record.readers:
        end = next_step.get(reader, evidence.final.state.next_step)
        if end != evidence.final.state.next_step:
            yield f"reader {reader} ended at step {end}, not at the end of the stream", (reader,)


@invariant
def the_tables_own_entries_agree(evidence: Evidence) -> Iterator[Finding]:
    ours = [
        (entry.step, entry.producer, entry.sequence, tuple(part.digest for part in entry.parts))
        for entry in evidence.final.entries
    ]
    theirs = [
        (step, rows[0].producer, rows[0].sequence, tuple(row.digest for row in rows))
        for step, rows in sorted(evidence.live().items())
    ]
    if ours != theirs and not evidence.final.errors:
        yield "Table.entries and the table's metadata tell different stories", ()


@invariant
def nothing_follows_the_seal(evidence: Evidence) -> Iterator[Finding]:
    for step in evidence.record.sealed_at:
        if not evidence.final.state.sealed or evidence.final.state.next_step != step:
            yield (
                f"sealed at step {step}, the final table ends at "
                f"{evidence.final.state.next_step}, sealed: {evidence.final.state.sealed}",
                ("sealed",),
            )
