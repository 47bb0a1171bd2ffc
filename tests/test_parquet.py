"""What a batch's file promises: one row group a slice, exact offsets, damage never decoded."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchweave.catalogs.iceberg import stream_schema
from batchweave.catalogs.iceberg_schema import field_id, file_schema, leaf_ids
from batchweave.columns import slice_to_table, to_storage
from batchweave.errors import StreamCorrupted
from batchweave.parquet import EncodedPart, SliceData, decode, encode, spans
from tests.streams import TOKENS, tokens

MIXED = pa.schema(
    [
        ("tokens", pa.list_(pa.int32())),
        ("text", pa.string()),
        ("weight", pa.float32()),
        ("box", pa.struct([("x", pa.int16()), ("y", pa.list_(pa.float64()))])),
        ("tags", pa.map_(pa.string(), pa.int64())),
    ]
)
FOOTER_BYTES_PER_SLICE_MAX = 320
CODECS = ["zstd", "lz4", "snappy", "none"]


def _files(schema: pa.Schema) -> pa.Schema:
    return file_schema(schema, stream_schema(schema)[0])


def _slice(value: Any, schema: pa.Schema = TOKENS, source: str | None = None) -> SliceData:
    table, arrays = slice_to_table(value, schema, where="slice")
    return SliceData(to_storage(table, schema), arrays, source)


def _mixed(rows: int, seed: int) -> SliceData:
    random = np.random.default_rng(seed)
    value = {
        "tokens": [random.integers(0, 9, n).tolist() for n in random.integers(0, 9, rows)],
        "text": [f"row {n} ü" for n in range(rows)],
        "weight": random.random(rows).astype(np.float32),
        "box": [{"x": n % 100, "y": [float(n)] * (n % 3)} for n in range(rows)],
        "tags": [[("k", n)] * (n % 2) for n in range(rows)],
    }
    table = pa.table(value, schema=MIXED)
    return SliceData(to_storage(table, MIXED), {}, f"source {seed}")


def _encode(
    slices: Sequence[SliceData],
    schema: pa.Schema = TOKENS,
    first_slice: int = 0,
    compression: str = "zstd",
) -> EncodedPart:
    return encode(
        slices,
        first_slice,
        file_schema=_files(schema),
        compression=compression,
        compression_level=1,
    )


def _fetched(part: EncodedPart, slices: Sequence[int], data: bytes | None = None) -> dict[int, Any]:
    """Only the bytes that `spans` asks for."""
    data = bytes(part.data) if data is None else data
    wanted = spans(part.at("x"), slices)
    return {start: data[start : start + length] for start, length in wanted}


def _decode(
    part: EncodedPart, slices: Sequence[int], schema: pa.Schema = TOKENS, data: bytes | None = None
) -> list[SliceData]:
    return decode(part.at("data/x.parquet"), slices, _fetched(part, slices, data), schema)


MIXED_SLICES = [_mixed(rows, rows) for rows in (1, 7, 300, 2)]


# -- what is in the file -----------------------------------------------------------------------


@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("first_slice", [0, 64])
def test_the_metadata_describes_the_file_to_the_byte(compression: str, first_slice: int) -> None:
    part = _encode(MIXED_SLICES, MIXED, first_slice, compression)
    data = bytes(part.data)
    footer = pq.read_metadata(pa.BufferReader(part.data))
    assert footer.num_row_groups == part.slices == len(MIXED_SLICES)
    assert footer.num_rows == part.rows == sum(one.table.num_rows for one in MIXED_SLICES)
    groups = [footer.row_group(n) for n in range(footer.num_row_groups)]
    assert [group.num_rows for group in groups] == [one.table.num_rows for one in MIXED_SLICES]
    columns = [[group.column(n) for n in range(group.num_columns)] for group in groups]
    starts = [
        min(one.dictionary_page_offset or one.data_page_offset for one in each) for each in columns
    ]
    sizes = [[one.total_compressed_size for one in each] for each in columns]
    assert list(part.offsets) == starts
    assert part.offsets[0] == 4
    assert list(part.column_bytes) == [sum(each) for each in zip(*sizes, strict=True)]
    assert part.data_end == 4 + sum(part.column_bytes)
    assert [end - start for start, end in itertools.pairwise([*starts, part.data_end])] == [
        sum(each) for each in sizes
    ], "row groups are neighbours: nothing lies between them"
    length = int.from_bytes(data[-8:-4], "little")
    assert data[:4] == data[-4:] == b"PAR1"
    assert part.data_end == len(data) - 8 - length
    assert len(part.column_bytes) == len(leaf_ids(_files(MIXED)))


def test_the_digest_is_that_of_the_bytes() -> None:
    part = _encode(MIXED_SLICES, MIXED)
    assert part.digest == hashlib.sha256(bytes(part.data)).hexdigest()
    described = part.at("data/x")
    assert (described.path, described.digest) == ("data/x", part.digest)
    assert described.bytes == part.data.size


@pytest.mark.parametrize("compression", CODECS)
def test_equal_input_gives_equal_bytes(compression: str) -> None:
    slices = [_mixed(rows, rows) for rows in (1, 7, 300, 2)]
    one = _encode(MIXED_SLICES, MIXED, compression=compression)
    two = _encode(slices, MIXED, compression=compression)
    assert bytes(one.data) == bytes(two.data)
    assert one.digest == two.digest
    assert one.digest != _encode(MIXED_SLICES, MIXED, 1, compression).digest


def test_how_a_table_is_chunked_does_not_change_the_bytes() -> None:
    whole = MIXED_SLICES[2].table
    pieces = pa.concat_tables([whole.slice(0, 10), whole.slice(10, 1), whole.slice(11)])
    assert pieces.column(0).num_chunks > 1
    one, two = (_encode([SliceData(table, {}, None)], MIXED) for table in (whole, pieces))
    assert bytes(one.data) == bytes(two.data)


def test_any_engine_sees_the_slice_in_statistics(tmp_path: Path) -> None:
    part = _encode(MIXED_SLICES, MIXED, first_slice=10)
    (tmp_path / "x.parquet").write_bytes(part.data)
    file = pq.ParquetFile(tmp_path / "x.parquet")
    at = file.schema_arrow.names.index("slice")
    leaf = [file.metadata.schema.column(n).path for n in range(len(part.column_bytes))]
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        found = group.column(leaf.index("slice")).statistics
        assert (found.min, found.max, found.null_count) == (10 + number, 10 + number, 0)
        others = [group.column(n) for n, name in enumerate(leaf) if name != "slice"]
        assert not any(one.is_stats_set for one in others), "they would only make the footer large"
    assert file.schema_arrow.names[at:] == ["slice", "source"]
    table = pq.read_table(tmp_path / "x.parquet", filters=[("slice", "==", 12)])
    assert table.num_rows == 300
    assert set(table["source"].to_pylist()) == {"source 300"}


def test_fields_carry_the_ids_of_the_table(tmp_path: Path) -> None:
    part = _encode(MIXED_SLICES, MIXED)
    (tmp_path / "x.parquet").write_bytes(part.data)
    stored = pq.ParquetFile(tmp_path / "x.parquet").schema_arrow
    assert leaf_ids(stored) == leaf_ids(_files(MIXED))
    assert [field_id(one) for one in stored] == [field_id(one) for one in _files(MIXED)]


def test_the_footer_stays_small() -> None:
    one, many = (_encode([_slice(tokens(0), source="s")] * count) for count in (1, 64))
    footers = [part.data.size - part.data_end for part in (one, many)]
    per_slice = (footers[1] - footers[0]) / 63
    print(f"footer: {per_slice:.0f} bytes a row group, {footers[0]} with one")
    assert per_slice < FOOTER_BYTES_PER_SLICE_MAX


# -- reading it back ---------------------------------------------------------------------------


@pytest.mark.parametrize("compression", CODECS)
def test_every_subset_of_slices_is_read_from_its_own_ranges(compression: str) -> None:
    part = _encode(MIXED_SLICES, MIXED, 5, compression)
    numbers = range(5, 5 + len(MIXED_SLICES))
    for count in range(1, len(MIXED_SLICES) + 1):
        for wanted in itertools.combinations(numbers, count):
            found = _decode(part, wanted, MIXED)
            for index, one in zip(wanted, found, strict=True):
                expected = MIXED_SLICES[index - 5]
                assert one.table.schema == MIXED
                assert one.table.to_pylist() == expected.table.to_pylist()
                assert one.source == expected.source


@given(st.sets(st.integers(0, 19), min_size=1), st.booleans())
def test_spans_are_disjoint_minimal_and_end_with_the_footer(wanted: set[int], only: bool) -> None:
    part = _encode([_slice(tokens(0, rows=rows)) for rows in range(1, 21)]).at("x")
    slices = sorted(wanted)[:1] if only else sorted(wanted)
    found = spans(part, slices)
    bounds = [*part.offsets, part.data_end]
    needed = sum(bounds[at + 1] - bounds[at] for at in slices) + part.bytes - part.data_end
    assert sum(length for _, length in found) == needed
    assert all(start + length < after for (start, length), (after, _) in itertools.pairwise(found))
    assert found[-1][0] + found[-1][1] == part.bytes
    runs = 1 + sum(b - a > 1 for a, b in itertools.pairwise(slices))
    assert len(found) == runs + (slices[-1] != 19)


def test_reading_beyond_what_was_fetched_is_an_error() -> None:
    part = _encode(MIXED_SLICES, MIXED)
    ranges = _fetched(part, [1])
    with pytest.raises(StreamCorrupted, match="not fetched"):
        decode(part.at("x"), [2], ranges, MIXED)
    with pytest.raises(StreamCorrupted, match="not fetched"):
        decode(part.at("x"), [1], {start: data[:-1] for start, data in ranges.items()}, MIXED)


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 5))
def test_parts_together_are_the_batch(count: int, per_file: int) -> None:
    slices = [_slice(tokens(n), source=f"s{n}") for n in range(count)]
    seen = []
    for first in range(0, count, per_file):
        part = _encode(slices[first : first + per_file], first_slice=first)
        assert part.first_slice == first
        numbers = range(first, first + part.slices)
        for index, one in zip(numbers, _decode(part, numbers), strict=True):
            assert one.table["tokens"].to_pylist() == [[index] * 8] * 4
            seen.append((index, one.source))
    assert seen == [(n, f"s{n}") for n in range(count)]


def test_only_the_columns_asked_for_are_decoded() -> None:
    part = _encode(MIXED_SLICES, MIXED)
    ranges = _fetched(part, [2])
    found = decode(part.at("x"), [2], ranges, MIXED, ["weight", "text"])
    assert found[0].table.schema.names == ["weight", "text"]
    assert found[0].table.num_rows == 300


def test_array_types_are_kept_slice_by_slice_where_they_differ() -> None:
    same = [_slice({"tokens": np.full((2, 3), n, np.int32)}) for n in range(2)]
    for one, kept in zip(same, _decode(_encode(same), [0, 1]), strict=True):
        assert dict(kept.arrays) == dict(one.arrays) != {}
    mixed = [same[0], _slice({"tokens": [[1], [2, 3]]}), _slice(tokens(1, rows=1, width=5))]
    for index, one in enumerate(mixed):
        assert dict(_decode(_encode(mixed), [index])[0].arrays) == dict(one.arrays)


# -- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_changed_byte_is_never_read_as_something_else(compression: str) -> None:
    part = _encode(MIXED_SLICES, MIXED, compression=compression)
    data = bytes(part.data)
    expected = [one.table.to_pylist() for one in MIXED_SLICES]
    caught = 0
    for at in range(4, part.data_end, max(1, part.data_end // 400)):
        changed = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        try:
            found = _decode(part, range(part.slices), MIXED, changed)
        except StreamCorrupted:
            caught += 1
        else:
            assert [one.table.to_pylist() for one in found] == expected, f"byte {at}"
    assert caught > 300


@pytest.mark.parametrize("back", range(1, 9))
def test_a_changed_tail_is_corruption(back: int) -> None:
    part = _encode(MIXED_SLICES, MIXED)
    changed = bytearray(part.data)
    changed[-back] ^= 0x55
    with pytest.raises(StreamCorrupted, match=r"data/x\.parquet"):
        _decode(part, [0], MIXED, bytes(changed))


@pytest.mark.parametrize("name", [b"tokens", b"slice", b"batchweave.slices", b'"all":'])
def test_a_footer_that_names_other_things_is_corruption_or_harmless(name: bytes) -> None:
    part = _encode([_slice(tokens(7))] * 2)
    data = bytes(part.data)
    assert data.count(name, part.data_end) >= 1
    footer = data[part.data_end :].replace(name, b"x" * len(name))
    try:
        found = _decode(part, [0, 1], TOKENS, data[: part.data_end] + footer)
    except StreamCorrupted:
        return
    assert [one.table["tokens"].to_pylist() for one in found] == [[[7] * 8] * 4] * 2


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 100, -100, -9, -8, -5, -1])
def test_a_truncated_file_is_corruption(kept: int) -> None:
    part = _encode(MIXED_SLICES, MIXED)
    with pytest.raises(StreamCorrupted, match=r"data/x\.parquet"):
        _decode(part, [3], MIXED, bytes(part.data)[:kept])


def test_another_file_under_the_name_is_corruption() -> None:
    part = _encode(MIXED_SLICES, MIXED)
    wrong = _encode([_mixed(rows, rows + 1) for rows in (7, 1, 2, 300)], MIXED, first_slice=1)
    for other in (wrong, _encode(MIXED_SLICES[:1], MIXED), _encode([_slice(tokens(1))] * 4)):
        described = replace(other.at("x"), first_slice=0, slices=4, offsets=part.offsets)
        whole = {0: bytes(other.data)}
        with pytest.raises(StreamCorrupted):
            decode(described, [1], whole, MIXED)
