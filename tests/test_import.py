"""`publish` and ``batchweave import``: a source becomes a stream, whole and once, through kills."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchweave as bw
from batchweave import assemble
from batchweave.assemble import Assembler, FixedRows, PackedRows, TableSource
from batchweave.clock import SystemClock
from batchweave.errors import InvalidInput, InvalidSample
from tests.assembling import DOCUMENTS, all_of, documents
from tests.streams import QUICK, catalog_at, make_stream
from tests.test_cli import PYTHON, call

KILLS = 5
WAIT_S = 240.0


def folder_of(where: Path, rows: int, files: int = 4) -> Path:
    """A folder of Parquet files of documents, of different lengths."""
    table = documents(rows, longest=9)
    where.mkdir()
    edges = [rows * at * at // (files * files) for at in range(files + 1)]
    for number, (begin, end) in enumerate(itertools.pairwise(edges)):
        part = table.slice(begin, end - begin)
        pq.write_table(part, where / f"part-{number}.parquet", row_group_size=97)
    return where


def run(warehouse: Path, *arguments: str) -> Any:
    return call("--warehouse", str(warehouse), *arguments)


def names(stream: bw.Stream) -> list[str]:
    """Documents of all steps, in order."""
    found: list[str] = []
    for batch in stream.read():
        found += batch.table.column("doc_id").to_pylist()
    return found


# -- publish -----------------------------------------------------------------------------------


def test_publish_goes_on_where_the_last_commit_ended(tmp_path: Path) -> None:
    stream = make_stream(tmp_path, schema=DOCUMENTS)
    table = documents(60)
    seen: list[assemble.Progress] = []

    def assembler() -> Assembler:
        return Assembler(TableSource(table), FixedRows(3, column="tokens"), stream.mesh)

    with stream.producer("p", QUICK) as producer:
        report = assemble.publish(assembler(), producer, batches_max=4, progress=seen.append)
    assert (report.batches, report.rows, report.ended, report.last_step) == (4, 24, False, 3)
    assert [one.batches for one in seen] == [1, 2, 3, 4]
    with stream.producer("p", QUICK) as producer:
        report = assemble.publish(assembler(), producer, stop_step=7, head=stream.head)
    assert (report.batches, report.last_step) == (3, 6)
    with stream.producer("p", bw.ProducerSettings(pending_batches_max=1)) as producer:
        report = assemble.publish(assembler(), producer)
    assert (report.batches, report.ended) == (3, True)
    assert names(stream) == [f"d{n}" for n in range(60)]
    with stream.producer("p", QUICK) as producer:
        assert assemble.publish(assembler(), producer).batches == 0
        with pytest.raises(InvalidInput, match="needs head="):
            assemble.publish(assembler(), producer, stop_step=7)


def test_what_comes_before_a_bad_sample_is_committed(tmp_path: Path) -> None:
    stream = make_stream(tmp_path, schema=DOCUMENTS)
    bad = pa.Table.from_pylist([{"tokens": None, "doc_id": "bad"}], schema=DOCUMENTS)
    table = pa.concat_tables([documents(20), bad, documents(9, name="e")])
    source = TableSource(table)
    layout = FixedRows(2, column="tokens")
    with stream.producer("p", QUICK) as producer:
        with pytest.raises(InvalidSample, match="table row 20: column 'tokens' has no tokens"):
            assemble.publish(Assembler(source, layout, 2), producer)
        assert producer.pending == 0
    assert names(stream) == [f"d{n}" for n in range(20)]
    with stream.producer("p", QUICK) as producer:
        report = assemble.publish(Assembler(source, layout, 2, on_bad="skip"), producer)
    assert (report.batches, report.waiting, report.skips.rows) == (2, 1, 1)
    assert len(names(stream)) == 28


def test_sql_shows_from_which_step_weights_hold(tmp_path: Path) -> None:
    sources = {name: TableSource(documents(4000, name=name, longest=2)) for name in ("web", "code")}
    stream = make_stream(tmp_path, schema=DOCUMENTS)
    assembler = Assembler(sources, FixedRows(4), stream.mesh, weights={"web": 0.5, "code": 0.5})

    def change(at: assemble.Progress) -> None:
        if at.batches == 10:
            assembler.set_weights({"web": 0.9, "code": 0.1})

    with stream.producer("mix", QUICK) as producer:
        assemble.publish(assembler, producer, batches_max=60, progress=change)
    found = stream.sql(
        "select source->>'$.weights.web' as web, min(step), max(step), count(*),"
        " count(*) filter (doc_id like 'web%') from samples group by 1 order by 1"
    ).fetchall()
    assert found == [("0.5", 0, 9, 80, 40), ("0.9", 10, 59, 400, 360)]


def test_a_large_position_goes_to_an_object_of_its_own(tmp_path: Path) -> None:
    stream = make_stream(
        tmp_path, schema=PackedRows(tokens=64, lineage=["doc_id"]).schema(DOCUMENTS)
    )
    layout = PackedRows(tokens=64, rows=4, lineage=["doc_id"], lookahead=300)
    table = documents(1200)

    def assembler() -> Assembler:
        return Assembler(TableSource(table), layout, stream.mesh)

    whole = all_of(assembler())
    with stream.producer("p", QUICK) as producer:
        assemble.publish(assembler(), producer, batches_max=3)
        assert len(json.dumps(producer.position)) > QUICK.position_bytes_inline_max
    with stream.producer("p", QUICK) as producer:
        assemble.publish(assembler(), producer)
    found = [batch.table.to_pylist() for batch in stream.read()]
    assert found == [pa.concat_tables(one.slices).to_pylist() for one in whole]


# -- the command -------------------------------------------------------------------------------


def test_import_creates_the_stream_and_goes_on_when_files_come(tmp_path: Path) -> None:
    folder, warehouse = folder_of(tmp_path / "in", 100), tmp_path / "w"
    command = ("import", str(folder), "demo.docs", "--rows-per-slice", "3", "--mesh", "dp=2")
    first = run(warehouse, *command)
    assert first.exit_code == 0, first.output
    assert first.stdout == "imported into demo.docs: 16 batches, 96 rows, up to step 15\n"
    assert "4 rows fill no batch yet" in first.stderr
    pq.write_table(documents(10, name="late"), folder / "z.parquet")
    more = json.loads(run(warehouse, *command, "--remainder", "publish", "--json").stdout)
    assert (more["rows"], more["waiting"], more["totals"]["rows"]) == (14, 0, 110)
    stream = catalog_at(warehouse).load_stream("demo.docs")
    assert names(stream) == [f"d{n}" for n in range(100)] + [f"late{n}" for n in range(10)]
    sealed = run(warehouse, *command, "--seal")
    assert sealed.exit_code == 0
    assert stream.head().sealed


def test_import_packs_and_mixes(tmp_path: Path) -> None:
    one, two, warehouse = (
        folder_of(tmp_path / "a", 90),
        folder_of(tmp_path / "b", 90),
        tmp_path / "w",
    )
    command = (
        "import",
        f"one={one}",
        f"two={two}",
        "demo.packed",
        "--mesh",
        "dp=2",
        "--pack",
        "32",
    )
    packed = ("--tokens-per-slice", "64", "--keep", "doc_id", "--pad", "0", "--seed", "1")
    mixed = ("--weight", "one=3", "--weight", "two=1", "--shuffle-window", "20")
    result = run(warehouse, *command, *packed, *mixed)
    assert result.exit_code == 0, result.output
    stream = catalog_at(warehouse).load_stream("demo.packed")
    assert stream.schema.names == ["tokens", "segment_lengths", "doc_id"]
    batch = next(iter(stream.read()))
    assert batch.numpy()["tokens"].shape == (4, 32)
    assert json.loads(batch.sources[0] or "")["weights"] == {"one": 3.0, "two": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows-per-slice", "3"), "give --mesh"),
        (("--mesh", "dp=2"), "Give one of --rows-per-slice, --tokens-per-slice, --pack."),
        (("--mesh", "dp=2", "--rows-per-slice", "3", "--pad", "0"), "--pad goes with --pack"),
        (("--mesh", "dp=2", "--rows-per-slice", "3", "--at-end", "repeat"), "give a --stop-step"),
        (("--mesh", "dp=2", "--rows-per-slice", "3", "--where", "x=1"), "there is no column 'x'"),
        (("--mesh", "dp=2", "--rows-per-slice", "3", "--where", "=1"), "expected COLUMN=VALUE"),
        (("--mesh", "dp=2", "--rows-per-slice", "3", "--weight", "a"), "expected NAME=NUMBER"),
        (("--mesh", "dp=2", "--rows-per-slice", "3", "--columns", "x"), "has no column 'x'"),
        (("--mesh", "dp=2", "--tokens-per-slice", "9", "--token-column", "doc_id"), "tokenised"),
    ],
)
def test_import_refuses_what_makes_no_sense(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    folder, warehouse = folder_of(tmp_path / "in", 20), tmp_path / "w"
    warehouse.mkdir()
    result = run(warehouse, "import", str(folder), "demo.docs", *arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert catalog_at(warehouse).list_streams() == []


def json_lines(path: Path, rows: int, *, tokens: object = (1, 2), doc: str = "a") -> Path:
    line = json.dumps({"tokens": tokens, "doc": doc})
    path.write_text(f"{line}\n" * rows)
    return path


def imported(warehouse: Path, source: object, *arguments: str, layout: str = "1") -> Any:
    command = ("import", str(source), "demo.docs", "--rows-per-slice", layout)
    return run(warehouse, *command, *arguments)


@pytest.mark.parametrize("remainder", ["carry", "publish"])
@pytest.mark.parametrize(("rows", "left"), [(1, "1 row is"), (3, "3 rows are")])
def test_import_says_that_rows_are_too_few_for_any_batch(
    tmp_path: Path, remainder: str, rows: int, left: str
) -> None:
    source = json_lines(tmp_path / "few.jsonl", rows)
    result = imported(tmp_path / "w", source, "--mesh", "dp=4", "--remainder", remainder)
    assert result.stdout == "imported into demo.docs: 0 batches, 0 rows\n"
    wanted = f"{left} left: a batch needs at least one row for each of the 4 slices"
    assert result.stderr.splitlines()[1:] == [wanted]


def test_import_does_not_recommend_to_publish_where_that_is_said(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", 60)
    command = ("import", str(source), "demo.docs", "--mesh", "dp=2", "--tokens-per-slice", "12")
    limits = ("--stop-step", "2", "--remainder")
    stopped = run(tmp_path / "w", *command, *limits, "publish")
    assert stopped.stdout.endswith("up to step 1\n")
    assert "no batch yet: " in stopped.stderr
    assert "--remainder" not in stopped.stderr
    few = json_lines(tmp_path / "few.jsonl", 7)
    waiting = imported(tmp_path / "x", few, "--mesh", "dp=2", layout="5")
    assert "7 rows fill no batch yet: they come first when there are more, or with --remainder" in (
        waiting.stderr
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"tokens": "bad"}, "column 'tokens': declared list<item: int64>, got Arrow data of str"),
        ({"doc": 7}, "column 'doc': declared string, got Arrow data of int64"),
    ],
)
def test_import_refuses_columns_that_the_stream_has_not_before_it_reads(
    tmp_path: Path, source: dict[str, Any], message: str
) -> None:
    warehouse = tmp_path / "w"
    imported(warehouse, json_lines(tmp_path / "d.jsonl", 2), "--mesh", "dp=2")
    before = catalog_at(warehouse).load_stream("demo.docs").head()
    bad = json_lines(tmp_path / "bad.jsonl", 1, **source)
    result = imported(warehouse, bad, "--producer", "other", "--on-bad", "skip")
    assert result.exit_code == 2
    assert f"the rows for demo.docs, {message}" in result.stderr
    assert "batchweave describe demo.docs" in result.stderr
    assert catalog_at(warehouse).load_stream("demo.docs").head() == before
    fewer = imported(warehouse, tmp_path / "d.jsonl", "--columns", "tokens")
    assert "missing ['doc']" in fewer.stderr


def test_import_says_that_the_file_where_it_stopped_is_not_named(tmp_path: Path) -> None:
    warehouse, first = tmp_path / "w", json_lines(tmp_path / "d.jsonl", 10)
    second = json_lines(tmp_path / "e.jsonl", 6, doc="b")
    imported(warehouse, first, "--mesh", "dp=2")
    result = imported(warehouse, second)
    assert result.exit_code == 1
    assert (
        "error: this command does not name d.jsonl, where producer 'import' stopped (row 10)\n"
    ) in result.stderr
    assert "(as data=d.jsonl and more=NEW), or use --producer NAME" in result.stderr
    # What the hint says can be done, and gives each row once.
    command = ("import", f"data={first}", f"more={second}", "demo.docs", "--rows-per-slice", "1")
    both = run(warehouse, *command)
    assert both.stdout == "imported into demo.docs: 3 batches, 6 rows, up to step 7\n"
    own = imported(warehouse, second, "--producer", "other")
    assert own.stdout == "imported into demo.docs: 3 batches, 6 rows, up to step 10\n"
    passed = imported(warehouse, tmp_path / "e.jsonl", "--on-bad", "skip")
    assert "does not name" not in passed.stderr


def test_import_says_that_no_row_matched(tmp_path: Path) -> None:
    warehouse, source = tmp_path / "w", json_lines(tmp_path / "d.jsonl", 2)
    nothing = imported(warehouse, source, "--mesh", "dp=2", "--where", "doc=zzz")
    assert nothing.exit_code == 0
    assert nothing.stderr.splitlines()[1:] == ["no row matched --where doc=zzz"]
    one = imported(warehouse, source, "--where", "doc=a")
    assert one.stdout == "imported into demo.docs: 1 batch, 2 rows, up to step 0\n"
    again = imported(warehouse, source, "--where", "doc=a")
    assert (again.stdout, again.stderr) == ("imported into demo.docs: 0 batches, 0 rows\n", "")


def test_import_counts_one_as_one(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "d.jsonl", 1)
    source.write_text(source.read_text() + '{"tokens": [], "doc": "none"}\n')
    command = ("import", str(source), "demo.docs", "--mesh", "dp=1", "--tokens-per-slice", "2")
    result = run(tmp_path / "w", *command, "--on-bad", "skip")
    first, second, _ = result.stdout.splitlines()
    assert first == "imported into demo.docs: 1 batch, 1 row, 2 tokens, up to step 0"
    assert second == "left out so far: 1 row (1 row); last:"


def test_the_help_of_import_has_an_example_and_says_what_is_required() -> None:
    text = call("import", "--help").stdout
    assert "  batchweave import 'data/*.parquet' demo.web --mesh dp=4 --rows-per-slice 32\n" in text
    flowing = " ".join(text.split())
    assert "Give one of --rows-per-slice, --tokens-per-slice, --pack." in flowing
    assert "--mesh is needed the first time: it creates the stream." in flowing


@pytest.mark.timeout(900)
def test_an_import_that_is_killed_five_times_is_complete_and_none_is_twice(tmp_path: Path) -> None:
    rows = 8000
    folder, warehouse = folder_of(tmp_path / "in", rows, files=9), tmp_path / "w"
    stream = make_stream(warehouse, schema=DOCUMENTS, mesh=bw.Mesh(dp=4))
    command = ["--warehouse", str(warehouse), "import", str(folder), "demo.tokens"]
    options = ["--rows-per-slice", "1", "--seed", "3", "--shuffle-window", "300"]
    chance, killed = random.Random(8), 0
    while True:
        process = subprocess.Popen(
            [*PYTHON, *command, *options, "--remainder", "publish"],
            env={**os.environ, "BATCHWEAVE_WAREHOUSE": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if killed < KILLS:
            wait_for_steps(stream, process, stream.head().next_step + chance.randint(0, 60))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
            process.communicate()
            continue
        output, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, output
        break
    assert killed == KILLS
    found = stream.sql("select doc_id from samples order by step, slice").fetchall()
    expected = Assembler(
        assemble.FileSource(str(folder)), FixedRows(1), 4, seed=3, shuffle_window=300
    )
    order = [one["doc_id"][0].as_py() for batch in expected for one in batch.slices]
    assert [name for (name,) in found] == order
    assert sorted(order) == sorted(f"d{n}" for n in range(rows))


def wait_for_steps(stream: bw.Stream, process: subprocess.Popen[str], steps: int) -> None:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + WAIT_S
    while stream.head().next_step < steps and process.poll() is None:
        assert clock.monotonic_s() < deadline_s, "the import does not come on"
        clock.sleep(0.01)
    clock.sleep(0.02 if steps % 2 else 0.0)
    assert process.poll() is None, "it ended before it could be killed"
