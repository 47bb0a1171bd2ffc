"""Lineage answers what was published, also when the data is gone, and says what it cannot know."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha512
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

import batchweave as bw
from batchweave.cli import main
from batchweave.errors import (
    CheckpointNotFound,
    InvalidInput,
    InvalidMesh,
    SchemaMismatch,
    StreamCorrupted,
    UnsupportedType,
)
from batchweave.ledger import LedgerRow, batch_origins, lineage_text, verify_rows
from batchweave.paths import upload_version
from batchweave.sql import lineage_extents, lineage_queries
from batchweave.sql.lineage import Lineage
from batchweave.sql.lineage_answers import Answer, Occurrences
from batchweave.sql.lineage_drawing import to_dot, to_html, to_svg
from batchweave.sql.lineage_graph import End, Graph, build_graph
from batchweave.sql.lineage_layout import lay_out
from batchweave.state import from_properties, to_properties
from batchweave.table import Part
from tests.streams import QUICK, catalog_at, make_stream
from tests.watched import WatchedObjects

Properties = Callable[[str], dict[str, str]]

ODD = 'odd"name"/~\'é'
SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("shards", pa.list_(pa.uint64())),
        (ODD, pa.uint64()),
        ("lang", pa.string()),
    ]
)
DECLARED = ("doc_id", "shards", ODD)
LARGE = 2**64 - 1
STEPS = 14
CHECKPOINTS = {
    "early": (3, "run"),
    "middle": (8, "run"),
    "other": (10, "eval"),
    "late": (12, "run"),
}
HOSTILE = "o'brien\"; drop table samples; --"


@dataclass(frozen=True)
class Told:
    """One slice as it was published."""

    step: int
    slice: int
    producer: str
    source: str | None
    rows: list[dict[str, Any]]


def rows_of(step: int, at: int) -> list[dict[str, Any]]:
    return [
        {
            "doc_id": f"doc-{step}-{at}",
            "shards": [step, LARGE - at],
            ODD: LARGE - step,
            "lang": "de",
        },
        {"doc_id": "shared" if step % 4 == at else HOSTILE, "shards": [], ODD: 7, "lang": "fr"},
        {"doc_id": None, "shards": None, ODD: step, "lang": None},
    ]


def source_of(step: int) -> Any:
    """One for all slices, one each, one too long for metadata, or none."""
    kinds = [{"file": f"f-{step}"}, [f"left-{step}", "right"], "long " * 200, None, [None, "right"]]
    return kinds[step % len(kinds)]


def publish(stream: bw.Stream, steps: int = STEPS) -> list[Told]:
    """Steps of two producers in turn; what they hold."""
    told = []
    with stream.producer("p", QUICK) as p, stream.producer("q", QUICK) as q:
        for step in range(steps):
            producer = q if step % 3 == 2 else p
            slices = [rows_of(step, at) for at in range(2)]
            tables = [pa.Table.from_pylist(rows, schema=stream.schema) for rows in slices]
            source = source_of(step)
            assert producer.publish(tables, source=source).step() == step
            each = source if isinstance(source, list) else [source] * 2
            texts = [
                json.dumps(one, separators=(",", ":")) if isinstance(one, dict) else one
                for one in each
            ]
            name = "q" if producer is q else "p"
            told += [Told(step, at, name, texts[at], slices[at]) for at in range(2)]
    return told


@dataclass(frozen=True)
class World:
    """A stream, what was published to it, and its checkpoints."""

    stream: bw.Stream
    told: Sequence[Told]

    def expected(self, holds: Callable[[Told], bool]) -> list[Told]:
        return [one for one in self.told if holds(one)]


def make_world(catalog: bw.Catalog) -> World:
    stream = catalog.create_stream(
        "demo.tokens", schema=SCHEMA, mesh=bw.Mesh(dp=2), lineage_columns=DECLARED
    )
    told = publish(stream)
    for name, (next_step, consumer) in CHECKPOINTS.items():
        stream.checkpoints.register(name, next_step=next_step, consumer=consumer)
    return World(stream, told)


def reclaim(stream: bw.Stream) -> None:
    """Takes steps 0 to 9 and the checkpoints early and middle away, with their files."""
    stream.reclaim(keep_checkpoints=1, grace_s=0)
    assert stream.head().watermark == 10
    assert set(stream.head().checkpoints) == {"other", "late"}
    files = [
        one for one in stream.table.objects.list("data") if upload_version(one.path) is not None
    ]
    assert len(files) == STEPS - 10


QUESTIONS: dict[str, tuple[Callable[[Lineage], Occurrences], Callable[[Told], bool]]] = {
    "a document": (
        lambda asked: asked.document("doc_id", "doc-4-1"),
        lambda one: (one.step, one.slice) == (4, 1),
    ),
    "a document of many slices": (
        lambda asked: asked.document("doc_id", "shared"),
        lambda one: one.step % 4 == one.slice,
    ),
    "a hostile document": (
        lambda asked: asked.document("doc_id", HOSTILE),
        lambda one: one.step % 4 != one.slice,
    ),
    "no document": (lambda asked: asked.document("doc_id", "doc"), lambda one: False),
    "an item of lists": (
        lambda asked: asked.document("shards", LARGE - 1),
        lambda one: one.slice == 1 or one.step == LARGE - 1,
    ),
    "an odd column": (
        lambda asked: asked.document(ODD, LARGE - 5),
        lambda one: one.step == 5,
    ),
    "a source": (
        lambda asked: asked.source('{"file":"f-5"}'),
        lambda one: one.source == '{"file":"f-5"}',
    ),
    "a source of one slice": (
        lambda asked: asked.source("right"),
        lambda one: one.source == "right",
    ),
    "sources by their beginning": (
        lambda asked: asked.source("long long", "prefix"),
        lambda one: (one.source or "").startswith("long long"),
    ),
    "sources by a pattern": (
        lambda asked: asked.source("*f-1[0-2]*", "glob"),
        lambda one: one.step in (10,),
    ),
    "a predicate on a lineage column": (
        lambda asked: asked.where("doc_id like 'doc-1%' and slice = 1"),
        lambda one: one.slice == 1 and one.step in (1, 10, 11, 12, 13),
    ),
    "a predicate on an odd column": (
        lambda asked: asked.where('"odd""name""/~\'é" < 3 or samples.dp = 1 and step = 9'),
        lambda one: one.step < 3 or (one.step, one.slice) == (9, 1),
    ),
    "a predicate on nulls": (
        lambda asked: asked.where("doc_id is null and source = 'right'"),
        lambda one: one.source == "right",
    ),
    "a predicate on the batch": (
        lambda asked: asked.where("producer = 'q' and sequence >= 1 and source is null"),
        lambda one: one.producer == "q" and one.step > 2 and one.source is None,
    ),
}


def check(answer: Occurrences, expected: Sequence[Told], watermark: int) -> None:
    """The answer holds exactly these slices, whom they came from, and who has seen them."""
    found = answer.slices.to_pylist()
    assert [(one["step"], one["slice"]) for one in found] == [(e.step, e.slice) for e in expected]
    assert [(one["producer"], one["source"]) for one in found] == [
        (e.producer, e.source) for e in expected
    ]
    assert [one["reclaimed"] for one in found] == [e.step < watermark for e in expected]
    first = min((e.step for e in expected), default=STEPS)
    seen = {name: limit for name, (limit, _) in CHECKPOINTS.items() if limit > first}
    assert {one.checkpoint: one.next_step for one in answer.checkpoints} == seen
    for one in answer.checkpoints:
        steps = {e.step for e in expected if e.step < one.next_step}
        assert (one.steps, one.first_step, one.last_step) == (len(steps), min(steps), max(steps))
        assert one.registered == (watermark == 0 or one.checkpoint in ("other", "late"))
    for row, e in zip(found, expected, strict=True):
        later = {name for name, (limit, _) in CHECKPOINTS.items() if limit > e.step}
        assert set(row["seen_by"]) <= later
        assert (len(row["seen_by"]) == 0) == (not later)
    assert (answer.steps, answer.reclaimed_steps) == (
        len({e.step for e in expected}),
        len({e.step for e in expected if e.step < watermark}),
    )
    assert answer.complete


def check_all(world: World, watermark: int, names: Sequence[str] = tuple(QUESTIONS)) -> None:
    with Lineage(world.stream) as asked:
        for name in names:
            question, holds = QUESTIONS[name]
            check(question(asked), world.expected(holds), watermark)


def extent_of(world: World, start: int, stop: int) -> dict[str, Any]:
    """What an extent must say of producers and sources."""
    told = [one for one in world.told if start <= one.step < stop]
    mixed = {one.step for one in told if isinstance(source_of(one.step), list)}
    sources: dict[str | None, tuple[Any, ...]] = {}
    for source in {one.source for one in told}:
        own = [one for one in told if one.source == source]
        steps = sorted({one.step for one in own})
        rows = None if mixed & set(steps) else 3 * len(own)
        sources[source] = (steps[0], steps[-1], len(steps), len(own), rows)
    producers = {}
    for name in {one.producer for one in told}:
        steps = sorted({one.step for one in told if one.producer == name})
        producers[name] = (steps[0], steps[-1], len(steps), 6 * len(steps))
    return {"sources": sources, "producers": producers, "rows": 3 * len(told)}


def said_of(extent: Any) -> dict[str, Any]:
    return {
        "sources": {
            one["source"]: (
                *(one["first_step"], one["last_step"]),
                *(one["batches"], one["slices"], one["rows"]),
            )
            for one in extent.sources.to_pylist()
        },
        "producers": {
            one.producer: (one.first_step, one.last_step, one.batches, one.rows)
            for one in extent.producers
        },
        "rows": extent.rows,
    }


@pytest.mark.parametrize("kind", ["object-store", "delta"])
def test_answers_are_what_was_published_also_when_the_data_is_gone(
    kind: str, catalog_properties: Properties
) -> None:
    world = make_world(bw.load_catalog("any", **catalog_properties(kind)))
    check_all(world, 0)
    before = checkpoint_answers(world)
    reclaim(world.stream)
    check_all(world, 10)
    assert checkpoint_answers(world) == before


def checkpoint_answers(world: World) -> list[Any]:
    """What each checkpoint has seen and each two differ in, checked and told without the rest."""
    found: list[Any] = []
    gone = world.stream.head().watermark
    with Lineage(world.stream) as asked:
        for name, (next_step, _) in CHECKPOINTS.items():
            answer = asked.checkpoint(name)
            assert said_of(answer.seen) == extent_of(world, 0, next_step)
            assert (answer.seen.start, answer.seen.stop) == (0, next_step)
            assert answer.seen.reclaimed == min(gone, next_step)
            found.append((said_of(answer.seen), answer.seen.bytes))
        for a, b in (("early", "late"), ("late", "early"), ("middle", "other"), ("late", "late")):
            difference = asked.difference(a, b)
            below, above = sorted((CHECKPOINTS[a][0], CHECKPOINTS[b][0]))
            ahead, behind = difference.only_b, difference.only_a
            if CHECKPOINTS[a][0] > CHECKPOINTS[b][0]:
                ahead, behind = behind, ahead
            assert (ahead.start, ahead.stop, behind.steps) == (below, above, 0)
            assert said_of(ahead) == extent_of(world, below, above)
            found.append(said_of(ahead))
    return found


# -- worlds that are only read -----------------------------------------------------------------


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(catalog_at(tmp_path_factory.mktemp("live")))


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(catalog_at(tmp_path_factory.mktemp("gone")))
    reclaim(world.stream)
    return world


@pytest.fixture(scope="module")
def asked(gone: World) -> Iterator[Lineage]:
    with Lineage(gone.stream) as found:
        yield found


def test_what_cannot_be_asked_is_said(asked: Lineage) -> None:
    for answer, why in (
        (asked.where("lang = 'de'"), "nothing of lang"),
        (asked.document("lang", "de"), "lang is not a lineage column"),
        (asked.where(f'doc_id is null and "{ODD.replace(chr(34), chr(34) * 2)}" = 7'), "each by"),
        (asked.where("len(shards) > 1"), "the items of shards"),
        (asked.where("digest = 'x' or step < 3"), "nothing of digest"),
    ):
        assert not answer.complete
        assert all(step >= 10 for step in answer.slices["step"].to_pylist())
        (sentence,) = answer.unasked
        assert sentence.startswith("Not known of steps 0 to 9: their data is reclaimed, and ")
        assert why in sentence
        for form in (answer.to_svg(), answer.to_html(), answer.to_dot()):
            assert "Not known of steps 0 to 9" in form
        assert answer.to_dict()["unasked"] == [sentence]
    assert asked.where("lang = 'de'").steps == STEPS - 10


def test_nothing_is_left_unsaid_where_all_is_live(live: World) -> None:
    with Lineage(live.stream) as found:
        answer = found.where("lang = 'de' and len(shards) = 2")
        assert (answer.complete, answer.steps, answer.caption.count("ledger")) == (True, STEPS, 0)
        assert answer.slices["rows"].to_pylist() == [1] * 2 * STEPS


def test_sources_that_only_files_know_are_read_up_to_a_limit_and_it_is_said(live: World) -> None:
    with Lineage(live.stream, files_max=3) as found:
        answer = found.checkpoint("late")
    known = set(answer.seen.sources["source"].to_pylist())
    assert known == {one.source for one in live.told if one.step % 5 == 0 and one.step < 12}
    assert re.search(r"Where 9 live steps came from stands in 9 data files alone", answer.caption)
    assert (answer.seen.steps, answer.seen.rows) == (12, 72)


@pytest.mark.parametrize(
    ("world_size", "ranks"),
    [(None, None), (1, [0]), (2, [1]), (6, [3, 4, 5])],
)
def test_ranks_are_those_that_the_mesh_deals_the_slice_to(
    asked: Lineage, world_size: int | None, ranks: list[int] | None
) -> None:
    answer = asked.document("doc_id", "doc-4-1", world_size=world_size)
    assert answer.slices["ranks"].to_pylist() == [ranks]
    if world_size and ranks:
        mesh = bw.Mesh(dp=2)
        reading = [r for r in range(world_size) if 1 in mesh.share(r, world_size).slices]
        assert reading == ranks


def test_an_older_moment_has_its_own_answer(gone: World) -> None:
    with Lineage(gone.stream, 9) as then:
        answer = then.document("doc_id", "shared")
        assert max(answer.slices["step"].to_pylist()) == 8
        # "late" had not seen anything then, and the ledger's rows of later steps are not asked.
        assert [one.checkpoint for one in answer.checkpoints] == ["early", "middle"]
        with pytest.raises(CheckpointNotFound, match="late"):
            then.checkpoint("late")


def test_an_unknown_checkpoint_is_refused_with_those_that_are_known(asked: Lineage) -> None:
    for name in ("nobody", "late' or '1'='1", ""):
        with pytest.raises(CheckpointNotFound, match="early, middle, other, late"):
            asked.checkpoint(name)
        with pytest.raises(CheckpointNotFound):
            asked.difference("late", name)


# -- nothing can be smuggled in ----------------------------------------------------------------


@pytest.mark.parametrize(
    "predicate",
    [
        "true; drop view samples",
        "1=1) or (1=1",
        "true) from samples; --",
        "doc_id = 'a' from batches",
        "doc_id in (select doc_id from samples)",
        "exists (from read_text('/etc/hostname'))",
        "(select count(*) from duckdb_secrets()) > 0",
        "true where false",
        "true limit 1",
        "true union select true",
        "count(*) > 1",
        "row_number() over () = 1",
        "COLUMNS(*) is null",
        "*",
        "doc_id = $1",
        "doc_id = ?",
        "true as samples",
        "true, true",
        "doc_id",
        "42",
        "null",
        "nobody = 1",
        "other.doc_id = 'a'",
        "",
        "   -- nothing",
        "true /* open",
    ],
)
def test_a_predicate_is_one_boolean_expression_on_a_row_or_refused(
    asked: Lineage, predicate: str
) -> None:
    with pytest.raises(InvalidInput):
        asked.where(predicate)
    assert asked.document("doc_id", "doc-4-1").steps == 1


def test_a_comment_or_quotes_in_a_predicate_are_what_sql_says_they_are(asked: Lineage) -> None:
    assert asked.where("doc_id = 'doc-4-1' -- or true").steps == 1
    assert asked.where("doc_id = 'x'' or ''1''=''1'").steps == 0
    assert asked.where("len(list_filter([doc_id], lambda one: one = 'doc-4-1')) = 1").steps == 1


@pytest.mark.parametrize(
    "value", ["' or true --", "doc-4-1' or '1'='1", "%", "doc*", "\x00", "\\", '"']
)
def test_a_value_is_a_value_whatever_it_looks_like(asked: Lineage, value: str) -> None:
    answer = asked.document("doc_id", value)
    assert (answer.steps, answer.complete) == (0, True)
    assert asked.source(value).steps == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("nobody", "a"),
        ("doc_id\" = '' or true --", "a"),
        ("step", 1),
        ("doc_id", 1),
        ("doc_id", None),
        ("shards", "1"),
        ("shards", True),
        ("shards", 1.5),
        ("shards", -1),
        (ODD, LARGE + 1),
        (ODD, 2**200),
        pytest.param(ODD, -(10**5000), id="huge"),
    ],
)
def test_a_wrong_column_or_value_is_refused(asked: Lineage, column: str, value: Any) -> None:
    with pytest.raises(InvalidInput):
        asked.document(column, value)


@pytest.mark.parametrize(
    ("text", "match", "sources"),
    [
        ("left-", "exact", 3),  # in the ledger and in a data file
        ("eft-", "prefix", 3),
        ("left-", "glob", 3),
        ("eft-?", "glob", 3),
        ("f-5", "exact", 1),
        ("nowhere", "exact", 0),
    ],
)
def test_what_no_source_is_but_sources_contain_is_said(
    asked: Lineage, text: str, match: Any, sources: int
) -> None:
    answer = asked.source(text, match)
    assert (answer.steps, answer.near_sources, answer.complete) == (0, sources, True)
    assert answer.to_dict()["near_sources"] == sources
    (listing,) = answer.listings()
    if not sources:
        assert "It is in no slice. No source contains it either." in answer.told
        assert listing.title == "No checkpoint has seen it"
        return
    assert "no slice" not in answer.told
    assert listing.title.startswith("No checkpoint was looked for")
    found = re.search(r"but (\d) contains? it: ask again with --glob '(.*?)'\.", answer.told)
    assert found is not None
    assert int(found[1]) == sources
    again = asked.source(found[2], "glob")
    assert len(set(again.slices["source"].to_pylist())) == sources


def test_data_files_are_not_all_read_for_what_sources_contain(gone: World) -> None:
    with Lineage(gone.stream, files_max=2) as found:
        told = found.source("left-").told
        assert "No source is exactly 'left-', but at least 2 contain it" in told
        assert "either" not in found.source("nowhere").told


def test_signs_of_patterns_in_a_text_are_themselves(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        for source in ("a*b", "a?b", "a[b", "a\\b", "axb"):
            producer.publish([{"tokens": [[1]]}] * 2, source=source).step()
    with Lineage(stream) as found:
        for text in ("*b", "?b", "[b", "\\b"):
            assert found.source(text).near_sources == 1, text
        assert found.source("b").near_sources == 5
        assert found.source("").near_sources == 0


def test_a_wrong_way_to_ask_is_refused(asked: Lineage) -> None:
    wrong: Any = "regexp"
    with pytest.raises(InvalidInput, match="exact, prefix, glob"):
        asked.source("a", wrong)
    with pytest.raises(InvalidMesh):
        asked.document("doc_id", "a", world_size=3)
    for size in (0, -1):
        with pytest.raises(InvalidMesh):
            asked.source("a", world_size=size)
    sizes: list[Any] = [2**21, True, "2"]
    for wrong_size in sizes:
        with pytest.raises(InvalidInput):
            asked.where("true", world_size=wrong_size)


# -- wrong answers are found -------------------------------------------------------------------


@contextmanager
def planted(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A defect that makes an answer wrong."""
    with monkeypatch.context() as patch:
        file = lineage_queries._file
        if name == "another slice in the ledger":
            wrong = ("lineage[place + 1]", f"lineage[{2} - place]")
            patch.setattr(lineage_queries, "_file", lambda one: file(one).replace(*wrong))
        elif name == "another source in the ledger":
            wrong = ("sources[place + 1]", "sources[1]")
            patch.setattr(lineage_queries, "_file", lambda one: file(one).replace(*wrong))
        elif name == "no ledger":
            wrong = ("place from ledger", "place from ledger where false")
            patch.setattr(lineage_queries, "_file", lambda one: file(one).replace(*wrong))
        elif name == "dropped checkpoints forgotten":
            wrong = ("where checkpoint is not null", "where false")
            patch.setattr(lineage_queries, "_file", lambda one: file(one).replace(*wrong))
        elif name == "files not read":
            wrong = ("source is null", "false")
            patch.setattr(lineage_queries, "_file", lambda one: file(one).replace(*wrong))
        elif name == "a checkpoint that sees its own next step":
            has_seen = lineage_extents.Known.has_seen
            patch.setattr(
                lineage_extents.Known,
                "has_seen",
                lambda known, steps: has_seen(replace(known, next_step=known.next_step + 1), steps),
            )
        yield


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("another slice in the ledger", "a document"),
        ("another source in the ledger", "a source of one slice"),
        ("no ledger", "a predicate on nulls"),
        ("dropped checkpoints forgotten", "a document"),
        ("files not read", "a source of one slice"),
        ("a checkpoint that sees its own next step", "a document"),
    ],
)
def test_a_planted_wrong_answer_is_found(
    name: str, question: str, gone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_all(gone, 10, [question])
    with planted(name, monkeypatch), pytest.raises(AssertionError):
        check_all(gone, 10, [question])


# -- declaring columns, and what the ledger keeps ----------------------------------------------


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("nobody",), SchemaMismatch),
        (("DOC",), SchemaMismatch),
        (("doc", "doc"), SchemaMismatch),
        ("doc", SchemaMismatch),
        ((1,), SchemaMismatch),
        (("step",), SchemaMismatch),
        (("score",), UnsupportedType),
        (("blob",), UnsupportedType),
        (("deep",), UnsupportedType),
        (("when",), UnsupportedType),
        (("pair",), UnsupportedType),
    ],
)
def test_a_column_that_cannot_tell_lineage_is_refused_and_nothing_is_made(
    tmp_path: Path, names: Any, error: type[Exception]
) -> None:
    schema = pa.schema(
        [
            ("doc", pa.string()),
            ("score", pa.float32()),
            ("blob", pa.binary()),
            ("deep", pa.list_(pa.list_(pa.string()))),
            ("when", pa.timestamp("us")),
            ("pair", pa.struct([("a", pa.string())])),
        ]
    )
    catalog = catalog_at(tmp_path)
    with pytest.raises(error):
        catalog.create_stream("a.b", schema=schema, mesh=bw.Mesh(dp=1), lineage_columns=names)
    assert catalog.list_streams() == []


@pytest.mark.parametrize("kind", ["object-store", "delta"])
def test_declared_columns_stay_with_the_stream(kind: str, catalog_properties: Properties) -> None:
    properties = catalog_properties(kind)
    catalog = bw.load_catalog("any", **properties)
    types = [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.list_(pa.int16(), 2)]
    schema = pa.schema([(f"c{at}", one) for at, one in enumerate(types)])
    made = catalog.create_stream(
        "a.b", schema=schema, mesh=bw.Mesh(dp=1), lineage_columns=["c2", "c0", "c1"]
    )
    with made.producer("p", QUICK) as producer:
        rows = {"c0": ["x", None, "x"], "c1": ["é", "y", "é"], "c2": [[3, 1], [1, 2], [3, 3]]}
        producer.publish([pa.table(rows, schema=schema)])
    loaded = bw.load_catalog("any", **properties).load_stream("a.b")
    assert loaded.lineage_columns == made.lineage_columns == ("c2", "c0", "c1")
    assert from_properties(to_properties(loaded.head()), "t") == loaded.head()
    (entry,) = loaded.batches()
    origins = batch_origins(loaded.table, entry, loaded.lineage_columns)
    assert origins.lineage == ('{"c2":[3,1,2],"c0":["x",null],"c1":["é","y"]}',)


def test_a_stream_that_declares_none_has_none_in_its_ledger(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        producer.publish([{"tokens": [[1]]}] * 2)
    stream.checkpoints.register("all", next_step=1)
    stream.reclaim(grace_s=0)
    assert stream.lineage_columns == ()
    assert [row.lineage for row in ledger_rows(stream)] == [None]


def ledger_rows(stream: bw.Stream) -> list[LedgerRow]:
    assert stream.ledger is not None
    return list(stream.ledger.read())


def test_the_ledger_keeps_values_in_order_and_the_commit(gone: World) -> None:
    rows = ledger_rows(gone.stream)
    for row in rows:
        told = [pa.Table.from_pylist(rows_of(row.step, at), schema=SCHEMA) for at in range(2)]
        assert row.lineage == tuple(lineage_text(one, DECLARED) for one in told)
        assert json.loads(row.lineage[1])["shards"] == [row.step, LARGE - 1]
    versions = [row.version for row in rows]
    assert versions == sorted(versions)
    assert len(set(versions)) == len(versions)
    assert min(versions) > 0


@pytest.mark.parametrize(
    "changed",
    [
        {"lineage": ('{"doc_id":["forged"]}', "{}")},
        {"lineage": None},
        {"version": 99},
    ],
)
def test_a_changed_lineage_or_version_in_the_ledger_is_found(
    gone: World, changed: dict[str, Any]
) -> None:
    rows = ledger_rows(gone.stream)
    verify_rows(rows)
    rows[4] = replace(rows[4], **changed)
    with pytest.raises(StreamCorrupted, match="row of step 4 was changed"):
        verify_rows(rows)


def test_recording_reads_the_lineage_columns_and_no_others(tmp_path: Path) -> None:
    schema = pa.schema(
        [("text", pa.string()), ("ids", pa.list_(pa.string())), ("more", pa.string())]
    )
    stream = catalog_at(tmp_path).create_stream(
        "a.b", schema=schema, mesh=bw.Mesh(dp=2), lineage_columns=("ids",)
    )
    with stream.producer("p", QUICK) as producer:
        large = [sha512(bytes([at])).hexdigest() * 2 for at in range(200)]
        rows = {"text": large, "ids": [["a", "b"]] * 200, "more": large}
        producer.publish([rows, rows], source=["one", "two"])
    (entry,) = stream.batches()
    read = _Ranges(stream.table.objects)
    table: Any = _Over(stream.table, read)
    origins = batch_origins(table, entry, ("ids",))
    assert origins.sources == ("one", "two")
    assert origins.lineage == ('{"ids":["a","b"]}',) * 2
    (part,) = entry.parts
    footer = part.bytes - part.data_end
    assert read.bytes <= footer + part.column_bytes[1] + part.column_bytes[4]
    assert read.bytes < 0.2 * part.bytes


class _Over:
    """A table whose objects are others."""

    def __init__(self, table: Any, objects: Any) -> None:
        self.table = table
        self.objects = objects


class _Ranges(WatchedObjects):
    """Counts the bytes of ranges."""

    bytes = 0

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Any:
        self.bytes += sum(length for _, length in ranges)
        return super().get_ranges(path, ranges)


def test_a_damaged_lineage_column_is_not_recorded(tmp_path: Path) -> None:
    world = make_world(catalog_at(tmp_path))
    part = next(iter(world.stream.batches())).parts[0]
    _damage(tmp_path / "demo" / "tokens" / part.path, part)
    with pytest.raises(StreamCorrupted, match="cannot be read"):
        world.stream.reclaim(grace_s=0)
    assert world.stream.head().watermark == 0


def _damage(path: Path, part: Part) -> None:
    """Changes a letter of the first document's ID."""
    data = bytearray(path.read_bytes())
    at = data.index(b"doc-0-0", part.offsets[0])
    data[at] ^= 1
    path.write_bytes(data)


# -- pictures ----------------------------------------------------------------------------------

LABELS = [
    '<b>&"x"</b>',
    "a\\b\nc",
    "\x00\x1b[31m\u202e",
    "'; drop --",
    "漢字" * 12,
    "x" * 300,
    "]]>",
]


def hostile_graph() -> Graph:
    steps = pa.table(
        {
            "step": pa.array(range(7), pa.int64()),
            "producer": [f"p{at % 2}" for at in range(7)],
            "reclaimed": [at < 3 for at in range(7)],
        }
    )
    origins = pa.table({"step": pa.array(range(7), pa.int64()), "source": LABELS})
    return build_graph(steps, origins, [End(LABELS[0], "run", 5), End("end", "run", 7)])


def test_an_svg_is_well_formed_and_says_everything_escaped() -> None:
    text = to_svg(hostile_graph(), "Title <of> & it", "caption <script>alert(1)</script>")
    root = ElementTree.fromstring(text)
    said = [one.text or "" for one in root.iter()]
    assert said.count("Title <of> & it") == 2
    assert any("<script>alert(1)</script>" in one for one in said)
    assert "<script" not in text
    for label in ('<b>&"x"</b>', "a\\b\\nc", "\\u0000\\u001b[31m\\u202e", "'; drop --", "]]>"):
        assert label in said, label
    assert any("x" * 300 in one for one in said)  # whole where one points at it, short in the box
    assert not any(ord(sign) < 32 and sign != "\n" for sign in text)


def test_boxes_do_not_overlap_and_lines_end_at_them() -> None:
    layout = lay_out(hostile_graph())
    boxes = list(layout.boxes.values())
    for at, one in enumerate(boxes):
        assert one.left >= 0
        assert one.left + one.width <= layout.width
        assert one.top + one.height <= layout.height
        for other in boxes[at + 1 :]:
            apart = one.left != other.left or abs(one.middle - other.middle) >= (
                (one.height + other.height) / 2
            )
            assert apart, (one.node.label, other.node.label)
    for line in layout.lines:
        start, end = layout.boxes[line.edge.start], layout.boxes[line.edge.end]
        assert (
            start.top <= line.start[1] - line.width / 2 <= line.start[1] <= start.top + start.height
        )
        assert end.top <= line.end[1] - line.width / 2 <= line.end[1] <= end.top + end.height
        assert line.start[0] < line.end[0]


DOT_STRING = r'"(?:[^"\\]|\\.)*"'
DOT_ATTRIBUTES = rf"(?:\[\w+={DOT_STRING}(?:, \w+={DOT_STRING})*\])"
DOT_LINE = re.compile(
    rf"  (?:rankdir=LR|label={DOT_STRING}|labelloc={DOT_STRING}|node {DOT_ATTRIBUTES}"
    rf"|{DOT_STRING} {DOT_ATTRIBUTES}|{DOT_STRING} -> {DOT_STRING} \[label={DOT_STRING}, "
    rf"penwidth=[\d.]+\]|\{{ rank=same; (?:{DOT_STRING}; )*\}});?"
)


def test_dot_is_one_graph_of_quoted_names() -> None:
    graph = hostile_graph()
    text = to_dot(graph, 'a "title"', "line\\")
    first, *lines, last = text.rstrip("\n").split("\n")
    assert (first, last) == ("digraph lineage {", "}")
    for line in lines:
        assert DOT_LINE.fullmatch(line), line
    assert sum(" -> " in line for line in lines) == len(graph.edges)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "onload")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_needs_nothing_else_and_runs_nothing(asked: Lineage) -> None:
    answer = asked.document("doc_id", HOSTILE, world_size=4)
    text = to_html(hostile_graph(), "<t>", "<c>", ["<note>"], list(answer.listings()))
    page = _Page()
    page.feed(text)
    assert not {"script", "link", "img", "iframe", "object", "b", "note"} & set(page.tags)
    assert page.links == []
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert "<note>" in page.text
    assert page.tags.count("tr") == 2 + len(answer.checkpoints) + answer.slices.num_rows


@pytest.mark.parametrize("kind", ["source", "producer", "steps", "checkpoint"])
def test_a_graph_has_a_bounded_number_of_nodes_and_says_how_many_more(kind: Any) -> None:
    count = 40
    steps = pa.table(
        {
            "step": pa.array(range(0, 2 * count, 2), pa.int64()),
            "producer": [f"p{at}" for at in range(count)],
            "reclaimed": [False] * count,
        }
    )
    origins = pa.table({"step": steps["step"], "source": [f"s{at}" for at in range(count)]})
    ends = [End(f"c{at}", "run", 2 * count + at) for at in range(count)]
    graph = build_graph(steps, origins, ends, 12)
    nodes = graph.of(kind)
    assert len(nodes) == 12
    assert nodes[-1].more == count - 11
    assert nodes[-1].label.startswith("and 29 more")
    into = {"source": "producer", "producer": "steps", "steps": "checkpoint"}
    if kind in into:
        carried = [edge.steps for edge in graph.edges if edge.start.startswith(kind)]
        assert sum(carried) == (count if kind != "steps" else count * 12)


def test_neighbouring_steps_are_one_range_up_to_the_watermark_and_each_checkpoint() -> None:
    steps = [*range(10), 20, 21, 30]
    table = pa.table(
        {
            "step": pa.array(steps, pa.int64()),
            "producer": ["p"] * len(steps),
            "reclaimed": [step < 4 for step in steps],
        }
    )
    origins = pa.table({"step": table["step"], "source": pa.nulls(len(steps), pa.string())})
    graph = build_graph(table, origins, [End("a", "", 8), End("b", "", 21)])
    assert [(node.label, node.reclaimed) for node in graph.of("steps")] == [
        ("steps 0 to 3", True),
        ("steps 4 to 7", False),
        ("steps 8 to 9", False),
        ("step 20", False),
        ("step 21", False),
        ("step 30", False),
    ]
    seen = {(edge.start, edge.end): edge.steps for edge in graph.edges}
    assert {edge: n for edge, n in seen.items() if edge[1].startswith("checkpoint")} == {
        ("steps-0", "checkpoint-0"): 4,
        ("steps-1", "checkpoint-0"): 4,
        ("steps-0", "checkpoint-1"): 4,
        ("steps-1", "checkpoint-1"): 4,
        ("steps-2", "checkpoint-1"): 2,
        ("steps-3", "checkpoint-1"): 1,
    }
    assert [node.label for node in graph.of("source")] == ["no source given"]


# -- the command line --------------------------------------------------------------------------


def call(folder: Path, *arguments: str) -> Result:
    env = {"BATCHWEAVE_WAREHOUSE": str(folder), "BATCHWEAVE_CATALOG": None}
    return CliRunner().invoke(main, list(arguments), env={**env, "PYICEBERG_HOME": "/nowhere"})


def folder_of(world: World) -> Path:
    return Path(world.stream.table.objects.uri.removeprefix("file://")).parent.parent


def test_which_checkpoints_were_trained_on_this_document(gone: World) -> None:
    result = call(folder_of(gone), "lineage", "demo.tokens", "document", "doc_id", "doc-4-1")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    at = next(at for at, line in enumerate(lines) if line[:3] == ["Checkpoints", "that", "have"])
    names = [line[0] for line in lines[at + 2 : at + 5]]
    assert names == ["middle", "other", "late"]
    assert "the ledger remembers those that were dropped" in result.stdout
    assert lines[at + 2][-1] == "dropped"


def test_every_question_and_form_of_the_command(gone: World, tmp_path: Path) -> None:
    folder = folder_of(gone)
    for question, form in (
        (["checkpoint", "late"], "json"),
        (["source", "--prefix", "left"], "svg"),
        (["source", "--glob", "*f-1?*", "--world-size", "2"], "json"),
        (["where", "doc_id is null"], "html"),
        (["diff", "early", "other"], "dot"),
        (["document", ODD, str(LARGE - 5)], "table"),
    ):
        output = tmp_path / f"answer.{form}"
        arguments = ["lineage", "demo.tokens", *question, "--format", form]
        shown = call(folder, *arguments)
        assert shown.exit_code == 0, shown.output
        if form == "json":
            assert json.loads(shown.stdout)["complete"]
        elif form == "svg":
            ElementTree.fromstring(shown.stdout)
        if form in ("table", "svg"):
            written = call(folder, *arguments, "--output", str(output))
            assert (written.exit_code, written.stdout) == (0, "")
            assert output.read_text() == shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("document", "shards", "x"), 2, "has integers"),
        (("document", "nobody", "x"), 2, "no column 'nobody'"),
        (("where", "true; drop view samples"), 2, "more than one expression"),
        (("checkpoint", "nobody"), 1, "early, middle, other, late"),
        (("document", "shards", str(LARGE + 1)), 2, f"integers from 0 to {LARGE}"),
        (("diff", "late"), 2, ""),
        (("document", "doc_id", "a", "--output", "/nowhere/at/all"), 2, "no folder"),
        (("document", "doc_id", "a", "--world-size", "3"), 2, "cannot be dealt"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    gone: World, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = call(folder_of(gone), "lineage", "demo.tokens", *arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_part_of_a_source_gets_no_confident_no(gone: World) -> None:
    said = call(folder_of(gone), "lineage", "demo.tokens", "source", "left-").stdout
    wanted = "No source is exactly 'left-', but 3 contain it: ask again with --glob '*left-*'."
    assert wanted in said
    assert "No checkpoint has seen" not in said


def test_tables_keep_their_headers_at_80_columns(
    gone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchweave.cli.output.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    for question, headers in (
        (["checkpoint", "late"], ["batches slices steps rows source"]),
        (
            ["source", "--glob", "*"],
            [
                "checkpoint consumer next step found in steps registered",
                "step slice producer seen by from source",
            ],
        ),
        (
            ["document", "doc_id", "shared", "--world-size", "2"],
            ["step slice ranks producer rows seen by from source"],
        ),
    ):
        said = call(folder_of(gone), "lineage", "demo.tokens", *question).stdout
        lines = [" ".join(line.split()) for line in said.splitlines()]
        for header in headers:
            assert header in lines, said
        assert all(len(line) <= 80 for line in said.splitlines() if "─" in line)


def test_long_lists_are_shown_in_part_and_whole_when_asked_for(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    with stream.producer("p", QUICK) as producer:
        for step in range(32):
            producer.publish([{"tokens": [[1]]}] * 2, source=f"s-{step:02}").step()
    stream.checkpoints.register("a", next_step=0)
    stream.checkpoints.register("b", next_step=32)
    ask = ("lineage", stream.name)
    for question in (["checkpoint", "b"], ["diff", "a", "b"]):
        shown = call(tmp_path, *ask, *question).stdout
        assert "\n… 12 more: --all shows them, --format json has all\n" in shown
        assert len(re.findall(r"s-\d\d$", shown, re.MULTILINE)) == 20
        assert "32 steps, all live" in shown
        whole = call(tmp_path, *ask, *question, "--all").stdout
        assert len(re.findall(r"s-\d\d$", whole, re.MULTILINE)) == 32
        assert "more" not in whole


def test_what_the_ledger_tells_is_counted_in_words(gone: World) -> None:
    for name, words in (
        ("early", "3 steps, all from the ledger"),
        ("late", "12 steps, 10 of them from the ledger"),
    ):
        assert words in call(folder_of(gone), "lineage", "demo.tokens", "checkpoint", name).stdout


def test_a_question_before_the_stream_is_told_where_the_stream_stands(gone: World) -> None:
    result = call(folder_of(gone), "lineage", "document", "demo.tokens", "doc_id", "a")
    assert result.exit_code == 2
    assert "the stream comes first: batchweave lineage STREAM document …" in result.stderr
    result = call(folder_of(gone), "lineage", "demo.tokens", "nothing")
    assert "No such command 'nothing'" in result.stderr


@pytest.mark.parametrize("question", ["checkpoint", "document", "source", "where", "diff"])
def test_every_question_is_explained(tmp_path: Path, question: str) -> None:
    result = call(tmp_path, "lineage", "demo.tokens", question, "--help")
    assert result.exit_code == 0
    for option in ("--warehouse", "--format", "--output", "--at"):
        assert option in result.output


def test_columns_are_declared_and_shown_on_the_command_line(tmp_path: Path) -> None:
    create = ("create", "demo.tokens", "--mesh", "dp=2", "--column", "doc=string")
    refused = call(tmp_path, *create, "--lineage-column", "nobody")
    assert (refused.exit_code, "'nobody'" in refused.stderr) == (2, True)
    made = call(tmp_path, *create, "--lineage-column", "doc")
    assert made.stdout.endswith("columns doc, lineage of doc\n")
    described = call(tmp_path, "describe", "demo.tokens")
    assert re.search(r"^  lineage +doc$", described.stdout, re.MULTILINE)
    as_json = json.loads(call(tmp_path, "describe", "demo.tokens", "--json").stdout)
    assert as_json["lineage_columns"] == ["doc"]


def test_an_empty_stream_has_an_answer(tmp_path: Path) -> None:
    stream = make_stream(tmp_path)
    stream.checkpoints.register("none", next_step=0)
    with Lineage(stream) as found:
        answers: list[Answer] = [
            found.checkpoint("none"),
            found.difference("none", "none"),
            found.source("a"),
            found.where("true"),
        ]
    for answer in answers:
        assert (answer.complete, answer.to_arrow().num_rows) == (True, 0)
        ElementTree.fromstring(answer.to_svg())
