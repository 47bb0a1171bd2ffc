"""The README's questions have the same, right answers on every format, catalog and store."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import batchweave as bw
from batchweave.demo import corpus, producer
from tests.readme import commands, parse

README = Path(__file__).resolve().parent.parent / "README.md"
KINDS = ("object-store", "rest", "delta-s3")
FILES = 40
A, B = 8, 20
QUERY = re.compile(r'sql demo\.stdlib "((?:[^"\\]|\\.)*)"(?: --at (\S+))?', re.DOTALL)


@dataclass
class Expected:
    """What must be in the stream, by the plan alone. Chunks are (path, offset, bytes)."""

    plan: corpus.Plan
    steps: list[tuple[str, int, list[list[tuple[str, int, int]]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for index in range(corpus.PRODUCERS):
            for number, (slices, _) in enumerate(corpus.batches_from(self.plan, index, None)):
                laid = [[(c.path, c.offset, len(c.data)) for c in chunks] for chunks in slices]
                self.steps.append((f"producer-{index}", number, laid))

    def chunks(self, start: int = 0, stop: int | None = None) -> list[tuple[str, int, int]]:
        """All chunks of a range of steps."""
        chosen = self.steps[start:stop]
        return [chunk for _, _, slices in chosen for chunks in slices for chunk in chunks]

    def tokens(self) -> list[tuple[str, int]]:
        """Tokens of each producer."""
        found: dict[str, int] = {}
        for name, _, slices in self.steps:
            found[name] = found.get(name, 0) + sum(size for one in slices for _, _, size in one)
        return sorted(found.items())


def questions() -> list[tuple[str, str | None]]:
    """The queries of the README's commands on the demo's stream, with their moments."""
    found = []
    for block in parse(README.read_text()):
        if block.language == "console":
            for command in commands(block):
                match = QUERY.search(command.text.replace("\\\n", ""))
                if match:
                    found.append((match[1].replace('\\"', '"'), match[2]))
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    root = tmp_path_factory.mktemp("corpus")
    for number in range(FILES):
        size = 4096 * (1 + number % 9) - 37 * number
        text = f"# file {number}\n" * (size // 10)
        (root / f"file_{number:02d}.py").write_text(text[:size])
    (root / "__future__.py").write_text("# soon\n" * 900)
    return Expected(corpus.make_plan(root))


@pytest.mark.parametrize("kind", KINDS)
def test_the_ten_questions_have_one_answer_everywhere(
    kind: str, catalog_properties: Callable[[str], dict[str, str]], expected: Expected
) -> None:
    catalog = bw.load_catalog("asked", **catalog_properties(kind))
    stream = catalog.create_stream("demo.stdlib", schema=corpus.SCHEMA, mesh=corpus.MESH)
    for index in range(corpus.PRODUCERS):
        producer.produce(stream, expected.plan, index, lambda **_: None)
    stream.checkpoints.register("A", next_step=A)
    stream.checkpoints.register("B", next_step=B)
    asked = questions()
    assert len(asked) == 10
    (tokens, files, skew, between, twice, delay, trained, commits, made, then) = (
        stream.sql(query, at=at).fetchall() for query, at in asked
    )
    _check_who(expected, tokens, commits, made, stream)
    assert files == [(path,) for path in sorted({path for path, _, _ in expected.chunks(10, 13)})]
    _check_skew(skew, stream)
    _check_between(expected, between)
    assert twice == []
    assert [row[:2] for row in delay] == [("A", A), ("B", B - A)]
    assert all(longest >= typical for _, _, typical, longest in delay)
    first = next(at for at, step in enumerate(expected.steps) if _holds(step, "__future__.py"))
    assert trained == [(name,) for name, stop in (("A", A), ("B", B)) if stop > first]
    assert then == [(A, len(expected.chunks(0, A)))]


def _holds(step: tuple[str, int, list[list[tuple[str, int, int]]]], wanted: str) -> bool:
    return any(path == wanted for chunks in step[2] for path, _, _ in chunks)


def _check_who(expected: Expected, tokens: Any, commits: Any, made: Any, stream: bw.Stream) -> None:
    found: dict[str, int] = {}
    for name, _, count in tokens:  # an hour may pass meanwhile
        found[name] = found.get(name, 0) + int(count)
    assert sorted(found.items()) == expected.tokens()
    batches = list(stream.batches())
    assert [name for name, *_ in commits] == [name for name, _ in expected.tokens()]
    for name, count, steps, size in commits:
        own = [batch for batch in batches if batch.producer == name]
        assert (round(count * steps), size) == (len(own), sum(batch.bytes for batch in own))
    ((name, sequence, rows, index, source, digest),) = made
    assert (name, sequence) == expected.steps[17][:2]
    assert rows == len(expected.chunks(17, 18))
    assert index == 0
    assert all(path in source for path, _, _ in expected.steps[17][2][0])
    assert digest == batches[17].parts[0].digest


def _check_skew(skew: Any, stream: bw.Stream) -> None:
    sizes = [0] * corpus.SLICES
    for batch in stream.batches():
        (part,) = batch.parts
        bounds = [*part.offsets, part.data_end]
        for at in range(part.slices):
            sizes[at] += bounds[at + 1] - bounds[at]
    mean = sum(sizes) / len(sizes)
    assert [(rank, size) for rank, size, _ in skew] == list(enumerate(sizes))
    assert [share for _, _, share in skew] == pytest.approx([size / mean for size in sizes])


def _check_between(expected: Expected, between: Any) -> None:
    found: dict[str, list[int]] = {}
    for step in range(A, B):
        found.setdefault(expected.steps[step][0], []).append(step)
    assert between == [
        (name, steps[0], steps[-1], len(steps),
         sum(len(expected.chunks(step, step + 1)) for step in steps))
        for name, steps in sorted(found.items())
    ]  # fmt: skip
