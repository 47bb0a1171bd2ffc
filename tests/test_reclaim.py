"""Retention on real tables: what a reclaim takes out is gone for every engine, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import batchweave as bw
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.ledger import Ledger, verify_rows
from batchweave.objects import ObjectInfo
from batchweave.paths import CLOCK, POSITIONS, data_path, upload_version
from batchweave.retention import STEPS_PER_COMMIT
from batchweave.sweep import Sweep
from batchweave.table import Head
from batchweave.testing import check_stream, fingerprint, fingerprint_of_rows
from batchweave.testing.engines import DELTA_ENGINES, ICEBERG_ENGINES, store_properties
from tests.servers.catalogs import DELTA, ICEBERG, KINDS
from tests.streams import QUICK, TOKENS, catalog_at, make_stream, numbers, publish_numbers


@pytest.fixture(autouse=True)
def _plain_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polars would warn that a package for faster planning is missing."""
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")


Properties = Callable[[str], dict[str, str]]


def published(properties: dict[str, str], count: int = 24) -> bw.Stream:
    """A new stream of ``count`` steps, several of them in each commit, with source texts."""
    catalog = bw.load_catalog("any", **properties)
    stream = catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2))
    for first in range(0, count, 4):
        with stream.producer("p", QUICK) as producer:
            publish_numbers(producer, first, min(4, count - first))
    return stream


def data_files(stream: bw.Stream) -> list[ObjectInfo]:
    found = stream.table.objects.list("data")
    return [info for info in found if upload_version(info.path) is not None]


def ledger_of(stream: bw.Stream) -> Ledger:
    ledger = stream.ledger
    assert ledger is not None
    return ledger


def check_engines(stream: bw.Stream, properties: dict[str, str]) -> None:
    """Every engine reads what our reader reads; so does each tag of ours, as of its commit."""
    wanted = fingerprint(stream)
    store = store_properties(properties)
    if isinstance(stream.table, IcebergTable):
        handle = stream.table.head().detail.handle
        found = {
            name: fingerprint_of_rows(engine(handle.metadata_location, store), stream)
            for name, engine in ICEBERG_ENGINES.items()
        }
        tags = {name for name in handle.metadata.refs if name.startswith("checkpoint-")}
        assert tags == {f"checkpoint-{name}" for name in stream.head().checkpoints}
        for tag in tags:
            rows = handle.scan(snapshot_id=handle.metadata.refs[tag].snapshot_id).to_arrow()
            assert set(rows["step"].to_pylist()) <= set(wanted.steps)
            assert min(rows["step"].to_pylist()) == stream.head().watermark
    else:
        found = {
            name: fingerprint_of_rows(engine(stream.table.objects.uri, store), stream)
            for name, engine in DELTA_ENGINES.items()
        }
    assert found == dict.fromkeys(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reclaim_leaves_a_whole_table_for_every_engine(
    kind: str, catalog_properties: Properties
) -> None:
    properties = catalog_properties(kind)
    stream = published(properties)
    stream.checkpoints.register("old", next_step=5)
    stream.checkpoints.register("new", next_step=20)
    stream.checkpoints.register("slow", next_step=14, consumer="other")
    report = stream.reclaim(keep_checkpoints=1, grace_s=0)
    assert (report.watermark_before, report.watermark, report.steps) == (0, 14, 14)
    assert report.dropped_checkpoints == ("old",)
    assert report.retained_checkpoints == ("slow", "new")
    assert report.swept is not None
    assert report.swept.files == 14
    check_engines(stream, properties)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 24, 4)
    assert stream.reclaim(keep_checkpoints=1, grace_s=0).steps == 0
    stream.checkpoints.drop("slow")
    assert stream.reclaim(keep_checkpoints=1, grace_s=0).watermark == 20
    check_engines(stream, properties)
    check_stream(stream)
    opened = bw.load_catalog("any", **properties).load_stream("demo.tokens")
    with opened.read(slice=1, start=20) as reader:
        assert [batch.step for batch in reader] == list(range(20, 28))
    assert sum(len(entry.parts) for entry in opened.batches()) == len(data_files(opened))


@pytest.mark.parametrize("kind", [ICEBERG[0], DELTA[0]])
def test_history_is_answered_from_the_ledger_when_the_data_is_gone(
    kind: str, catalog_properties: Properties
) -> None:
    properties = catalog_properties(kind)
    stream = published(properties)
    before = list(stream.batches())
    stream.checkpoints.register("first", next_step=6)
    stream.checkpoints.register("second", next_step=24)
    assert stream.ledger is None
    stream.reclaim(keep_checkpoints=1, grace_s=0)
    rows = list(ledger_of(stream).read())
    assert [(row.step, row.producer, row.sequence, row.rows, row.bytes) for row in rows] == [
        (one.step, one.producer, one.sequence, one.rows, one.bytes) for one in before
    ]
    assert [row.sources for row in rows] == [(f"item {number}",) for number in range(24)]
    assert [row.checkpoint for row in rows] == ["first"] * 6 + ["second"] * 18
    assert verify_rows(rows) == ledger_of(stream).place()
    assert verify_rows(rows).chain == stream.head().chain
    catalog = bw.load_catalog("any", **properties)
    assert catalog.list_streams() == ["demo.tokens"]
    assert catalog.load_stream("demo.tokens__ledger").head().next_step == 1


@pytest.fixture
def stream(tmp_path: Path) -> bw.Stream:
    return published({"type": "object-store", "warehouse": str(tmp_path)})


def test_sources_that_differ_by_slice_reach_the_ledger(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 1)
        slices = [{"tokens": [[1, 2]]}, {"tokens": [[3], [4]]}]
        producer.publish(slices, position=1, source=["a", {"b": 1}])
        producer.publish(slices, position=2, source=[None, "c"])
        producer.publish(slices, position=3)
    stream.checkpoints.register("all", next_step=4)
    stream.reclaim(grace_s=0)
    sources = [row.sources for row in ledger_of(stream).read()]
    assert sources == [("item 0",), ("a", '{"b":1}'), (None, "c"), (None,)]


def test_without_a_checkpoint_nothing_is_reclaimed(stream: bw.Stream) -> None:
    report = stream.reclaim(keep_checkpoints=1, keep_steps=1, grace_s=0)
    assert (report.steps, report.watermark) == (0, 0)
    assert numbers(stream) == list(range(24))
    assert stream.ledger is None


def test_steps_and_checkpoints_that_are_to_be_kept_are_kept(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=20)
    assert stream.reclaim(keep_steps=10).watermark == 14
    assert stream.reclaim(keep_steps=24).watermark == 14
    assert stream.reclaim().watermark == 20


def test_a_dry_run_tells_what_would_go_and_changes_nothing(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=8)
    stream.checkpoints.register("b", next_step=20)
    version, files = stream.table.head().version, data_files(stream)
    plan = stream.reclaim(keep_checkpoints=1, grace_s=0, dry_run=True)
    assert (plan.steps, plan.files, plan.dropped_checkpoints) == (20, 20, ("a",))
    assert plan.bytes == sum(entry.bytes for entry in stream.batches(stop=20))
    assert stream.table.head().version == version
    assert data_files(stream) == files
    assert stream.ledger is None
    report = stream.reclaim(keep_checkpoints=1, grace_s=0)
    assert (report.steps, report.files, report.bytes) == (plan.steps, plan.files, plan.bytes)


def test_files_stay_for_the_grace_period_and_go_after_it(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=20)
    with stream.read(slice=0, stop=24) as reader:
        first = next(reader)
        report = stream.reclaim(grace_s=3600)
        assert report.swept is not None
        assert (report.swept.files, report.swept.pending_reclaims) == (0, 1)
        assert len(data_files(stream)) == 24
        assert [first.step, *(batch.step for batch in reader)] == list(range(24))
    swept = stream.sweep(grace_s=0)
    assert (swept.files, swept.pending_reclaims) == (20, 0)
    assert len(data_files(stream)) == 4


def test_a_reader_of_a_reclaimed_step_is_told_so(stream: bw.Stream) -> None:
    settings = bw.ReaderSettings(prefetch_batches=1)
    with stream.read(slice=0, settings=settings) as reader:
        assert next(reader).step == 0
        stream.checkpoints.register("a", next_step=20)
        stream.reclaim(grace_s=0)
        with pytest.raises(bw.StepReclaimed, match="kept from step 20 on"):
            list(reader)
    with pytest.raises(bw.StepReclaimed, match="step 3 of"):
        stream.read(slice=0, start=3)
    with pytest.raises(bw.StepReclaimed):
        stream.checkpoints.register("late", next_step=3)


def test_old_snapshots_whose_files_go_leave_the_metadata(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=20)
    stream.reclaim(grace_s=0)
    handle = stream.table.head().detail.handle
    for snapshot in handle.metadata.snapshots:
        steps = handle.scan(snapshot_id=snapshot.snapshot_id).to_arrow()["step"].to_pylist()
        assert min(steps) == 20


def test_a_tag_of_others_pins_its_steps(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=20)
    handle = stream.table.head().detail.handle
    current = handle.metadata.current_snapshot().snapshot_id
    handle.manage_snapshots().create_tag(current, "audit-2026").commit()
    with pytest.raises(bw.StepsPinned, match="audit-2026"):
        stream.reclaim(grace_s=0)
    assert stream.head().watermark == 0
    handle = stream.table.head().detail.handle
    handle.manage_snapshots().remove_tag("audit-2026").commit()
    assert stream.reclaim(grace_s=0).watermark == 20


def test_files_of_others_are_never_touched(stream: bw.Stream) -> None:
    objects = stream.table.objects
    foreign = [
        "data/notes.txt",
        "data/v000000000001/part-0.parquet",
        "data/v1/p-g1-q0-p0-00000000000000000000000000000000.parquet",
        "data/positions/v000000000001/position.json",
        "readme.md",
    ]
    for path in foreign:
        objects.create(path, b"not ours")
    stream.checkpoints.register("a", next_step=24)
    stream.reclaim(grace_s=0)
    stream.sweep(grace_s=0)
    left = {info.path for info in objects.list()}
    assert left >= set(foreign)
    assert {path for path in left if path.startswith("data/")} == {*foreign[:4], CLOCK}


def test_orphans_of_a_fenced_producer_are_swept(stream: bw.Stream) -> None:
    zombie = stream.producer("z", bw.ProducerSettings(freshness_s=3600))
    receipt = zombie.publish([{"tokens": [[1]]}] * 2, position=1)
    while len(data_files(stream)) < 25:
        threading.Event().wait(0.01)
    stream.producer("z", QUICK).close()
    assert stream.sweep(grace_s=3600).files == 0
    assert stream.sweep(grace_s=0).files == 1
    with pytest.raises((bw.Fenced, bw.ProducerClosed)):
        receipt.step(30)
    zombie.close(flush=False)
    assert numbers(stream) == list(range(24))


def test_a_producer_that_a_sweep_has_overtaken_uploads_again(stream: bw.Stream) -> None:
    slow = stream.producer("slow", bw.ProducerSettings(freshness_s=3600))
    receipt = slow.publish([{"tokens": [[24]]}] * 2, position=1)
    while len(data_files(stream)) < 25:
        threading.Event().wait(0.01)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 25, 1)
    assert stream.sweep(grace_s=0).files == 1
    slow.flush()
    assert receipt.step() == 25
    slow.close()
    check_stream(stream)
    assert numbers(stream)[-1] == 24


def test_superseded_positions_are_swept_and_the_current_one_stays(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    settings = bw.ProducerSettings(freshness_s=0.01, position_bytes_inline_max=10)
    for number in range(3):
        with stream.producer("p", settings) as producer:
            producer.publish([{"tokens": [[1]]}] * 2, position={"n": number, "pad": "x" * 100})
    assert len(list(stream.table.objects.list(POSITIONS))) == 3
    assert stream.sweep(grace_s=0).files == 2
    with stream.producer("p", settings) as producer:
        assert producer.position["n"] == 2


def test_a_sweep_takes_the_ledgers_orphans_too(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=20)
    stream.reclaim(grace_s=0)
    ledger = ledger_of(stream).table
    orphan = data_path(0, "reclaim", 1, 7, 0, "0" * 32)
    ledger.objects.create(orphan, b"of a reclaim that died")
    swept = stream.sweep(grace_s=0)
    assert (swept.files, swept.bytes) == (1, 22)
    assert orphan not in {info.path for info in ledger.objects.list()}
    assert len(list(ledger_of(stream).read())) == 20


def test_a_long_way_is_gone_in_several_commits(
    stream: bw.Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert STEPS_PER_COMMIT > 24
    monkeypatch.setattr("batchweave.retention.STEPS_PER_COMMIT", 7)
    stream.checkpoints.register("a", next_step=20)
    told: list[tuple[int, int]] = []
    version = stream.table.head().version
    report = stream.reclaim(grace_s=0, progress=lambda done, total: told.append((done, total)))
    assert report.watermark == 20
    assert told == [(7, 20), (14, 20), (20, 20)]
    assert stream.table.head().version == version + 4  # and the horizon


@pytest.mark.parametrize("stage", ["ledger", "commit", "sweep"])
def test_a_reclaim_that_died_is_finished_by_the_next(
    stream: bw.Stream, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.checkpoints.register("a", next_step=20)

    def die(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    targets = {
        "ledger": "batchweave.retention.commit",
        "commit": "batchweave.sweep.Sweep.run",
        "sweep": "batchweave.sweep.Sweep._delete",
    }
    with monkeypatch.context() as patch:
        patch.setattr(targets[stage], die)
        with pytest.raises(KeyboardInterrupt):
            stream.reclaim(grace_s=0)
    assert numbers_from(stream) == list(range(stream.head().watermark, 24))
    stream.reclaim(grace_s=0)
    assert stream.head().watermark == 20
    assert len(data_files(stream)) == 4
    rows = list(ledger_of(stream).read())
    assert [row.step for row in rows] == list(range(20))
    assert verify_rows(rows) == ledger_of(stream).place()


def numbers_from(stream: bw.Stream) -> list[int]:
    with stream.read(slice=0, start=stream.head().watermark) as reader:
        return [int(batch.numpy()["tokens"][0, 0]) for batch in reader]


def test_reclaims_at_the_same_time_take_each_step_once(tmp_path: Path) -> None:
    published({"type": "object-store", "warehouse": str(tmp_path)})
    streams = [catalog_at(tmp_path).load_stream("demo.tokens") for _ in range(3)]
    streams[0].checkpoints.register("a", next_step=20)
    errors: list[Exception] = []

    def run(stream: bw.Stream) -> None:
        try:
            stream.reclaim(grace_s=0)
        except bw.Fenced:
            pass  # another one carries on
        except Exception as error:  # noqa: BLE001 - checked below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    streams[0].reclaim(grace_s=0)
    rows = list(ledger_of(streams[0]).read())
    assert [row.step for row in rows] == list(range(20))
    assert streams[0].head().watermark == 20
    assert len(data_files(streams[0])) == 4


def test_a_ledger_goes_with_its_stream_and_a_namesake_begins_anew(tmp_path: Path) -> None:
    for _ in range(2):
        stream = published({"type": "object-store", "warehouse": str(tmp_path)})
        assert stream.ledger is None
        stream.checkpoints.register("a", next_step=20)
        stream.reclaim(grace_s=0)
        assert len(list(ledger_of(stream).read())) == 20
        catalog_at(tmp_path).drop_stream("demo.tokens")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [
        tmp_path / "demo" / "namespace.json"
    ]


def test_names_of_ledgers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(bw.InvalidName, match="__ledger"):
        make_stream(tmp_path, name="demo.tokens__ledger")


@pytest.mark.parametrize(
    "options",
    [
        {"keep_checkpoints": 0},
        {"keep_checkpoints": 1.5},
        {"keep_steps": -1},
        {"grace_s": -1},
        {"grace_s": float("nan")},
        {"grace_s": "1h"},
    ],
)
def test_limits_that_make_no_sense_are_refused(stream: bw.Stream, options: Any) -> None:
    stream.checkpoints.register("a", next_step=20)
    with pytest.raises(bw.InvalidInput):
        stream.reclaim(**options)
    assert stream.head().watermark == 0


def test_a_sweep_stops_before_the_files_of_a_namesake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = catalog_at(tmp_path)
    old = published({"type": "object-store", "warehouse": str(tmp_path)})
    listed = Sweep._orphans

    def overtaken(self: Sweep, head: Head) -> Iterator[ObjectInfo]:
        found = iter(list(listed(self, head)))
        catalog.drop_stream("demo.tokens")
        published({"type": "object-store", "warehouse": str(tmp_path)}, 3)
        yield from found
        for _, info in self._own_files():
            yield info

    monkeypatch.setattr(Sweep, "_orphans", overtaken)
    with pytest.raises(bw.StreamNotFound, match="dropped and created again"):
        old.sweep(grace_s=0)
    assert numbers(catalog.load_stream("demo.tokens")) == [0, 1, 2]


def test_a_ledger_that_a_dropped_stream_left_behind_is_not_its_namesakes(tmp_path: Path) -> None:
    catalog = catalog_at(tmp_path)
    old = published({"type": "object-store", "warehouse": str(tmp_path)}, 8)
    old.checkpoints.register("a", next_step=8)
    old.reclaim(grace_s=0)
    catalog.tables.drop(("demo", "tokens"))  # as a drop that died before the ledger's turn
    new = published({"type": "object-store", "warehouse": str(tmp_path)}, 4)
    assert new.ledger is None
    new.checkpoints.register("a", next_step=4)
    new.reclaim(grace_s=0)
    rows = list(ledger_of(new).read())
    assert [row.step for row in rows] == [0, 1, 2, 3]
    assert verify_rows(rows).chain == new.head().chain


def test_the_checkpoint_that_a_rolled_back_run_registered_last_is_retained(
    stream: bw.Stream,
) -> None:
    for step in (10, 15, 20):
        stream.checkpoints.register(f"step-{step}", next_step=step)
    stream.checkpoints.register("retry-12", next_step=12)
    report = stream.reclaim(keep_checkpoints=2, grace_s=0)
    assert report.dropped_checkpoints == ("step-10",)
    assert report.watermark == 12


def test_what_stands_in_the_way_of_a_reclaim_is_none_for_orphans(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=20)
    handle = stream.table.head().detail.handle
    current = handle.metadata.current_snapshot().snapshot_id
    handle.manage_snapshots().create_tag(current, "audit").commit()
    orphan = data_path(0, "p", 9, 9, 0, "0" * 32)
    stream.table.objects.create(orphan, b"of a crashed producer")
    with pytest.raises(bw.StepsPinned):
        stream.reclaim(grace_s=0)
    assert orphan not in {info.path for info in stream.table.objects.list()}


def test_an_append_only_delta_table_is_not_reclaimed(tmp_path: Path) -> None:
    stream = published({"type": "delta", "warehouse": str(tmp_path)})
    stream.checkpoints.register("a", next_step=20)
    log = tmp_path / "demo" / "tokens" / "_delta_log"
    entries = sorted(log.glob("*.json"))
    lines = entries[0].read_text().splitlines()
    (metadata,) = [one for line in lines if "metaData" in (one := json.loads(line))]
    metadata["metaData"]["configuration"]["delta.appendOnly"] = "true"
    number = int(entries[-1].stem) + 1
    (log / f"{number:020d}.json").write_text(json.dumps(metadata))
    with pytest.raises(bw.StepsPinned, match="appendOnly"):
        stream.reclaim(grace_s=0)
    assert numbers(stream) == list(range(24))


def test_a_stream_that_moves_takes_its_ledger_along(tmp_path: Path) -> None:
    old = published({"type": "object-store", "warehouse": str(tmp_path / "w")})
    old.checkpoints.register("a", next_step=20)
    old.reclaim(grace_s=0)
    catalog = bw.load_catalog(
        "sql", type="sql", uri=f"sqlite:///{tmp_path}/c.db", warehouse=str(tmp_path / "sql")
    )
    new = catalog.register_stream("lake.tokens", str(tmp_path / "w" / "demo" / "tokens"))
    assert [row.step for row in ledger_of(new).read()] == list(range(20))
    new.checkpoints.drop("a")
    new.checkpoints.register("b", next_step=24)
    assert new.reclaim(grace_s=0).watermark == 24
    rows = list(ledger_of(new).read())
    assert verify_rows(rows).chain == new.head().chain
