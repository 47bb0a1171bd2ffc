"""Audits of streams that an assembler made: what was published twice is found, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import batchweave as bw
from batchweave.assemble import (
    Assembler,
    FileSource,
    FixedRows,
    PackedRows,
    TableSource,
    TokenBudget,
    publish,
)
from batchweave.sql.audit import audit
from batchweave.sql.audit_report import AuditReport
from batchweave.sql.audit_sources import Span, said_by
from tests.assembling import documents
from tests.audited import evidence, failed
from tests.streams import QUICK, catalog_at

WHOLE = "sources.whole"


def files(folder: Path, rows: int = 24) -> FileSource:
    """Two files of documents."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for name in "ab":
            pq.write_table(documents(rows, name=name, longest=20), folder / f"{name}.parquet")
    return FileSource(str(folder))


def published(folder: Path, *assemblers: Assembler, slices: int = 1, most: int = 12) -> bw.Stream:
    """A stream of which producer ``p0`` published the first assembler's batches, and so on."""
    stream = catalog_at(folder / "warehouse").create_stream(
        "demo.packed", schema=assemblers[0].schema, mesh=bw.Mesh(dp=slices)
    )
    for number, assembler in enumerate(assemblers):
        with stream.producer(f"p{number}", QUICK) as producer:
            publish(assembler, producer, batches_max=most)
    return stream


def checked(stream: bw.Stream, deep: bool = True) -> AuditReport:
    return audit(stream, deep=deep, only=["sources", "positions"], parameters={WHOLE: True})


@pytest.mark.parametrize("slices", [1, 2])
def test_files_that_two_producers_published_are_found(tmp_path: Path, slices: int) -> None:
    made = [Assembler(files(tmp_path / "in"), FixedRows(4), slices) for _ in "pq"]
    stream = published(tmp_path, *made, slices=slices, most=3)
    # Where slices have sources of their own, the data files alone tell them.
    report = checked(stream, deep=slices > 1)
    assert failed(report) == {"sources"}
    found = evidence(report, "sources")
    assert [(row["start"], row["stop"]) for row in found] == [
        (at, at + 4 * slices) for at in range(0, 12 * slices, 4 * slices)
    ]
    assert [row["steps"] for row in found] == [[0, 3], [1, 4], [2, 5]]
    assert '"in": "a.parquet"' in found[0]["source"]
    assert '"source": "data"' in found[0]["source"]
    assert report["sources"].note == ""
    assert "2 of 2 positions cannot be compared" in report["positions"].note


def two(folder: Path) -> dict[str, Any]:
    return {"web": files(folder / "web"), "code": TableSource(documents(30, longest=20))}


Make = Callable[[Path], list[Assembler]]
SOUND: dict[str, tuple[Make, bool]] = {
    "in order": (lambda at: [Assembler(files(at / "in"), FixedRows(4), 2)], False),
    "shuffled": (lambda at: [Assembler(files(at / "in"), FixedRows(4), 2, shuffle_window=9)], True),
    "mixed": (
        lambda at: [Assembler(two(at), FixedRows(4), 2, weights={"web": 3, "code": 1})],
        False,
    ),
    "packed": (lambda at: [Assembler(files(at / "in", rows=40), PackedRows(tokens=24), 2)], True),
    "split": (
        lambda at: [
            Assembler(files(at / "in"), PackedRows(tokens=7, long="split", lookahead=3), 2)
        ],
        True,
    ),
    "budget": (
        lambda at: [Assembler(files(at / "in"), TokenBudget(tokens=40, lookahead=4), 2)],
        True,
    ),
    "repeated": (
        lambda at: [Assembler(files(at / "in", rows=9), FixedRows(3), 2, at_end="repeat")],
        False,
    ),
    "namesakes": (
        lambda at: [Assembler(files(at / name), FixedRows(4), 2) for name in ("0", "1")],
        False,
    ),
    "tables": (
        lambda at: [
            Assembler(TableSource(documents(30, name=name)), FixedRows(4), 2) for name in "ab"
        ],
        False,
    ),
}


@pytest.mark.parametrize(("make", "gaps"), SOUND.values(), ids=SOUND)
def test_what_an_assembler_may_do_is_no_fault(tmp_path: Path, make: Make, gaps: bool) -> None:
    stream = published(tmp_path, *make(tmp_path), slices=2)
    assert stream.head().next_step > 1
    report = checked(stream)
    assert failed(report) == set(), evidence(report, "sources")
    assert ("sources name no range" in report["sources"].note) == gaps
    assert "a deep audit reads them" in checked(stream, deep=False)["sources"].note


def text(rows: list[Any], **more: Any) -> str:
    return json.dumps({"rows": rows, **more})


def test_a_place_is_a_range_only_where_all_its_rows_are_there_and_whole() -> None:
    def spans(**changed: Any) -> tuple[list[tuple[int, int]], bool]:
        place = {"source": "web", "in": "a", "id": "x", "first": 3, "last": 5, "rows": 3}
        said = said_by(text([place | changed]), "p")
        assert said.assembled
        return [(one.start, one.stop) for one in said.spans], said.complete

    assert spans() == ([(3, 6)], True)
    for odd in ({"rows": 2}, {"pieces": 1}, {"last": None}, {"first": "3"}, {"rows": 0}):
        assert spans(**odd) == ([], False)
    one = {"source": "web", "in": "a", "first": 3, "last": 3, "rows": 1}
    thing = '{"in": "a", "producer": "p", "source": "web"}'
    assert said_by(text([one]), "p").spans == [Span(thing, 3, 4)]
    assert not said_by(text([one], more={"places": 2, "rows": 9}), "p").complete
    assert not said_by(text([one, 7]), "p").complete
