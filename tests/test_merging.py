"""Manifests are merged by blocks: few are left, and each is rewritten by one writer, once."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from pyiceberg.manifest import ManifestContent, ManifestFile

from batchweave.catalogs.merging import ENTRIES_MAX, LATE_VERSIONS, Block, due_blocks


def manifest(path: str, first: int, version: int, entries: int) -> ManifestFile:
    return ManifestFile.from_args(
        manifest_path=path,
        partition_spec_id=0,
        content=ManifestContent.DATA,
        sequence_number=version,
        min_sequence_number=first,
        added_files_count=entries,
        existing_files_count=0,
        deleted_files_count=0,
    )


def entries_of(one: ManifestFile) -> int:
    return one.added_files_count or 0


def play(
    commits: int, writers: int, entries_max: int, *, leave: float = 0.0, seed: int = 0
) -> tuple[int, Counter[str], int]:
    """Writers take turns; most manifests ever, how often each path was rewritten, merges made.

    With ``leave`` a writer goes away with what it prepared, and another takes its place.
    """
    chance = random.Random(seed)
    manifests: list[ManifestFile] = []
    prepared: dict[int, list[Block]] = {}
    most, rewritten, merges = 0, Counter[str](), 0
    for version in range(1, commits + 1):
        writer = version % writers
        if chance.random() < leave:
            prepared.pop(writer, None)
        blocks = prepared.pop(writer, [])
        if not blocks:
            late = due_blocks(manifests, version - 1)
            blocks = [one for one in late if one.end < version - LATE_VERSIONS][:1]
        for block in blocks:
            paths = [one.manifest_path for one in manifests]
            if not set(block.paths) <= set(paths):
                continue
            at = paths.index(block.paths[0])
            total = sum(entries_of(one) for one in block.run)
            merged = manifest(f"{version}+{at}", block.run[0].min_sequence_number, version, total)
            manifests[at : at + len(block.run)] = [merged]
            merges += 1
        manifests.append(manifest(str(version), version, version, chance.randint(1, entries_max)))
        mine = [
            one for one in due_blocks(manifests, version) if one.completed_by(manifests, version)
        ]
        prepared.setdefault(writer, []).extend(mine)
        for block in mine:
            rewritten.update(block.paths)
        most = max(most, len(manifests))
        assert [one.min_sequence_number for one in manifests] == sorted(
            one.min_sequence_number for one in manifests
        )
        assert all(entries_of(one) <= max(ENTRIES_MAX, entries_max) for one in manifests)
    return most, rewritten, merges


@pytest.mark.parametrize(("writers", "most"), [(1, 40), (8, 60), (64, 180), (256, 560)])
def test_few_manifests_are_left_however_many_writers_there_are(writers: int, most: int) -> None:
    found, rewritten, _ = play(4000, writers, entries_max=1)
    assert found <= most
    assert max(rewritten.values()) == 1, "no manifest is rewritten by two writers"


@pytest.mark.parametrize("entries_max", [20, 200, 2000])
def test_large_commits_are_merged_as_far_as_a_manifest_may_grow(entries_max: int) -> None:
    found, rewritten, _ = play(1000, 8, entries_max)
    mean = (1 + entries_max) / 2
    assert found <= 60 + 1000 * max(1 / 8, mean / (ENTRIES_MAX / 8)) + 64
    assert not rewritten or max(rewritten.values()) == 1


def test_writers_that_never_come_back_leave_no_growing_tail() -> None:
    found, _, merges = play(2000, 16, entries_max=1, leave=1.0)
    assert found <= 2 * LATE_VERSIONS
    assert merges > 50


def test_a_block_is_due_only_when_it_is_closed_and_its_inner_blocks_are_merged() -> None:
    ones = [manifest(str(version), version, version, 1) for version in range(8, 16)]
    assert list(due_blocks(ones[:-1], 14)) == []
    (block,) = due_blocks(ones, 15)
    assert (block.tier, block.end, len(block.run)) == (1, 16, 8)
    assert block.completed_by(ones, 15)
    assert not block.completed_by(ones, 16)


def test_a_block_closed_by_a_commit_without_data_falls_to_the_next_with_some() -> None:
    ones = [manifest(str(version), version, version, 1) for version in range(8, 15)]
    later = [*ones, manifest("17", 17, 17, 1), manifest("18", 18, 18, 1)]
    (block,) = due_blocks(later, 18)
    assert block.completed_by(later[:-1], 17)
    assert not block.completed_by(later, 18)


def test_a_manifest_of_deletions_is_never_merged() -> None:
    ones = [manifest(str(version), version, version, 1) for version in range(8, 16)]
    assert len(list(due_blocks(ones, 15))) == 1
    ones[3]._data[3] = ManifestContent.DELETES
    assert ones[3].content == ManifestContent.DELETES
    assert list(due_blocks(ones, 15)) == []
