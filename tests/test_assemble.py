"""Assembly: deterministic, resumable at every batch, mixed by weight, packed without loss."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pytest

from batchweave.assemble import (
    Assembler,
    Fault,
    FixedRows,
    Layout,
    PackedRows,
    TableSource,
    TokenBudget,
)
from batchweave.assemble.draws import Draws, permutation
from batchweave.assemble.mixture import Mixture
from batchweave.assemble.samples import Samples
from batchweave.errors import InvalidInput, InvalidSettings, SchemaMismatch
from tests.assembling import (
    ChunkedSource,
    all_of,
    content,
    doc_ids,
    documents,
    fault_at,
    wrong_cuts,
)

LAYOUTS: dict[str, Layout] = {
    "rows": FixedRows(3, column="tokens"),
    "tokens": TokenBudget(tokens=100, lookahead=5),
    "packed": PackedRows(tokens=80, rows=2, lineage=["doc_id"], lookahead=7),
    "split": PackedRows(tokens=32, rows=2, lineage=["doc_id"], long="split", pad=0),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def mixed(layout: Layout, seed: int, chunks: int | None = None, **more: Any) -> Assembler:
    """A mixture of two sources, of which one has faults; settings by the seed."""
    chance = random.Random(seed)
    tables = [documents(chance.randint(40, 70), name=name, seed=seed) for name in "ab"]
    faults = {row: fault_at(row) for row in (0, 13, tables[1].num_rows - 1)}
    options: dict[str, Any] = {
        "weights": {"a": chance.randint(1, 5), "b": chance.randint(1, 5)},
        "shuffle_window": chance.choice([1, 1, 7, 1000]),
        "remainder": chance.choice(["carry", "publish", "drop"]),
        "mix_by": chance.choice(["rows", "tokens"]),
        "at_end": chance.choice(["continue", "stop"]),
        "on_bad": "skip",
        "seed": seed,
    }
    cut = seed if chunks is None else chunks
    sources = {"a": ChunkedSource(tables[0], cut), "b": ChunkedSource(tables[1], cut, faults)}
    return Assembler(sources, layout, 2, **{**options, **more})


# -- resuming and determinism ------------------------------------------------------------------


@layouts
@pytest.mark.parametrize("seed", range(5))
def test_resuming_behind_any_batch_gives_the_very_same_batches(layout: Layout, seed: int) -> None:
    assert wrong_cuts(lambda: mixed(layout, seed)) == []


@pytest.mark.parametrize("remainder", ["carry", "publish", "drop"])
def test_resuming_is_exact_with_every_remainder(remainder: str) -> None:
    for seed in range(3):
        assert wrong_cuts(partial(mixed, LAYOUTS["packed"], seed, remainder=remainder)) == []


def three_lengths(at_end: str, seed: int) -> Assembler:
    """A mixture of three sources that end one after the other, or have no rows at all."""
    chance = random.Random(seed)
    lengths = [chance.randint(0, 3), chance.randint(4, 12), chance.randint(20, 40)]
    chance.shuffle(lengths)
    sources = {
        name: ChunkedSource(documents(length, name=name, seed=seed), seed)
        for name, length in zip("abc", lengths, strict=True)
    }
    return Assembler(
        sources,
        chance.choice(list(LAYOUTS.values())),
        chance.choice([1, 2]),
        weights={name: chance.randint(1, 9) for name in sources},
        at_end=at_end,
        mix_by=chance.choice(["rows", "tokens"]),
        shuffle_window=chance.choice([1, 5]),
        remainder=chance.choice(["carry", "publish", "drop"]),
        seed=seed,
    )


@pytest.mark.parametrize("at_end", ["continue", "stop", "repeat"])
def test_resuming_is_exact_when_some_of_three_sources_have_ended(at_end: str) -> None:
    limit = 8 if at_end == "repeat" else None
    cut = 0
    for seed in range(16):
        make = partial(three_lengths, at_end, seed)
        if len(all_of(make(), limit)) > 1:
            assert wrong_cuts(make, limit) == [], seed
            cut += 1
    assert cut >= 5


@pytest.mark.parametrize("broken", [False, True], ids=["rows", "a broken row first"])
def test_a_source_that_had_ended_takes_part_again_when_it_has_grown(broken: bool) -> None:
    tables = {name: documents(60, name=name) for name in "abc"}

    def make(rows: int, faults: dict[int, Fault]) -> Assembler:
        sources = {name: ChunkedSource(one, 1) for name, one in tables.items()}
        sources["a"] = ChunkedSource(tables["a"].slice(0, rows), 1, faults)
        return Assembler(sources, FixedRows(2), 2, on_bad="skip")

    faults = {5: fault_at(5)}
    position = all_of(make(6, faults), 12)[-1].position
    assert position["sources"]["a"]["ended"]
    if broken:
        faults |= {6: fault_at(6)}
    grown = make(9, faults)
    grown.resume(json.loads(json.dumps(position)))
    ours = [name for name in doc_ids(all_of(grown)) if name[0] == "a"]
    assert ours == ["a6", "a7", "a8"][broken:]
    assert grown.skips.rows == len(faults)


def test_a_position_that_does_not_say_what_has_ended_is_good() -> None:
    def make() -> Assembler:
        return mixed(LAYOUTS["rows"], 2, at_end="continue", remainder="publish")

    whole = all_of(make())
    position = json.loads(json.dumps(whole[-2].position))
    for saved in position["sources"].values():
        del saved["ended"]
    resumed = make()
    resumed.resume(position)
    assert sum(one.rows for one in all_of(resumed)) == whole[-1].rows


@pytest.mark.parametrize("lost", ["from", "window", "credits", "carried"])
def test_a_state_that_forgets_something_is_noticed(
    lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, mixture, samples = Draws.state, Mixture.state, Samples.state
    if lost in ("from", "window"):
        monkeypatch.setattr(
            Draws, "state", lambda self, oldest=None: {**draws(self, oldest), lost: 0}
        )
    elif lost == "credits":
        monkeypatch.setattr(Mixture, "state", lambda self: {**mixture(self), "credits": {}})
    else:
        monkeypatch.setattr(Samples, "state", lambda self: {**samples(self), "carried": []})
    weights = {"a": 3, "b": 2}
    assert wrong_cuts(lambda: mixed(LAYOUTS["packed"], 1, shuffle_window=7, weights=weights))


@layouts
def test_batches_do_not_depend_on_how_rows_come_in_chunks(layout: Layout) -> None:
    for seed in range(4):
        first, second = (all_of(mixed(layout, seed, chunks)) for chunks in (1, 2))
        assert content(first) == content(second)
        assert [one.position for one in first] == [one.position for one in second]


def test_another_seed_gives_another_order_and_the_same_rows() -> None:
    source = TableSource(documents(60))
    orders = []
    for seed in (1, 2):
        assembler = Assembler(source, FixedRows(5), 2, seed=seed, shuffle_window=20)
        orders.append(doc_ids(all_of(assembler)))
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(f"d{n}" for n in range(60))


def test_a_row_stays_within_its_window() -> None:
    assembler = Assembler(TableSource(documents(60)), FixedRows(5), 2, seed=3, shuffle_window=20)
    numbers = [int(one[1:]) for one in doc_ids(all_of(assembler))]
    for begin in range(0, 60, 20):
        window = numbers[begin : begin + 20]
        assert sorted(window) == list(range(begin, begin + 20)) != window


def test_the_order_of_a_window_is_the_same_on_every_machine() -> None:
    assert permutation("7/web/0", 8) == permutation("7/web/0", 8)
    assert sorted(permutation("x", 1000)) == list(range(1000))
    firsts = Counter(permutation(f"{key}", 10)[0] for key in range(2000))
    assert set(firsts) == set(range(10))
    assert max(firsts.values()) < 2 * min(firsts.values())


# -- remainders --------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", range(40, 48))
def test_a_published_remainder_leaves_no_row_out(rows: int) -> None:
    assembler = Assembler(TableSource(documents(rows)), FixedRows(3), 4, remainder="publish")
    batches = all_of(assembler)
    assert sorted(doc_ids(batches)) == sorted(f"d{n}" for n in range(rows))
    assert all(1 <= one.num_rows <= 3 for batch in batches for one in batch.slices)
    assert assembler.waiting == 0


def test_a_carried_remainder_comes_first_when_the_source_has_grown() -> None:
    table = documents(20)
    short = Assembler(TableSource(table.slice(0, 11)), FixedRows(3), 2)
    batches = all_of(short)
    assert (len(batches), short.waiting) == (1, 5)
    grown = Assembler(TableSource(table), FixedRows(3), 2)
    grown.resume(batches[-1].position)
    assert content(batches + all_of(grown)) == content(
        all_of(Assembler(TableSource(table), FixedRows(3), 2))
    )


@pytest.mark.parametrize("window", [2, 5, 10, 64])
@pytest.mark.parametrize("rows", [12, 13, 17, 23])
def test_a_source_that_grows_behind_a_short_window_gives_each_row_once(
    window: int, rows: int
) -> None:
    table = documents(60)

    def make(count: int) -> Assembler:
        source = TableSource(table.slice(0, count))
        return Assembler(source, FixedRows(3), 2, seed=3, shuffle_window=window)

    batches = all_of(make(rows))
    for grown in (rows + 1, 60):
        resumed = make(grown)
        resumed.resume(json.loads(json.dumps(batches[-1].position)))
        more = all_of(resumed)
        found = doc_ids(batches + more)
        assert len(set(found)) == len(found) == 6 * (len(batches) + len(more))
        assert resumed.waiting + len(found) == grown


def test_a_dropped_remainder_is_recorded_and_passed_over_for_good() -> None:
    table = documents(23)
    short = Assembler(TableSource(table.slice(0, 11)), FixedRows(3), 2, remainder="drop")
    batches = all_of(short)
    assert short.skips.kinds == {"remainder": 1}
    assert short.skips.rows == 5
    grown = Assembler(TableSource(table), FixedRows(3), 2, remainder="drop")
    grown.resume(batches[-1].position)
    assert doc_ids(all_of(grown)) == [f"d{n}" for n in range(11, 23)]
    assert grown.skips.rows == 5


# -- packing -----------------------------------------------------------------------------------


def packed_documents(batches: list[Any]) -> dict[str, list[int]]:
    """Each document's tokens, put together from its segments."""
    found: dict[str, list[int]] = {}
    for batch in batches:
        for row in (row for table in batch.slices for row in table.to_pylist()):
            ends = list(accumulate(row["segment_lengths"]))
            assert len(ends) == len(row["doc_id"])
            for name, begin, end in zip(row["doc_id"], [0, *ends], ends, strict=False):
                found.setdefault(name, []).extend(row["tokens"][begin:end])
    return found


@pytest.mark.parametrize("layout", [LAYOUTS["packed"], LAYOUTS["split"]], ids=["packed", "split"])
def test_packed_rows_hold_every_document_whole_and_once(layout: PackedRows) -> None:
    table = documents(200)
    assembler = Assembler(TableSource(table), layout, 2, shuffle_window=50)
    batches = all_of(assembler)
    found = packed_documents(batches)
    assert len(found) + assembler.waiting >= 200
    for row in table.to_pylist():
        if row["doc_id"] in found and layout is LAYOUTS["packed"]:
            assert found[row["doc_id"]] == row["tokens"]
    for one in (one for batch in batches for one in batch.slices):
        assert one.schema == assembler.schema
        lengths = [len(tokens) for tokens in one.column("tokens").to_pylist()]
        assert lengths == [32, 32] if layout.pad == 0 else max(lengths) <= 80


def test_split_documents_come_back_whole() -> None:
    table = documents(40, longest=200)
    layout = PackedRows(tokens=32, lineage=["doc_id"], long="split")
    assembler = Assembler(TableSource(table), layout, 1, remainder="publish")
    found = packed_documents(all_of(assembler))
    assert found == {row["doc_id"]: row["tokens"] for row in table.to_pylist()}


def test_first_fit_fills_rows_well() -> None:
    layout = PackedRows(tokens=512, rows=4)
    batches = all_of(Assembler(TableSource(documents(4000, longest=300)), layout, 4))
    assert sum(one.tokens for one in batches) / (len(batches) * 16 * 512) > 0.98


def test_aligned_columns_are_packed_and_padded_like_the_tokens() -> None:
    table = documents(30)
    labels = pa.array([[-n for n in row] for row in table.column("tokens").to_pylist()])
    table = table.append_column("labels", labels)
    layout = PackedRows(tokens=64, aligned=["labels"], pad=9)
    for batch in all_of(Assembler(TableSource(table), layout, 2)):
        for row in (row for one in batch.slices for row in one.to_pylist()):
            real = sum(row["segment_lengths"])
            assert row["labels"][:real] == [-n for n in row["tokens"][:real]]
            assert row["tokens"][real:] == [9] * (64 - real)
            assert row["labels"][real:] == [0] * (64 - real)


@pytest.mark.parametrize(
    ("kind", "zero"),
    [(pa.bool_(), False), (pa.float32(), 0.0), (pa.decimal128(3, 2), Decimal(0)), (pa.uint8(), 0)],
    ids=str,
)
def test_aligned_columns_are_padded_with_the_zero_of_their_type(kind: Any, zero: Any) -> None:
    one = type(zero)(1)
    mask = pa.array([[one, one], [one]], pa.list_(kind))
    table = pa.table({"tokens": [[1, 2], [3]], "mask": mask})
    layout = PackedRows(tokens=4, aligned=["mask"], pad=0)
    (batch,) = all_of(Assembler(TableSource(table), layout, 1, remainder="publish"))
    assert batch.slices[0].schema.field("mask").type == pa.list_(kind)
    assert batch.slices[0].column("mask").to_pylist() == [[1, 1, 1, zero]]
    assert type(batch.slices[0].column("mask").to_pylist()[0][3]) is type(zero)


@pytest.mark.parametrize(
    ("column", "pad", "message"),
    [
        (pa.array([["a"]]), 0, "'mask' is a list of string, which has no zero"),
        (pa.array([[[1]]]), 0, "'mask' is a list of list<item: int64>, which has no zero"),
        (pa.array([[1]]), -1, "pad=-1 cannot be a value of column 'tokens', a list of uint16"),
        (pa.array([[1]]), 2**16, "pad=65536 cannot be a value of column 'tokens'"),
    ],
    ids=["text", "lists", "negative", "large"],
)
def test_padding_that_a_column_cannot_hold_is_refused(column: Any, pad: int, message: str) -> None:
    tokens = pa.array([[1]], pa.list_(pa.uint16()))
    source = TableSource(pa.table({"tokens": tokens, "mask": column}))
    with pytest.raises(SchemaMismatch, match=message):
        Assembler(source, PackedRows(tokens=4, aligned=["mask"], pad=pad), 1)
    Assembler(source, PackedRows(tokens=4, aligned=["mask"]), 1)


def test_a_token_budget_is_kept_and_may_be_counted_by_a_column() -> None:
    table = pa.table({"text": [f"t{n}" for n in range(900)], "n": [n % 50 + 1 for n in range(900)]})
    batches = all_of(Assembler(TableSource(table), TokenBudget(tokens=100, column="n"), 3))
    sizes = [sum(one.column("n").to_pylist()) for batch in batches for one in batch.slices]
    assert max(sizes) <= 100
    assert min(sizes) > 0
    assert sum(sizes) / len(sizes) > 90


# -- mixtures ----------------------------------------------------------------------------------


def shares(choose: Mixture, size: Callable[[int], int], count: int) -> list[float]:
    given = [0, 0, 0]
    for _ in range(count):
        index = choose.choose(range(3))
        assert index is not None
        tokens = size(index)
        choose.charge(index, tokens, range(3))
        given[index] += tokens
    return [one / sum(given) for one in given]


def test_proportions_hold_at_every_moment() -> None:
    mixture = Mixture(["a", "b", "c"], {"a": 5, "b": 3, "c": 2})
    given = [0, 0, 0]
    for count in range(1, 500):
        index = mixture.choose(range(3))
        assert index is not None
        mixture.charge(index, 1, range(3))
        given[index] += 1
        for one, part in zip(given, (0.5, 0.3, 0.2), strict=True):
            assert abs(one - part * count) <= 1.0


def test_proportions_of_tokens_are_within_a_percent_after_a_change() -> None:
    chance = random.Random(5)
    mixture = Mixture(["a", "b", "c"], {"a": 1, "b": 1, "c": 1})

    def size(index: int) -> int:
        return chance.randint(1, (20, 200, 2000)[index])

    shares(mixture, size, 500)
    mixture.set_weights({"a": 0.7, "b": 0.2, "c": 0.1})
    assert shares(mixture, size, 20_000) == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_weights_hold_from_the_next_batch_and_travel_with_it() -> None:
    sources = {name: TableSource(documents(9000, name=name, longest=2)) for name in "ab"}
    assembler = Assembler(sources, FixedRows(2), 2, at_end="stop")
    batches = []
    for batch in assembler:
        batches.append(batch)
        if len(batches) == 10:
            assembler.set_weights({"a": 1, "b": 3})
        if len(batches) == 1010:
            break
    names = [name[0] for name in doc_ids(batches[10:])]
    assert names.count("b") / len(names) == pytest.approx(0.75, rel=0.01)
    assert doc_ids(batches[:10]).count("a") == doc_ids(batches[:10]).count("b")
    assert '"weights":{"a":1,"b":1}' in batches[9].sources[0]
    assert all('"weights":{"a":1,"b":3}' in one for one in batches[10].sources)
    resumed = Assembler(sources, FixedRows(2), 2, at_end="stop")
    resumed.resume(batches[500].position)
    assert content([next(iter(resumed))]) == content([batches[501]])


def test_weights_edited_in_the_program_hold_from_the_batch_after_the_resume() -> None:
    sources = {name: TableSource(documents(200, name=name)) for name in "ab"}
    first = next(iter(Assembler(sources, FixedRows(4), 2, weights={"a": 1, "b": 1})))
    edited = Assembler(sources, FixedRows(4), 2, weights={"a": 0, "b": 1})
    edited.resume(first.position)
    assert {name[0] for name in doc_ids([next(iter(edited))])} == {"b"}


def test_a_source_may_join_a_mixture_and_repeat() -> None:
    a, b = (TableSource(documents(12, name=name)) for name in "ab")
    batch = next(iter(Assembler({"a": a}, FixedRows(2), 2)))
    joined = Assembler({"a": a, "b": b}, FixedRows(2), 2, at_end="repeat", shuffle_window=6)
    with pytest.raises(InvalidSettings, match="shuffle_window=1, now it is 6"):
        joined.resume(batch.position)
    joined = Assembler({"a": a, "b": b}, FixedRows(2), 2, at_end="repeat")
    joined.resume(batch.position)
    counts = Counter(doc_ids([one for one, _ in zip(joined, range(48), strict=False)]))
    assert len(counts) == 24
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_repeated_source_resumes_in_any_epoch() -> None:
    def make() -> Assembler:
        source = ChunkedSource(documents(17), 1)
        return Assembler(source, FixedRows(2), 3, at_end="repeat", shuffle_window=5)

    whole = [batch for batch, _ in zip(make(), range(12), strict=False)]
    for number, batch in enumerate(whole[:-1]):
        resumed = make()
        resumed.resume(batch.position)
        assert content([next(iter(resumed))]) == content([whole[number + 1]])
    epochs = doc_ids(whole)
    assert sorted(epochs[:17]) == sorted(epochs[17:34])
    assert epochs[:17] != epochs[17:34]


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "seed=1, now it is 2"),
        ({"shuffle_window": 9}, "shuffle_window=1, now it is 9"),
    ],
)
def test_a_position_of_another_order_is_refused(change: dict[str, Any], message: str) -> None:
    source = TableSource(documents(30))
    batch = next(iter(Assembler(source, FixedRows(2), 2, seed=1)))
    with pytest.raises(InvalidSettings, match=message):
        Assembler(source, FixedRows(2), 2, **({"seed": 1} | change)).resume(batch.position)


@pytest.mark.parametrize("position", [17, "x", {"assembler": 2}, {"assembler": 1}, b"x"])
def test_a_position_that_no_assembler_made_is_refused(position: Any) -> None:
    with pytest.raises(InvalidInput, match="no assembler made"):
        Assembler(TableSource(documents(3)), FixedRows(1), 1).resume(position)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda one: Assembler({}, FixedRows(1), 1), "at least one source"),
        (lambda one: Assembler(one, FixedRows(0), 1), "FixedRows.rows"),
        (lambda one: Assembler(one, TokenBudget(tokens=9, column="x"), 1), "no column 'x'"),
        (lambda one: Assembler(one, TokenBudget(tokens=9, column="doc_id"), 1), "tokenised"),
        (lambda one: Assembler(one, FixedRows(1), 1, mix_by="tokens"), "needs a layout"),
        (lambda one: Assembler(one, FixedRows(1), 1, remainder="x"), "remainder is one of"),
        (lambda one: Assembler(one, FixedRows(1), 1, weights={"x": 1}), "one weight for each"),
        (lambda one: Assembler(one, FixedRows(1), 1, weights={"data": 0}), "above 0"),
        (lambda one: Assembler({"a": one, "b": 3}, FixedRows(1), 1), "'b' is no source"),  # type: ignore[dict-item]
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises((InvalidInput, SchemaMismatch), match=message):
        make(TableSource(documents(3)))


def test_sources_of_other_columns_do_not_mix() -> None:
    other = TableSource(pa.table({"tokens": [[1]], "doc_id": [1]}))
    with pytest.raises(SchemaMismatch, match="'doc_id' is int64, not string"):
        Assembler({"a": TableSource(documents(3)), "b": other}, FixedRows(1), 1)
