"""``sql``: moments, other streams, own tables, files, the pipe, and the shell."""

from __future__ import annotations

import json
import os
import pty
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import batchweave as bw
from batchweave.cli import main
from tests.streams import QUICK, catalog_at, publish_numbers

WAIT_S_MAX = 120


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> str:
    """demo.tokens has steps 0 to 4 and checkpoint half at 3; demo.other has step 0."""
    folder = tmp_path_factory.mktemp("warehouse")
    catalog = catalog_at(folder)
    schema = pa.schema([("tokens", pa.list_(pa.int32()))])
    for name, count in (("demo.tokens", 5), ("demo.other", 1)):
        stream = catalog.create_stream(name, schema=schema, mesh=bw.Mesh(dp=2))
        with stream.producer("p", QUICK) as producer:
            publish_numbers(producer, 0, count)
    catalog.load_stream("demo.tokens").checkpoints.register("half", next_step=3)
    return str(folder)


def sql(warehouse: str, *arguments: str, piped: str | None = None) -> Result:
    command = ["--warehouse", warehouse, "sql", "demo.tokens", *arguments]
    return CliRunner().invoke(main, command, input=piped)


def answer(warehouse: str, *arguments: str) -> object:
    result = sql(warehouse, *arguments, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(("moment", "steps"), [("step:2", 2), ("checkpoint:half", 3), ("4", 4)])
def test_a_query_can_be_about_an_older_moment(warehouse: str, moment: str, steps: int) -> None:
    query = "select count(*)::int as n from batches"
    assert answer(warehouse, query, "--at", moment) == [{"n": steps}]


def test_another_stream_and_own_tables_join(warehouse: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"step": [0, 1], "title": ["first", "second"]})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    frame.write_ndjson(tmp_path / "t.jsonl")
    frame.write_ipc(tmp_path / "t.arrow", compression="uncompressed")
    for name in ("t.parquet", "t.csv", "t.jsonl", "t.arrow"):
        query = "select title from batches join titles using (step) order by step"
        found = answer(warehouse, query, "--table", f"titles={tmp_path / name}", "--read-only")
        assert found == [{"title": "first"}, {"title": "second"}], name
    query = "select (select count(*)::int from o.batches) as o, count(*)::int as own from batches"
    assert answer(warehouse, query, "--with", "o=demo.other") == [{"o": 1, "own": 5}]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--with", "other"], "ALIAS=STREAM"),
        (["--with", "a b=demo.other"], "a name in a session"),
        (["--with", "o=demo.nosuch"], "there is no stream"),
        (["--table", "t=/nowhere.parquet"], "there is no file"),
        (["--table", "t=/etc/passwd"], "is none of"),
        (["--at", "when"], "at is a step"),
        (["--at", "checkpoint:full"], "half"),
        (["--format", "table", "--output", "x.txt"], "a table goes to the screen"),
        (["--read-only", "--output", "/nowhere/x.csv", "--format", "csv"], "/nowhere"),
    ],
)
def test_wrong_options_are_told(warehouse: str, arguments: list[str], says: str) -> None:
    result = sql(warehouse, "select 1 as x", *arguments)
    assert result.exit_code != 0
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_a_read_only_query_writes_nothing(warehouse: str, tmp_path: Path) -> None:
    result = sql(warehouse, f"copy (select 1) to '{tmp_path}/x.csv'", "--read-only")
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "read-only" in result.stderr


def test_an_answer_goes_to_a_file_whole(warehouse: str, tmp_path: Path) -> None:
    query = "select step, producer, digests from batches"
    for form in ("parquet", "csv", "json"):
        target = tmp_path / f"out.{form}"
        assert sql(warehouse, query, "--format", form, "--output", str(target)).exit_code == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("step").to_pylist() == list(range(5))
    assert [one["step"] for one in json.loads((tmp_path / "out.json").read_text())] == [*range(5)]
    assert (tmp_path / "out.csv").read_text().startswith("step,producer,digests\n0,p,")
    failing = "select error('late') as x from batches"
    late = sql(warehouse, failing, "--format", "csv", "--output", str(tmp_path / "late.csv"))
    assert late.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.csv",
        "out.json",
        "out.parquet",
    ]


def test_parquet_can_be_piped(warehouse: str) -> None:
    result = sql(warehouse, "select step from batches", "--format", "parquet")
    assert pq.read_table(pa.BufferReader(result.stdout_bytes)).num_rows == 5


def test_a_query_can_be_piped_in(warehouse: str) -> None:
    result = sql(warehouse, "--format", "csv", piped="select count(*)::int as n\nfrom batches")
    assert result.stdout == "n\n5\n"
    assert sql(warehouse, piped=" \n").exit_code == 2


def test_an_interval_is_written_as_sql_writes_it(warehouse: str) -> None:
    query = (
        "select interval '15.297 seconds' as a, interval '1 month 2 days -3 hours' as b, "
        "interval '26 hours' as c, interval '0 days' as d"
    )
    assert answer(warehouse, query) == [
        {"a": "00:00:15.297", "b": "1 month 2 days -03:00:00", "c": "26:00:00", "d": "00:00:00"}
    ]


# -- the shell ---------------------------------------------------------------------------------


class Terminal:
    """A shell on a pseudo-terminal."""

    def __init__(self, warehouse: str, state: Path) -> None:
        program = "from batchweave.cli import main; main()"
        command = [sys.executable, "-c", program, "--warehouse", warehouse, "sql", "demo.tokens"]
        self._process, self._end = pty.fork()
        if self._process == 0:
            environment = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "dumb"}
            os.execve(sys.executable, command, environment)
        self.greeting = self._until("sql> ")

    def ask(self, text: str) -> str:
        os.write(self._end, text.encode() + b"\n")
        return self._until("sql> ")

    def send(self, text: str) -> None:
        os.write(self._end, text.encode())

    def prompted(self, prompt: str) -> str:
        return self._until(prompt)

    def interrupted(self, query: str) -> str:
        """Ask what takes for ever, press Ctrl-C until the shell is back, and have it add."""
        self.send(query + "\n")
        self._pressing("\x03", lambda found: found.endswith("\r\nsql> "))
        self.send("select 40 + 2 as answer;\n")  # Ctrl-C may have come once too often
        return self._pressing("", lambda found: "42" in found and found.endswith("sql> "))

    def _pressing(self, key: str, done: Callable[[str], bool]) -> str:
        found, deadline = "", time.monotonic() + WAIT_S_MAX
        while not done(found):
            assert time.monotonic() < deadline, found
            if select.select([self._end], [], [], 1.0)[0]:
                found += os.read(self._end, 65536).decode()
            else:
                self.send(key)
        return found

    def ended(self) -> int:
        deadline = time.monotonic() + WAIT_S_MAX
        while time.monotonic() < deadline:
            found, status = os.waitpid(self._process, os.WNOHANG)
            if found:
                os.close(self._end)
                return os.waitstatus_to_exitcode(status)
            select.select([self._end], [], [], 0.1)
            with pytest.MonkeyPatch.context():
                try:
                    os.read(self._end, 65536)
                except OSError:
                    time.sleep(0.05)
        raise AssertionError("the shell did not end")

    def _until(self, wanted: str) -> str:
        found, deadline = "", time.monotonic() + WAIT_S_MAX
        while not found.endswith(wanted):
            assert time.monotonic() < deadline, found
            if select.select([self._end], [], [], 0.2)[0]:
                found += os.read(self._end, 65536).decode()
        return found


@pytest.fixture
def terminal(warehouse: str, tmp_path: Path) -> Iterator[Terminal]:
    return Terminal(warehouse, tmp_path / "state")  # type: ignore[return-value]


def test_the_shell_answers_until_it_is_left(terminal: Terminal, tmp_path: Path) -> None:
    assert "demo.tokens at version" in terminal.greeting
    assert "one row a step" in terminal.ask(".views")
    assert "csv" in terminal.ask(".format csv")
    assert "n\r\n5\r\n" in terminal.ask("select count(*)::int as n\nfrom batches;")
    assert "error:" in terminal.ask("select nosuch;")
    assert "no command" in terminal.ask(".nosuch")
    assert ".quit" in terminal.ask(".help")
    assert "hidden" in terminal.ask("select 'hidden' as secret;")
    terminal.send("select 1\n")
    terminal.prompted(" ...> ")
    terminal.send("\x03")
    terminal.prompted("sql> ")
    assert "2" in terminal.ask("select 1 + 1 as two;")
    terminal.ask(".format table")
    assert "the first 100 rows" in terminal.ask("select unnest(range(300)) as n;")
    assert "42" in terminal.interrupted(
        "select count(*) from range(100000000) a, range(1000000) b;"
    )
    terminal.send(".quit\n")
    assert terminal.ended() == 0
    history = tmp_path / "state" / "batchweave" / "sql_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    kept = history.read_text()
    assert "from batches;" in kept
    assert "hidden" not in kept


def test_the_shell_ends_at_the_end_of_its_input(terminal: Terminal) -> None:
    terminal.send("\x04")
    assert terminal.ended() == 0
