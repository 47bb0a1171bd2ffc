"""What the stream's state promises: dense steps, fencing, a telling chain, exact round trips."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchweave.batch import position_from_text, position_to_text
from batchweave.dac import Claim, Pace
from batchweave.errors import (
    Fenced,
    InvalidBatch,
    InvalidName,
    NotAStream,
    StreamCorrupted,
    StreamError,
    StreamSealed,
    UnsupportedFormat,
)
from batchweave.mesh import Mesh
from batchweave.state import (
    CHAIN_START,
    FORMAT_VERSION,
    PREFIX,
    CheckpointState,
    Numbered,
    ProducerState,
    StreamState,
    append,
    changed_properties,
    check_generation,
    check_name,
    from_properties,
    next_chain,
    open_producer,
    seal,
    to_properties,
)

EMPTY = StreamState(mesh=Mesh(dp=2))
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,8}[A-Za-z0-9])?", fullmatch=True)
COUNTS = st.integers(0, 2**62)
PRODUCERS = st.builds(
    ProducerState,
    generation=st.integers(1, 2**40),
    sequence=st.integers(-1, 2**62),
    step=st.integers(-1, 2**62),
    position=st.none() | st.text(),
    version=COUNTS,
    committed_at_ms=COUNTS,
)
CHECKPOINTS = st.builds(
    CheckpointState, next_step=COUNTS, consumer=st.text(max_size=5), registered_at_ms=COUNTS
)
STATES = st.tuples(COUNTS, COUNTS).flatmap(
    lambda steps: st.builds(
        StreamState,
        mesh=st.builds(Mesh, dp=st.integers(1, 9), cp=st.integers(1, 9)),
        next_step=st.just(max(steps)),
        watermark=st.just(min(steps)),
        sealed=st.booleans(),
        horizon=COUNTS,
        chain=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        pace=st.builds(Pace, **{item.name: COUNTS for item in fields(Pace)}),
        producers=st.dictionaries(NAMES, PRODUCERS, max_size=3),
        checkpoints=st.dictionaries(NAMES, CHECKPOINTS, max_size=3),
    )
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _opened(state: StreamState, name: str = "p") -> StreamState:
    return open_producer(state, name, version=1, now_ms=1)[0]


def _batches(first: int, count: int) -> list[Numbered]:
    return [Numbered(n, (f"digest {n}",), f"position {n}") for n in range(first, first + count)]


def _append(
    state: StreamState, batches: list[Numbered], name: str = "p", gen: int = 1
) -> StreamState:
    return append(state, name, gen, batches, version=7, now_ms=8)


# -- steps and sequences -----------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=20))
def test_steps_are_dense_whoever_commits_how_many(commits: list[tuple[str, int]]) -> None:
    state = EMPTY
    for name in "abc":
        state = _opened(state, name)
    published = dict.fromkeys("abc", 0)
    total = 0
    for name, count in commits:
        state = _append(state, _batches(published[name], count), name)
        published[name] += count
        total += count
        producer = state.producers[name]
        assert state.next_step == total
        assert producer.step == total - 1
        assert producer.sequence == published[name] - 1
        assert producer.position == f"position {published[name] - 1}"
        assert (producer.version, producer.committed_at_ms) == (7, 8)


@pytest.mark.parametrize("first", [0, 1, 2, 4, 9])
def test_a_sequence_that_does_not_follow_is_refused(first: int) -> None:
    state = _append(_opened(EMPTY), _batches(0, 3))
    with pytest.raises(StreamCorrupted, match=f"sequence {first} of 'p' does not follow 2"):
        _append(state, _batches(first, 1))


def test_a_gap_or_repeat_within_one_commit_is_refused() -> None:
    state = _opened(EMPTY)
    for sequences in ([0, 2], [0, 0], [1, 0]):
        with pytest.raises(StreamCorrupted, match="does not follow"):
            _append(state, [Numbered(n, ("d",)) for n in sequences])


def test_a_transition_leaves_the_state_that_was_read_as_it_was() -> None:
    state = _opened(EMPTY)
    before = to_properties(state)
    _append(state, _batches(0, 2))
    _opened(state, "q")
    seal(state)
    assert to_properties(state) == before


# -- fencing and sealing -----------------------------------------------------------------------


def test_a_newer_generation_shuts_the_older_out_for_good() -> None:
    old = _append(_opened(EMPTY), _batches(0, 2))
    taken, producer = open_producer(old, "p", version=9, now_ms=10)
    assert producer == taken.producers["p"]
    assert (producer.generation, producer.sequence, producer.position) == (2, 1, "position 1")
    with pytest.raises(Fenced, match="generation 1, the stream is at 2"):
        _append(taken, _batches(2, 1), gen=1)
    with pytest.raises(Fenced):
        check_generation(taken, "p", 1)
    assert _append(taken, _batches(2, 1), gen=2).next_step == 3
    assert check_generation(taken, "p", 2) is producer


def test_a_name_that_the_stream_does_not_know_is_fenced() -> None:
    with pytest.raises(Fenced, match="at none"):
        check_generation(EMPTY, "p", 1)


def test_names_do_not_fence_each_other() -> None:
    state = _opened(_opened(EMPTY, "a"), "b")
    assert _append(_append(state, _batches(0, 1), "a"), _batches(0, 1), "b").next_step == 2


def test_nothing_follows_the_last_step_of_a_sealed_stream() -> None:
    state = seal(_append(_opened(EMPTY), _batches(0, 3)))
    assert state.sealed
    assert seal(state) == state
    with pytest.raises(StreamSealed, match="sealed at step 3"):
        _append(state, _batches(3, 1))
    with pytest.raises(StreamSealed, match="sealed at step 3"):
        _opened(state, "q")


def test_a_fenced_producer_of_a_sealed_stream_learns_that_it_is_fenced() -> None:
    with pytest.raises(Fenced):
        _append(seal(_opened(_opened(EMPTY))), _batches(0, 1), gen=1)


@pytest.mark.parametrize("name", ["a", "A9", "tokenizer-0", "a.b_c-d", "x" * 128])
def test_good_names_are_kept(name: str) -> None:
    assert check_name(name, "producer") == name


@pytest.mark.parametrize(
    "name", ["", ".", "-a", "a-", "a..b", "a b", "a/b", "ü", "x" * 129, None, 3]
)
def test_bad_names_are_refused_with_what_was_given(name: Any) -> None:
    with pytest.raises(InvalidName, match="producer name") as refused:
        open_producer(EMPTY, name, version=1, now_ms=1)
    assert repr(name) in str(refused.value)


# -- the chain ---------------------------------------------------------------------------------


def test_the_chain_can_be_computed_again_from_the_batches() -> None:
    state = _append(_append(_opened(EMPTY), _batches(0, 3)), _batches(3, 2))
    chain = CHAIN_START
    for step in range(5):
        chain = next_chain(chain, step, (f"digest {step}",))
    assert state.chain == chain
    assert _append(_opened(EMPTY), _batches(0, 5)).chain == chain


@given(
    st.lists(st.lists(st.from_regex(r"[0-9a-f]{4}", fullmatch=True), min_size=1), min_size=1),
    st.data(),
)
def test_the_chain_changes_with_any_digest_step_or_order(
    digests: list[list[str]], data: st.DataObject
) -> None:
    def chained(each: list[list[str]], first_step: int = 0) -> str:
        chain = CHAIN_START
        for step, one in enumerate(each, first_step):
            chain = next_chain(chain, step, one)
        return chain

    at = data.draw(st.integers(0, len(digests) - 1))
    part = data.draw(st.integers(0, len(digests[at]) - 1))
    changed = [list(one) for one in digests]
    changed[at][part] = "not " + changed[at][part]
    others = [
        chained(changed),
        chained(digests, first_step=1),
        chained(digests[:-1]),
        chained([*digests, ["0000"]]),
        chained([[*digests[0], "0000"], *digests[1:]]),
    ]
    if digests != digests[::-1]:
        others.append(chained(digests[::-1]))
    assert chained(digests) not in others


# -- the state as table properties -------------------------------------------------------------


@given(STATES)
def test_properties_and_back_is_the_same_state(state: StreamState) -> None:
    properties = to_properties(state)
    assert all(isinstance(text, str) for text in properties.values())
    assert from_properties({**properties, "owner": "somebody"}, "t") == state


@given(STATES, STATES)
def test_a_commit_carries_exactly_what_changed(before: StreamState, after: StreamState) -> None:
    changed, removed = changed_properties(before, after)
    old, new = to_properties(before), to_properties(after)
    assert all(old.get(key) != text for key, text in changed.items())
    assert set(removed) == set(old) - set(new)
    merged = {key: text for key, text in (old | changed).items() if key not in removed}
    assert from_properties(merged, "t") == after


def test_appending_touches_one_producer_and_three_words_of_the_state() -> None:
    state = _opened(_opened(EMPTY, "p"), "q")
    changed, removed = changed_properties(state, _append(state, _batches(0, 1)))
    assert set(changed) == {PREFIX + key for key in ("next-step", "chain", "producer.p")}
    assert removed == ()
    assert changed_properties(state, state) == ({}, ())


def test_a_claim_is_announced_in_the_same_commit() -> None:
    state = _opened(EMPTY)
    pace = replace(state.pace, **{fields(Pace)[0].name: 77})
    after = append(
        state, "p", 1, _batches(0, 1), version=2, now_ms=3, claim=Claim(turn_us=5, pace=pace)
    )
    assert after.pace == pace
    assert after.producers["p"].turn_us == 5
    assert _append(after, _batches(1, 1)).pace == pace, "without a claim it stays"


def test_what_is_dropped_is_removed() -> None:
    state = replace(EMPTY, checkpoints={"a": CheckpointState(0), "b": CheckpointState(0)})
    changed, removed = changed_properties(
        state, replace(state, checkpoints={"b": CheckpointState(0)})
    )
    assert changed == {}
    assert removed == (PREFIX + "checkpoint.a",)


def test_a_table_without_our_properties_is_not_a_stream() -> None:
    with pytest.raises(NotAStream, match=r"demo\.t"):
        from_properties({"owner": "somebody"}, "demo.t")


@pytest.mark.parametrize("version", [str(FORMAT_VERSION + 1), "99", "1.5", "two", "", "-1"])
def test_an_unknown_format_version_is_refused_and_named(version: str) -> None:
    properties = {**to_properties(EMPTY), PREFIX + "format-version": version}
    with pytest.raises(UnsupportedFormat, match=f"version {version}.*up to {FORMAT_VERSION}"):
        from_properties(properties, "demo.t")


@pytest.mark.parametrize("key", sorted(set(to_properties(EMPTY)) - {PREFIX + "format-version"}))
def test_a_missing_property_is_corruption(key: str) -> None:
    properties = to_properties(EMPTY)
    del properties[key]
    with pytest.raises(StreamCorrupted, match=r"demo\.t"):
        from_properties(properties, "demo.t")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("mesh", "4"),
        ("mesh", "{"),
        ("next-step", "many"),
        ("next-step", "-1"),
        ("watermark", "1"),
        ("sealed", "perhaps"),
        ("horizon", ""),
        ("pace", "1e3"),
        ("pace", '{"colour":2}'),
        ("producer.p", "{}"),
        ("producer.p", "null"),
        ("producer.p", "[1]"),
        ("producer.p", '{"generation":1,"colour":2}'),
        ("producer.p", '{"generation":"1"}'),
        ("producer.p", '{"generation":1,"sequence":null}'),
        ("checkpoint.c", '{"next_step":"soon"}'),
        ("checkpoint.c", "not json"),
    ],
)
def test_a_corrupted_property_is_corruption(key: str, text: str) -> None:
    properties = {**to_properties(EMPTY), PREFIX + key: text}
    with pytest.raises(StreamCorrupted):
        from_properties(properties, "demo.t")


@given(STATES, st.data())
def test_damaged_properties_never_raise_anything_but_our_errors(
    state: StreamState, data: st.DataObject
) -> None:
    properties = to_properties(state)
    key = data.draw(st.sampled_from(sorted(properties)))
    properties[key] = data.draw(st.text() | JSON.map(json.dumps))
    with contextlib.suppress(StreamError):  # anything else would be the caller's fault, or ours
        from_properties(properties, "demo.t")


# -- positions ---------------------------------------------------------------------------------


@given(JSON | st.binary())
def test_a_position_comes_back_as_it_went_in(position: Any) -> None:
    back = position_from_text(position_to_text(position))
    assert back == position
    assert type(back) is type(position)


def test_positions_that_look_like_their_own_encoding_come_back() -> None:
    for position in ({"base64": "AA=="}, {"json": 1}, {"object": "x", "sha256": "y"}, b""):
        assert position_from_text(position_to_text(position)) == position


def test_bytes_like_positions_come_back_as_bytes() -> None:
    assert position_from_text(position_to_text(bytearray(b"ab"))) == b"ab"
    assert position_from_text(position_to_text(memoryview(b"ab"))) == b"ab"


def test_no_position_is_no_text() -> None:
    assert position_to_text(None) is None
    assert position_from_text(None) is None


@pytest.mark.parametrize(
    "position", [math.nan, math.inf, [math.nan], object(), {"a": {1, 2}}, 1j, {"a": object()}]
)
def test_a_position_that_json_cannot_hold_is_refused(position: Any) -> None:
    with pytest.raises(InvalidBatch, match="position"):
        position_to_text(position)


@pytest.mark.parametrize("position", [{0: 100}, [{0: 100}], {"a": {None: 1}}, {"a": [{True: 1}]}])
def test_a_position_whose_keys_json_would_change_is_refused(position: Any) -> None:
    with pytest.raises(InvalidBatch, match="keys within a position must be strings"):
        position_to_text(position)


def test_tuples_in_a_position_come_back_as_lists() -> None:
    assert position_from_text(position_to_text((1, {"a": (2, 3)}))) == [1, {"a": [2, 3]}]
