"""Bad input gets one error class and a message that names the value; nothing half-written shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.exceptions import NoSuchTableError

import batchweave as bw
from batchweave.catalogs.iceberg_catalog import IcebergCatalog
from batchweave.errors import StoreUnavailable
from batchweave.objects import ObstoreObjects
from tests.streams import QUICK, TOKENS, catalog_at, make_stream, numbers, tokens

MIXED = pa.schema([("tokens", pa.list_(pa.int32())), ("text", pa.string())])


def good() -> dict[str, Any]:
    return {**tokens(1), "text": ["a", "b", "c", "d"]}


BAD_BATCHES: dict[str, tuple[Any, type[bw.BatchWeaveError], str]] = {
    "too few slices": ([good()], bw.InvalidBatch, r"2 slices, got 1"),
    "too many slices": ([good()] * 3, bw.InvalidBatch, r"2 slices, got 3"),
    "not a sequence": (good(), bw.InvalidBatch, "sequence"),
    "an empty slice": (
        [good(), {"tokens": np.zeros((0, 8), np.int32), "text": []}],
        bw.InvalidBatch,
        "slice 1 is empty",
    ),
    "a column missing": ([good(), tokens(1)], bw.SchemaMismatch, r"slice 1.*text"),
    "a column extra": ([good(), {**good(), "more": [1] * 4}], bw.SchemaMismatch, "more"),
    "another dtype": (
        [good(), {**good(), "tokens": np.zeros((4, 8), np.int64)}],
        bw.SchemaMismatch,
        r"slice 1.*tokens.*int64",
    ),
    "another type": ([good(), {**good(), "text": [1, 2, 3, 4]}], bw.SchemaMismatch, "text"),
    "rows that differ": ([good(), {**good(), "text": ["a"]}], bw.SchemaMismatch, "slice 1"),
    "not a table": ([good(), 7], bw.SchemaMismatch, "slice 1"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_a_malformed_batch_is_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    slices, error, message = BAD_BATCHES[case]
    stream = make_stream(tmp_path, schema=MIXED)
    with stream.producer("p", QUICK) as producer:
        with pytest.raises(error, match=message):
            producer.publish(slices)
        # The producer is as good as before.
        assert producer.publish([good()] * 2).step() == 0
    files = [info.path for info in stream.table.objects.list("data")]
    assert len(files) == 1


@pytest.mark.parametrize("position", [object(), float("nan"), {"a": {1, 2}}])
def test_a_position_that_json_cannot_hold_is_refused(tmp_path: Path, position: Any) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer, pytest.raises(bw.InvalidBatch, match="position"):
        producer.publish([tokens(1)] * 2, position=position)
    assert stream.head().next_step == 0


@pytest.mark.parametrize("source", ["x" * 5000, {"a": {1}}, ["one", "two", "three"]])
def test_a_source_that_is_no_short_description_is_refused(tmp_path: Path, source: Any) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer, pytest.raises(bw.InvalidBatch, match="source"):
        producer.publish([tokens(1)] * 2, source=source)


@pytest.mark.parametrize(
    "name",
    [
        "tokens",
        "demo.",
        ".tokens",
        "demo..x",
        "demo/x.y",
        "../x.y",
        "a.b'; drop table x",
        "a.b c",
        "a.-b",
        "a." + "x" * 64,
        "é.x",
        "",
        "a.b\n",
    ],
)
def test_a_stream_name_with_path_or_sql_characters_is_refused(tmp_path: Path, name: str) -> None:
    catalog = catalog_at(tmp_path)
    with pytest.raises(bw.InvalidName, match="got"):
        catalog.create_stream(name, schema=TOKENS, mesh=bw.Mesh(dp=1))
    with pytest.raises(bw.InvalidName):
        catalog.load_stream(name)
    with pytest.raises(bw.InvalidName):
        catalog.drop_stream(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "a'b", "a..b", ".a", "x" * 129, "é"])
def test_a_producer_name_with_path_or_sql_characters_is_refused(tmp_path: Path, name: str) -> None:
    stream = make_stream(tmp_path)
    with pytest.raises(bw.InvalidName, match="producer name"):
        stream.producer(name)
    assert stream.head().producers == {}


@pytest.mark.parametrize(
    "column", ["step", "slice", "source", "producer", "Digest", "COMMITTED_AT"]
)
def test_a_reserved_column_name_is_refused(tmp_path: Path, column: str) -> None:
    with pytest.raises(bw.SchemaMismatch, match=rf"rename {column}"):
        make_stream(tmp_path, schema=pa.schema([(column, pa.int32())]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("schema", "error", "message"),
    [
        (pa.schema([]), bw.BatchWeaveError, "column"),
        (pa.schema([("a", pa.int32()), ("A", pa.int32())]), bw.SchemaMismatch, "case"),
        (pa.schema([("a.b", pa.int32())]), bw.SchemaMismatch, r"a\.b"),
        (pa.schema([("a", pa.month_day_nano_interval())]), bw.UnsupportedType, "'a'"),
        (pa.schema([("a", pa.decimal256(50, 2))]), bw.UnsupportedType, "'a'"),
        ([("a", "int32")], bw.SchemaMismatch, "list"),
    ],
)
def test_a_schema_that_a_stream_cannot_hold_is_refused(
    tmp_path: Path, schema: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_stream(tmp_path, schema=schema)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "axes", [{}, {"dp": 0}, {"dp": -1}, {"dp": 2.0}, {"dp": True}, {"DP": 2}, {"dp": 70_000}]
)
def test_a_mesh_without_whole_slices_is_refused(axes: Any) -> None:
    with pytest.raises(bw.InvalidMesh):
        bw.Mesh(**axes)


def test_a_name_that_is_taken_or_missing_says_so(tmp_path: Path) -> None:
    make_stream(tmp_path)
    catalog = catalog_at(tmp_path)
    with pytest.raises(bw.StreamExists, match=r"demo\.tokens exists"):
        catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=1))
    with pytest.raises(bw.StreamNotFound, match=r"demo\.token'"):
        catalog.load_stream("demo.token")
    with pytest.raises(bw.StreamNotFound):
        catalog.drop_stream("other.tokens")
    assert catalog.list_streams() == ["demo.tokens"]
    catalog.drop_stream("demo.tokens")
    assert catalog.list_streams() == []
    with pytest.raises(bw.StreamNotFound):
        catalog.load_stream("demo.tokens")


def test_a_mistyped_warehouse_is_not_created_by_looking(tmp_path: Path) -> None:
    catalog = catalog_at(tmp_path / "typo")
    assert catalog.list_streams() == []
    with pytest.raises(bw.StreamNotFound):
        catalog.load_stream("demo.tokens")
    assert not (tmp_path / "typo").exists()


def test_a_table_that_is_not_a_stream_is_left_alone(tmp_path: Path) -> None:
    catalog = catalog_at(tmp_path)
    assert isinstance(catalog.tables, IcebergCatalog)
    pyiceberg = catalog.tables.catalog
    pyiceberg.create_namespace("demo")
    pyiceberg.create_table("demo.plain", pa.schema([("a", pa.int64())]))
    with pytest.raises(bw.NotAStream, match=r"demo\.plain"):
        catalog.load_stream("demo.plain")
    with pytest.raises(bw.NotAStream):
        catalog.drop_stream("demo.plain")
    assert catalog.list_streams() == []
    assert pyiceberg.table_exists("demo.plain")
    with pytest.raises(NoSuchTableError):
        pyiceberg.load_table("demo.other")


def test_a_newer_format_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    make_stream(tmp_path)
    metadata = tmp_path / "demo" / "tokens" / "metadata" / "v1.metadata.json"
    document = json.loads(metadata.read_text())
    document["properties"]["batchweave.format-version"] = "2"
    metadata.write_text(json.dumps(document))
    with pytest.raises(bw.UnsupportedFormat, match=r"format version 2.*upgrade"):
        catalog_at(tmp_path).load_stream("demo.tokens")


def test_a_warehouse_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(bw.StoreDenied, match="file"):
        make_stream(tmp_path / "file" / "warehouse")


@pytest.mark.parametrize(
    "properties",
    [
        {"type": "object-store"},
        {"type": "nonsense", "warehouse": "x"},
        {"type": "object-store", "warehouse": "nonsense://x"},
        {},
    ],
)
def test_a_catalog_that_cannot_be_opened_says_what_is_missing(properties: dict[str, str]) -> None:
    with pytest.raises(bw.InvalidSettings, match=r"nowhere|nonsense|warehouse|type"):
        bw.load_catalog("nowhere", **properties)


@pytest.mark.parametrize(
    "settings",
    [
        {"pending_bytes_max": 0},
        {"freshness_s": -1},
        {"upload_threads": "many"},
        {"compression": "rot13"},
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(bw.InvalidSettings, match=next(iter(settings))):
        bw.ProducerSettings(**settings)


def test_a_second_process_that_opens_the_name_takes_it_over(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    producer = stream.producer("p", QUICK)
    producer.publish([tokens(0)] * 2, position=0).step()
    program = (
        "import sys; from tests.streams import *\n"
        "stream = catalog_at(sys.argv[1]).load_stream('demo.tokens')\n"
        "with stream.producer('p') as producer:\n"
        "    assert producer.position == 0\n"
        "    producer.publish([tokens(1)] * 2, position=1).step()\n"
    )
    root = Path(__file__).resolve().parent.parent
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=120,
    )
    with pytest.raises(bw.Fenced, match="generation 1, the stream is at 2"):
        producer.publish([tokens(9)] * 2, position=9).step()
    producer.close(flush=False)
    assert numbers(stream) == [0, 1]


def test_a_batch_whose_last_part_fails_to_upload_is_invisible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(tmp_path, mesh=bw.Mesh(dp=4))
    real = ObstoreObjects.create
    broken = True

    def create(self: ObstoreObjects, path: str, data: Any) -> str:
        if broken and "-p3-" in path:
            raise StoreUnavailable("the last slice's upload failed")
        return real(self, path, data)

    monkeypatch.setattr(ObstoreObjects, "create", create)
    settings = bw.ProducerSettings(freshness_s=0.01, slices_per_file=1)
    producer = stream.producer("p", settings)
    receipt = producer.publish([tokens(1)] * 4)
    with pytest.raises(bw.NotCommitted, match="last slice's upload failed"):
        receipt.step(timeout_s=0.5)
    assert len(list(stream.table.objects.list("data"))) == 3
    assert stream.head().next_step == 0
    assert list(stream.read()) == []
    assert stream.sql("select count(*) from samples").fetchone() == (0,)
    broken = False
    assert receipt.step() == 0
    producer.close()
    assert [batch.table.num_rows for batch in stream.read()] == [16]


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None,
    reason="a small file system can only be mounted by root on Linux; "
    "the next test fills the disk by a file size limit for everybody else",
)
def test_a_full_disk_in_mid_upload_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this container may not mount a file system")
    try:
        filler = disk / "filler"
        stream = make_stream(disk)
        producer = stream.producer("p", QUICK)
        filler.write_bytes(b"x" * 300_000)
        random = np.random.default_rng(0).integers(0, 2**31, (4, 40_000), dtype=np.int32)
        receipt = producer.publish([{"tokens": random}] * 2)
        with pytest.raises(bw.StoreFull, match="no space left"):
            receipt.step(timeout_s=30)
        assert stream.head().next_step == 0
        filler.unlink()
        # Two slices of 640 kB do not fit into what is left either: give the batch a chance.
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert _retry_step(receipt) == 0
        producer.close()
        assert [batch.table.num_rows for batch in stream.read()] == [8]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def _retry_step(receipt: bw.Receipt) -> int:
    for _ in range(100):
        try:
            return receipt.step(timeout_s=5)
        except bw.StoreFull:
            continue
    raise AssertionError("never committed")


def test_a_full_store_is_reported_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(tmp_path)
    real = ObstoreObjects.create
    full = True

    def create(self: ObstoreObjects, path: str, data: Any) -> str:
        if full:
            raise bw.StoreFull(f"no space left to write {path!r}")
        return real(self, path, data)

    producer = stream.producer("p", QUICK)
    monkeypatch.setattr(ObstoreObjects, "create", create)
    receipt = producer.publish([tokens(1)] * 2)
    with pytest.raises(bw.StoreFull, match="no space left"):
        receipt.step()
    with pytest.raises(bw.StoreFull):
        producer.flush()
    assert producer.pending == 1
    full = False
    assert _retry_step(receipt) == 0
    producer.close()
    assert numbers(stream) == [1]
