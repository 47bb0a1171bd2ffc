"""Audits as users run them: their files, parameters and reports, and the command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import Result

import batchweave as bw
from batchweave.errors import InvalidInput
from batchweave.objects import MemoryObjects, open_objects
from batchweave.sql import audit_digests
from batchweave.sql.audit import audit, available
from batchweave.sql.audit_digests import NamedFile, read_again
from batchweave.sql.audit_files import parse
from batchweave.sql.audit_sources import Span, places_of, spans_of
from batchweave.sql.audit_tables import TABLES
from tests.audited import STEPS, commit, failed, following, sound
from tests.test_cli import call

OWN = """\
-- name: widest
-- checks: No batch has more than `rows` rows,
--   which is what the trainer's memory takes.
-- allowed: 1
-- parameter: rows bigint = 100 (as many as fit)
-- parameter: producer varchar = null
-- needs: moment

select step, "rows", now from batches, moment where "rows" > $rows and producer = $producer
"""


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with one sound stream, which tests only read."""
    folder = tmp_path_factory.mktemp("audited")
    sound(folder, "object-store")
    return folder


@pytest.fixture(scope="module")
def stream(warehouse: Path) -> bw.Stream:
    catalog = bw.load_catalog("local", type="object-store", warehouse=str(warehouse))
    return catalog.load_stream("demo.tokens")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one audit of a user's own."""
    (tmp_path / "widest.sql").write_text(OWN)
    (tmp_path / "notes.txt").write_text("not an audit")
    return tmp_path


# -- files -------------------------------------------------------------------------------------


def test_a_users_audit_runs_beside_the_others(stream: bw.Stream, folder: Path) -> None:
    one = available(folder)["widest"]
    assert one.checks.endswith("rows, which is what the trainer's memory takes.")
    assert (one.allowed, one.parameters["rows"].about) == (1, "as many as fit")

    def run(**parameters: Any) -> Any:
        values = {f"widest.{name}": value for name, value in parameters.items()}
        report = audit(stream, only=("widest", "gaps"), folder=folder, parameters=values)
        assert [found.name for found in report.findings] == ["gaps", "widest"]
        return report["widest"]

    assert run().verdict == "skipped"
    assert "widest.producer" in run().note
    assert run(producer="p").verdict == "passed"
    found = run(producer="p", rows="3", allowed=5)
    assert (found.verdict, found.measured, found.threshold) == ("failed", 6, 5)
    assert found.evidence.column("step").to_pylist() == list(range(6, STEPS))
    assert run(producer="p' or 'x' = 'x", rows=3).measured == 0


BAD = {
    "no name": ("-- name: widest\n", "", "lacks a line '-- name: …'"),
    "bad name": ("name: widest", "name: Widest Batch", "small letters"),
    "key": ("-- allowed", "-- allow", "no 'allow', only name, checks"),
    "twice": ("-- allowed: 1", "-- allowed: 1\n-- allowed: 2", "more than once"),
    "threshold": ("allowed: 1", "allowed: some", "number of rows"),
    "type": ("bigint", "number", "bigint, double, varchar, boolean"),
    "default": ("= 100", "= hundred", "no bigint in JSON"),
    "default's type": ("= 100", "= 1.5", "BIGINT"),
    "undeclared": ("$rows", "$row", r"no parameter for \$row"),
    "unused": ("$rows", "3", "does not use its parameter rows"),
    "table": ("needs: moment", "needs: moments", "no table 'moments'"),
    "statement": ("select step", "delete from x; select step", "one SELECT"),
    "writing": ("select step", "copy (select 1) to 'x'; --", "one SELECT"),
    "syntax": ("select step", "select from where", "Parser Error"),
    "empty": (OWN[OWN.index("select") :], "", "one SELECT"),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD.values(), ids=BAD)
def test_an_audit_that_is_not_written_as_it_must_be_is_refused(
    old: str, new: str, message: str
) -> None:
    assert parse(OWN, "own.sql", TABLES).name == "widest"
    with pytest.raises(InvalidInput, match=message) as caught:
        parse(OWN.replace(old, new), "own.sql", TABLES)
    assert str(caught.value).startswith("own.sql")


def test_a_folder_that_cannot_be_used_is_refused(stream: bw.Stream, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no folder"):
        audit(stream, folder=tmp_path / "missing")
    with pytest.raises(InvalidInput, match="has no audit"):
        audit(stream, folder=tmp_path)
    (tmp_path / "mine.sql").write_text(OWN.replace("name: widest", "name: gaps"))
    with pytest.raises(InvalidInput, match="an audit 'gaps' already"):
        audit(stream, folder=tmp_path)


WRONG: Mapping[str, tuple[dict[str, Any], str]] = {
    "audit": ({"only": "gasp"}, "did you mean 'gaps'"),
    "skipped audit": ({"skip": ["gaps", "nothing-like-it"]}, "there are chain, "),
    "parameter": ({"parameters": {"gaps.seconds": 1}}, "it has allowed"),
    "parameter's audit": ({"parameters": {"stale.seconds": 1}}, "no audit 'stale'"),
    "parameter's name": ({"parameters": {"seconds": 1}}, "audit.parameter"),
    "text": ({"parameters": {"stalled.seconds": "soon"}}, "is a DOUBLE, got 'soon'"),
    "boolean": ({"parameters": {"stalled.seconds": True}}, "is a DOUBLE"),
    "no number": ({"parameters": {"stalled.seconds": "nan"}}, "is a DOUBLE"),
    "flag": ({"parameters": {"sources.whole": 1}}, "is a BOOLEAN"),
    "threshold": ({"parameters": {"gaps.allowed": -1}}, "from 0 on"),
    "large": ({"parameters": {"gaps.allowed": 2**70}}, "is a BIGINT"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_is_asked_wrongly_is_refused(
    stream: bw.Stream, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        audit(stream, **options)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "len(tokens), 1",
        "len(tokens) from samples",
        "1; drop table parts",
        "1) from samples; --",
        "len(tokens) as x",
        "len(words)",
        "tokens",
        "$x",
        "(select count(*) from read_text('/etc/hostname'))",
    ],
)
def test_skew_takes_one_expression_and_reaches_no_other_file(
    stream: bw.Stream, expression: str
) -> None:
    with pytest.raises(InvalidInput, match="one expression"):
        audit(stream, only="skew", skew=expression)


def test_an_audit_that_cannot_be_run_says_so_and_stops_no_other(
    stream: bw.Stream, tmp_path: Path
) -> None:
    for name, query in {
        "a_mistake": "select nothing from parts",
        "late": "select error('found out late') from parts",
        "curious": "from read_text('/etc/hostname')",
    }.items():
        (tmp_path / f"{name}.sql").write_text(f"-- name: {name}\n-- checks: It is.\n{query}")
    report = audit(stream, folder=tmp_path, only=["a_mistake", "late", "curious", "gaps"])
    verdicts = {one.name: one.verdict for one in report.findings}
    assert verdicts == {"gaps": "passed", "a_mistake": "error", "late": "error", "curious": "error"}
    assert not report.ok
    assert report.failed == ()
    assert "nothing" in report["a_mistake"].note
    assert "found out late" in report["late"].note
    assert report["late"].evidence is None


# -- the report --------------------------------------------------------------------------------


def test_a_report_holds_some_evidence_and_counts_all_of_it(tmp_path: Path) -> None:
    stream = sound(tmp_path, "object-store")
    batches, state = following(stream, 9)
    commit(stream, state, batches[-1])
    report = audit(stream, evidence_rows_max=3)
    assert failed(report) == {"gaps", "order", "chain"}
    found = report["gaps"]
    assert found.measured == 8
    assert isinstance(found.evidence, pa.Table)
    assert found.evidence.column("step").to_pylist() == [STEPS, STEPS + 1, STEPS + 2]
    document = json.loads(json.dumps(report.to_dict()))
    assert (document["ok"], document["next_step"]) == (False, STEPS + 9)
    (gaps,) = (one for one in document["findings"] if one["name"] == "gaps")
    assert gaps["evidence"][0] == {
        "step": STEPS,
        "problem": "the step is missing",
        "producer": None,
        "sequence": None,
    }
    assert "gaps        failed  8 found, 0 allowed" in str(report)
    with pytest.raises(KeyError):
        report["gasp"]


def test_evidence_of_every_kind_fits_into_json(stream: bw.Stream, tmp_path: Path) -> None:
    (tmp_path / "kinds.sql").write_text(
        "-- name: kinds\n-- checks: Every kind.\n"
        "select now() as at, date '2026-01-31', interval 90 second, 1.5::decimal(4, 2), "
        "'nan'::double, 'x'::blob, [1, null], {'a': true}, map {'k': 'v'}, uuid(), 2::hugeint"
    )
    report = audit(stream, folder=tmp_path, only="kinds")
    (row,) = json.loads(json.dumps(report.to_dict(), allow_nan=False))["findings"][0]["evidence"]
    values = list(row.values())
    assert values[0].endswith("+00:00")
    assert values[1:9] == [
        "2026-01-31",
        "P0M0DT90S",
        "1.50",
        None,
        "eA==",
        [1, None],
        {"a": True},
        [["k", "v"]],
    ]


def test_progress_counts_the_files_that_are_read(stream: bw.Stream) -> None:
    seen: list[tuple[int, int]] = []
    audit(
        stream, deep=True, only="digests", progress=lambda done, total: seen.append((done, total))
    )
    live = STEPS - stream.head().watermark
    assert seen == [(at, live) for at in range(1, live + 1)]


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250, 300])
def test_a_file_is_read_to_its_end_in_pieces_and_no_byte_further_is_missed(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_digests, "CHUNK_BYTES", 100)
    data = bytes(at % 251 for at in range(size))
    for objects in (open_objects(str(tmp_path)), MemoryObjects("memory://pieces")):
        objects.create("whole", data)
        objects.create("longer", data + b"x")
        whole = NamedFile(0, "p", "whole", size, hashlib.sha256(data).hexdigest())
        files = [whole, replace(whole, path="longer"), replace(whole, path="gone")]
        found = list(read_again(objects, files, lambda done: None))
        assert [(one.file.path, one.problem) for one in found] == [
            ("longer", "the file has another size"),
            ("gone", "the file is not there"),
        ]


# -- sources and positions ---------------------------------------------------------------------


def test_sources_and_positions_are_compared_by_the_convention_alone() -> None:
    def spans(value: Any) -> list[tuple[str, int, int]]:
        found = spans_of(value if isinstance(value, str) else json.dumps(value), "p")
        return [(one.thing, one.start, one.stop) for one in found]

    assert spans({"file": "a", "start": 1, "end": 3}) == [('{"file": "a"}', 1, 3)]
    assert spans([{"path": "b", "offset": 4, "bytes": 2}, 7]) == [('{"path": "b"}', 4, 6)]
    assert spans({"offset": 4, "rows": 2}) == [('{"producer": "p"}', 4, 6)]
    odd: list[Any] = ["plain", "[1]", "[" * 5000, {"file": "a"}, {"start": 1.5, "end": 3}]
    odd += [{"start": 5, "end": 4}, {"start": True, "end": 3}, {"start": 2**80, "end": 2**81}]
    for value in odd:
        assert spans(value) == []
    epochs = [spans_of(json.dumps({"start": 0, "end": 9, "epoch": at}), "p") for at in (1, 2)]
    assert epochs[0] != epochs[1]
    assert spans_of('{"end": 3, "start": 1}', "q") == [Span('{"producer": "q"}', 1, 3)]
    assert places_of('{"file": "a", "offset": 3}', "p") == [('{"file": "a"}', 3)]
    assert places_of("7", "p") == []


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def run(warehouse: Path) -> Any:
    def called(*arguments: str) -> Result:
        return call("audit", *arguments, "--warehouse", str(warehouse))

    return called


def test_the_command_shows_verdicts_and_exits_with_0_where_all_is_well(run: Any) -> None:
    result = run("demo.tokens", "--skip", "orphans", "--skew", "len(tokens)")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["audit", "verdict", "found", "allowed"]
    verdicts = dict(line.split()[:2] for line in lines[1:-2])
    assert "orphans" not in verdicts
    assert verdicts["digests"] == verdicts["freshness"] == "skipped"
    assert {verdicts[name] for name in ("gaps", "chain", "skew", "foreign")} == {"passed"}
    assert lines[-1].endswith("11 passed, 2 skipped")


def test_the_command_shows_evidence_and_exits_with_4_where_an_audit_failed(
    run: Any, folder: Path
) -> None:
    given = ("--audits", str(folder), "--set", "widest.producer=p", "--set", "widest.rows=3")
    result = run("demo.tokens", *given, "--only", "widest", "--only", "gaps")
    assert result.exit_code == 4, result.output
    assert "widest: 6 found" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("1 failed, 1 passed")
    assert run("demo.tokens", *given, "--set", "widest.allowed=6").exit_code == 0
    result = run("demo.tokens", *given, "--json")
    assert result.exit_code == 4
    document = json.loads(result.stdout)
    assert not document["ok"]
    assert document["findings"][-1]["measured"] == 6


def test_the_command_exits_with_1_where_an_audit_could_not_be_run(run: Any, tmp_path: Path) -> None:
    (tmp_path / "own.sql").write_text("-- name: own\n-- checks: It is.\nselect nothing")
    result = run("demo.tokens", "--audits", str(tmp_path), "--only", "own")
    assert result.exit_code == 1
    assert "error" in result.stdout


def test_the_command_lists_audits_and_their_parameters(run: Any, folder: Path) -> None:
    lines = run("--list", "--audits", str(folder)).stdout.splitlines()
    assert len(lines) == len(available()) + 2
    assert any(line.startswith("stalled") and "seconds=3600.0" in line for line in lines)
    document = json.loads(run("--list", "--json").stdout)
    (stalled,) = (one for one in document if one["name"] == "stalled")
    assert stalled["parameters"][0]["type"] == "double"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'STREAM'"),
        (["demo.tokens", "--only", "gasp"], "did you mean 'gaps'"),
        (["demo.tokens", "--set", "gaps=1"], "AUDIT.PARAMETER=VALUE"),
        (["demo.tokens", "--set", "stalled.seconds=soon"], "is a DOUBLE"),
        (["demo.tokens", "--skew", "1, 2"], "one expression"),
        (["demo.tokens", "--audits", "/nowhere"], "no folder"),
    ],
)
def test_what_is_wrong_with_the_command_is_said_with_exit_code_2(
    run: Any, arguments: list[str], message: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
