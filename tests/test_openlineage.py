"""OpenLineage events: all that was committed is told once, and telling never costs a commit.

The receivers are real HTTP servers on this machine. Events are read back by OpenLineage's own
classes, and its step facet by the schema that is shipped.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from openlineage.client import OpenLineageClient, facet_v2
from openlineage.client.serde import Serde

import batchweave as bw
from batchweave.connectors import openlineage_facets as facets
from batchweave.connectors.openlineage_events import OpenLineageEvents
from batchweave.connectors.openlineage_graph import read_events, to_dot
from batchweave.events import (
    BatchCommitted,
    CheckpointDropped,
    CheckpointRegistered,
    ProducerClosed,
    ProducerOpened,
    StepsReclaimed,
    StreamEvent,
)
from tests.openlineage_receivers import Held, check_steps, client_for, rebuilt, receiving
from tests.streams import QUICK, catalog_at, make_stream, publish_numbers, tokens

PARENT = "airflow/dag.task/01a20606-77bc-78b9-8377-9ae0b84656c8"
SECRET = "hunter2hunter2"


@pytest.fixture(autouse=True)
def nothing_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither its OpenLineage settings nor a file of them in the working directory or at home."""
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "lineage.jsonl"


@pytest.fixture
def to_file(log_file: Path) -> Iterator[OpenLineageEvents]:
    """An emitter into ``log_file`` that tells of progress only when it is asked to."""
    with OpenLineageEvents(into(log_file), every_s=3600) as lineage:
        yield lineage


def into(path: Path) -> OpenLineageClient:
    return client_for(type="file", log_file_path=str(path), append=True)


def told(path: Path, lineage: OpenLineageEvents) -> list[dict[str, Any]]:
    """All events so far, each of which OpenLineage's classes accept."""
    assert lineage.flush(120)
    events = read_events(path)
    for event in events:
        rebuilt(event)
    return events


def steps_in(events: list[dict[str, Any]], action: str) -> list[int]:
    """Every step that an event names, as often as it is named."""
    found: list[int] = []
    for event in events:
        for dataset in [*event["inputs"], *event["outputs"]]:
            own = {**dataset.get("inputFacets", {}), **dataset.get("outputFacets", {})}
            facet = own.get(facets.STEPS)
            if facet and facet["action"] == action:
                for one in facet["ranges"]:
                    found += range(one["first"], one["last"] + 1)
    return found


def states(events: list[dict[str, Any]], job: str) -> list[str]:
    return [event["eventType"] for event in events if event["job"]["name"] == job]


def last_of(events: list[dict[str, Any]], job: str) -> dict[str, Any]:
    return [event for event in events if event["job"]["name"] == job][-1]


# -- what is told ------------------------------------------------------------------------------


@pytest.mark.parametrize("every_s", [0.0, 0.02, 3600.0])
def test_each_committed_step_is_told_exactly_once(
    tmp_path: Path, log_file: Path, every_s: float
) -> None:
    stream = make_stream(tmp_path)
    with OpenLineageEvents(into(log_file), every_s=every_s) as lineage:
        lineage.follow(stream)
        with stream.producer("a", QUICK) as one, stream.producer("b", QUICK) as two:
            for number in range(0, 30, 3):
                publish_numbers(one, number, 3)
                publish_numbers(two, number, 2)
                if number == 15:
                    one.flush()
        events = told(log_file, lineage)
    assert sorted(steps_in(events, "published")) == list(range(50))
    for name in ("a", "b"):
        own = [batch for batch in stream.batches() if batch.producer == name]
        job = f"demo.tokens.producer.{name}"
        ours = [event for event in events if event["job"]["name"] == job]
        assert sorted(steps_in(ours, "published")) == [batch.step for batch in own]
        output = ours[-1]["outputs"][0]["outputFacets"]
        rows, size = sum(batch.rows for batch in own), sum(batch.bytes for batch in own)
        assert output["outputStatistics"]["rowCount"] == rows
        assert output["outputStatistics"]["size"] == size
        total = {"batches": len(own), "rows": rows, "bytes": size}
        assert output[facets.STEPS]["total"] == total
        amounts: Counter[str] = Counter()
        for event in ours[1:]:
            amounts.update(event["outputs"][0]["outputFacets"][facets.STEPS]["amount"])
        assert amounts == total
        assert states(events, job)[0] == "START"
        assert states(events, job)[-1] == "COMPLETE"
        assert set(states(events, job)[1:-1]) <= {"RUNNING"}
        assert len({event["run"]["runId"] for event in ours}) == 1


def test_progress_is_summed_up_between_two_events(
    tmp_path: Path, log_file: Path, to_file: OpenLineageEvents
) -> None:
    stream = make_stream(tmp_path)
    to_file.follow(stream)
    with stream.producer("p", QUICK) as producer:
        for number in range(10):
            publish_numbers(producer, number, 1)
            producer.flush()
        version = stream.table.head().version
        events = told(log_file, to_file)
        assert states(events, "demo.tokens.producer.p") == ["START", "RUNNING"]
        output = events[-1]["outputs"][0]
        assert output["outputFacets"][facets.STEPS]["ranges"] == [{"first": 0, "last": 9}]
        assert output["facets"]["version"]["datasetVersion"] == str(version)
    assert states(told(log_file, to_file), "demo.tokens.producer.p") == [
        "START",
        "RUNNING",
        "COMPLETE",
    ]


def test_a_dataset_is_named_by_its_place_and_says_what_it_is(
    tmp_path: Path, log_file: Path
) -> None:
    inner = pa.struct([("x", pa.int8()), ("y", pa.string())])
    schema = pa.schema([("tokens", pa.list_(pa.int32())), ("meta", inner)])
    stream = make_stream(tmp_path, schema=schema)
    with OpenLineageEvents(into(log_file), symlink_namespace="hive://metastore:9083") as lineage:
        lineage.follow(stream)
        stream.checkpoints.register("c", next_step=0)
        dataset = told(log_file, lineage)[-1]["inputs"][0]
    assert (dataset["namespace"], dataset["name"]) == ("file", f"{tmp_path}/demo/tokens")
    found = dataset["facets"]
    assert found["dataSource"]["uri"] == f"file://{tmp_path}/demo/tokens"
    assert found["storage"]["storageLayer"] == "iceberg"
    assert found["storage"]["fileFormat"] == "parquet"
    assert [one["name"] for one in found["schema"]["fields"]] == ["tokens", "meta"]
    assert [one["name"] for one in found["schema"]["fields"][1]["fields"]] == ["x", "y"]
    (link,) = found["symlinks"]["identifiers"]
    assert link == {"namespace": "hive://metastore:9083", "name": "demo.tokens", "type": "TABLE"}


def test_a_delta_stream_says_that_it_is_one(
    tmp_path: Path, log_file: Path, to_file: OpenLineageEvents
) -> None:
    catalog = bw.load_catalog("local", type="delta", warehouse=str(tmp_path / "warehouse"))
    schema = pa.schema([("tokens", pa.list_(pa.int32()))])
    stream = catalog.create_stream("demo.tokens", schema=schema, mesh=bw.Mesh(dp=2))
    to_file.follow(stream)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    last = told(log_file, to_file)[-1]["outputs"][0]
    assert last["facets"]["storage"]["storageLayer"] == "delta"
    assert steps_in(told(log_file, to_file), "published") == [0, 1, 2]


def test_a_fenced_producer_fails_and_its_steps_are_told(
    tmp_path: Path, log_file: Path, to_file: OpenLineageEvents
) -> None:
    stream = make_stream(tmp_path)
    to_file.follow(stream)
    old = stream.producer("p", QUICK)
    publish_numbers(old, 0, 2)
    old.flush()
    new = stream.producer("p", QUICK)
    with pytest.raises(bw.Fenced):
        old.publish([tokens(9)] * 2, position=9).step()
    old.close(flush=False)
    publish_numbers(new, 2, 1)
    new.close()
    events = told(log_file, to_file)
    runs = list(dict.fromkeys(event["run"]["runId"] for event in events))
    first = [event for event in events if event["run"]["runId"] == runs[0]]
    second = [event for event in events if event["run"]["runId"] == runs[1]]
    assert [event["eventType"] for event in first] == ["START", "FAIL"]
    assert first[-1]["run"]["facets"]["errorMessage"]["message"].startswith("Fenced: producer 'p'")
    assert steps_in(first, "published") == [0, 1]
    assert [event["eventType"] for event in second] == ["START", "COMPLETE"]
    assert steps_in(second, "published") == [2]


def test_a_producer_left_by_an_exception_is_aborted_without_its_text(
    tmp_path: Path, log_file: Path, to_file: OpenLineageEvents
) -> None:
    stream = make_stream(tmp_path)
    to_file.follow(stream)

    def publish_and_stumble() -> None:
        with stream.producer("p", QUICK) as producer:
            publish_numbers(producer, 0, 1)
            producer.flush()
            raise ValueError(f"no access with {SECRET}")

    with pytest.raises(ValueError, match=SECRET):
        publish_and_stumble()
    last = told(log_file, to_file)[-1]
    assert last["eventType"] == "ABORT"
    assert "closed after ValueError" in last["run"]["facets"]["errorMessage"]["message"]
    assert steps_in([last], "published") == [0]
    assert SECRET not in log_file.read_text()


def test_a_checkpoint_is_a_run_over_all_that_it_has_seen(
    tmp_path: Path, log_file: Path, to_file: OpenLineageEvents
) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 8)
    to_file.follow(stream)
    stream.checkpoints.register("c5", next_step=5, consumer="run-a")
    stream.checkpoints.register("c5", next_step=5, consumer="run-a")
    stream.checkpoints.register("c0", next_step=0, consumer="run-b")
    events = told(log_file, to_file)
    assert states(events, "demo.tokens.checkpoint.run-a") == ["START", "COMPLETE"]
    assert steps_in(events, "consumed") == [0, 1, 2, 3, 4]
    seen = last_of(events, "demo.tokens.checkpoint.run-a")["inputs"][0]
    assert seen["inputFacets"][facets.STEPS]["checkpoint"] == "c5"
    known = stream.head().checkpoints["c5"]
    assert seen["facets"]["version"]["datasetVersion"] == str(known.version)
    assert stream.checkpoints.drop("c5")
    assert not stream.checkpoints.drop("c5")
    events = told(log_file, to_file)
    assert states(events, "demo.tokens.checkpoint.run-a") == ["START", "COMPLETE"] * 2
    assert steps_in(events, "dropped") == [0, 1, 2, 3, 4]


def test_a_reclaim_tells_what_left_the_table_and_which_checkpoints(
    tmp_path: Path, log_file: Path, to_file: OpenLineageEvents
) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 8)
    stream.checkpoints.register("c3", next_step=3)
    stream.checkpoints.register("c6", next_step=6)
    gone = [batch for batch in stream.batches() if batch.step < 6]
    to_file.follow(stream)
    stream.reclaim(keep_checkpoints=1, dry_run=True)
    assert to_file.flush(120)
    assert not log_file.exists()
    stream.reclaim(keep_checkpoints=1)
    stream.reclaim(keep_checkpoints=1)
    events = told(log_file, to_file)
    assert states(events, "demo.tokens.reclaim") == ["START", "COMPLETE"]
    last = last_of(events, "demo.tokens.reclaim")
    assert last["inputs"][0]["name"] == last["outputs"][0]["name"]
    facet = last["outputs"][0]["outputFacets"][facets.STEPS]
    assert facet["ranges"] == [{"first": 0, "last": 5}]
    assert facet["watermark"] == 6
    rows, size = sum(one.rows for one in gone), sum(one.bytes for one in gone)
    assert facet["amount"] == {"batches": 6, "rows": rows, "bytes": size}
    dropped = last_of(events, "demo.tokens.checkpoint.default")["inputs"][0]["inputFacets"]
    assert (dropped[facets.STEPS]["action"], dropped[facets.STEPS]["checkpoint"]) == (
        "dropped",
        "c3",
    )


def test_runs_are_part_of_what_the_user_says(
    tmp_path: Path, log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", PARENT)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "training")
    at = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    nominal = facet_v2.nominal_time_run.NominalTimeRunFacet(at)
    stream = make_stream(tmp_path)
    with OpenLineageEvents(into(log_file), run_facets={"nominalTime": nominal}) as lineage:
        lineage.follow(stream)
        stream.checkpoints.register("c", next_step=0)
        event = told(log_file, lineage)[-1]
    assert event["job"]["namespace"] == "training"
    parent = event["run"]["facets"]["parent"]
    assert (
        f"{parent['job']['namespace']}/{parent['job']['name']}/{parent['run']['runId']}" == PARENT
    )
    assert event["run"]["facets"]["nominalTime"]["nominalStartTime"] == at


def test_many_interleaved_producers_keep_events_small(
    tmp_path: Path, log_file: Path, monkeypatch: pytest.MonkeyPatch, to_file: OpenLineageEvents
) -> None:
    monkeypatch.setattr("batchweave.connectors.openlineage_runs.RANGES_MAX", 3)
    stream = make_stream(tmp_path)
    to_file.follow(stream)
    with stream.producer("a", QUICK) as one, stream.producer("b", QUICK) as two:
        for number in range(5):
            for producer in (one, two):
                publish_numbers(producer, number, 1)
                producer.flush()
    events = told(log_file, to_file)
    assert sorted(steps_in(events, "published")) == list(range(10))
    assert states(events, "demo.tokens.producer.a") == ["START", "RUNNING", "COMPLETE"]


# -- events as such ----------------------------------------------------------------------------


def test_a_listener_hears_of_everything_before_the_caller_sees_it(tmp_path: Path) -> None:
    stream, heard = make_stream(tmp_path), list[StreamEvent]()
    stop = stream.listen(heard.append)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
        producer.flush()
        committed = [event for event in heard if isinstance(event, BatchCommitted)]
        entries = list(stream.batches())
        assert [(event.step, event.sequence) for event in committed] == [(0, 0), (1, 1), (2, 2)]
        assert [event.bytes for event in committed] == [entry.bytes for entry in entries]
        assert [event.version for event in committed] == [entry.version for entry in entries]
    stream.checkpoints.register("c", next_step=2)
    stream.reclaim()
    stream.checkpoints.drop("c")
    kinds = [type(event) for event in heard if not isinstance(event, BatchCommitted)]
    assert kinds == [
        ProducerOpened,
        ProducerClosed,
        CheckpointRegistered,
        StepsReclaimed,
        CheckpointDropped,
    ]
    assert {event.stream for event in heard} == {"demo.tokens"}
    stop()
    stream.checkpoints.register("d", next_step=2)
    assert isinstance(heard[-1], CheckpointDropped)


def test_a_listener_that_raises_costs_nothing_and_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream, heard = make_stream(tmp_path), list[StreamEvent]()

    def broken(event: StreamEvent) -> None:
        raise RuntimeError(SECRET)

    stream.listen(broken)
    stream.listen(heard.append)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 5)
    assert stream.head().next_step == 5
    assert len(heard) == 7
    said = [record.getMessage() for record in caplog.records if "listener" in record.getMessage()]
    assert len(said) == 1
    assert "RuntimeError" in said[0]
    assert SECRET not in caplog.text


# -- transports --------------------------------------------------------------------------------


def test_an_http_receiver_gets_all_events_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(tmp_path)
    with receiving() as receiver:
        monkeypatch.setenv("OPENLINEAGE_URL", receiver.url)
        with OpenLineageEvents(every_s=0.01) as lineage:
            lineage.follow(stream)
            with stream.producer("p", QUICK) as producer:
                publish_numbers(producer, 0, 20)
            stream.checkpoints.register("c", next_step=20)
            assert lineage.flush(120)
            stats = lineage.stats()
        for event in receiver.events:
            rebuilt(event)
        assert (stats.sent, stats.failed, stats.dropped) == (len(receiver.events), 0, 0)
        assert steps_in(receiver.events, "published") == list(range(20))
        found = states(receiver.events, "demo.tokens.producer.p")
        assert (found[0], found[-1]) == ("START", "COMPLETE")


def test_the_log_gets_events_where_nothing_is_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "openlineage")
    stream = make_stream(tmp_path)
    with OpenLineageEvents() as lineage:
        lineage.follow(stream)
        stream.checkpoints.register("c", next_step=0)
        assert lineage.flush(120)
    said = [record.getMessage() for record in caplog.records]
    events = [json.loads(text) for text in said if text.startswith("{")]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"]


def test_a_receiver_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with receiving(hangs=True) as receiver:
        client = client_for(type="http", url=receiver.url, timeout=600, retry={"total": 0})
        lineage = OpenLineageEvents(client, every_s=0.01)
        lineage.follow(stream)
        producer = stream.producer("p", QUICK)
        assert receiver.asked.wait(120)
        # From here on the receiver holds the first event, until the very end.
        publish_numbers(producer, 0, 20)
        producer.flush()
        producer.close()
        stream.checkpoints.register("c", next_step=20)
        stream.reclaim()
        assert stream.head().watermark == 20
        assert not lineage.flush(0.05)
        assert not lineage.close(0.05)
        assert receiver.events == []
        assert lineage.stats().dropped > 0


@pytest.mark.parametrize("fault", ["refuses", "answers 500"])
def test_a_receiver_that_is_ill_costs_events_and_no_commit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    stream = make_stream(tmp_path)
    with receiving(answer=500) as receiver:
        url = receiver.url.replace("http://", f"http://user:{SECRET}@")
        if fault == "refuses":
            receiver.server.socket.close()
        with OpenLineageEvents(
            client_for(type="http", url=url, retry={"total": 0}), every_s=0.0
        ) as lineage:
            lineage.follow(stream)
            with stream.producer("p", QUICK) as producer:
                publish_numbers(producer, 0, 5)
            stream.checkpoints.register("c", next_step=5)
            assert lineage.flush(120)
            stats = lineage.stats()
    assert stream.head().next_step == 5
    assert stats.sent == 0
    assert stats.failed >= 4
    said = [one.getMessage() for one in caplog.records if one.name == "batchweave.openlineage"]
    assert len(said) == 2, said
    assert "could not be sent and is lost" in said[0]
    assert f"{stats.failed} could not be sent" in said[1]
    assert SECRET not in caplog.text


def test_a_full_outbox_drops_and_counts_and_keeps_the_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream, held = make_stream(tmp_path), Held()
    lineage = OpenLineageEvents(OpenLineageClient(transport=held), every_s=0.0, events_max=2)
    lineage.follow(stream)
    with stream.producer("p", QUICK) as producer:
        assert held.asked.wait(120)
        for number in range(10):
            publish_numbers(producer, number, 1)
            producer.flush()
            stream.checkpoints.register(f"c{number}", next_step=number)
        dropped = lineage.stats().dropped
        assert dropped >= 18
        held.go.set()
        assert lineage.flush(120)
    assert lineage.close(120)
    events = [Serde.to_dict(event) for event in held.events]
    assert sorted(steps_in(events, "published")) == list(range(10))
    assert lineage.stats().dropped == dropped
    said = [one.getMessage() for one in caplog.records if one.name == "batchweave.openlineage"]
    assert [text.split(":")[0] for text in said] == [
        "an OpenLineage event was dropped",
        f"of the OpenLineage events, {len(events)} were sent, 0 could not be sent, "
        f"{dropped} were dropped",
    ]


def test_events_that_had_to_wait_go_out_in_their_order(tmp_path: Path) -> None:
    stream, held = make_stream(tmp_path), Held()
    with OpenLineageEvents(OpenLineageClient(transport=held)) as lineage:
        lineage.follow(stream)
        with stream.producer("p", QUICK):
            assert held.asked.wait(120)
        stream.checkpoints.register("c", next_step=0)
        held.go.set()
        assert lineage.flush(120)
    events = [Serde.to_dict(event) for event in held.events]
    found = [(event["job"]["name"].split(".")[2], event["eventType"]) for event in events]
    assert found == [
        ("producer", "START"),
        ("producer", "COMPLETE"),
        ("checkpoint", "START"),
        ("checkpoint", "COMPLETE"),
    ]


def test_nothing_runs_before_there_is_something_to_tell(tmp_path: Path, log_file: Path) -> None:
    stream, before = make_stream(tmp_path), threading.active_count()
    lineage = OpenLineageEvents(into(log_file))
    lineage.follow(stream)
    assert list(stream.batches()) == []
    assert threading.active_count() == before
    stream.checkpoints.register("c", next_step=0)
    assert lineage.close(120)
    assert threading.active_count() == before
    stream.checkpoints.register("d", next_step=0)
    assert lineage.close(120)
    assert len(read_events(log_file)) == 2


FORKS = """
import os, sys, threading
from batchweave.connectors.openlineage_events import OpenLineageEvents
from batchweave.events import CheckpointRegistered
from openlineage.client import OpenLineageClient
import batchweave as bw
catalog = bw.load_catalog("local", type="object-store", warehouse=sys.argv[1])
stream = catalog.load_stream("demo.tokens")
lineage = OpenLineageEvents(
    OpenLineageClient(config={"transport": {
        "type": "file", "log_file_path": sys.argv[2], "append": True}}))
lineage.follow(stream)
def tell(who):  # without a commit: the store's own threads are not in a child
    stream._listeners.tell(CheckpointRegistered(
        stream=stream.name, version=1, at_ms=0, checkpoint=who, consumer="c", next_step=0))
held, go = threading.Event(), threading.Event()
def hold():
    with lineage._outbox.changed:
        held.set()
        go.wait()
tell("parent")
lineage.flush(100)
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    tell("child")
    os._exit(0 if lineage.close(100) else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
go.set()
sys.exit(code)
"""


def test_a_forked_child_tells_its_own_events_whatever_the_parent_held(
    tmp_path: Path, log_file: Path
) -> None:
    make_stream(tmp_path)
    run(["-c", FORKS, str(tmp_path), str(log_file)])
    assert [
        event["inputs"][0]["inputFacets"][facets.STEPS]["checkpoint"]
        for event in read_events(log_file)
        if event["inputs"]
    ] == ["parent", "child"]


def test_the_command_line_tells_its_events_where_the_environment_says(
    tmp_path: Path, log_file: Path
) -> None:
    make_stream(tmp_path)
    transport = {"type": "file", "log_file_path": str(log_file), "append": True}
    register = ["-m", "batchweave", "--warehouse", str(tmp_path), "checkpoint", "register"]
    register += ["demo.tokens", "--next-step", "0"]
    environment = {"OPENLINEAGE__TRANSPORT": json.dumps(transport)}
    run([*register, "told"], environment | {"BATCHWEAVE_OPENLINEAGE": "1"})
    assert [event["eventType"] for event in read_events(log_file)] == ["START", "COMPLETE"]


def test_a_program_ends_though_its_receiver_hangs(tmp_path: Path) -> None:
    make_stream(tmp_path)
    register = ["-m", "batchweave", "--warehouse", str(tmp_path), "checkpoint", "register"]
    with receiving(hangs=True) as receiver:
        environment = {"BATCHWEAVE_OPENLINEAGE": "1", "OPENLINEAGE_URL": receiver.url}
        run([*register, "demo.tokens", "c", "--next-step", "0"], environment)
        assert receiver.asked.is_set()
        assert receiver.events == []


def run(arguments: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# -- no credentials, good settings, schema, picture --------------------------------------------


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("s3://bucket/path/to/table", ("s3://bucket", "path/to/table")),
        (f"s3a://key:{SECRET}@bucket/table?token={SECRET}", ("s3://bucket", "table")),
        ("gs://bucket/table/", ("gs://bucket", "table")),
        ("abfss://box@acc.dfs.core.windows.net/t", ("abfss://box@acc.dfs.core.windows.net", "t")),
        ("file:///srv/a%20b/t", ("file", "/srv/a b/t")),
        ("/srv/t", ("file", "/srv/t")),
    ],
)  # fmt: skip
def test_datasets_are_named_by_openlineages_rules(uri: str, place: tuple[str, str]) -> None:
    assert facets.place_of(uri) == place


@pytest.mark.parametrize(
    "text",
    [
        f"500 Server Error for url: http://user:{SECRET}@host/api",
        f"GET https://bucket.s3.amazonaws.com/key?X-Amz-Signature={SECRET}&x=1 failed",
        f"Need valid url for OpenLineageClient, passed user:{SECRET}@host",
    ],
)
def test_errors_are_told_without_credentials(text: str) -> None:
    assert SECRET not in facets.without_credentials(text)
    assert SECRET not in facets.said_of(bw.StoreUnavailable(text))
    assert facets.said_of(OSError(text)) == "OSError"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every_s": -1}, "every_s is a number of seconds"),
        ({"events_max": 0}, "events_max is a whole number"),
        ({"flush_at_exit_s": float("nan")}, "flush_at_exit_s is a number"),
        ({"parent": "airflow/task"}, "a parent run is namespace/job/run id"),
        ({"parent": "airflow/task/not-a-uuid"}, "a parent run is namespace/job/run id"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(bw.InvalidSettings, match=said):
        OpenLineageEvents(client_for(type="noop"), **settings)


def test_a_wrong_configuration_is_refused_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", f"user:{SECRET}@nowhere")
    with pytest.raises(bw.InvalidSettings, match="OpenLineage's configuration") as caught:
        OpenLineageEvents()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "eaten"},
        {"ranges": [{"first": -1, "last": 0}]},
        {"amount": {"batches": 1}},
        {"surplus": 1},
    ],
)
def test_the_schema_of_steps_refuses_what_is_none(change: dict[str, Any]) -> None:
    facet = facets.StepsOutputDatasetFacet(
        action="published",
        ranges=[facets.StepRange(0, 1)],
        amount=facets.Amount(2, 8, 100),
        producer=facets.PRODUCER,
    )
    good = Serde.to_dict(facet)
    check_steps(good)
    with pytest.raises(Exception, match="|".join(map(re.escape, change))):
        check_steps({**good, **change})


def test_an_event_file_becomes_a_picture(
    tmp_path: Path, log_file: Path, to_file: OpenLineageEvents
) -> None:
    stream = catalog_at(tmp_path).create_stream(
        "demo.tokens", schema=pa.schema([("tokens", pa.list_(pa.int32()))]), mesh=bw.Mesh(dp=2)
    )
    to_file.follow(stream)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 4)
        producer.flush()
        to_file.flush(120)
        publish_numbers(producer, 4, 2)
    stream.checkpoints.register("c", next_step=5)
    picture = to_dot(told(log_file, to_file))
    place = f"file{tmp_path}/demo/tokens"
    assert picture.startswith("digraph lineage {")
    assert (
        '"job batchweave/demo.tokens.producer.p" -> '
        f'"dataset {place}" [label="published: 6 steps, 0 to 5"];'
    ) in picture
    assert (
        f'"dataset {place}" -> "job batchweave/demo.tokens.checkpoint.default" '
        '[label="consumed by c: 5 steps, 0 to 4"];'
    ) in picture
    assert picture == to_dot(read_events(log_file))
