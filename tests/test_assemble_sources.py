"""Sources: every row from any position; bad input is named, and stops or is recorded."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batchweave import assemble
from batchweave.assemble import (
    Assembler,
    Chunk,
    Fault,
    FileSource,
    FixedRows,
    GlobalBatch,
    PackedRows,
)
from batchweave.assemble.file_formats import ParquetReader
from batchweave.errors import (
    InvalidInput,
    InvalidSample,
    SourceChanged,
    SourceCorrupted,
    SourceError,
    StoreUnavailable,
)
from batchweave.objects import ObstoreObjects, open_objects
from tests.assembling import DOCUMENTS, all_of, content, doc_ids, documents
from tests.servers.seaweed import S3Server

Write = Callable[[pa.Table, str], None]


def write_parquet(table: pa.Table, path: str) -> None:
    pq.write_table(table, path, row_group_size=7)


def write_arrow(table: pa.Table, path: str) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def write_stream(table: pa.Table, path: str) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def write_lines(table: pa.Table, path: str) -> None:
    text = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    Path(path).write_bytes(gzip.compress(text) if path.endswith(".gz") else text)


FORMATS = {
    "parquet": (write_parquet, ".parquet"),
    "arrow": (write_arrow, ".arrow"),
    "stream": (write_stream, ".arrow"),
    "lines": (write_lines, ".jsonl"),
    "gzip": (write_lines, ".jsonl.gz"),
}


def fill(folder: Path, write: Write = write_parquet, suffix: str = ".parquet") -> pa.Table:
    """Three files, one in a folder of its own; beside them what is no data."""
    table = documents(50)
    (folder / "more").mkdir(parents=True)
    for name, begin, end in (("a", 0, 20), ("b", 20, 31), ("more/c", 31, 50)):
        write(table.slice(begin, end - begin), str(folder / (name + suffix)))
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.parquet").write_text("no")
    (folder / "README.md").write_text("words")
    return table


def rows_from(source: Any, position: Any = None) -> list[tuple[str, Any]]:
    """Each row's document and the position behind it."""
    found = []
    for chunk in source.read(position):
        assert isinstance(chunk, Chunk), chunk
        for at, name in enumerate(chunk.rows.column("doc_id").to_pylist()):
            last = at + 1 == chunk.rows.num_rows
            found.append((name, chunk.after() if last else chunk.at(at + 1)))
    return found


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("write", "suffix"), FORMATS.values(), ids=FORMATS)
def test_files_are_read_from_behind_any_row(tmp_path: Path, write: Write, suffix: str) -> None:
    fill(tmp_path, write, suffix)
    schema = DOCUMENTS if "jsonl" in suffix else None
    source = FileSource(str(tmp_path), schema=schema)
    assert source.schema == DOCUMENTS
    assert source.files == ["a" + suffix, "b" + suffix, "more/c" + suffix]
    rows = rows_from(source)
    assert [name for name, _ in rows] == [f"d{n}" for n in range(50)]
    again = FileSource(str(tmp_path), schema=schema)
    for number, (_, position) in enumerate(rows):
        following = [name for name, _ in rows_from(again, json.loads(json.dumps(position)))]
        assert following == [f"d{n}" for n in range(number + 1, 50)]


def test_conditions_keep_the_numbers_of_rows_and_skip_row_groups(tmp_path: Path) -> None:
    table = pa.table({"n": list(range(100)), "doc_id": [f"d{n}" for n in range(100)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    source = FileSource(str(tmp_path), columns=["doc_id"], where=[("n", ">=", 42), ("n", "<", 57)])
    chunks = [one for one in source.read() if isinstance(one, Chunk)]
    assert [n for one in chunks for n in one.numbers] == list(range(42, 57))
    assert chunks[0].rows.schema.names == ["doc_id"]
    assert [name for name, _ in rows_from(source, chunks[0].at(3))] == [
        f"d{n}" for n in range(45, 57)
    ]
    with pytest.raises(InvalidInput, match="no column 'x'"):
        FileSource(str(tmp_path), where=[("x", "=", 1)])
    with pytest.raises(InvalidInput, match="does not suit"):
        FileSource(str(tmp_path), where=[("n", "=", "word")])


def test_row_groups_that_statistics_exclude_are_not_read(tmp_path: Path) -> None:
    table = pa.table({"n": list(range(100))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    with pa.OSFile(str(tmp_path / "a.parquet")) as data:
        reader = ParquetReader(data)
        read = [one for one in reader.read(0, ["n"], pc.field("n") >= 95) if isinstance(one, tuple)]
    assert [list(numbers) for numbers, _ in read] == [list(range(90, 100))]


def test_files_in_a_store_are_read_like_local_ones(s3: S3Server, tmp_path: Path) -> None:
    fill(tmp_path)
    bucket = s3.bucket()
    properties = s3.properties(bucket)
    objects = open_objects(f"s3://{bucket}", properties)
    for path in tmp_path.rglob("*.parquet"):
        objects.create(f"in/{path.relative_to(tmp_path)}", path.read_bytes())
    remote = FileSource(f"s3://{bucket}/in", properties=properties)
    assert rows_from(remote) == rows_from(FileSource(str(tmp_path)))
    single = FileSource(f"s3://{bucket}/in/b.parquet", properties=properties)
    assert len(rows_from(single)) == 11


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".jsonl"])
def test_an_outage_is_never_taken_for_a_broken_file(
    s3: S3Server, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = {".parquet": write_parquet, ".arrow": write_arrow, ".jsonl": write_lines}[suffix]
    write(documents(50), str(tmp_path / "file"))
    bucket = s3.bucket()
    properties = s3.properties(bucket)
    objects = open_objects(f"s3://{bucket}", properties)
    objects.create(f"in/a{suffix}", (tmp_path / "file").read_bytes())
    source = FileSource(f"s3://{bucket}/in", schema=DOCUMENTS, properties=properties)
    real, failing, calls = ObstoreObjects.get_range, 0, 0

    def get_range(self: ObstoreObjects, path: str, start: int, length: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise StoreUnavailable("down")
        return real(self, path, start, length)

    monkeypatch.setattr(ObstoreObjects, "get_range", get_range)
    whole = all_of(Assembler(source, FixedRows(2), 2, on_bad="skip"))
    assert len(whole) == 12
    for failing in range(1, calls + 1):  # noqa: B007 - read by the function above
        calls = 0
        with pytest.raises(StoreUnavailable, match="down"):
            all_of(Assembler(source, FixedRows(2), 2, on_bad="skip"))


def test_a_pattern_or_a_list_names_files(tmp_path: Path) -> None:
    fill(tmp_path)
    assert FileSource(str(tmp_path / "[ab].parquet")).files == ["a.parquet", "b.parquet"]
    both = FileSource([str(tmp_path / "b.parquet"), str(tmp_path / "a.parquet")])
    assert both.files == ["b.parquet", "a.parquet"]
    with pytest.raises(InvalidInput, match="no files at"):
        FileSource(str(tmp_path / "nothing"))


def test_files_that_came_later_are_read_by_the_next_run(tmp_path: Path) -> None:
    fill(tmp_path)
    position = rows_from(FileSource(str(tmp_path)))[-1][1]
    write_parquet(documents(3, name="late"), str(tmp_path / "z.parquet"))
    grown = FileSource(str(tmp_path))
    assert [name for name, _ in rows_from(grown, position)] == ["late0", "late1", "late2"]


def test_a_scheme_of_ones_own_opens(tmp_path: Path) -> None:
    made = assemble.TableSource(documents(3))
    assemble.register_source("mine", lambda uri, options: made)
    assert assemble.open_source("mine://x") is made
    fill(tmp_path)
    assert isinstance(assemble.open_source(str(tmp_path)), FileSource)


# -- bad input ---------------------------------------------------------------------------------


def assembler(folder: Path, **options: Any) -> Assembler:
    return Assembler(FileSource(str(folder)), FixedRows(2), 2, **options)


def start_then(folder: Path, change: Callable[[], object], **options: Any) -> Assembler:
    """An assembler that goes on, behind row 24 (in b), in a folder that was changed meanwhile."""
    batches = all_of(assembler(folder))
    change()
    resumed = assembler(folder, **options)
    resumed.resume(batches[5].position)
    return resumed


def rewritten(folder: Path, name: str, rows: int) -> Callable[[], object]:
    return lambda: write_parquet(documents(rows, name="new"), str(folder / name))


@pytest.mark.parametrize(
    ("change", "message", "first"),
    [
        (lambda at: rewritten(at, "b.parquet", 2)(), r"b.parquet has \d+ bytes, had", "d31"),
        (lambda at: (at / "b.parquet").unlink(), r"b.parquet \(row 4\) is gone", "d31"),
        (lambda at: (at / "a.parquet").unlink(), "the files before b.parquet are not", "d24"),
        (lambda at: rewritten(at, "a0.parquet", 2)(), "the files before b.parquet are not", "d24"),
    ],
    ids=["shrunk", "gone", "an earlier one gone", "one before"],
)
def test_files_that_changed_between_runs_are_named(
    tmp_path: Path, change: Callable[[Path], object], message: str, first: str
) -> None:
    fill(tmp_path / "stop")
    with pytest.raises(SourceChanged, match=f"source 'data': {message}"):
        start_then(tmp_path / "stop", lambda: change(tmp_path / "stop"))
    fill(tmp_path / "skip")
    resumed = start_then(tmp_path / "skip", lambda: change(tmp_path / "skip"), on_bad="skip")
    batches = all_of(resumed)
    assert doc_ids(batches)[0] == first
    assert resumed.skips.count == 1
    assert batches[-1].position["skipped"] == resumed.skips.to_json()


def test_a_table_that_shrank_is_named() -> None:
    table = documents(40)
    batch = all_of(Assembler(assemble.TableSource(table), FixedRows(2), 2))[5]
    short = assemble.TableSource(table.slice(0, 10), name="short")
    with pytest.raises(SourceChanged, match="short has 10 rows, the position is row 24"):
        Assembler(short, FixedRows(2), 2).resume(batch.position)
    skipping = Assembler(short, FixedRows(2), 2, on_bad="skip")
    skipping.resume(batch.position)
    assert all_of(skipping) == []
    assert skipping.skips.kinds == {"shrunk": 1}


def test_rows_that_waited_are_missed_when_the_source_shrank() -> None:
    layout = PackedRows(tokens=64, lineage=["doc_id"], lookahead=4)
    table = documents(300)
    whole = all_of(Assembler(assemble.TableSource(table), layout, 2, shuffle_window=50))
    batch = next(one for one in whole if one.position["carried"])
    short = Assembler(
        assemble.TableSource(table.slice(0, 3)), layout, 2, shuffle_window=50, on_bad="skip"
    )
    short.resume(batch.position)
    assert short.skips.kinds["changed"] == len(batch.position["carried"])
    assert short.skips.kinds["shrunk"] == 1


@pytest.mark.parametrize("kind", ["schema", "corrupt"])
def test_a_bad_file_in_the_middle_stops_or_is_left_out(tmp_path: Path, kind: str) -> None:
    fill(tmp_path)
    path = tmp_path / "b.parquet"
    error: type[SourceError]
    if kind == "schema":
        pq.write_table(pa.table({"tokens": ["x"], "doc_id": ["y"], "z": [1]}), path)
        error, message = InvalidSample, "b.parquet: column 'tokens' is string, not list"
    else:
        path.write_bytes(path.read_bytes()[:200])
        error, message = SourceCorrupted, "b.parquet cannot be read from row 0 on"
    found: list[GlobalBatch] = []
    with pytest.raises(error, match=f"source 'data': {message}"):
        found.extend(assembler(tmp_path))
    assert doc_ids(found) == [f"d{n}" for n in range(20)]
    skipping = assembler(tmp_path, on_bad="skip", remainder="publish")
    batches = all_of(skipping)
    assert doc_ids(batches) == [f"d{n}" for n in (*range(20), *range(31, 50))]
    assert skipping.skips.kinds == {kind: 1}
    assert message in skipping.skips.last[0]["reason"]
    resumed = assembler(tmp_path, on_bad="skip", remainder="publish")
    resumed.resume(batches[2].position)  # before the bad file
    assert content(all_of(resumed)) == content(batches[3:])
    assert resumed.skips.kinds == {kind: 1}


def test_a_bad_line_is_one_row(tmp_path: Path) -> None:
    lines = [json.dumps({"n": n}) for n in range(30)]
    lines[17] = '{"n": 17'
    lines[20] = '{"n": "word"}'
    lines[21] = '{"n": 21, "m": 1}'
    lines[22] = ""
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = FileSource(str(tmp_path), schema=pa.schema([("n", pa.int64())]))
    with pytest.raises(InvalidSample, match=r"a.jsonl row 17: "):
        all_of(Assembler(source, FixedRows(1), 1))
    skipping = Assembler(source, FixedRows(1), 1, on_bad="skip")
    rows = [one.slices[0]["n"][0].as_py() for one in all_of(skipping)]
    assert rows == [n for n in range(30) if n not in (17, 20, 21, 22)]
    assert [one["row"] for one in skipping.skips.last] == [17, 20, 21]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tokens": list(range(65)), "doc_id": "x"}, "65 tokens, more than the 64 that have room"),
        ({"tokens": None, "doc_id": "x"}, "column 'tokens' has no tokens"),
        ({"tokens": [], "doc_id": "x"}, "column 'tokens' has no tokens"),
    ],
    ids=["large", "null", "empty"],
)
def test_a_sample_that_has_no_room_stops_or_is_left_out(row: dict[str, Any], reason: str) -> None:
    bad = pa.Table.from_pylist([row], schema=DOCUMENTS)
    table = pa.concat_tables([documents(30), bad, documents(300, name="e")])
    layout = PackedRows(tokens=64, lineage=["doc_id"])
    source = {"web": assemble.TableSource(table)}
    with pytest.raises(InvalidSample, match=f"source 'web': table row 30: {reason}"):
        all_of(Assembler(source, layout, 2))
    skipping = Assembler(source, layout, 2, on_bad="skip", shuffle_window=9)
    batches = all_of(skipping)
    assert "x" not in doc_ids(batches)
    assert (skipping.skips.rows, skipping.skips.last[0]["row"]) == (1, 30)
    assert batches[-1].position["skipped"]["rows"] == 1


def test_aligned_columns_of_another_length_are_named() -> None:
    table = documents(9).append_column("labels", pa.array([[1]] * 9))
    with pytest.raises(InvalidSample, match=r"row \d: column 'labels' has 1 values for \d+ tokens"):
        all_of(Assembler(assemble.TableSource(table), PackedRows(tokens=99, aligned=["labels"]), 1))


def test_a_source_whose_chunks_drift_is_caught() -> None:
    class Drifting(assemble.TableSource):
        def read(self, position: Any = None) -> Any:
            yield from super().read(position)
            yield Chunk(pa.record_batch({"doc_id": [1]}), "table", range(9, 10))

    source = Drifting(documents(9))
    with pytest.raises(SourceError, match="table row 9: column 'tokens' is missing"):
        all_of(Assembler(source, FixedRows(3), 1))
    skipping = Assembler(source, FixedRows(3), 1, on_bad="skip")
    assert len(all_of(skipping)) == 3
    assert skipping.skips.kinds == {"schema": 1}


def test_faults_have_errors_of_their_own() -> None:
    for kind in ("changed", "shrunk", "corrupt", "schema", "row"):
        assert "'web': why" in str(Fault(kind, "why", None, "x").error("web"))
