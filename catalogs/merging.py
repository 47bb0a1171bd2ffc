"""Which manifests should become one, and who does it: pure decisions over a manifest list.

Table versions are cut into blocks of `FAN_IN`, those into blocks of `FAN_IN` times as many, and so
on for `TIERS` levels. Once a block is closed (the table is past its last version) and each block
inside of it is one manifest already, its manifests are merged into one, unless that would have more
than `ENTRIES_MAX` entries. So n commits leave about n / 8**TIERS manifests and a few dozen, however
many writers there are and however large their commits, and an entry is rewritten at most once a
tier. Blocks are the same for everybody, so no two writers rewrite overlapping manifests.

The writer whose commit completed a block prepares its merge, and hands it in with its next commit.
If it never comes back, whoever commits `LATE_VERSIONS` later merges in its own attempt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from pyiceberg.manifest import ManifestContent, ManifestEntry, ManifestFile

FAN_IN = 8
TIERS = 3
ENTRIES_MAX = 1024
LATE_VERSIONS = 512


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring manifests that are due to become one; ``end`` is the version behind them."""

    run: tuple[ManifestFile, ...]
    end: int
    tier: int

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the manifests lie: what a merge of them replaces."""
        return tuple(manifest.manifest_path for manifest in self.run)

    def completed_by(self, manifests: Sequence[ManifestFile], version: int) -> bool:
        """Whether the commit of ``version`` made this block due.

        It added to the block, or merged inside of it; or, if the block's last version added
        nothing, it was the first to add anything afterwards.
        """
        if any(manifest.sequence_number == version for manifest in self.run):
            return True
        if self.tier > 1 or self.run[-1].min_sequence_number == self.end - 1:
            return False
        return not any(self.end <= one.min_sequence_number < version for one in manifests)


@dataclass(frozen=True, slots=True)
class Merge:
    """A merged manifest, written and not yet in any list, with what it takes to write it again."""

    inputs: tuple[str, ...]
    entries: tuple[ManifestEntry, ...]
    manifest: ManifestFile
    version: int

    def place(self, manifests: Sequence[ManifestFile]) -> int | None:
        """Where the inputs lie, as neighbours still; None if they do not."""
        paths = [manifest.manifest_path for manifest in manifests]
        if self.inputs[0] not in paths:
            return None
        at = paths.index(self.inputs[0])
        return at if tuple(paths[at : at + len(self.inputs)]) == self.inputs else None


def due_blocks(manifests: Sequence[ManifestFile], version: int) -> Iterator[Block]:
    """Blocks to merge in a table whose newest version is ``version``, small and old ones first."""
    for tier in range(1, TIERS + 1):
        size = FAN_IN**tier
        numbers = [manifest.min_sequence_number // size for manifest in manifests]
        for number, group in groupby(zip(numbers, manifests, strict=True), itemgetter(0)):
            run = tuple(manifest for _, manifest in group)
            end = (number + 1) * size
            if end <= version + 1 and _mergeable(run, size // FAN_IN):
                yield Block(run, end, tier)


def _mergeable(run: tuple[ManifestFile, ...], inner_size: int) -> bool:
    inner = {one.min_sequence_number // inner_size for one in run}
    return (
        len(run) > 1
        and len(inner) == len(run)
        and all(_plain(one) for one in run)
        and sum(_count(one) for one in run) <= ENTRIES_MAX
    )


def _count(manifest: ManifestFile) -> int:
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)


def _plain(manifest: ManifestFile) -> bool:
    """Whether a manifest may be merged: data of our partitioning, and all of its files live."""
    return (
        manifest.content == ManifestContent.DATA
        and manifest.partition_spec_id == 0
        and not manifest.deleted_files_count
    )
