"""The promises of retention, from what the store witnessed of each version and each deletion.

Source: design.md, section 9, invariants 7 and 8, and section 5.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, zip_longest

from batchweave.batch import position_from_text
from batchweave.errors import StreamCorrupted
from batchweave.ledger import PRODUCER, Place, verify_rows
from batchweave.paths import upload_version
from batchweave.state import StreamState, next_chain
from tests.simulation.chronicle import Version
from tests.simulation.evidence import Evidence, Finding, Invariants, batch_marks, batch_name

invariant = Invariants()


def _furthest(state: StreamState) -> dict[str, int]:
    """The furthest checkpoint of each consumer."""
    found: dict[str, int] = {}
    for one in state.checkpoints.values():
        found[one.consumer] = max(found.get(one.consumer, 0), one.next_step)
    return found


def _stored_positions(version: Version) -> Iterator[str]:
    """The position objects that a version names."""
    for producer in version.state.producers.values():
        if producer.position is not None:
            value = json.loads(producer.position)
            if "object" in value:
                yield value["object"]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


# -- the watermark -------------------------------------------------------------------------------


@invariant
def a_version_holds_all_steps_from_its_watermark(evidence: Evidence) -> Iterator[Finding]:
    for version in evidence.final.chronicle.versions:
        found = [batch.step for batch in version.batches]
        if found != list(range(version.state.watermark, version.state.next_step)):
            yield (
                f"version {version.number} holds steps {found}, where the watermark is "
                f"{version.state.watermark} and the next step {version.state.next_step}",
                (f"v{version.number}.",),
            )
            return


@invariant
def a_batch_never_changes(evidence: Evidence) -> Iterator[Finding]:
    for before, after in pairwise(evidence.final.chronicle.versions):
        known = {batch.step: batch for batch in before.batches}
        for batch in after.batches:
            if known.get(batch.step, batch) != batch:
                yield (
                    f"step {batch.step} is another batch from version {after.number} on",
                    (f"v{after.number}.", f"step {batch.step}"),
                )
                return


@invariant
def the_watermark_never_passes_a_checkpoint(evidence: Evidence) -> Iterator[Finding]:
    for version in evidence.final.chronicle.versions:
        for name, one in version.state.checkpoints.items():
            if one.next_step < version.state.watermark:
                yield (
                    f"version {version.number} retains checkpoint {name!r}, which needs step "
                    f"{one.next_step}, and has watermark {version.state.watermark}",
                    (f"v{version.number}.", name),
                )
                return


@invariant
def the_furthest_checkpoint_of_a_consumer_is_retained(evidence: Evidence) -> Iterator[Finding]:
    for before, after in pairwise(evidence.final.chronicle.versions):
        left = _furthest(after.state)
        for consumer, step in _furthest(before.state).items():
            if left.get(consumer, -1) < step:
                yield (
                    f"version {after.number} has no checkpoint of {consumer!r} from step {step} on",
                    (f"v{after.number}.", consumer),
                )
                return
        if after.state.watermark > before.state.watermark and not before.state.checkpoints:
            yield (
                f"version {after.number} reclaimed without any checkpoint",
                (f"v{after.number}.",),
            )


@invariant
def an_acknowledged_checkpoint_is_kept(evidence: Evidence) -> Iterator[Finding]:
    record, state = evidence.record, evidence.final.state
    left = _furthest(state)
    limited = any(policy.keep_checkpoints for policy in record.policies)
    for one in record.registered:
        if one.checkpoint_id in record.dropped:
            continue
        found = state.checkpoints.get(one.checkpoint_id)
        kept = found is not None and found.next_step == one.next_step
        if not kept and (not limited or left.get(one.consumer, -1) < one.next_step):
            yield (
                f"checkpoint {one.checkpoint_id!r} at step {one.next_step} was acknowledged, "
                f"found {found}, and {left} as the furthest",
                (one.checkpoint_id,),
            )


@invariant
def a_reader_is_turned_away_only_below_the_watermark(evidence: Evidence) -> Iterator[Finding]:
    for one in evidence.record.turned_away:
        marks = (
            version.state.watermark
            for version in evidence.final.chronicle.versions
            if version.at_us <= one.at_us
        )
        if one.step >= max(marks, default=0):
            yield (
                f"reader {one.reader} was told that step {one.step} is reclaimed, and it was not",
                (one.reader, f"step {one.step}"),
            )


# -- deleting ------------------------------------------------------------------------------------


@invariant
def no_file_goes_before_its_time(evidence: Evidence) -> Iterator[Finding]:
    """Not while a version names it, nor in the grace period after the reclaim, nor ever after."""
    versions, folder = evidence.final.chronicle.versions, evidence.final.chronicle.folder
    grace_us = evidence.record.grace_us
    leaves: dict[str, tuple[int | None, int]] = {}
    for version, later in zip_longest(versions, versions[1:]):
        until_us = later.at_us if later else None
        for batch in version.batches:
            leaves.update((folder + part.path, (until_us, grace_us)) for part in batch.parts)
        leaves.update((folder + path, (until_us, 0)) for path in _stored_positions(version))
    for gone in evidence.final.chronicle.deleted():
        left_us, wait_us = leaves.get(gone.key, (0, 0))
        if left_us is None:
            yield f"{gone.key} was deleted, and the final table names it", (_name(gone.key),)
        elif gone.until_us is not None and gone.until_us < left_us + wait_us:
            yield (
                f"{gone.key} was deleted at {gone.until_us / 1e6:.3f} s; it left the table at "
                f"{left_us / 1e6:.3f} s and was to stay for {wait_us / 1e6:.3f} s",
                (_name(gone.key),),
            )


@invariant
def no_snapshot_or_tag_names_a_file_that_is_gone(evidence: Evidence) -> Iterator[Finding]:
    for text in evidence.final.dangling:
        yield text, (_name(text).partition(",")[0],)


@invariant
def files_of_others_are_never_touched(evidence: Evidence) -> Iterator[Finding]:
    foreign = evidence.record.foreign
    for one in evidence.final.chronicle.writes:
        if one.key in foreign and (one.until_us is not None or one.data != foreign[one.key]):
            yield f"{one.key} is not ours, and was changed or deleted", (_name(one.key),)


@invariant
def no_orphan_is_left(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.record.swept_clean:
        return
    chronicle = evidence.final.chronicle
    if evidence.final.state.reclaims:
        yield f"reclaims are left unfinished: {sorted(evidence.final.state.reclaims)}", ()
    for versions, folder in (
        (chronicle.versions, chronicle.folder),
        (chronicle.ledger, chronicle.ledger_folder),
    ):
        if not versions:
            continue
        last = versions[-1]
        named = {part.path for batch in last.batches for part in batch.parts}
        named.update(_stored_positions(last))
        for one in chronicle.writes:
            path = one.key.removeprefix(folder)
            ours = one.key.startswith(folder) and upload_version(path) is not None
            if ours and one.until_us is None and path not in named:
                yield f"{one.key} is named by nothing, and still there", (_name(path),)


# -- the ledger ----------------------------------------------------------------------------------


@invariant
def the_ledger_has_one_row_for_each_reclaimed_step(evidence: Evidence) -> Iterator[Finding]:
    final = evidence.final
    counts = Counter(row.step for row in final.recorded)
    wanted = set(range(max(final.state.watermark, len(counts))))
    odd = sorted(step for step in wanted | counts.keys() if counts[step] != 1)
    if odd:
        yield (
            f"the ledger has other than one row of steps {odd}; the watermark is "
            f"{final.state.watermark}",
            tuple(f"step {step}" for step in odd),
        )


@invariant
def a_row_of_the_ledger_tells_of_its_batch(evidence: Evidence) -> Iterator[Finding]:
    for row in evidence.final.recorded:
        parts = evidence.batches().get(row.step, [])
        found = {(part.producer, part.sequence) for part in parts}
        item = evidence.item(parts[0]) if parts else None
        right = (
            found == {(row.producer, row.sequence)}
            and row.digests == tuple(part.digest for part in parts)
            and row.sources == (item.text() if item else None,)
            and row.bytes == sum(len(part.data or b"") for part in parts)
        )
        if not right:
            yield (
                f"the ledger's row of step {row.step} tells of "
                f"{batch_name(row.producer, row.sequence)}, found {found} of {item}",
                (f"step {row.step}", *batch_marks(row.producer, row.sequence)),
            )


@invariant
def the_ledger_verifies_and_leads_on_to_the_head(evidence: Evidence) -> Iterator[Finding]:
    final = evidence.final
    try:
        place = verify_rows(final.recorded)
    except StreamCorrupted as error:
        yield str(error), ()
        return
    if place != final.recorded_to:
        yield f"the ledger's rows end at {place}, its state says {final.recorded_to}", ()
    chain = place.chain
    for step, rows in sorted(evidence.live().items()):
        if step >= place.next_step:
            chain = next_chain(chain, step, [row.digest for row in rows])
    if final.chronicle.versions and chain != final.state.chain:
        yield f"the ledger's chain after step {place.next_step} does not lead to the head's", ()


@invariant
def rows_are_durable_before_their_batches_go(evidence: Evidence) -> Iterator[Finding]:
    chronicle = evidence.final.chronicle
    for before, after in pairwise(chronicle.versions):
        if after.state.watermark == before.state.watermark:
            continue
        recorded = [one for one in chronicle.ledger if one.at_us <= after.at_us]
        known = recorded[-1].state.producers.get(PRODUCER) if recorded else None
        place = Place.from_position(position_from_text(known.position) if known else None)
        if place.next_step < after.state.watermark:
            yield (
                f"version {after.number} moved the watermark to {after.state.watermark}, and the "
                f"ledger ended before step {place.next_step}",
                (f"v{after.number}.",),
            )
