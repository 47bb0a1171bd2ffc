"""Maintenance jobs of other engines on a stream: harmless, refused, or told as corruption by name.

No such job is needed. These are pyiceberg's (snapshot expiry, tags and branches, rewrites,
rollbacks, cleaning of metadata) and deltalake's (vacuum, optimize, checkpoints, log cleaning).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import deltalake
import pytest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table as IcebergHandle

import batchweave as bw
from batchweave.errors import StepsPinned
from batchweave.testing import check_stream
from tests.streams import QUICK, numbers, publish_numbers
from tests.test_reclaim import _plain_planner, check_engines, data_files, published

__all__ = ["_plain_planner"]

Properties = Callable[[str], dict[str, str]]

FAR = datetime(2100, 1, 1)
ICEBERG = ("object-store", "sqlite", "rest")
READ_BACK = bw.ReaderSettings(prefetch_batches=1)


@pytest.fixture
def stream(tmp_path: Path) -> bw.Stream:
    """24 steps in six commits and a checkpoint at 20, on Iceberg."""
    found = published({"type": "object-store", "warehouse": str(tmp_path)})
    found.checkpoints.register("a", next_step=20)
    return found


@pytest.fixture
def delta(tmp_path: Path) -> bw.Stream:
    """The same on Delta."""
    found = published({"type": "delta", "warehouse": str(tmp_path)})
    found.checkpoints.register("a", next_step=20)
    return found


def iceberg(stream: bw.Stream) -> IcebergHandle:
    """The table as pyiceberg has it, newly read."""
    handle = stream.table.head().detail.handle
    assert isinstance(handle, IcebergHandle)
    return handle


def snapshots(stream: bw.Stream) -> set[int]:
    return {one.snapshot_id for one in iceberg(stream).metadata.snapshots}


def opened(stream: bw.Stream) -> deltalake.DeltaTable:
    """The table as deltalake has it, newly read."""
    return deltalake.DeltaTable(stream.table.objects.uri)


# -- Iceberg: what does no harm ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ICEBERG)
def test_snapshots_that_pyiceberg_expires_are_missed_by_nobody(
    kind: str, catalog_properties: Properties
) -> None:
    properties = catalog_properties(kind)
    stream = published(properties)
    stream.checkpoints.register("a", next_step=20)
    producer = stream.producer("live", QUICK)
    with stream.read(slice=0, settings=READ_BACK) as reader:
        first = next(reader).step
        iceberg(stream).maintenance.expire_snapshots().older_than(FAR).commit()
        named = {ref.snapshot_id for ref in iceberg(stream).metadata.refs.values()}
        assert snapshots(stream) == named
        assert [first, *(batch.step for batch in reader)] == list(range(24))
    publish_numbers(producer, 24, 2)
    producer.close()
    assert numbers(stream) == list(range(26))
    check_stream(stream)
    assert stream.reclaim(grace_s=0).watermark == 20
    check_engines(stream, properties)


def test_expiry_beside_producers_and_reclaims_loses_nothing(stream: bw.Stream) -> None:
    done, expired = threading.Event(), list[int]()

    def expire() -> None:
        while not done.is_set():
            before = len(snapshots(stream))
            with contextlib.suppress(CommitFailedException, ValueError):  # it lost the race
                iceberg(stream).maintenance.expire_snapshots().older_than(FAR).commit()
                expired.append(before - len(snapshots(stream)))

    foreign = threading.Thread(target=expire)
    foreign.start()
    number = 24
    try:
        while number < 30 or (not any(expired) and number < 500):
            with stream.producer("p", QUICK) as producer:
                publish_numbers(producer, number, 1)
            stream.checkpoints.register(f"c-{number}", next_step=number)
            stream.reclaim(keep_checkpoints=3, grace_s=0)
            number += 1
    finally:
        done.set()
        foreign.join()
    assert any(expired)
    assert stream.head().next_step == number
    with stream.read(slice=0, start=stream.head().watermark) as reader:
        found = [int(batch.numpy()["tokens"][0, 0]) for batch in reader]
    assert found == list(range(stream.head().watermark, number))
    check_stream(stream)


def test_a_tag_of_ours_that_others_delete_costs_no_step(stream: bw.Stream) -> None:
    stream.checkpoints.register("b", next_step=22)
    iceberg(stream).manage_snapshots().remove_tag("checkpoint-a").commit()
    assert stream.checkpoints.get("a").next_step == 20
    assert stream.reclaim(grace_s=0).watermark == 20
    assert set(iceberg(stream).metadata.refs) == {"main", "checkpoint-a", "checkpoint-b"}
    iceberg(stream).manage_snapshots().remove_tag("checkpoint-a").commit()
    assert stream.checkpoints.drop("a")
    assert stream.reclaim(grace_s=0).watermark == 22
    check_stream(stream)


def test_a_tag_of_ours_that_others_move_is_put_right_by_the_next_reclaim(
    stream: bw.Stream,
) -> None:
    handle = iceberg(stream)
    oldest = handle.metadata.snapshots[0].snapshot_id
    handle.manage_snapshots().create_tag(oldest, "checkpoint-a").commit()
    assert stream.reclaim(grace_s=0).watermark == 20
    metadata = iceberg(stream).metadata
    steps = iceberg(stream).scan(snapshot_id=metadata.refs["checkpoint-a"].snapshot_id).to_arrow()
    assert set(steps["step"].to_pylist()) == set(range(20, 24))
    assert oldest not in snapshots(stream)


def test_a_branch_of_others_pins_its_steps_until_it_is_dropped(stream: bw.Stream) -> None:
    handle = iceberg(stream)
    oldest = handle.metadata.snapshots[1].snapshot_id
    handle.manage_snapshots().create_branch(oldest, "experiment").commit()
    with pytest.raises(StepsPinned, match="experiment"):
        stream.reclaim(grace_s=0)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 24, 1)
    iceberg(stream).manage_snapshots().remove_branch("experiment").commit()
    assert stream.reclaim(grace_s=0).watermark == 20
    check_stream(stream)


def test_metadata_versions_that_pyiceberg_deletes_are_missed_by_nobody(stream: bw.Stream) -> None:
    """It deletes them with its own commits where the table's properties ask for it."""
    producer = stream.producer("live", QUICK)
    bounds = {
        "write.metadata.delete-after-commit.enabled": "true",
        "write.metadata.previous-versions-max": "1",
    }
    for number in range(3):
        with iceberg(stream).transaction() as transaction:
            transaction.set_properties({**bounds, "owner": str(number)})
        publish_numbers(producer, 24 + number, 1)
        producer.flush()
    producer.close()
    assert numbers(stream) == list(range(27))
    check_stream(stream)


# -- Iceberg: what is corruption, and told as such ---------------------------------------------

REWRITES: dict[str, tuple[Callable[[IcebergHandle], Any], str]] = {
    "rewritten": (
        lambda handle: handle.overwrite(handle.scan().to_arrow()),
        "step 0 of demo.tokens lacks slice 1",
    ),
    "steps deleted": (
        lambda handle: handle.delete("step < 3"),
        "step 0 of demo.tokens is missing",
    ),
    "rows deleted": (
        lambda handle: handle.delete("slice = 0"),
        "step 0 of demo.tokens lacks slice 0",
    ),
    "rolled back": (
        lambda handle: (
            handle.manage_snapshots()
            .rollback_to_snapshot(handle.metadata.snapshots[2].snapshot_id)
            .commit()
        ),
        "step 4 of demo.tokens is missing",
    ),
}


@pytest.mark.parametrize("how", REWRITES)
def test_what_others_rewrite_is_named_and_nothing_is_deleted(stream: bw.Stream, how: str) -> None:
    rewrite, said = REWRITES[how]
    whole = iceberg(stream).metadata.current_snapshot_id
    files = {info.path for info in data_files(stream)}
    rewrite(iceberg(stream))
    with pytest.raises(bw.StreamCorrupted, match=said):
        numbers(stream)
    with pytest.raises(bw.StreamCorrupted):
        stream.reclaim(grace_s=0)
    with stream.producer("z", bw.ProducerSettings(freshness_s=3600)) as zombie:
        zombie.publish([{"tokens": [[1]]}] * 2, position=1)
        with pytest.raises(bw.StreamCorrupted):
            stream.sweep(grace_s=0)
        zombie.close(flush=False)
    assert {info.path for info in data_files(stream)} >= files
    assert whole is not None


@pytest.mark.parametrize("how", REWRITES)
def test_a_rewrite_is_undone_by_setting_the_snapshot_back(stream: bw.Stream, how: str) -> None:
    whole = iceberg(stream).metadata.current_snapshot_id
    assert whole is not None
    REWRITES[how][0](iceberg(stream))
    iceberg(stream).manage_snapshots().set_current_snapshot(whole).commit()
    assert numbers(stream) == list(range(24))
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 24, 1)
    check_stream(stream)
    assert stream.reclaim(grace_s=0).watermark == 20
    check_stream(stream)


# -- Delta -------------------------------------------------------------------------------------

REFUSED: dict[str, Callable[[deltalake.DeltaTable], Any]] = {
    "vacuum": lambda table: table.vacuum(
        retention_hours=0, dry_run=False, enforce_retention_duration=False
    ),
    "full vacuum": lambda table: table.vacuum(
        retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True
    ),
    "compact": lambda table: table.optimize.compact(),
    "z-order": lambda table: table.optimize.z_order(["slice"]),
    "restore": lambda table: table.restore(2),
    "delete": lambda table: table.delete("step < 3"),
    "overwrite": lambda table: deltalake.write_deltalake(
        table, table.to_pyarrow_table(), mode="overwrite"
    ),
}


@pytest.mark.parametrize("how", REFUSED)
def test_deltalake_refuses_before_it_deletes_a_file(delta: bw.Stream, how: str) -> None:
    """Files that wait are there in both kinds: reclaimed in their grace, and not committed yet."""
    producer = delta.producer("slow", bw.ProducerSettings(freshness_s=3600))
    receipt = producer.publish([{"tokens": [[24]]}] * 2, position=1)
    while len(data_files(delta)) < 25:
        threading.Event().wait(0.01)
    delta.reclaim(grace_s=3600)
    before = {info.path for info in delta.table.objects.list()}
    with pytest.raises(deltalake.exceptions.DeltaError, match="DomainMetadata"):
        REFUSED[how](opened(delta))
    assert {info.path for info in delta.table.objects.list()} == before
    producer.flush()
    assert receipt.step() == 24
    producer.close()
    check_stream(delta)


def test_log_entries_that_deltalake_cleans_up_are_missed_by_nobody(
    tmp_path: Path, delta: bw.Stream
) -> None:
    properties = {"type": "delta", "warehouse": str(tmp_path)}
    producer = delta.producer("live", QUICK)
    delta.reclaim(grace_s=0)
    opened(delta).create_checkpoint()
    log = tmp_path / "demo" / "tokens" / "_delta_log"
    entries = sorted(log.glob("*.json"))
    for entry in log.iterdir():
        os.utime(entry, (0, 0))  # older than any log retention
    opened(delta).cleanup_metadata()
    assert len(sorted(log.glob("*.json"))) < len(entries)
    publish_numbers(producer, 24, 2)
    producer.close()
    found = bw.load_catalog("other", **properties).load_stream("demo.tokens")
    for one in (delta, found):
        assert one.head() == found.head()
        assert one.checkpoints.get("a").next_step == one.head().watermark == 20
        check_stream(one)
    check_engines(found, properties)
