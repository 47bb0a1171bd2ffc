"""The checkpoint registry: what a model has seen, kept in the stream, by commits like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import batchweave as bw
from batchweave.checkpoints import Checkpoints
from batchweave.table import Change, Committed, Head, Outcome, Unknown
from tests.streams import QUICK, catalog_at, make_stream, publish_numbers


@pytest.fixture
def stream(tmp_path: Path) -> bw.Stream:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 10)
    return stream


class Forgetful:
    """A table whose commits land, and whose answers are lost."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def commit(self, base: Head, change: Change) -> Outcome:
        outcome = self._table.commit(base, change)
        assert isinstance(outcome, Committed)
        self.lost += 1
        return Unknown(TimeoutError("no answer"))


def test_a_registered_checkpoint_is_found_by_another_process(
    stream: bw.Stream, tmp_path: Path
) -> None:
    made = stream.checkpoints.register("step-4", next_step=4, consumer="run-a")
    other = catalog_at(tmp_path).load_stream(stream.name)
    assert other.checkpoints.get("step-4") == made
    assert (made.id, made.next_step, made.consumer) == ("step-4", 4, "run-a")
    assert made.registered_at_ms > 0
    assert other.head().checkpoints["step-4"].next_step == 4


def test_registering_is_a_new_version_of_the_table(stream: bw.Stream) -> None:
    before = stream.table.head().version
    stream.checkpoints.register("a", next_step=1)
    assert stream.table.head().version == before + 1


def test_registering_the_same_again_changes_nothing(stream: bw.Stream) -> None:
    first = stream.checkpoints.register("a", next_step=np.int64(3))
    version = stream.table.head().version
    assert stream.checkpoints.register("a", next_step=3) == first
    assert stream.table.head().version == version


def test_checkpoints_are_listed_by_step_and_by_consumer(stream: bw.Stream) -> None:
    for name, step, consumer in [("c", 9, "x"), ("a", 2, "x"), ("b", 5, "y")]:
        stream.checkpoints.register(name, next_step=step, consumer=consumer)
    assert [one.id for one in stream.checkpoints.list()] == ["a", "b", "c"]
    assert [one.id for one in stream.checkpoints.list("x")] == ["a", "c"]
    latest = {
        who: found and found.id
        for who in (None, "x", "y", "z")
        for found in [stream.checkpoints.latest(who)]
    }
    assert latest == {None: "c", "x": "c", "y": "b", "z": None}


def test_dropping_twice_is_dropping_once(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=1)
    assert stream.checkpoints.drop("a")
    version = stream.table.head().version
    assert not stream.checkpoints.drop("a")
    assert stream.table.head().version == version
    assert stream.checkpoints.list() == []


def test_a_lost_answer_neither_loses_nor_doubles_a_registration(stream: bw.Stream) -> None:
    table = Forgetful(stream.table)
    checkpoints = Checkpoints(table)
    version = stream.table.head().version
    checkpoints.register("a", next_step=7)
    assert checkpoints.drop("a")
    assert table.lost == 2
    assert stream.table.head().version == version + 2
    assert stream.checkpoints.list() == []


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", ".a", "a" * 129, "ä", 3, None])
def test_an_id_that_paths_or_sql_cannot_carry_is_refused(stream: bw.Stream, name: Any) -> None:
    for call in (
        lambda: stream.checkpoints.register(name, next_step=1),
        lambda: stream.checkpoints.register("a", next_step=1, consumer=name),
        lambda: stream.checkpoints.drop(name),
        lambda: stream.checkpoints.get(name),
    ):
        with pytest.raises(bw.InvalidName):
            call()
    assert stream.checkpoints.list() == []


@pytest.mark.parametrize("step", [-1, 11, 1.0, "1", True, None])
def test_a_step_that_was_never_there_is_refused(stream: bw.Stream, step: Any) -> None:
    version = stream.table.head().version
    with pytest.raises(bw.InvalidInput, match=r"next_step|next step"):
        stream.checkpoints.register("a", next_step=step)
    assert stream.table.head().version == version


def test_an_id_never_changes_its_meaning(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=1)
    for step, consumer in [(2, "default"), (1, "other")]:
        with pytest.raises(bw.CheckpointExists, match="'a' is registered with next_step 1"):
            stream.checkpoints.register("a", next_step=step, consumer=consumer)
    assert stream.checkpoints.get("a").next_step == 1


def test_an_unknown_id_is_named_with_what_there_is(stream: bw.Stream) -> None:
    stream.checkpoints.register("a", next_step=1)
    with pytest.raises(bw.CheckpointNotFound, match="no checkpoint 'b'; it has: a"):
        stream.checkpoints.get("b")
