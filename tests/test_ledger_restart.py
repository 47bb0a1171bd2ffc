"""A ledger that is lost stops nobody for ever, and nobody can say that it never was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import batchweave as bw
from batchweave.ledger import Ledger, Place, verify_rows
from batchweave.state import next_chain
from tests.streams import QUICK, TOKENS, publish_numbers
from tests.test_cli import call

KINDS = ("object-store", "delta", "sql")
LEDGER = ("demo", "tokens__ledger")


def catalog_of(kind: str, folder: Path) -> bw.Catalog:
    properties = {"type": kind, "warehouse": str(folder)}
    if kind == "sql":
        properties["uri"] = f"sqlite:///{folder}/catalog.db"
    return bw.load_catalog("any", **properties)


def reclaimed(catalog: bw.Catalog, *stops: int) -> bw.Stream:
    """Twelve steps, those below each stop reclaimed one after another."""
    stream = catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2))
    publish(stream, 0, 12)
    for stop in stops:
        advance(stream, stop)
    return stream


def publish(stream: bw.Stream, first: int, count: int) -> None:
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, first, count)


def advance(stream: bw.Stream, stop: int) -> None:
    stream.checkpoints.register(f"step-{stop}", next_step=stop)
    assert stream.reclaim(keep_checkpoints=1, grace_s=0).watermark == stop


def check(stream: bw.Stream, gaps: Sequence[tuple[int, int]]) -> None:
    """The rows there are hold together, and lead to the stream's chain over the live batches."""
    ledger, head = stream.ledger, stream.head()
    assert ledger is not None
    rows, place = list(ledger.read()), ledger.place()
    assert list(place.gaps) == list(gaps)
    assert verify_rows(rows, place.gaps) == place
    lost = {step for first, stop in gaps for step in range(first, stop)}
    assert [row.step for row in rows] == sorted(set(range(place.next_step)) - lost)
    chain = place.chain
    for entry in stream.batches(place.next_step):
        chain = next_chain(chain, entry.step, [part.digest for part in entry.parts])
    assert chain == head.chain


@pytest.mark.parametrize("kind", KINDS)
def test_a_ledger_that_is_gone_is_given_up_by_an_explicit_act_alone(
    kind: str, tmp_path: Path
) -> None:
    catalog = catalog_of(kind, tmp_path)
    stream = reclaimed(catalog, 8)
    check(stream, [])
    with pytest.raises(bw.InvalidInput, match="nothing is missing"):
        stream.restart_ledger()
    catalog.tables.drop(LEDGER)
    assert stream.ledger is None  # although it was open
    stream.checkpoints.register("step-10", next_step=10)
    with pytest.raises(bw.StreamCorrupted, match="restart_ledger"):
        stream.reclaim(keep_checkpoints=1, grace_s=0)
    before = stream.head()
    plan = stream.restart_ledger(dry_run=True)
    assert (plan.first, plan.stop, plan.steps, plan.dry_run) == (0, 8, 8, True)
    assert stream.head() == before
    with pytest.raises(bw.StreamCorrupted, match="restart_ledger"):
        stream.reclaim(keep_checkpoints=1, grace_s=0)
    assert stream.restart_ledger() == replace(plan, dry_run=False)
    check(stream, [(0, 8)])
    publish(stream, 12, 2)
    assert stream.reclaim(keep_checkpoints=1, grace_s=0).steps == 2
    check(catalog.load_stream("demo.tokens"), [(0, 8)])
    with pytest.raises(bw.InvalidInput, match="nothing is missing"):
        stream.restart_ledger()


def test_an_audit_says_from_which_step_on_the_history_is_proven(tmp_path: Path) -> None:
    catalog = catalog_of("object-store", tmp_path)
    stream = reclaimed(catalog, 8)
    catalog.tables.drop(LEDGER)
    assert set(stream.audit().failed) == {"chain", "order", "watermark"}
    stream.restart_ledger()
    with stream.producer("q", QUICK) as producer:
        publish_numbers(producer, 0, 2)
    for stop in (10, 13):
        report = stream.audit()
        assert report.ok, report
        assert report["chain"].note == (
            "the ledger's rows of steps 0 to 7 were given up: the history is proven from step 8 on"
        )
        advance(stream, stop)


def test_rows_that_an_older_copy_still_has_are_kept(tmp_path: Path) -> None:
    stream = reclaimed(catalog_of("object-store", tmp_path), 4)
    folder = tmp_path / "demo" / "tokens__ledger"
    shutil.copytree(folder, tmp_path / "backup")
    advance(stream, 6)
    advance(stream, 9)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    stream = catalog_of("object-store", tmp_path).load_stream("demo.tokens")
    report = stream.restart_ledger()
    assert (report.first, report.stop, report.gaps) == (4, 9, ((4, 9),))
    check(stream, [(4, 9)])
    shutil.rmtree(folder)
    stream = catalog_of("object-store", tmp_path).load_stream("demo.tokens")
    publish(stream, 12, 1)
    assert stream.restart_ledger().gaps == ((0, 9),)
    advance(stream, 11)
    check(stream, [(0, 9)])


def test_what_the_ledger_says_of_its_gaps_is_hashed_like_its_rows(tmp_path: Path) -> None:
    catalog = catalog_of("object-store", tmp_path)
    stream = reclaimed(catalog, 8)
    catalog.tables.drop(LEDGER)
    stream.restart_ledger()
    advance(stream, 10)
    ledger = stream.ledger
    assert ledger is not None
    rows = list(ledger.read())
    for gaps in ([], [(0, 7)], [(0, 9)], [(0, 4), (4, 8)]):
        with pytest.raises(bw.StreamCorrupted, match="step"):
            verify_rows(rows, gaps)
    assert Place.from_position(json.loads(json.dumps(ledger.place().to_position()))) == (
        ledger.place()
    )


def folder_of(ledger: Ledger | None) -> Path:
    assert ledger is not None
    return Path(ledger.table.objects.uri.removeprefix("file://"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_ledger_whose_rows_are_gone_is_discarded_where_asked_for(
    kind: str, tmp_path: Path
) -> None:
    stream = reclaimed(catalog_of(kind, tmp_path), 8)
    for path in folder_of(stream.ledger).rglob("*.parquet"):
        path.unlink()
    assert stream.ledger is not None
    with pytest.raises(bw.BatchWeaveError):
        list(stream.ledger.read())
    plan = stream.restart_ledger(discard=True, dry_run=True)
    assert (plan.gaps, plan.discarded) == (((0, 8),), True)
    with pytest.raises(bw.BatchWeaveError):
        list(stream.ledger.read())
    assert stream.restart_ledger(discard=True) == replace(plan, dry_run=False)
    check(stream, [(0, 8)])
    advance(stream, 10)
    check(stream, [(0, 8)])


def test_a_ledger_that_verifies_is_never_discarded(tmp_path: Path) -> None:
    stream = reclaimed(catalog_of("object-store", tmp_path), 8)
    assert stream.ledger is not None
    kept = list(stream.ledger.read())
    with pytest.raises(bw.InvalidInput, match="nothing is missing"):
        stream.restart_ledger(discard=True)
    assert list(stream.ledger.read()) == kept


@pytest.mark.parametrize("kind", ["object-store", "delta"])
def test_a_ledger_that_cannot_be_opened_is_deleted_by_nobody(kind: str, tmp_path: Path) -> None:
    stream = reclaimed(catalog_of(kind, tmp_path), 8)
    folder = folder_of(stream.ledger)
    for path in folder.rglob("*.json"):
        path.write_bytes(b"\0" * path.stat().st_size)
    kept = sorted(folder.rglob("*"))
    stream = catalog_of(kind, tmp_path).load_stream("demo.tokens")
    for discard in (False, True):
        with pytest.raises(bw.BatchWeaveError) as told:
            stream.restart_ledger(discard=discard)
        assert "move its table's folder away" in "".join(told.value.__notes__)
    assert sorted(folder.rglob("*")) == kept
    folder.rename(tmp_path / "damaged")
    stream.restart_ledger()
    check(stream, [(0, 8)])


def test_a_restart_that_died_halfway_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = catalog_of("object-store", tmp_path)
    stream = reclaimed(catalog, 8)
    catalog.tables.drop(LEDGER)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "give_up", _die)
        with pytest.raises(KeyboardInterrupt):
            stream.restart_ledger()
    publish(stream, 12, 2)
    stream.restart_ledger()
    check(stream, [(0, 8)])


def _die(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_batches_that_come_in_between_are_in_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = catalog_of("object-store", tmp_path)
    stream = reclaimed(catalog, 8)
    catalog.tables.drop(LEDGER)
    entries = type(stream.table).entries

    def overtaken(self: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(type(stream.table), "entries", entries)
        found = list(entries(self, *arguments))
        publish(catalog.load_stream("demo.tokens"), 12, 3)
        return found

    monkeypatch.setattr(type(stream.table), "entries", overtaken)
    stream.restart_ledger()
    assert stream.head().next_step == 15
    check(stream, [(0, 8)])


def test_a_ledger_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = catalog_of("object-store", tmp_path)
    stream = reclaimed(catalog, 4)
    monkeypatch.setattr(catalog.tables, "load", lambda name: pytest.fail(f"{name} loaded again"))
    advance(stream, 6)
    stream.sweep(grace_s=0)
    advance(stream, 9)
    check(stream, [])


def test_the_command_asks_says_what_is_given_up_and_reports_it(tmp_path: Path) -> None:
    catalog = catalog_of("object-store", tmp_path)
    reclaimed(catalog, 8)
    where = ("--warehouse", str(tmp_path))
    assert call("ledger", "restart", "demo.tokens", "--yes", *where).exit_code == 2
    catalog.tables.drop(LEDGER)
    dry = call("ledger", "restart", "demo.tokens", "--dry-run", *where)
    assert dry.exit_code == 0
    assert "steps 0 to 7 of demo.tokens would have no row for good" in dry.stdout
    refused = call("ledger", "restart", "demo.tokens", *where, input="n\n")
    assert refused.exit_code != 0
    assert catalog.load_stream("demo.tokens").ledger is None
    done = call("ledger", "restart", "demo.tokens", "--json", "--yes", *where)
    assert json.loads(done.stdout)["gaps"] == [[0, 8]]
    check(catalog.load_stream("demo.tokens"), [(0, 8)])
