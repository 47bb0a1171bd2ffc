"""The command line does what it says, says what went wrong in one line, and exits accordingly."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import batchweave as bw
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.cli import main
from batchweave.cli.column_types import DEPTH_MAX, parse_type, type_text
from batchweave.cli.output import age, cell, plain, size
from batchweave.cli.program import HINTS, exit_code
from batchweave.errors import Fenced, InvalidInput, StoreDenied, StreamError

PYTHON = [sys.executable, "-m", "batchweave"]
SCHEMA = pa.schema([("tokens", pa.list_(pa.int32())), ("text", pa.string())])
STEPS = 12


def call(*arguments: str, **options: Any) -> Result:
    # Set-up of this machine must not matter.
    env = {"BATCHWEAVE_WAREHOUSE": None, "BATCHWEAVE_CATALOG": None, "PYICEBERG_HOME": "/nowhere"}
    return CliRunner().invoke(main, list(arguments), env=env | options.pop("env", {}), **options)


def json_of(*arguments: str) -> Any:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A warehouse with one stream of twelve steps. Tests only read it."""
    warehouse = str(tmp_path_factory.mktemp("warehouse"))
    fill(warehouse)
    return warehouse


def fill(warehouse: str, name: str = "demo.tokens") -> bw.Stream:
    catalog = bw.load_catalog("default", type="object-store", warehouse=warehouse)
    stream = catalog.create_stream(name, schema=SCHEMA, mesh=bw.Mesh(dp=2))
    with stream.producer("tokenizer-0") as producer:
        for step in range(STEPS):
            rows = {"tokens": [[step], [step, 1]], "text": ["größe", "a,\nb"]}
            producer.publish([rows, rows], position=step, source=f"part {step}")
    return stream


@pytest.fixture
def warehouse(tmp_path: Path) -> str:
    """A warehouse of the test's own, with the same stream."""
    fill(str(tmp_path / "w"))
    return str(tmp_path / "w")


# -- column types ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("int", pa.int32()),
        ("long", pa.int64()),
        ("uint8", pa.uint8()),
        ("float16", pa.float16()),
        ("double", pa.float64()),
        ("bool", pa.bool_()),
        ("date", pa.date32()),
        ("timestamp", pa.timestamp("us")),
        ("timestamptz", pa.timestamp("us", "UTC")),
        ("decimal(10, 2)", pa.decimal128(10, 2)),
        ("list<int32>", pa.list_(pa.int32())),
        (" list < list<float> > ", pa.list_(pa.list_(pa.float32()))),
        ("struct<a: int32, b: string>", pa.struct([("a", pa.int32()), ("b", pa.string())])),
        ("map<string, list<binary>>", pa.map_(pa.string(), pa.list_(pa.binary()))),
    ],
)
def test_a_type_is_parsed(text: str, kind: pa.DataType) -> None:
    assert parse_type(text).equals(kind)
    assert parse_type(type_text(kind)).equals(kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a type; found the end"),
        ("lst<int32>", "expected one of"),
        ("list<int32", "expected '>'; found the end"),
        ("list<int32>>", "expected nothing more; found '>'"),
        ("list int32", "expected '<'; found 'int32'"),
        ("map<string>", "expected ','; found '>'"),
        ("struct<>", "expected a field's name; found '>'"),
        ("struct<a int32>", "expected ':'"),
        ("struct<a: int32, a: string>", "field names that differ"),
        ("decimal(39, 2)", "a precision of 1 to 38"),
        ("decimal(5, 6)", "a scale up to it"),
        ("decimal(x, 6)", "expected a number"),
        ("__import__('os')", "expected one of"),
        ("list<" * (DEPTH_MAX + 1) + "int" + ">" * (DEPTH_MAX + 1), "at most 16"),
    ],
)
def test_what_is_no_type_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match="type ") as caught:
        parse_type(text)
    assert message in str(caught.value)


# -- create, ls, describe ----------------------------------------------------------------------


def test_create_makes_the_stream_and_its_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "new")
    result = call(
        "create", "a.b", "--warehouse", folder, "--mesh", "dp=4,cp=2", "--column",
        "tokens=list<int32>", "--column", "when=timestamptz",
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("created a.b: Mesh(dp=4, cp=2), 8 slices")
    stream = bw.load_catalog("x", warehouse=folder).load_stream("a.b")
    assert stream.mesh == bw.Mesh(dp=4, cp=2)
    assert stream.schema.names == ["tokens", "when"]


def test_create_takes_the_columns_of_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "sample.parquet"
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), *SCHEMA])
    pq.write_table(schema.empty_table(), path)
    made = json_of(
        "create", "a.b", "--mesh", "dp=1", "--schema-from", str(path), "--warehouse",
        str(tmp_path / "w"), "--json",
    )  # fmt: skip
    assert made["columns"][0] == {"name": "id", "type": "int64", "nullable": False}
    assert [one["name"] for one in made["columns"]] == ["id", "tokens", "text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.b", "--mesh", "dp=4"], "Give the columns"),
        (["a.b", "--mesh", "dp=x", "--column", "a=int"], "expected axes as dp=4,cp=2"),
        (["a.b", "--mesh", "dp=4,dp=4", "--column", "a=int"], "each once"),
        (["a.b", "--mesh", "dp=0", "--column", "a=int"], "at least 1"),
        (["a.b", "--mesh", "dp=4", "--column", "a"], "expected NAME=TYPE"),
        (["a.b", "--mesh", "dp=4", "--column", "step=int"], "rename step"),
        (["tokens", "--mesh", "dp=4", "--column", "a=int"], "namespace.name"),
        (["a.b", "--column", "a=int"], "Missing option '--mesh'"),
    ],
)
def test_a_mistake_exits_with_2_and_makes_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    folder = tmp_path / "w"
    result = call("--warehouse", str(folder), "create", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.rglob("*.metadata.json"))


def test_a_file_that_is_not_parquet_is_the_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_text("nothing")
    result = call("create", "a.b", "--mesh", "dp=1", "--schema-from", str(path))
    assert result.exit_code == 2
    assert "cannot be read as Parquet" in result.stderr


def test_ls_lists_streams(shared: str) -> None:
    assert json_of("ls", "--warehouse", shared, "--json") == [
        {
            "stream": "demo.tokens",
            "mesh": {"dp": 2},
            "next_step": STEPS,
            "producers": 1,
            "sealed": False,
        }
    ]
    lines = call("ls", "--warehouse", shared).stdout.splitlines()
    assert lines[0].split("  ")[0] == "stream"
    assert lines[1].split() == ["demo.tokens", "dp=2", str(STEPS), "1", "no"]


def test_describe_tells_head_producers_size_and_last_batches(shared: str) -> None:
    found = json_of("describe", "demo.tokens", "--warehouse", shared, "--json")
    stream = bw.load_catalog("x", warehouse=shared).load_stream("demo.tokens")
    assert found["head"]["chain"] == stream.head().chain
    assert found["head"]["next_step"] == STEPS
    (producer,) = found["producers"]
    assert (producer["producer"], producer["generation"]) == ("tokenizer-0", 1)
    assert (producer["sequence"], producer["lag_steps"]) == (STEPS - 1, 0)
    assert producer["lag_s"] >= 0
    assert found["size"]["rows"] == STEPS * 4
    assert found["size"]["bytes"] == sum(one.bytes for one in stream.batches())
    assert [one["step"] for one in found["last_batches"]] == list(range(STEPS))[-5:]
    assert producer["position"] == STEPS - 1
    text = call("describe", "demo.tokens", "--warehouse", shared).stdout
    assert "position" in text
    assert "checkpoints" not in text
    for part in ("list<int32>", "tokenizer-0", stream.head().chain, f"{STEPS} batches"):
        assert part in text


# -- tail --------------------------------------------------------------------------------------


def test_tail_shows_the_last_steps(shared: str) -> None:
    result = call("tail", "demo.tokens", "-n", "3", "--no-follow", "--warehouse", shared)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["step", "9", "10", "11"]


def test_tail_reads_a_slice_with_its_rows(shared: str) -> None:
    lines = call(
        "tail", "demo.tokens", "-n", "2", "--no-follow", "--slice", "1", "--rows", "--json",
        "--warehouse", shared,
    ).stdout.splitlines()  # fmt: skip
    found = [json.loads(line) for line in lines]
    assert [one["step"] for one in found] == [10, 11]
    assert found[1]["slices"] == [1]
    assert found[1]["sources"] == ["part 11"]
    assert found[1]["data"] == [
        {"tokens": [11], "text": "größe"},
        {"tokens": [11, 1], "text": "a,\nb"},
    ]


def test_tail_refuses_a_slice_that_the_mesh_lacks(shared: str) -> None:
    result = call("tail", "demo.tokens", "--slice", "2", "--warehouse", shared)
    assert result.exit_code == 2
    assert "slices 0 to 1" in result.stderr


@pytest.mark.parametrize("more", [[], ["--slice", "0"]])
def test_tail_follows_until_the_stream_is_sealed(warehouse: str, more: list[str]) -> None:
    stream = bw.load_catalog("x", warehouse=warehouse).load_stream("demo.tokens")

    def publish() -> None:
        with stream.producer("late") as producer:
            producer.publish([{"tokens": [[1]], "text": ["x"]}] * 2)
        stream.seal()

    timer = threading.Timer(0.5, publish)
    timer.start()
    result = call("tail", "demo.tokens", "-n", "1", "--json", "--warehouse", warehouse, *more)
    timer.join()
    assert result.exit_code == 0
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["step"], one["producer"]) for one in found] == [
        (STEPS - 1, "tokenizer-0"),
        (STEPS, "late"),
    ]


@pytest.mark.parametrize("more", [[], ["--rows"]])
def test_ctrl_c_ends_tail_without_a_word(shared: str, more: list[str]) -> None:
    command = [*PYTHON, "tail", "demo.tokens", "-n", "1", "--warehouse", shared, *more]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        assert process.stdout.readline().split()[0] == str(STEPS - 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == ""


# -- sql ---------------------------------------------------------------------------------------


def test_sql_answers_as_table_csv_and_json(shared: str) -> None:
    query = "select step, any_value(text) as t, true as b from samples group by step order by step"
    base = ["sql", "demo.tokens", query + " limit 2", "--warehouse", shared]
    found = json_of(*base, "--format", "json")
    assert [(one["step"], one["b"]) for one in found] == [(0, True), (1, True)]
    rows = list(csv.DictReader(io.StringIO(call(*base, "--format", "csv").stdout)))
    assert [row["step"] for row in rows] == ["0", "1"]
    assert call(*base).stdout.splitlines()[0].split() == ["step", "t", "b"]


def test_sql_values_survive_csv_and_json(shared: str) -> None:
    query = (
        "select tokens, text, committed_at, 1.5::decimal(4, 2) as d, 'nan'::double as n, "
        "'ab'::blob as bin, null as nothing from samples where step = 3 order by len(tokens) desc, "
        "text desc limit 2"
    )
    base = ["sql", "demo.tokens", query, "--warehouse", shared, "--format"]
    (first, _) = json_of(*base, "json")
    assert first["tokens"] == [3, 1]
    assert (first["d"], first["n"], first["bin"], first["nothing"]) == ("1.50", None, "YWI=", None)
    assert first["committed_at"].startswith("20")
    (row, _) = csv.DictReader(io.StringIO(call(*base, "csv").stdout))
    assert row["text"] == first["text"] == "a,\nb"
    assert json.loads(row["tokens"]) == [3, 1]
    assert (row["d"], row["nothing"]) == ("1.50", "")


def test_a_result_without_rows_is_still_a_document(shared: str) -> None:
    base = ["sql", "demo.tokens", "select step from batches where step < 0", "--warehouse", shared]
    assert json_of(*base, "--format", "json") == []
    assert call(*base, "--format", "csv").stdout == "step\n"
    assert call(*base).stdout == "step\n"


@pytest.mark.parametrize(
    "query", ["selec 1", "select nothing from samples", "select error('late') from batches", ""]
)
def test_a_wrong_query_is_the_users_mistake(shared: str, query: str) -> None:
    result = call("sql", "demo.tokens", query, "--warehouse", shared)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the query ")
    assert "Traceback" not in result.output


def test_sql_takes_one_statement_and_tells_a_file_from_a_mistake(shared: str) -> None:
    two = call("sql", "demo.tokens", "select 1; select 2", "--warehouse", shared)
    assert (two.exit_code, "2 statements" in two.stderr) == (2, True)
    gone = call("sql", "demo.tokens", "from read_csv('/nowhere.csv')", "--warehouse", shared)
    assert gone.exit_code == 1


# -- seal and drop -----------------------------------------------------------------------------


def test_seal_asks_and_seals(warehouse: str) -> None:
    base = ["seal", "demo.tokens", "--warehouse", warehouse]
    stream = bw.load_catalog("x", warehouse=warehouse).load_stream("demo.tokens")
    assert call(*base, input="n\n").exit_code == 130
    assert not stream.head().sealed
    assert call(*base, input="y\n").exit_code == 0
    assert stream.head().sealed
    assert "sealed already" in call(*base).stdout


def test_drop_asks_and_removes_everything(warehouse: str) -> None:
    base = ["drop", "demo.tokens", "--warehouse", warehouse]
    assert call(*base, input="n\n").exit_code == 130
    unasked = call(*base)
    assert (unasked.exit_code, len(unasked.stderr.splitlines())) == (2, 2)
    assert "give --yes" in unasked.stderr
    assert bw.load_catalog("x", warehouse=warehouse).list_streams() == ["demo.tokens"]
    assert call(*base, "--yes").exit_code == 0
    assert bw.load_catalog("x", warehouse=warehouse).list_streams() == []
    assert not list(Path(warehouse).rglob("*.parquet"))


# -- other processes, catalogs and formats -----------------------------------------------------


@pytest.mark.parametrize("kind", ["object-store", "sqlite", "delta"])
def test_a_stream_made_by_one_process_is_found_by_name_from_another(
    kind: str, tmp_path: Path
) -> None:
    options = ["--catalog-type", kind, "--warehouse", str(tmp_path / "w")]
    if kind == "sqlite":
        options = ["--catalog-type", "sql", "--warehouse", str(tmp_path / "w"),
                   "-p", f"uri=sqlite:///{tmp_path}/c.db"]  # fmt: skip

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [*PYTHON, *arguments, *options], cwd=tmp_path,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert run("create", "demo.tokens", "--mesh", "dp=2", "--column", "a=int").startswith("created")
    properties = {"type": kind, "warehouse": str(tmp_path / "w")}
    if kind == "sqlite":
        properties |= {"type": "sql", "uri": f"sqlite:///{tmp_path}/c.db"}
    catalog = bw.load_catalog("default", **properties)
    with catalog.load_stream("demo.tokens").producer("p") as producer:
        producer.publish([{"a": [1]}, {"a": [2, 3]}], position="end")
    (listed,) = json.loads(run("ls", "--json"))
    assert (listed["stream"], listed["next_step"], listed["mesh"]) == ("demo.tokens", 1, {"dp": 2})
    described = json.loads(run("describe", "demo.tokens", "--json"))
    assert described["size"]["rows"] == 3
    assert described["producers"][0]["position"] == "end"
    assert described["location"] == catalog.load_stream("demo.tokens").table.objects.uri
    assert run("sql", "demo.tokens", "select sum(a)::int as a from samples", "--format", "csv") == (
        "a\n6\n"
    )


def test_tables_that_are_no_streams_are_not_listed(warehouse: str) -> None:
    deltalake.write_deltalake(f"{warehouse}/demo/other", pa.table({"a": [1]}))
    raw = ObjectStoreCatalog("raw", warehouse=warehouse)
    raw.create_table("demo.plain", pa.schema([("a", pa.int64())]))
    assert [one["stream"] for one in json_of("ls", "--json", "--warehouse", warehouse)] == [
        "demo.tokens"
    ]
    assert json_of("ls", "--json", "--warehouse", warehouse, "--catalog-type", "delta") == []
    for name, kind in (("demo.plain", "object-store"), ("demo.other", "delta")):
        result = call("describe", name, "--warehouse", warehouse, "--catalog-type", kind)
        assert result.exit_code == 1
        assert "not a BatchWeave stream" in result.stderr


def test_a_stream_of_the_other_format_is_named_as_such(warehouse: str) -> None:
    result = call("describe", "demo.tokens", "--warehouse", warehouse, "--catalog-type", "delta")
    assert result.exit_code == 1
    assert "is an Iceberg table" in result.stderr
    made = call(
        "create", "demo.tokens", "--mesh", "dp=1", "--column", "a=int", "--warehouse", warehouse,
        "--catalog-type", "delta",
    )  # fmt: skip
    assert made.exit_code == 1
    assert "Iceberg table" in made.stderr


def test_the_catalog_type_may_come_from_the_environment(tmp_path: Path) -> None:
    env = {"BATCHWEAVE_CATALOG_TYPE": "delta", "BATCHWEAVE_WAREHOUSE": str(tmp_path / "w")}
    made = call("create", "a.b", "--mesh", "dp=1", "--column", "a=int", env=env)
    assert made.exit_code == 0, made.output
    assert (tmp_path / "w" / "a" / "b" / "_delta_log").is_dir()
    assert "a.b" in call("ls", env=env).stdout
    assert call("ls", "--catalog-type", "object-store", env=env).stdout == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--catalog-type", "hudi"], "got 'hudi'"),
        (["--catalog-type", "sql"], "needs a uri"),
        (["--catalog-type", "rest"], "needs a uri"),
        (["--catalog-type", "delta"], "needs a warehouse"),
        (["--catalog-type", "object-store"], "needs a warehouse"),
    ],
)
def test_a_catalog_that_lacks_something_says_what(options: list[str], says: str) -> None:
    result = call("ls", *options)
    assert (result.exit_code, says in result.stderr) == (2, True), result.stderr


def test_help_has_an_example_of_each_catalog_type() -> None:
    shown = call("--help").output
    for kind in ("object-store", "delta", "sql", "rest", "glue"):
        assert re.search(rf"^  +{kind} +(Iceberg|Delta), .*(-p|--)", shown, re.MULTILINE), kind


# -- options, errors, exit codes ---------------------------------------------------------------


def test_options_stand_before_or_after_the_command(shared: str, tmp_path: Path) -> None:
    other = str(tmp_path)
    for arguments in (
        ["--warehouse", shared, "ls"],
        ["ls", "--warehouse", shared],
        ["--warehouse", other, "ls", "--warehouse", shared],
        ["-p", f"warehouse={shared}", "ls", "-p", "type=object-store"],
    ):
        assert "demo.tokens" in call(*arguments).stdout


def test_an_option_wins_over_the_environment(shared: str, tmp_path: Path) -> None:
    env = {"BATCHWEAVE_WAREHOUSE": str(tmp_path)}
    assert "demo.tokens" in call("ls", env={"BATCHWEAVE_WAREHOUSE": shared}).stdout
    assert "demo.tokens" in call("--warehouse", shared, "ls", env=env).stdout
    assert "demo.tokens" in call("ls", "--warehouse", shared, env=env).stdout
    assert "demo.tokens" not in call("ls", env=env).stdout


def test_without_a_warehouse_the_error_says_how_to_give_one() -> None:
    result = call("ls")
    assert result.exit_code == 2
    assert "error: no warehouse" in result.stderr
    for way in ("--warehouse", "BATCHWEAVE_WAREHOUSE", "-p type=rest", "~/.pyiceberg.yaml"):
        assert way in result.stderr


def test_a_folder_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    result = call("ls", "--warehouse", str(tmp_path / "typo"))
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_there_meets_its_like(shared: str) -> None:
    for command in (["describe"], ["tail"], ["drop"], ["seal"], ["sql"]):
        rest = ["select 1"] if command == ["sql"] else []
        result = call(*command, "demo.tokns", *rest, "--warehouse", shared)
        assert result.exit_code == 1
        assert result.stderr.splitlines() == [
            "error: there is no stream 'demo.tokns' in catalog 'default'",
            "hint: did you mean demo.tokens?",
        ]
    assert "did you mean" not in call("describe", "demo.nosuch", "--warehouse", shared).stderr
    assert "`batchweave ls`" in call("describe", "x.y", "--warehouse", shared).stderr


def test_debug_shows_the_traceback(shared: str) -> None:
    for arguments in (["--debug", "describe", "x.y"], ["describe", "x.y", "--debug"]):
        result = call(*arguments, "--warehouse", shared)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr
        assert "error: there is no stream" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(InvalidInput(""), 2), (StreamError(""), 1), (StoreDenied(""), 1), (Fenced(""), 3)],
)
def test_each_kind_of_error_has_its_exit_code(error: bw.BatchWeaveError, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_of_a_command_becomes_its_exit_code_and_hint() -> None:
    @click.command(name="fail")
    def fail() -> None:
        raise Fenced("a newer one took over")

    main.add_command(fail)
    try:
        result = call("fail")
    finally:
        del main.commands["fail"]
    assert result.exit_code == 3
    assert result.stderr == f"error: a newer one took over\nhint: {HINTS[Fenced]}\n"


def test_every_command_is_explained() -> None:
    assert "Exit codes: 0 ok, 1 the stream" in call("--help").output
    for name, command in main.commands.items():
        assert command.help
        below = list(command.commands) if isinstance(command, click.Group) else []
        for path in [[name, one] for one in below] or [[name]]:
            result = call(*path, "--help")
            assert result.exit_code == 0
            assert "--warehouse" in result.output


def test_the_output_is_closed_early_without_a_traceback(shared: str) -> None:
    query = "select unnest(range(200000)) as n"
    command = [*PYTHON, "sql", "demo.tokens", query, "--format", "csv", "--warehouse", shared]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "n\n"
        process.stdout.close()
        process.wait(30)
        assert process.stderr.read() == ""


def test_help_does_not_wait_for_engines_and_formats() -> None:
    program = """
import sys
from batchweave.cli import main
try:
    main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
heavy = {"boto3", "deltalake", "duckdb", "pyiceberg", "ray", "torch"} & set(sys.modules)
print("heavy:", sorted(heavy))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.splitlines()[-1] == "heavy: []", result.stderr


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchweave.cli.output.is_terminal", lambda: True)


def test_without_a_terminal_nothing_is_cut_or_coloured(shared: str) -> None:
    wide = "x" * 500
    result = subprocess.run(
        [*PYTHON, "sql", "demo.tokens", f"select '{wide}' as w, 1 as n", "--warehouse", shared],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert result.stdout == f"{'w':<500}  n\n{wide}  1\n"
    assert result.stderr == ""


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_tables_are_drawn(shared: str) -> None:
    assert "─" in call("ls", "--warehouse", shared).stdout


def test_values_are_shown_as_people_and_machines_want_them() -> None:
    assert (cell(None), cell(True), cell([1, None]), cell("a\nb")) == (
        "-",
        "yes",
        "[1, null]",
        "a\\nb",
    )
    assert plain({"a": b"x", 1: float("inf")}) == {"a": "eA==", "1": None}
    assert (size(999), size(1_500_000)) == ("999 B", "1.5 MB")
    assert (age(3.21), age(250), age(7500), age(100_000)) == (
        "3.2 s",
        "4 min 10 s",
        "2 h 5 min",
        "1 d 3 h",
    )
