"""Retention from the command line: it says what will go, asks, and exits as scripts expect."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

import batchweave as bw
from batchweave.cli.describe import _reclaims_of
from batchweave.cli.retention import Duration, duration_text
from batchweave.cli.tail import _batches, _entries
from batchweave.ledger import PRODUCER
from batchweave.paths import upload_version
from batchweave.session import Session
from tests.streams import QUICK, make_stream, publish_numbers
from tests.test_cli import PYTHON, call

STEPS = 12
WAIT_S = 120.0


@pytest.fixture
def stream(tmp_path: Path) -> bw.Stream:
    """Twelve steps and two checkpoints of one training run, at 4 and 10."""
    return filled(tmp_path, "demo.tokens")


def filled(folder: Path, name: str) -> bw.Stream:
    stream = make_stream(folder, name=name)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, STEPS)
    stream.checkpoints.register("step-4", next_step=4, consumer="run-a")
    stream.checkpoints.register("step-10", next_step=10, consumer="run-a")
    return stream


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """Call a command on the test's own warehouse."""

    def called(*arguments: str, **options: Any) -> Result:
        return call(*arguments, "--warehouse", str(tmp_path), **options)

    return called


Run = Callable[..., Result]


def data_files(stream: bw.Stream) -> int:
    found = stream.table.objects.list("data")
    return sum(upload_version(info.path) is not None for info in found)


# -- checkpoint --------------------------------------------------------------------------------


def test_checkpoints_are_registered_listed_and_dropped(stream: bw.Stream, run: Run) -> None:
    result = run("checkpoint", "register", "demo.tokens", "late", "--next-step", "12")
    assert result.exit_code == 0
    assert result.stdout == "registered late of default: next step 12\n"
    lines = run("checkpoint", "ls", "demo.tokens").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["step-4", "run-a", "4"],
        ["step-10", "run-a", "10"],
        ["late", "default", "12"],
    ]
    lines = run("checkpoint", "ls", "demo.tokens", "--consumer", "default").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["late"]
    result = run("checkpoint", "drop", "demo.tokens", "step-4", "--yes")
    assert (result.exit_code, result.stdout) == (0, "dropped step-4 of run-a\n")
    assert [one.id for one in stream.checkpoints.list()] == ["step-10", "late"]


def test_checkpoints_as_json_documents(stream: bw.Stream, run: Run) -> None:
    more = ["--next-step", "12", "--consumer", "run-b", "--json"]
    made = json.loads(run("checkpoint", "register", "demo.tokens", "b", *more).stdout)
    assert {**made, "registered_at": ""} == {
        "id": "b",
        "consumer": "run-b",
        "next_step": 12,
        "registered_at": "",
    }
    found = json.loads(run("checkpoint", "ls", "demo.tokens", "--json").stdout)
    assert [one["id"] for one in found] == ["step-4", "step-10", "b"]
    dropped = run("checkpoint", "drop", "demo.tokens", "b", "--yes", "--json").stdout
    assert json.loads(dropped) == {**made, "dry_run": False}
    assert json.loads(run("checkpoint", "ls", "demo.tokens", "--json").stdout) == found[:2]


def test_without_checkpoints_it_is_said_what_that_means(tmp_path: Path, run: Run) -> None:
    make_stream(tmp_path)
    result = run("checkpoint", "ls", "demo.tokens")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing of it can be reclaimed" in result.stderr
    assert run("checkpoint", "ls", "demo.tokens", "--json").stdout == "[]\n"
    assert "of run-a" in run("checkpoint", "ls", "demo.tokens", "--consumer", "run-a").stderr
    result = run("reclaim", "demo.tokens", "--yes")
    assert result.exit_code == 0
    assert "no checkpoint is registered, so every step is kept" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--next-step", "13"], 2, "next step is 12"),
        (["--next-step", "-1"], 2, "--next-step"),
        ([], 2, "--next-step"),
        (["--next-step", "5", "--consumer", "a/b"], 2, "consumer name"),
        (["--next-step", "5"], 1, "choose another ID, or drop it first"),
    ],
)
def test_a_checkpoint_that_cannot_be_is_refused(
    stream: bw.Stream, run: Run, arguments: list[str], code: int, said: str
) -> None:
    result = run("checkpoint", "register", "demo.tokens", "step-4", *arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert [one.next_step for one in stream.checkpoints.list()] == [4, 10]


def test_a_mistyped_checkpoint_meets_its_like(stream: bw.Stream, run: Run) -> None:
    result = run("checkpoint", "drop", "demo.tokens", "stp-10", "--yes")
    assert result.exit_code == 1
    assert "has no checkpoint 'stp-10'; it has: step-10, step-4" in result.stderr
    assert "hint: did you mean step-10?" in result.stderr
    assert "did you mean" not in run("checkpoint", "drop", "demo.tokens", "x", "--yes").stderr
    assert len(stream.checkpoints.list()) == 2


@pytest.mark.parametrize(
    "command",
    [
        ["checkpoint", "register", "demo.tokns", "a", "--next-step", "0"],
        ["checkpoint", "ls", "demo.tokns"],
        ["checkpoint", "drop", "demo.tokns", "a"],
        ["reclaim", "demo.tokns"],
        ["sweep", "demo.tokns"],
        ["maintain", "demo.tokns", "--once"],
        ["maintain", "demo.tokns"],
    ],
)
def test_a_mistyped_stream_meets_its_like(stream: bw.Stream, run: Run, command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 1
    assert "hint: did you mean demo.tokens?" in result.stderr


# -- questions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["checkpoint", "drop", "demo.tokens", "step-4"],
        ["reclaim", "demo.tokens", "--keep-checkpoints", "1", "--grace", "0"],
        ["sweep", "demo.tokens", "--grace", "0"],
    ],
)
def test_nothing_goes_without_a_yes(stream: bw.Stream, run: Run, command: list[str]) -> None:
    stream.reclaim(grace_s=3600)
    version, files = stream.table.head().version, data_files(stream)
    no = run(*command, input="n\n")
    assert (no.exit_code, no.stdout) == (130, "")
    assert "stopped: nothing was done" in no.stderr
    nobody = run(*command, input="")
    assert (nobody.exit_code, nobody.stdout) == (2, "")
    assert "--yes" in nobody.stderr
    assert (stream.table.head().version, data_files(stream)) == (version, files)
    yes = run(*command, input="yes\n")
    assert yes.exit_code == 0
    assert stream.table.head().version > version
    assert (data_files(stream) < files) == (command[0] != "checkpoint")


def test_before_the_question_it_is_said_what_would_go(stream: bw.Stream, run: Run) -> None:
    result = run("reclaim", "demo.tokens", "--keep-checkpoints", "1", input="n\n")
    assert "would reclaim 10 steps (10 files, " in result.stderr
    assert "steps from 10 on stay; would drop checkpoint step-4" in result.stderr
    stream.reclaim(grace_s=3600)
    assert "would delete 4 files" in run("sweep", "demo.tokens", "--grace", "0", input="n").stderr


def test_where_nothing_would_go_nobody_is_asked(stream: bw.Stream, run: Run) -> None:
    assert run("sweep", "demo.tokens", input="").exit_code == 0
    assert run("reclaim", "demo.tokens", "--keep-steps", "12", input="").exit_code == 0


@pytest.mark.parametrize("command", ["checkpoint", "reclaim", "sweep"])
def test_a_dry_run_asks_nothing_and_changes_nothing(
    stream: bw.Stream, run: Run, command: str
) -> None:
    arguments = {
        "checkpoint": ["checkpoint", "drop", "demo.tokens", "step-4"],
        "reclaim": ["reclaim", "demo.tokens", "--keep-checkpoints", "1"],
        "sweep": ["sweep", "demo.tokens", "--grace", "0"],
    }[command]
    version, files = stream.table.head().version, data_files(stream)
    result = run(*arguments, "--dry-run")
    assert result.exit_code == 0
    assert "would" in result.stdout
    assert json.loads(run(*arguments, "--dry-run", "--json").stdout)["dry_run"] is True
    assert (stream.table.head().version, data_files(stream)) == (version, files)


# -- reclaim and sweep -------------------------------------------------------------------------


def test_reclaim_and_sweep_say_what_they_did(stream: bw.Stream, run: Run) -> None:
    result = run("reclaim", "demo.tokens", "--keep-checkpoints", "1", "--yes", "--grace", "2h")
    size = sum(row.bytes for row in ledger_rows(stream)) / 1000
    assert result.stdout.splitlines() == [
        f"reclaimed 10 steps (10 files, {size:.1f} kB); steps from 10 on stay; "
        "dropped checkpoint step-4",
        "deleted 0 files (0 B) that no commit names; 1 reclaim waits for its grace period of 2 h",
    ]
    assert result.stderr == ""
    result = run("sweep", "demo.tokens", "--grace", "0", "--yes")
    assert result.stdout == f"deleted 10 files ({size:.1f} kB) that no commit names\n"


def ledger_rows(stream: bw.Stream) -> list[Any]:
    assert stream.ledger is not None
    return list(stream.ledger.read())


def test_reports_as_json_documents(stream: bw.Stream, run: Run) -> None:
    command = ["reclaim", "demo.tokens", "--keep-checkpoints", "1", "--grace", "0", "--json"]
    plan = json.loads(run(*command, "--dry-run").stdout)
    done = json.loads(run(*command, "--yes").stdout)
    assert plan["swept"]["files"] == 0
    assert done["swept"]["files"] == 10
    assert {**plan, "dry_run": False, "swept": None} == {**done, "swept": None}
    assert {**done, "bytes": 0, "swept": None} == {
        "stream": "demo.tokens",
        "dry_run": False,
        "watermark_before": 0,
        "watermark": 10,
        "steps": 10,
        "files": 10,
        "bytes": 0,
        "dropped_checkpoints": ["step-4"],
        "retained_checkpoints": ["step-10"],
        "swept": None,
    }
    swept = json.loads(run("sweep", "demo.tokens", "--json", "--yes").stdout)
    assert set(swept) == {"stream", "dry_run", "horizon", "files", "bytes", "pending_reclaims"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172_800), ("0.5h", 1800)],
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1s", "1w", "1h30m", "1 h", "nan", "1e9"])
def test_another_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="90s, 15m, 1h or 2d"):
        Duration().convert(text, None, None)


def test_durations_are_shown_in_their_largest_unit() -> None:
    found = [duration_text(one) for one in (0, 0.5, 90, 900, 3600, 5400, 172_800)]
    assert found == ["0 s", "0.5 s", "90 s", "15 min", "1 h", "90 min", "2 d"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["reclaim", "demo.tokens", "--grace", "soon"],
        ["reclaim", "demo.tokens", "--grace", "99999d"],
        ["reclaim", "demo.tokens", "--keep-checkpoints", "0"],
        ["reclaim", "demo.tokens", "--keep-steps", "-1"],
        ["sweep", "demo.tokens", "--deletes-per-s", "0"],
        ["sweep", "demo.tokens", "--grace", "99999d"],
        ["maintain", "--once", "--grace", "99999d"],
        ["maintain", "--once", "--every", "never"],
    ],
)
def test_limits_that_make_no_sense_exit_2(
    stream: bw.Stream, run: Run, arguments: list[str]
) -> None:
    version = stream.table.head().version
    result = run(*arguments, input="y\n")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert stream.table.head().version == version


def test_who_is_overtaken_by_another_reclaim_exits_3(
    stream: bw.Stream, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Session.open

    def then_another(session: Session) -> Any:
        found = opened(session)
        if session.name.startswith(PRODUCER):
            clock, table = session._clock, session.table
            opened(Session(table, session.name, clock=clock, position_bytes_inline_max=4096))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Session, "open", then_another)
        result = run("reclaim", "demo.tokens", "--yes")
        assert result.exit_code == 3
        assert "was opened again elsewhere" in result.stderr
        assert run("maintain", "--once").exit_code == 1
    assert stream.head().watermark == 0
    assert run("reclaim", "demo.tokens", "--yes").exit_code == 0
    assert stream.head().watermark == 4


def damage(stream: bw.Stream) -> None:
    """Take away the file of step 0."""
    (entry,) = stream.batches(stop=1)
    stream.table.objects.delete([entry.parts[0].path])


def test_what_the_store_lacks_exits_1(stream: bw.Stream, run: Run) -> None:
    damage(stream)
    result = run("reclaim", "demo.tokens", "--yes")
    assert result.exit_code == 1
    assert "is gone" in result.stderr
    assert stream.head().watermark == 0


# -- maintain ----------------------------------------------------------------------------------


def test_one_round_maintains_every_stream(tmp_path: Path, stream: bw.Stream, run: Run) -> None:
    other = filled(tmp_path, "demo.other")
    result = run("maintain", "--once", "--keep-checkpoints", "1", "--grace", "0")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["demo.other", "demo.tokens"]
    assert all("reclaimed 10 steps" in line and "deleted 10 files" in line for line in lines)
    assert [one.head().watermark for one in (other, stream)] == [10, 10]
    result = run("maintain", "demo.other", "--once", "--json")
    (document,) = (json.loads(line) for line in result.stdout.splitlines())
    assert (document["stream"], document["steps"]) == ("demo.other", 0)


def test_one_stream_that_fails_stops_no_other(tmp_path: Path, stream: bw.Stream, run: Run) -> None:
    damage(filled(tmp_path, "demo.damaged"))
    result = run("maintain", "--once")
    assert result.exit_code == 1
    assert "error: demo.damaged: " in result.stderr
    assert result.stdout.startswith("demo.tokens: reclaimed 4 steps")
    assert stream.head().watermark == 4


def test_a_stream_that_is_dropped_meanwhile_is_passed_over(
    tmp_path: Path, stream: bw.Stream, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = bw.Catalog.list_streams
    monkeypatch.setattr(bw.Catalog, "list_streams", lambda catalog: ["demo.gone", *listed(catalog)])
    result = run("maintain", "--once")
    assert (result.exit_code, result.stderr) == (0, "")
    assert stream.head().watermark == 4


def test_the_loop_goes_round_until_it_is_terminated(tmp_path: Path, stream: bw.Stream) -> None:
    command = [*PYTHON, "maintain", "--every", "0.1s", "--grace", "0", "--json"]
    with subprocess.Popen(
        [*command, "--warehouse", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        rounds = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [one["steps"] for one in rounds] == [4, 0]
        stream.checkpoints.drop("step-4")
        while json.loads(process.stdout.readline())["steps"] != 6:
            pass
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(WAIT_S) == 0
        assert said == ""
    assert stream.head().watermark == 10


def test_ctrl_c_ends_the_loop(tmp_path: Path, stream: bw.Stream) -> None:
    command = [*PYTHON, "maintain", "--every", "1h", "--warehouse", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("demo.tokens: reclaimed 4 steps")
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert process.stderr.read() == ""


# -- describe, tail, a terminal ----------------------------------------------------------------


def test_describe_shows_checkpoints_and_what_waits_for_deletion(
    stream: bw.Stream, run: Run
) -> None:
    stream.reclaim(grace_s=3600)
    found = json.loads(run("describe", "demo.tokens", "--json").stdout)
    assert found["head"]["watermark"] == 4
    assert [(one["id"], one["next_step"]) for one in found["checkpoints"]] == [
        ("step-4", 4),
        ("step-10", 10),
    ]
    (waiting,) = found["reclaims"]
    assert waiting["below_step"] == 4
    assert waiting["grace_began_at"] is not None
    text = run("describe", "demo.tokens").stdout
    assert "files of 1 reclaim below step 4, in their grace period since 20" in text
    assert ["step-10", "run-a", "10"] in [line.split()[:3] for line in text.splitlines()]
    stream.sweep(grace_s=0)
    assert _reclaims_of(stream.head()) == []
    assert "waiting" not in run("describe", "demo.tokens").stdout


@pytest.mark.parametrize("with_data", [False, True])
def test_tail_goes_on_where_a_reclaim_has_overtaken_it(
    stream: bw.Stream, with_data: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, STEPS, 60)  # more than a reader fetches ahead
    found = _batches(stream, 0, True, 0) if with_data else _entries(stream, 0, True)
    steps = [next(found)["step"]]
    stream.checkpoints.register("far", next_step=70, consumer="run-a")
    if not with_data:  # all that the head named is shown from memory
        steps += [next(found)["step"] for _ in range(71)]
        with stream.producer("p", QUICK) as producer:
            publish_numbers(producer, 72, 4)
        stream.checkpoints.register("farther", next_step=75, consumer="run-a")
    stream.reclaim(keep_checkpoints=1, grace_s=0)
    stream.seal()
    steps += [one["step"] for one in found]
    last = stream.head().next_step
    watermark = stream.head().watermark
    assert steps == sorted(set(steps))
    assert steps[-(last - watermark) :] == list(range(watermark, last))
    first_missing = next(at for at, step in enumerate(steps) if at != step)
    said = capsys.readouterr().err
    assert said == (
        f"steps {first_missing} to {watermark - 1} were reclaimed before they could be shown\n"
    )


def test_on_a_terminal_it_asks_and_shows_what_it_does(tmp_path: Path, stream: bw.Stream) -> None:
    command = [*PYTHON, "reclaim", "demo.tokens", "--grace", "0", "--warehouse", str(tmp_path)]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        shown, answered = b"", False
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
            if b"[y/N]" in shown and not answered:
                answered = os.write(ours, b"y\n") > 0
        assert process.stdout is not None
        assert process.stdout.read().startswith(b"reclaimed 4 steps")
        assert process.wait(WAIT_S) == 0
    os.close(ours)
    text = shown.decode()
    assert "Reclaim 4 steps of demo.tokens? It cannot be undone. [y/N]" in text
    assert "looking for what may go" in text
    assert "deleting files" in text
    assert stream.head().watermark == 4
