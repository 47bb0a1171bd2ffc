"""The demo ends with a proof, the proof can fail, and no process outlives the demo."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import batchweave as bw
from batchweave.cli import main
from batchweave.demo.corpus import (
    CHUNK_BYTES,
    CHUNKS_PER_BATCH,
    MESH,
    SCHEMA,
    SLICES,
    Chunk,
    Plan,
    batch_chunks,
    batches_from,
    deal,
    find_sources,
    make_plan,
    to_table,
)
from batchweave.demo.kills import Kill, plan_kills
from batchweave.demo.producer import produce, settings
from batchweave.demo.proof import Claim, Proof, prove
from batchweave.demo.reader import Line, consume, read_log
from batchweave.demo.verdict import tell
from batchweave.errors import InvalidInput

SIZES = [0, 1, 4095, 4096, 4097, 8192, 20_000, 33_333, 50_001, 60_000, 70_000, 9, 30_000]


def ignore(**fields: Any) -> None:
    """A report that nobody reads."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small corpus: empty, tiny, exact and ragged files, and one that is not ASCII."""
    folder = tmp_path / "corpus"
    (folder / "inner").mkdir(parents=True)
    for number, size in enumerate(SIZES):
        line = f"x{number} = 'ragged line {number}'\n"
        text = (line * (size // len(line) + 1))[:size]
        (folder / ("inner" if number % 2 else ".") / f"m{number}.py").write_text(text)
    (folder / "umlaut.py").write_text("# größer\n" * 1000)
    return folder


@dataclass
class Demo:
    """A demo in this process: the same functions that the workers run."""

    stream: bw.Stream
    plan: Plan
    logs: list[Path]

    def produce(self) -> None:
        for index in range(len(self.plan.shares)):
            produce(self.stream, self.plan, index, ignore)

    def consume(self) -> None:
        self.stream.seal()
        for rank, log in enumerate(self.logs):
            consume(self.stream, rank, log, ignore)

    def prove(self) -> Proof:
        return prove(self.stream, self.plan, self.logs)


@pytest.fixture
def demo(root: Path, tmp_path: Path) -> Demo:
    catalog = bw.load_catalog("t", type="object-store", warehouse=str(tmp_path / "warehouse"))
    stream = catalog.create_stream("demo.stdlib", schema=SCHEMA, mesh=MESH)
    logs = [tmp_path / f"rank-{rank}.log" for rank in range(SLICES)]
    return Demo(stream, make_plan(root), logs)


# -- the corpus --------------------------------------------------------------------------------


def test_files_are_dealt_once_and_the_same_each_time(root: Path) -> None:
    plan = make_plan(root)
    assert plan == make_plan(root) == Plan.from_json(plan.to_json())
    assert sorted(one.path for one in plan.sources) == [one.path for one in find_sources(root)]
    assert len(plan.sources) == len(SIZES) + 1


def test_what_is_not_utf8_or_a_test_is_left_out(root: Path) -> None:
    (root / "latin.py").write_bytes(b"# gr\xf6\xdfer")
    (root / "test").mkdir()
    (root / "test" / "test_it.py").write_text("x = 1")
    assert {"latin.py", "test/test_it.py"}.isdisjoint(one.path for one in find_sources(root))


@pytest.mark.parametrize("chunks", [*range(4, 30), 100])
def test_no_slice_is_empty_whatever_the_number_of_chunks(tmp_path: Path, chunks: int) -> None:
    (tmp_path / "a.py").write_bytes(b"a" * (chunks * CHUNK_BYTES))
    plan = Plan(str(tmp_path), "", deal(find_sources(tmp_path), 1))
    found = [slices for slices, _ in batches_from(plan, 0, None)]
    assert [sum(map(len, slices)) for slices in found] == batch_chunks(plan.shares[0])
    assert all(len(slices) == SLICES and all(slices) for slices in found)
    assert sum(batch_chunks(plan.shares[0])) == chunks


def test_a_producer_that_comes_back_cuts_the_same_batches(root: Path) -> None:
    plan = make_plan(root)
    for index in range(len(plan.shares)):
        whole = list(batches_from(plan, index, None))
        for at, (_, position) in enumerate(whole):
            assert list(batches_from(plan, index, position)) == whole[at + 1 :]


def test_too_few_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    with pytest.raises(InvalidInput, match="needs at least 4 chunks"):
        make_plan(tmp_path)


def test_kills_fall_into_the_middle_for_every_seed() -> None:
    plan = make_plan(steps=120)
    for seed in range(50):
        for kill in plan_kills(plan, seed):
            assert 0 < kill.at < kill.total - CHUNKS_PER_BATCH // 2
    assert plan_kills(plan, 7) == plan_kills(plan, 7)


def test_a_producer_is_killed_only_between_its_first_commit_and_its_last() -> None:
    kill = Kill("producer-0", at=3, total=9)
    for published, pending, due in ((2, 1, False), (3, 3, False), (4, 0, False), (4, 2, True)):
        assert kill.is_due({"sequence": published - 1, "pending": pending}) is due
    plan = make_plan(steps=24)
    for total in map(len, map(batch_chunks, plan.shares)):
        assert settings(total).pending_batches_max < total // 2
    kill.take_back(plan, {"generation": 2, "position": {"file": len(plan.shares[0]), "offset": 0}})
    assert kill.back == "generation 2 finds nothing left to do"
    assert kill.unproven == "it was killed after all of its work was done"
    kill.take_back(plan, {"generation": 2, "position": {"file": 1, "offset": 4096}})
    assert kill.unproven == ""


def test_a_kill_that_came_too_late_is_no_failed_proof(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell(Proof(steps=9, claims=[Claim("killed", unproven=["rank-1: it was done"])]))
    shown = capsys.readouterr()
    assert "nothing is proven about restarts" in shown.out
    assert "FAILED" not in shown.out + shown.err
    tell(Proof(claims=[Claim("chunks", ["one is missing"])]))
    assert "PROOF FAILED: 1 finding, " in capsys.readouterr().out


# -- the proof holds ---------------------------------------------------------------------------


def test_the_proof_holds_after_a_clean_run(demo: Demo) -> None:
    demo.produce()
    demo.consume()
    proof = demo.prove()
    assert proof.findings == []
    assert (proof.missing, proof.doubled, proof.files) == (0, 0, len(SIZES) + 1)
    assert proof.steps == demo.plan.steps


def test_the_proof_holds_after_a_crash_of_producer_and_rank(demo: Demo) -> None:
    class Crash(Exception):
        pass

    def crash(**told: Any) -> None:
        if told.get("sequence") == 2:
            raise Crash

    with pytest.raises(Crash):
        produce(demo.stream, demo.plan, 0, crash)
    demo.produce()
    demo.consume()
    whole = demo.logs[1].read_bytes()
    lines = whole.splitlines(keepends=True)
    demo.logs[1].write_bytes(b"".join(lines[:3]) + lines[3][:-9])  # torn in the fourth line
    consume(demo.stream, 1, demo.logs[1], ignore)
    assert demo.logs[1].read_bytes() == whole
    assert demo.prove().findings == []


# -- the proof fails ---------------------------------------------------------------------------


def test_a_doubled_chunk_is_named(demo: Demo) -> None:
    demo.produce()
    chunk = next(batches_from(demo.plan, 0, None))[0][0][0]
    with demo.stream.producer("copyist") as producer:
        producer.publish([to_table([chunk])] * SLICES)
    demo.consume()
    proof = demo.prove()
    assert proof.doubled == 1
    places = ", ".join(map(str, [0, *[demo.plan.steps] * SLICES]))
    assert proof.findings == [
        f"chunk doubled: {chunk.path} at byte {chunk.offset} is in steps {places}"
    ]


def test_a_missing_chunk_is_named(demo: Demo) -> None:
    produce(demo.stream, demo.plan, 0, ignore)
    produce(demo.stream, demo.plan, 1, ignore)
    demo.consume()
    proof = demo.prove()
    path = min(one.path for one in demo.plan.shares[2])
    assert proof.missing == sum(one.chunks for one in demo.plan.shares[2])
    assert f"chunk missing: {path} at byte 0 is in no step" in proof.findings
    assert not proof.ok


def test_a_changed_byte_is_named(demo: Demo, root: Path) -> None:
    path = root / "m6.py"
    whole = path.read_bytes()
    path.write_bytes(whole[:7000] + b"!" + whole[7001:])
    demo.produce()
    demo.consume()
    path.write_bytes(whole)
    proof = demo.prove()
    assert proof.findings == ["file differs: m6.py in the stream is not what is on the disk"]
    assert proof.files == len(SIZES)


def test_a_chunk_that_belongs_to_no_file_is_named(demo: Demo) -> None:
    demo.produce()
    with demo.stream.producer("stranger") as producer:
        producer.publish(
            [to_table([Chunk(0, "alien.py", at, b"x")]) for at in range(SLICES)], source="nowhere"
        )
    demo.consume()
    assert "chunk of no file: alien.py at byte 0" in demo.prove().findings[0]


@pytest.fixture
def finished(demo: Demo) -> Demo:
    """A run that is done, for tests that spoil a log."""
    demo.produce()
    demo.consume()
    return demo


def spoilt(demo: Demo, spoil: Any) -> list[str]:
    lines, _ = read_log(demo.logs[2])
    demo.logs[2].write_bytes(b"".join(line.to_bytes() for line in spoil(lines)))
    return demo.prove().findings


def test_a_step_that_a_rank_lacks_is_named(finished: Demo) -> None:
    found = spoilt(finished, lambda lines: lines[:5] + lines[6:])
    assert found == ["rank 2: step 5 is missing"]


def test_a_step_that_a_rank_read_twice_is_named(finished: Demo) -> None:
    found = spoilt(finished, lambda lines: [*lines[:6], *lines[5:]])
    assert found == ["rank 2: step 5 is there 2 times"]


def test_steps_out_of_order_are_named(finished: Demo) -> None:
    found = spoilt(finished, lambda lines: [lines[1], lines[0], *lines[2:]])
    assert found == ["rank 2: step 0 came after step 1"]


def test_a_step_with_other_content_is_named(finished: Demo) -> None:
    found = spoilt(finished, lambda lines: [Line(0, "0" * 64), *lines[1:]])
    assert found == ["rank 2: step 0 was not what the stream holds"]


def test_a_torn_or_unreadable_log_is_named(finished: Demo) -> None:
    whole = finished.logs[3].read_bytes()
    finished.logs[3].write_bytes(whole + b'{"step"')
    assert finished.prove().findings == ["rank 3: the last line of its log is torn"]
    finished.logs[3].write_bytes(b"nonsense\n" + whole)
    assert "rank 3: its log cannot be read" in finished.prove().findings[0]


# -- the whole demo ----------------------------------------------------------------------------

DEMO = [sys.executable, "-m", "batchweave", "demo", "--steps", "120"]


def environment(tmp_path: Path) -> dict[str, str]:
    """Temporary folders go below the test's own, so that what is left behind is seen."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp")}


def children(parent: int) -> list[int]:
    """The living children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, above = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(above) == parent and state != "Z":
            found.append(int(stat.parent.name))
    return found


def gone(pids: list[int], within_s: float = 10) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_the_demo_survives_its_kills_and_cleans_up(tmp_path: Path) -> None:
    env = environment(tmp_path)
    result = subprocess.run(DEMO, capture_output=True, text=True, timeout=200, env=env, check=False)
    assert result.returncode == 0, result.stderr
    verdict = result.stdout.splitlines()[0]
    assert re.fullmatch(
        r"\d+ steps, 0 missing, 0 doubled; \d+ files reconstructed byte for byte; "
        r"4 ranks read every step once, in order",
        verdict,
    )
    assert len(re.findall(r"killed \(SIGKILL\)", result.stderr)) == 2
    assert len(re.findall(r" is back: ", result.stderr)) == 2
    assert "generation 2 resumes in " in result.stderr
    assert "FAILED" not in result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        (["--catalog", "rest"], "s3://batchweave-demo and a REST catalog"),
        (["--format", "delta", "--store", "s3", "--no-kill"], "s3://batchweave-demo/warehouse"),
        (["--catalog", "sqlite", "--no-kill"], "warehouse and an SQL catalog"),
    ],
)
def test_one_command_runs_it_on_another_catalog_format_and_store(
    variant: list[str], said: str, tmp_path: Path
) -> None:
    result = subprocess.run(
        [*DEMO[:-1], "24", *variant],
        capture_output=True, text=True, timeout=280, env=environment(tmp_path), check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert re.match(r"\d+ steps, 0 missing, 0 doubled; \d+ files reconstructed", result.stdout)
    assert "producer-2" in result.stdout.partition("asked with SQL:")[2]
    assert said in result.stderr
    assert "FAILED" not in result.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--catalog", "rest", "--store", "local"], "keeps its tables on S3"),
        (["--catalog", "rest", "--format", "delta"], "catalog of type delta, not of type rest"),
        (["--catalog", "delta", "--format", "iceberg"], "holds Delta tables"),
        (["--catalog", "sqlite", "--warehouse", "s3://b/w"], "where is the SQLite file"),
        (["--store", "s3", "-p", "s3.endpoint=http://127.0.0.1:1"], "name a bucket"),
        (["--catalog-type", "nosuch"], "nosuch"),
        (["--catalog", "nosuch"], "nothing says where catalog 'nosuch' is"),
    ],
)
def test_what_does_not_go_together_is_refused_and_nothing_is_left(
    wrong: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = CliRunner().invoke(main, ["demo", *wrong], env={"PYICEBERG_HOME": "/nowhere"})
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_servers_wheel_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("batchweave.demo.object_server.PACKAGE", "no-such-wheel")
    result = CliRunner().invoke(main, ["demo", "--catalog", "rest"])
    assert result.exit_code == 2
    assert "hint: pip install 'batchweave[demo]'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_catalog_that_the_user_has_configured_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".pyiceberg.yaml").write_text("catalog:\n  rest:\n    type: sql\n")
    env = {"PYICEBERG_HOME": str(tmp_path)}
    result = CliRunner().invoke(main, ["demo", "--catalog", "rest"], env=env)
    assert result.exit_code == 2
    assert "type sql needs a uri" in result.stderr


@pytest.fixture
def running(tmp_path: Path, variant: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A demo whose workers have begun to commit."""
    process = subprocess.Popen(
        [*DEMO, *variant], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=environment(tmp_path),
    )  # fmt: skip
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if " s  " in line:
                break
        yield process
        process.kill()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("variant", "sent", "code"),
    [
        ([], signal.SIGINT, 130),
        ([], signal.SIGKILL, -9),
        (["--store", "s3"], signal.SIGKILL, -9),
    ],
)
def test_no_process_outlives_a_demo_that_is_stopped(
    running: subprocess.Popen[str],
    variant: list[str],
    sent: signal.Signals,
    code: int,
    tmp_path: Path,
) -> None:
    workers = children(running.pid)
    workers += [below for pid in workers for below in children(pid)]
    assert len(workers) >= (8 if variant else 6)  # the server and its guard
    running.send_signal(sent)
    assert running.wait(60) == code
    assert gone(workers, within_s=60)
    if sent is signal.SIGINT:
        assert list((tmp_path / "tmp").iterdir()) == []


def test_a_warehouse_that_is_given_is_kept(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    command = [*DEMO[:-1], "24", "--no-kill", "--warehouse", str(warehouse)]
    env = environment(tmp_path)
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env=env, check=False
    )
    assert result.returncode == 0, result.stderr
    catalog = bw.load_catalog("t", type="object-store", warehouse=str(warehouse))
    state = catalog.load_stream("demo.stdlib").head()
    assert state.sealed
    assert result.stdout.startswith(f"{state.next_step} steps, 0 missing, 0 doubled")
    again = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert again.returncode == 1
    assert "demo.stdlib exists already" in again.stderr
    shutil.rmtree(warehouse)


def test_a_demo_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = subprocess.run(
        [*DEMO, "--warehouse", str(tmp_path / "file")],
        capture_output=True, text=True, timeout=60, env=environment(tmp_path), check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("error: the warehouse must be a folder; ")
    assert list((tmp_path / "tmp").iterdir()) == []
