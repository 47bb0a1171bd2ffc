"""What goes into a stream's columns comes out again: through real Parquet bytes, exactly."""

from __future__ import annotations

import datetime as dt
import importlib.util
import io
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise, product
from typing import Any
from uuid import UUID

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids

from batchweave import columns
from batchweave.columns import (
    ArrayType,
    column_buffer,
    from_storage,
    leaf_arrays,
    list_arrays,
    schema_from_text,
    schema_to_text,
    slice_to_table,
    storage_schema,
    table_to_numpy,
    to_storage,
)
from batchweave.columns.arrow_types import is_list
from batchweave.errors import SchemaMismatch, UnsupportedType

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)

FIXED = [
    pa.bool_(),
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64()),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.timestamp(unit, "Europe/Berlin") for unit in ("s", "ms", "us", "ns")),
    pa.timestamp("us", "UTC"),
    pa.timestamp("us", "+05:30"),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.decimal32(9, 2), pa.decimal64(18, 18), pa.decimal128(38, 0), pa.decimal256(38, 10)),
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1), pa.binary(16)),
]
ENCODED = [
    kind
    for value in FIXED
    for kind in (pa.dictionary(pa.int8(), value), pa.run_end_encoded(pa.int16(), value))
]
NOTHING = pa.opaque(pa.null(), "nothing", "here")
EXTENSIONS = [
    pa.uuid(),
    pa.bool8(),
    pa.json_(),
    pa.json_(pa.large_string()),
    pa.opaque(pa.int16(), "oid", "postgres"),
    NOTHING,
    pa.fixed_shape_tensor(pa.uint8(), (2, 3)),
    pa.fixed_shape_tensor(pa.float16(), (2, 3), permutation=(1, 0)),
]
LEAVES = [*FIXED, *ENCODED, *EXTENSIONS, pa.null()]
LISTS: list[Callable[[Any], pa.DataType]] = [
    pa.list_,
    pa.large_list,
    pa.list_view,
    pa.large_list_view,
    lambda field: pa.list_(field, 2),
    lambda field: pa.list_(field, 0),
]
STORABLE = {
    *(pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.date32()),
    *(pa.time64("us"), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.string(), pa.binary()),
}

# ---- making any Arrow array: from raw storage values, so that every bit pattern occurs ----


def declared(name: str, kind: pa.DataType, nullable: bool) -> pa.Field:
    return pa.field(name, kind, nullable or kind in (pa.null(), NOTHING))


def fields(kinds: st.SearchStrategy[pa.DataType], prefix: str) -> st.SearchStrategy[list[pa.Field]]:
    """One to three fields; drawn in one go, as a `flatmap` makes new strategies at every draw."""
    return st.lists(st.tuples(kinds, st.booleans()), min_size=1, max_size=3).map(
        lambda drawn: [declared(f"{prefix}{n}", *one) for n, one in enumerate(drawn)]
    )


def nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    item = st.builds(declared, st.just("item"), inner, st.booleans())
    lists = st.builds(lambda make, item: make(item), st.sampled_from(LISTS), item)
    structs = fields(inner, "f").map(pa.struct)
    keys = st.sampled_from([pa.string(), pa.uint16(), pa.large_binary()])
    value = st.builds(declared, st.just("value"), inner, st.booleans())
    maps = st.builds(pa.map_, keys, value, keys_sorted=st.booleans())
    return st.one_of(lists, structs, maps)


types = st.recursive(st.sampled_from(LEAVES), nested, max_leaves=4)
schemas = fields(types, "c").map(lambda found: pa.schema(found, metadata={"note": "kept"}))


def leaf_values(rng: np.random.Generator, kind: pa.DataType, rows: int) -> pa.Array:
    width = pa.types
    if width.is_boolean(kind):
        return pa.array(rng.integers(0, 2, rows, dtype=np.uint8).astype(bool))
    if kind == pa.date64():
        return pa.array(rng.integers(-(10**6), 10**6, rows) * 86_400_000).view(kind)
    if width.is_time(kind):
        top = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit] * 86_400
        dtype = np.int32 if kind.bit_width == 32 else np.int64
        return pa.array(rng.integers(0, top, rows).astype(dtype)).view(kind)
    if width.is_timestamp(kind) and kind.unit in ("s", "ms"):
        return pa.array(rng.integers(-(10**12), 10**12, rows)).view(kind)
    if width.is_decimal(kind):
        digits = min(kind.precision, 18)
        whole = rng.integers(-(10**digits) + 1, 10**digits, rows).tolist()
        scaled = [Decimal(number).scaleb(-kind.scale) for number in whole]
        return pa.array(scaled, pa.decimal128(kind.precision, kind.scale)).cast(kind)
    if width.is_fixed_size_binary(kind):
        return pa.array([rng.bytes(kind.byte_width) for _ in range(rows)], kind)
    if width.is_null(kind):
        return pa.nulls(rows)
    if not width.is_primitive(kind):
        words = ["", "a", "longer than a view's inline part", "ü"]
        chosen = [words[at] for at in rng.integers(0, len(words), rows)]
        return pa.array(chosen, pa.string()).cast(pa.binary()).cast(kind)
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(rng.bytes(rows * 8))])


def some_nulls(rng: np.random.Generator, array: pa.Array, nullable: bool) -> pa.Array:
    if not nullable or pa.types.is_null(array.type):
        return array
    places = np.arange(len(array))
    if "view" in str(array.type):  # Arrow has no `take` for them.
        large = pa.large_string() if array.type == pa.string_view() else pa.large_binary()
        return some_nulls(rng, array.cast(large), nullable).cast(array.type)
    return array.take(pa.array(places, mask=rng.integers(0, 4, len(array)) == 0))


def make(rng: np.random.Generator, field: pa.Field, rows: int) -> pa.Array:
    """A random array with nulls where allowed, often a slice of a longer one."""
    before, after = rng.integers(0, 3, 2)
    whole = make_whole(rng, field, int(before) + rows + int(after))
    return whole.slice(int(before), rows)


def make_whole(rng: np.random.Generator, field: pa.Field, rows: int) -> pa.Array:
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        storage = make(rng, field.with_type(kind.storage_type), rows)
        return pa.ExtensionArray.from_storage(kind, storage)
    if pa.types.is_dictionary(kind):
        values = leaf_values(rng, kind.value_type, 5)
        null = rng.integers(0, 4, rows) == 0 if field.nullable else None
        indices = pa.array(rng.integers(0, 5, rows).astype(np.int8), mask=null)
        return pa.DictionaryArray.from_arrays(indices, values)
    if pa.types.is_run_end_encoded(kind):
        values = make(rng, pa.field("v", kind.value_type, field.nullable), rows)
        ends = pa.array(np.arange(1, rows + 1, dtype=np.int16) * 2)
        runs = pa.RunEndEncodedArray.from_arrays(ends, values, type=kind)
        return runs.slice(rows // 2, rows)
    if pa.types.is_struct(kind):
        children = [make(rng, inner, rows) for inner in kind.fields]
        return pa.StructArray.from_arrays(children, fields=kind.fields, mask=mask(rng, field, rows))
    if is_list(kind) or pa.types.is_map(kind):
        return make_lists(rng, field, rows)
    return some_nulls(rng, leaf_values(rng, kind, rows), field.nullable)


def mask(rng: np.random.Generator, field: pa.Field, rows: int) -> pa.Array | None:
    return pa.array(rng.integers(0, 4, rows) == 0) if field.nullable else None


def make_lists(rng: np.random.Generator, field: pa.Field, rows: int) -> pa.Array:
    kind = field.type
    null = mask(rng, field, rows)
    if pa.types.is_fixed_size_list(kind):
        values = make(rng, kind.value_field, rows * kind.list_size)
        valid = None if null is None else pa.compute.invert(null).buffers()[1]
        return pa.Array.from_buffers(kind, rows, [valid], children=[values])
    lengths = rng.integers(0, 4, rows)
    ends = np.concatenate(([0], np.cumsum(lengths)))
    if pa.types.is_map(kind):
        keys = make(rng, kind.key_field, int(ends[-1]))
        items = make(rng, kind.item_field, int(ends[-1]))
        offsets = pa.array(ends.astype(np.int32))
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=null)
    values = make(rng, kind.value_field, int(ends[-1]))
    large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    offsets = pa.array(ends.astype(np.int64 if large else np.int32))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        cls = pa.LargeListArray if large else pa.ListArray
        return cls.from_arrays(offsets, values, type=kind, mask=null)
    view = pa.LargeListViewArray if large else pa.ListViewArray
    sizes = pa.array(lengths.astype(np.int64 if large else np.int32))
    return view.from_arrays(offsets[:-1], sizes, values, type=kind, mask=null)


def make_table(seed: int, schema: pa.Schema, rows: int, chunks: int = 2) -> pa.Table:
    rng = np.random.default_rng(seed)
    parts = [
        pa.chunked_array([make(rng, field, rows) for _ in range(chunks)], type=field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(parts, schema=schema)


# ---- comparing exactly: bits of floats too, dictionaries and runs by their values ----


def comparable(array: pa.Array) -> Any:
    """Python values in which equal means equal bits, whatever the layout."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return comparable(array.storage)
    if pa.types.is_dictionary(kind):
        values = comparable(array.dictionary)
        return [None if at is None else values[at] for at in array.indices.to_pylist()]
    if pa.types.is_run_end_encoded(kind):
        values = comparable(array.values)
        ends = np.asarray(array.run_ends)
        places = np.searchsorted(ends, np.arange(len(array)) + array.offset, side="right")
        return [values[at] for at in places]
    if is_list(kind):
        items = comparable(array.values)
        if pa.types.is_fixed_size_list(kind):
            first = [(array.offset + row) * kind.list_size for row in range(len(array))]
            sizes = [kind.list_size] * len(array)
        else:
            first = array.offsets.to_pylist()
            sizes = (
                array.sizes.to_pylist()
                if hasattr(array, "sizes")
                else [b - a for a, b in pairwise(first)]
            )
        rows = [items[at : at + size] for at, size in zip(first, sizes, strict=False)]
        return [row if ok.as_py() else None for row, ok in zip(rows, array.is_valid(), strict=True)]
    if pa.types.is_struct(kind):
        fields = [comparable(array.field(n)) for n in range(kind.num_fields)]
        rows = [list(row) for row in zip(*fields, strict=True)]
        return [row if ok.as_py() else None for row, ok in zip(rows, array.is_valid(), strict=True)]
    if pa.types.is_map(kind):
        keys, items = comparable(array.keys), comparable(array.items)
        ends = array.offsets.to_pylist()
        rows = [list(zip(keys[a:b], items[a:b], strict=True)) for a, b in pairwise(ends)]
        return [row if ok.as_py() else None for row, ok in zip(rows, array.is_valid(), strict=True)]
    if pa.types.is_floating(kind):
        return array.view(
            {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width]
        ).to_pylist()
    if pa.types.is_temporal(kind):
        return array.view(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
    return array.to_pylist()


def rows_of(column: pa.ChunkedArray) -> list[Any]:
    return [row for chunk in column.chunks for row in comparable(chunk)]


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    assert found.schema.equals(expected.schema, check_metadata=True)
    for name in expected.column_names:
        for chunk in found[name].chunks:
            chunk.validate(full=True)
        assert rows_of(found[name]) == rows_of(expected[name])


def through_parquet(table: pa.Table, *, store_schema: bool = False) -> pa.Table:
    file = io.BytesIO()
    pq.write_table(table, file, store_schema=store_schema)
    file.seek(0)
    return pq.ParquetFile(file).read(use_threads=False)


def round_trip(table: pa.Table, *, store_schema: bool = False) -> pa.Table:
    stored = to_storage(table, table.schema)
    for column in stored.columns:
        column.validate(full=True)
    return from_storage(through_parquet(stored, store_schema=store_schema), table.schema)


def is_storable(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return is_storable(kind.value_type)
    if pa.types.is_struct(kind):
        return all(is_storable(field.type) for field in kind.fields)
    if pa.types.is_map(kind):
        return is_storable(kind.key_type) and is_storable(kind.item_type)
    if pa.types.is_decimal128(kind):
        return bool(kind.precision <= 38)
    return bool(kind in STORABLE or pa.types.is_fixed_size_binary(kind))


# ---- storage ----


@pytest.mark.parametrize("kind", LEAVES, ids=str)
def test_every_type_comes_back_exactly_through_parquet(kind: pa.DataType) -> None:
    schema = pa.schema([pa.field("x", kind), pa.field("l", pa.list_(kind))])
    for seed in range(3):
        table = make_table(seed, schema, 20)
        for store_schema in (False, True):
            assert_same(round_trip(table, store_schema=store_schema), table)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas, rows=st.integers(0, 7), seed=st.integers(0, 2**32))
def test_any_nesting_comes_back_exactly_through_parquet(
    schema: pa.Schema, rows: int, seed: int
) -> None:
    table = make_table(seed, schema, rows)
    assert_same(round_trip(table), table)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas)
def test_every_storage_schema_is_one_that_iceberg_has(schema: pa.Schema) -> None:
    stored = storage_schema(schema)
    assert stored.names == schema.names
    assert [field.nullable for field in stored] == [field.nullable for field in schema]
    assert stored.metadata is None
    assert all(is_storable(field.type) and field.metadata is None for field in stored)
    iceberg = _pyarrow_to_schema_without_ids(stored)
    assert [field.name for field in iceberg.fields] == schema.names
    assert [field.required for field in iceberg.fields] == [not f.nullable for f in schema]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas)
def test_a_schema_survives_as_text(schema: pa.Schema) -> None:
    text = schema_to_text(schema)
    assert text.isascii()
    assert schema_from_text(text).equals(schema, check_metadata=True)
    assert schema_to_text(schema_from_text(text)) == text


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA", "ü"])
def test_text_that_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(SchemaMismatch, match="expected a schema as base64"):
        schema_from_text(text)


@pytest.mark.parametrize(
    ("logical", "stored"),
    [
        (pa.int8(), pa.int32()),
        (pa.uint16(), pa.int32()),
        (pa.uint32(), pa.int64()),
        (pa.uint64(), pa.decimal128(20, 0)),
        (pa.float16(), pa.float32()),
        (pa.date64(), pa.date32()),
        (pa.time32("ms"), pa.time64("us")),
        (pa.timestamp("s"), pa.timestamp("us")),
        (pa.timestamp("ms", "Asia/Tokyo"), pa.timestamp("us", "UTC")),
        (pa.timestamp("ns", "UTC"), pa.int64()),
        (pa.duration("s"), pa.int64()),
        (pa.list_(pa.uint8(), 4), pa.list_(pa.int32())),
        (pa.dictionary(pa.int32(), pa.large_string()), pa.string()),
        (pa.fixed_shape_tensor(pa.float32(), (2, 2)), pa.list_(pa.float32())),
        (pa.uuid(), pa.binary(16)),
        (pa.decimal256(10, 2), pa.decimal128(10, 2)),
        (pa.null(), pa.bool_()),
    ],
    ids=str,
)
def test_types_are_stored_as_documented(logical: pa.DataType, stored: pa.DataType) -> None:
    assert storage_schema(pa.schema([("x", logical)])).field("x").type == stored


@pytest.mark.parametrize(
    "kind",
    [
        pa.month_day_nano_interval(),
        pa.dense_union([pa.field("a", pa.int32())]),
        pa.sparse_union([pa.field("a", pa.int32())]),
        pa.decimal256(39, 0),
        pa.decimal128(5, -2),
        pa.decimal128(3, 5),
        pa.struct([]),
        pa.struct([("a", pa.int32()), ("a", pa.int32())]),
        pa.struct([("", pa.int32())]),
        pa.binary(0),
        pa.dictionary(pa.int8(), pa.string(), ordered=True),
        pa.dictionary(pa.int8(), pa.list_(pa.int8())),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "wrap", [lambda kind: kind, pa.list_, lambda kind: pa.struct([("s", kind)])]
)
def test_a_type_that_cannot_be_kept_is_refused_by_column_and_type(
    kind: pa.DataType, wrap: Callable[[pa.DataType], pa.DataType]
) -> None:
    schema = pa.schema([("fine", pa.int32()), ("odd one", wrap(kind))])
    with pytest.raises(UnsupportedType, match="odd one"):
        storage_schema(schema)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (pa.schema([]), "at least one column"),
        (pa.schema([("", pa.int32())]), "must not be empty"),
        (pa.schema([("a", pa.int32()), ("a", pa.int32())]), r"repeats \['a'\]"),
        (pa.schema([pa.field("a", NOTHING, nullable=False)]), "declare it nullable"),
    ],
)
def test_a_schema_that_no_table_can_have_is_refused(schema: pa.Schema, message: str) -> None:
    with pytest.raises(UnsupportedType, match=message):
        storage_schema(schema)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([86_400_001]).view(pa.date64()),
        pa.array([2**62]).view(pa.timestamp("s")),
        pa.array([[1, 2**62]], pa.list_(pa.timestamp("ms"))),
    ],
    ids=lambda array: str(array.type),
)
def test_a_value_that_storage_cannot_hold_is_refused_not_changed(array: pa.Array) -> None:
    table = pa.table({"when": array})
    with pytest.raises(SchemaMismatch, match=r"'when' cannot become .* without loss"):
        to_storage(table, table.schema)


@pytest.mark.parametrize(
    ("stored", "logical"),
    [
        (pa.array([300], pa.int32()), pa.int8()),
        (pa.array([-1], pa.int32()), pa.uint16()),
        (pa.array([Decimal(2**64)], pa.decimal128(20, 0)), pa.uint64()),
        (pa.array([0.1], pa.float32()), pa.float16()),
        (pa.array([1e6], pa.float32()), pa.float16()),
        (pa.array([1], pa.time64("us")), pa.time32("s")),
        (pa.array([[1]], pa.list_(pa.int32())), pa.list_(pa.int32(), 2)),
        (pa.array([True]), pa.null()),
        (pa.array([{"b": 1}]), pa.struct([("a", pa.int64())])),
        (pa.array(["x"]), pa.list_(pa.string())),
        (pa.array(["x"]), pa.int8()),
    ],
    ids=str,
)
def test_a_stored_value_that_the_logical_type_lacks_is_refused(
    stored: pa.Array, logical: pa.DataType
) -> None:
    with pytest.raises(SchemaMismatch, match="'x' cannot become"):
        from_storage(pa.table({"x": stored}), pa.schema([("x", logical)]))


def test_other_columns_than_the_schemas_are_refused() -> None:
    table, schema = pa.table({"a": [1]}), pa.schema([("b", pa.int64())])
    for convert in (to_storage, from_storage):
        with pytest.raises(SchemaMismatch, match=r"\['b'\], got \['a'\]"):
            convert(table, schema)
    with pytest.raises(SchemaMismatch, match="'a' is declared int32, got int64"):
        to_storage(table, pa.schema([("a", pa.int32())]))


def test_equal_types_are_handed_through_without_a_copy() -> None:
    table = pa.table(
        {"t": pa.array([[1, 2], None, [3]], pa.list_(pa.int32())), "s": ["a", "b", "c"]}
    )
    for moved in (to_storage(table, table.schema), from_storage(table, table.schema)):
        for name in table.column_names:
            ours, theirs = moved[name].chunk(0), table[name].chunk(0)
            assert [b and b.address for b in ours.buffers()] == [
                b and b.address for b in theirs.buffers()
            ]


def test_a_required_field_below_a_null_struct_can_be_stored() -> None:
    inner = pa.field("a", pa.int32(), nullable=False)
    values = pa.array([1, None], pa.int32())
    array = pa.StructArray.from_arrays([values], fields=[inner], mask=pa.array([False, True]))
    table = pa.table({"s": array})
    assert round_trip(table)["s"].to_pylist() == [{"a": 1}, None]


def test_chunks_too_long_for_small_indices_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(n) for n in range(1000)]
    kind = pa.dictionary(pa.int8(), pa.string())
    table = from_storage(pa.table({"d": names}), pa.schema([("d", kind)]))
    assert table["d"].to_pylist() == names
    runs = pa.run_end_encoded(pa.int16(), pa.int64())
    back = from_storage(pa.table({"r": range(40_000)}), pa.schema([("r", runs)]))
    assert rows_of(back["r"]) == list(range(40_000))
    monkeypatch.setattr(list_arrays, "LIST_VALUES_MAX", 10)
    monkeypatch.setattr(leaf_arrays, "STRING_BYTES_MAX", 100)
    rows = [[1] * 7, [2] * 7, None, [3] * 7]
    many = pa.table(
        {
            "l": pa.array(rows, pa.large_list(pa.int8())),
            "s": pa.array(["x" * 60] * 4, pa.large_string()),
        }
    )
    stored = to_storage(many, many.schema)
    assert stored["l"].to_pylist() == rows
    assert stored["l"].num_chunks > 1
    assert stored["s"].to_pylist() == many["s"].to_pylist()
    one = pa.table({"l": pa.array([[1] * 11], pa.large_list(pa.int8()))})
    with pytest.raises(SchemaMismatch, match="10 values a chunk, got 11"):
        to_storage(one, one.schema)


def test_bits_of_every_half_float_survive() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    table = pa.table({"h": pa.array(halves)})
    back = round_trip(table)["h"].to_numpy()
    np.testing.assert_array_equal(back.view(np.uint16), halves.view(np.uint16))


@pytest.mark.parametrize(
    "encoded",
    [pa.dictionary(pa.int8(), pa.float64()), pa.run_end_encoded(pa.int16(), pa.float64())],
    ids=str,
)
def test_encoding_again_tells_zeros_and_nans_apart(encoded: pa.DataType) -> None:
    nan = 0x7FF8 << 48
    bits = np.array([nan, nan + 1, 0, 1 << 63, 1 << 63, nan + 1, nan], np.uint64)
    plain = pa.table({"x": pa.array(bits.view(np.float64), from_pandas=False)})
    back = from_storage(plain, pa.schema([("x", encoded)]))
    assert rows_of(back["x"]) == bits.view(np.int64).tolist()


# ---- arrays in and out ----

DTYPES = {
    np.dtype(code).name: pa.from_numpy_dtype(np.dtype(code))
    for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}
TIMES = {
    "datetime64[D]": pa.date32(),
    **{f"datetime64[{unit}]": pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")},
    **{f"timedelta64[{unit}]": pa.duration(unit) for unit in ("s", "ms", "us", "ns")},
}
OTHERS = {"S3": pa.binary(), "U3": pa.string(), "object": pa.binary()}
SHAPES = [(), (5,), (3, 4), (2, 3, 4), (0,), (3, 0), (1, 1)]


def sample(dtype: str, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(7)
    if dtype == "bfloat16":
        return rng.integers(0, 2**16, shape, dtype=np.uint16).view(ml_dtypes.bfloat16)
    if dtype == "object":
        found = np.empty(shape, dtype=object)
        found[...] = b"x\0y"
        return found
    kind = np.dtype(dtype)
    if kind.kind == "U":
        return rng.integers(0, 900, shape).astype(dtype)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype in ("datetime64[D]", "datetime64[s]", "datetime64[ms]"):
        return rng.integers(-(10**5), 10**5, shape).view(dtype)
    if kind.kind == "S":
        return rng.integers(0, 900, shape).astype(dtype)
    count = int(np.prod(shape)) * kind.itemsize
    return np.frombuffer(rng.bytes(count), dtype=np.uint8).view(dtype).reshape(shape).copy()


def assert_bits(found: Any, expected: Any) -> None:
    assert isinstance(found, np.ndarray)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if expected.dtype == object:
        assert found.tolist() == expected.tolist()
    else:
        assert found.tobytes() == expected.tobytes()


def nest(kind: pa.DataType, depth: int) -> pa.DataType:
    return kind if depth == 0 else pa.list_(nest(kind, depth - 1))


def declared_for(dtype: str) -> list[pa.DataType]:
    if dtype == "bfloat16":
        return [pa.float32()]
    found = (DTYPES | TIMES | OTHERS)[dtype]
    return [found, pa.float32()] if dtype == "float16" else [found]


def publish(value: Any, kind: pa.DataType) -> tuple[pa.Table, dict[str, ArrayType]]:
    """Through `slice_to_table` and real Parquet bytes, as a reader would find it."""
    schema = pa.schema([("x", kind)])
    table, arrays = slice_to_table({"x": value}, schema, where="slice 3")
    table.validate(full=True)
    texts = {name: ArrayType.from_dict(one.to_dict()) for name, one in arrays.items()}
    assert texts == arrays
    return round_trip(table), texts


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES, *TIMES, *OTHERS, "bfloat16"])
def test_an_array_of_any_dtype_and_rank_comes_back_as_it_went_in(
    dtype: str, shape: tuple[int, ...]
) -> None:
    for rows, leaf in product((0, 3), declared_for(dtype)):
        array = sample(dtype, (rows, *shape))
        for depth in {len(shape), min(len(shape), 1)}:
            table, arrays = publish(array, nest(leaf, depth))
            assert arrays["x"].shape == shape
            assert_bits(table_to_numpy(table, arrays)["x"], array)


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_list(pa.int32()),
        pa.list_view(pa.int32()),
        pa.large_list_view(pa.int32()),
        pa.list_(pa.int32(), 6),
        pa.list_(pa.field("item", pa.int32(), nullable=False)),
        pa.list_(pa.dictionary(pa.int8(), pa.int32())),
        pa.list_(pa.run_end_encoded(pa.int32(), pa.int32())),
        pa.large_list(pa.list_(pa.int32(), 3)),
        pa.fixed_shape_tensor(pa.int32(), (2, 3)),
    ],
    ids=str,
)
def test_arrays_fit_every_kind_of_list(kind: pa.DataType) -> None:
    array = np.arange(24, dtype=np.int32).reshape(4, 2, 3)
    table, arrays = publish(array, kind)
    assert table.schema.field("x").type == kind
    assert_bits(table_to_numpy(table, arrays)["x"], array)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array(["2020-01-02", "NaT"], "datetime64[D]"), pa.date64()),
        (np.array(["2020-01-02", "NaT"], "datetime64[us]"), pa.timestamp("us", "UTC")),
        (np.array(["a", "bc"]), pa.large_string()),
        (np.array([b"abc", b"d\0e"]), pa.binary(3)),
        (np.array([b"abcdefgh" * 2, b"\0" * 16]), pa.uuid()),
        (np.array(["a", None], dtype=object), pa.string_view()),
        (np.array(["a", "b"]), pa.dictionary(pa.int16(), pa.string())),
        (np.array([1, 0], np.int8), pa.bool8()),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_arrays_fit_scalar_columns_of_their_values(array: Any, kind: pa.DataType) -> None:
    table, arrays = publish(array, kind)
    assert_bits(table_to_numpy(table, arrays)["x"], array)


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "every other": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "fortran": np.asfortranarray,
    "unaligned": lambda a: unaligned(a),
}


def unaligned(array: Any) -> Any:
    raw = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:]
    return raw.view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["int32", "bool", "float16", "datetime64[us]", "U3", "S3"])
def test_the_layout_of_an_array_does_not_matter(layout: str, dtype: str) -> None:
    array = sample(dtype, (4, 6))
    given = LAYOUTS[layout](array)
    given.flags.writeable = False
    for leaf in declared_for(dtype):
        table, arrays = publish(given, pa.list_(leaf))
        assert_bits(table_to_numpy(table, arrays)["x"], array)


@pytest.mark.parametrize("dtype", [*DTYPES, *TIMES, *OTHERS, "bfloat16"])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_caller_may_reuse_arrays_at_once(dtype: str, ragged: bool) -> None:
    array = sample(dtype, (3, 4))
    before = array.copy()
    kind = pa.list_(declared_for(dtype)[0])
    schema = pa.schema([("x", kind)])
    given = list(array) if ragged else array
    table, arrays = slice_to_table({"x": given}, schema, where="slice 0")
    array[...] = np.zeros_like(array)
    assert_bits(np.stack(list(table_to_numpy(table, arrays)["x"])), before)


def test_arrow_data_is_shared_not_copied() -> None:
    table = pa.table({"t": pa.array([[1, 2]], pa.list_(pa.int32()))})
    found, arrays = slice_to_table(table, table.schema, where="slice 0")
    assert arrays == {}
    ours, theirs = found["t"].chunk(0).buffers(), table["t"].chunk(0).buffers()
    assert [b and b.address for b in ours] == [b and b.address for b in theirs]


def test_numbers_are_handed_back_without_a_copy() -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    schema = pa.schema([("x", pa.list_(pa.int32()))])
    table, arrays = slice_to_table({"x": array}, schema, where="slice 0")
    found: Any = table_to_numpy(table, arrays)["x"]
    address = table["x"].chunk(0).buffers()[3].address
    assert found.__array_interface__["data"] == (address, True)
    flat, lengths = column_buffer(table["x"], arrays["x"])
    assert flat.__array_interface__["data"] == (address, True)
    assert lengths is not None
    assert lengths.tolist() == [4, 4, 4]


def test_slices_of_chunks_are_joined_in_row_order() -> None:
    kind = pa.list_(pa.list_(pa.int16()))
    whole = pa.array([[[9], []], [[1, 2], [3]], [[4], [5, 6]], [[9, 9]]], kind)
    column = pa.chunked_array([whole.slice(1, 1), whole.slice(0, 0), whole.slice(2, 1)])
    flat, lengths = column_buffer(column)
    assert flat.tolist() == [1, 2, 3, 4, 5, 6]
    assert lengths is not None
    assert lengths.tolist() == [3, 3]
    scalar, none = column_buffer(pa.chunked_array([pa.array([0, 1, 2]).slice(1), pa.array([3])]))
    assert scalar.tolist() == [1, 2, 3]
    assert none is None


def test_a_buffer_has_the_published_type_or_the_bits_of_bfloat16() -> None:
    halves = np.array([[1.5, -0.0]], np.float16)
    brains = np.array([[0x3FC0, 0x8000, 0x7F81]], np.uint16)
    for array, found in ((halves, halves), (brains.view(ml_dtypes.bfloat16), brains)):
        table, arrays = publish(array, pa.list_(pa.float32()))
        flat, _ = column_buffer(table["x"], arrays["x"])
        assert_bits(flat.reshape(found.shape), found)


@pytest.mark.parametrize(
    "column",
    [pa.chunked_array([["a"]]), pa.chunked_array([[1, None]]), pa.chunked_array([[[1], None]])],
    ids=str,
)
def test_a_buffer_of_what_is_no_plain_number_is_refused(column: pa.ChunkedArray) -> None:
    with pytest.raises(SchemaMismatch, match="expected"):
        column_buffer(column)


def test_rows_of_different_lengths_come_back_as_arrays() -> None:
    rows = [np.arange(3, dtype=np.uint8), None, np.arange(0, dtype=np.uint8), np.arange(5)[::-2]]
    rows[3] = rows[3].astype(np.uint8)[::-1]  # type: ignore[union-attr]
    table, arrays = publish(rows, pa.list_(pa.uint8()))
    assert arrays["x"] == ArrayType("uint8", (-1,), "numpy")
    found = table_to_numpy(table, arrays)["x"]
    for ours, theirs in zip(found, rows, strict=True):
        if theirs is None:
            assert ours is None
        else:
            assert_bits(ours, theirs)


def test_rows_of_images_are_stacked() -> None:
    images = [np.full((2, 2), n, np.uint8) for n in range(3)]
    table, arrays = publish(images, pa.list_(pa.uint8()))
    assert_bits(table_to_numpy(table, arrays)["x"], np.stack(images))


def test_large_arrays_become_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_arrays, "LIST_VALUES_MAX", 10)
    array = np.arange(28, dtype=np.int16).reshape(7, 4)
    schema = pa.schema([("x", pa.list_(pa.int16()))])
    for value in (array, list(array)):
        table, arrays = slice_to_table({"x": value}, schema, where="slice 0")
        assert table["x"].num_chunks > 1
        np.testing.assert_array_equal(np.stack(list(table_to_numpy(table, arrays)["x"])), array)


def test_columns_that_were_no_arrays_come_out_as_what_fits_them() -> None:
    table = pa.table(
        {
            "n": pa.array([1, 2], pa.uint16()),
            "b": [True, False],
            "null": pa.array([1, None]),
            "t": pa.array([5, None], pa.timestamp("ns")),
            "even": pa.array([[1, 2], [3, 4]], pa.list_(pa.float16())),
            "deep": [[[1, 2]], [[3, 4]]],
            "deep ragged": [[[1, 2]], [[3]]],
            "ragged": [[1, 2], [3]],
            "absent": pa.array([[1, 2], None]),
            "holes": pa.array([[1, None], [2, 3]]),
            "s": ["a", None],
            "bytes": [b"a", b"b"],
            "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((2, 3, 4), np.int8)),
            "dict": pa.array(["a", "b"]).dictionary_encode(),
            "struct": [{"a": 1}, None],
        }
    )
    found: Any = table_to_numpy(table, {})
    assert_bits(found["n"], np.array([1, 2], np.uint16))
    assert_bits(found["b"], np.array([True, False]))
    assert found["null"] == [1, None]
    assert np.isnat(found["t"]).tolist() == [False, True]
    assert_bits(found["even"], np.array([[1, 2], [3, 4]], np.float16))
    assert found["deep"].shape == (2, 1, 2)
    assert found["deep ragged"] == [[[1, 2]], [[3]]]
    assert [row.tolist() for row in found["ragged"]] == [[1, 2], [3]]
    assert found["absent"][0].tolist() == [1, 2]
    assert found["absent"][1] is None
    assert found["holes"] == [[1, None], [2, 3]]
    assert found["s"] == ["a", None]
    assert found["bytes"] == [b"a", b"b"]
    assert found["tensor"].shape == (2, 3, 4)
    assert found["dict"] == ["a", "b"]
    assert found["struct"] == [{"a": 1}, None]


def test_tables_without_chunks_come_out_empty() -> None:
    kinds = [pa.int32(), pa.list_(pa.int32()), pa.string(), pa.fixed_shape_tensor(pa.int8(), (2,))]
    schema = pa.schema([(str(kind), kind) for kind in kinds])
    empty = schema.empty_table()
    bare = pa.Table.from_arrays([pa.chunked_array([], kind) for kind in kinds], schema=schema)
    for table in (empty, bare, round_trip(bare)):
        found = table_to_numpy(table, {"int32": ArrayType("int32", (), "numpy")})
        assert [len(column) for column in found.values()] == [0, 0, 0, 0]


def test_a_column_unlike_its_array_type_is_refused() -> None:
    table = pa.table({"x": pa.array([[1, 2]], pa.list_(pa.int32()))})
    for array_type, message in (
        (ArrayType("int32", (3,), "numpy"), r"shape \(1, 3\), got 2 values"),
        (ArrayType("bfloat16", (2,), "numpy"), "expected values of bfloat16, got int32"),
        (ArrayType("int64", (2,), "torch"), "expected values of int64, got int32"),
    ):
        with pytest.raises(SchemaMismatch, match=f"column 'x': .*{message}"):
            table_to_numpy(table, {"x": array_type})
    with pytest.raises(SchemaMismatch, match="expected lists"):
        table_to_numpy(pa.table({"x": [1]}), {"x": ArrayType("int64", (-1,), "numpy")})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"dtype": 1, "shape": [], "kind": "numpy"},
        {"dtype": "int8", "shape": 3, "kind": "numpy"},
        {"dtype": "int8", "shape": [-2], "kind": "numpy"},
        {"dtype": "int8", "shape": [True], "kind": "numpy"},
        {"dtype": "int8", "shape": [], "kind": "jax"},
    ],
)
def test_an_array_type_of_other_values_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SchemaMismatch, match="expected dtype, shape and kind"):
        ArrayType.from_dict(values)


def test_bfloat16_without_ml_dtypes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    table, arrays = publish(sample("bfloat16", (2, 2)), pa.list_(pa.float32()))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ModuleNotFoundError, match="pip install ml_dtypes"):
        table_to_numpy(table, arrays)


def test_importing_columns_imports_neither_torch_nor_ml_dtypes() -> None:
    code = (
        "import sys, batchweave.columns; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'ml_dtypes')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- Python lists ----


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None], pa.int8()),
        ([1.5, 2], pa.float32()),
        ([True, None], pa.bool_()),
        (["a", None], pa.large_string()),
        ([b"a", b""], pa.binary()),
        ([[b"a"], []], pa.list_(pa.binary())),
        ([[1, 2], [3], None], pa.list_(pa.uint8())),
        ([[[1], []], []], pa.list_(pa.large_list(pa.int64()))),
        ([[1, 2], None], pa.list_(pa.int8(), 2)),
        (
            [{"a": 1, "b": ["x"]}, {"a": None, "b": None}],
            pa.struct([("a", pa.int8()), ("b", pa.list_view(pa.string_view()))]),
        ),
        ([[("k", 1)], []], pa.map_(pa.string(), pa.uint8())),
        ([Decimal("1.25"), None], pa.decimal128(5, 2)),
        ([dt.date(2020, 1, 2)], pa.date64()),
        ([dt.datetime(2020, 1, 2, 3, 4, 5)], pa.timestamp("s")),
        ([dt.datetime(2020, 1, 2, tzinfo=dt.UTC)], pa.timestamp("ms", "UTC")),
        ([dt.time(1, 2, 3)], pa.time32("s")),
        ([dt.timedelta(seconds=3)], pa.duration("s")),
        ([UUID(int=7), None], pa.uuid()),
        ([[UUID(int=7)]], pa.list_(pa.uuid())),
        (["a", "a", None], pa.dictionary(pa.int8(), pa.string())),
        ([[1, 1, 2]], pa.list_(pa.run_end_encoded(pa.int32(), pa.int8()))),
        ([None, None], pa.null()),
        ([], pa.list_(pa.int8())),
    ],
    ids=str,
)
def test_python_values_come_back(values: list[Any], kind: pa.DataType) -> None:
    table, arrays = publish(values, kind)
    assert arrays == {}
    assert table["x"].to_pylist() == values


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5], pa.int32()),
        ([1.0], pa.int32()),
        ([True], pa.int32()),
        ([True], pa.float32()),
        ([1], pa.bool_()),
        ([300], pa.int8()),
        ([-1], pa.uint64()),
        ([1e300], pa.float32()),
        ([2**24 + 1], pa.float32()),
        (["1"], pa.int32()),
        (["a"], pa.binary()),
        ([b"a"], pa.string()),
        (["\ud800"], pa.string()),
        ([0.5], pa.decimal128(5, 2)),
        ([Decimal("1.234")], pa.decimal128(5, 2)),
        ([dt.datetime(2020, 1, 1, 5)], pa.date32()),
        ([dt.date(2020, 1, 1)], pa.timestamp("us")),
        ([dt.datetime(2020, 1, 1, 0, 0, 0, 5)], pa.timestamp("s")),
        ([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)], pa.timestamp("us")),
        ([dt.datetime(2020, 1, 1)], pa.timestamp("us", "UTC")),
        ([5], pa.timestamp("us")),
        ([dt.time(1, 2, 3, 4)], pa.time32("ms")),
        ([dt.timedelta(microseconds=5)], pa.duration("ms")),
        ([{"a": 1, "z": 2}], pa.struct([("a", pa.int8())])),
        ([[1.5]], pa.list_(pa.int32())),
        ([{"a": [1.5]}], pa.struct([("a", pa.list_(pa.int32()))])),
        ([[("k", 1.5)]], pa.map_(pa.string(), pa.int32())),
        (["ab"], pa.list_(pa.string())),
        ([[1]], pa.list_(pa.int8(), 2)),
        ([1], pa.null()),
        ([1.5], pa.dictionary(pa.int8(), pa.int32())),
    ],
    ids=str,
)
def test_python_values_that_do_not_fit_are_refused_not_changed(
    values: list[Any], kind: pa.DataType
) -> None:
    with pytest.raises(SchemaMismatch, match="slice 3, column 'x': "):
        publish(values, kind)


# ---- what is refused at the door ----


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (np.zeros(2, np.int64), pa.int32(), r"int64 with shape \(2,\).*\.astype\(np\.int32\)"),
        (np.zeros(2, np.float64), pa.float32(), r"declared float, got .*\.astype\(np\.float32\)"),
        (np.zeros(2, np.float32), pa.float16(), r"\.astype\(np\.float16\)"),
        (np.zeros(2, ml_dtypes.bfloat16), pa.float16(), "declared halffloat, got .* bfloat16"),
        (np.zeros(2, ml_dtypes.float8_e4m3fn), pa.float32(), "float8_e4m3fn"),
        (np.zeros(2, np.uint8), pa.int8(), "declared int8, got a NumPy array of uint8"),
        (np.zeros(2, np.uint8), pa.bool_(), r"\.astype\(np\.bool\)"),
        (np.zeros(2, bool), pa.uint8(), "got a NumPy array of bool"),
        (np.zeros(2, np.complex64), pa.float32(), "complex64"),
        (np.zeros(2, np.longdouble), pa.float64(), "got a NumPy array of"),
        (np.zeros(2, "datetime64[h]"), pa.timestamp("s"), r"datetime64\[h\]"),
        (np.zeros(2, "datetime64[us]"), pa.timestamp("us", "Asia/Tokyo"), "Asia/Tokyo"),
        (np.zeros(2, "datetime64[ms]"), pa.timestamp("us"), r"datetime64\[ms\]"),
        (np.full(2, 2**40, "datetime64[D]"), pa.date32(), "declared date32.*not in range"),
        (np.zeros(2, "S3"), pa.binary(4), "got a NumPy array of S3"),
        (np.zeros(2, "S3"), pa.string(), "declared string"),
        (np.array([1, "a"], dtype=object), pa.string(), "takes str, got int"),
        (np.zeros(()), pa.float64(), "rows as the first dimension"),
        (np.zeros((2, 2)), pa.float64(), "takes an array of rank 1"),
        (np.zeros(2), pa.list_(pa.float64()), "list of 1-D arrays"),
        (np.zeros((2, 2)), nest(pa.float64(), 2), "takes an array of rank 3"),
        (np.zeros((2, 3)), pa.list_(pa.float64(), 2), r"shape \(2, 3\)"),
        (np.zeros((2, 3, 2)), pa.fixed_shape_tensor(pa.float64(), (2, 3)), "shape"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), pa.float64(), "masked"),
        ([np.zeros(2), np.zeros(2, np.float32)], pa.list_(pa.float64()), "one dtype and rank"),
        ([np.zeros(2), [1.0]], pa.list_(pa.float64()), "arrays and other values"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], nest(pa.float64(), 2), "rows of one shape"),
        ([np.zeros(2), np.zeros(3)], nest(pa.float64(), 2), "got a list of 1-D arrays"),
        ([np.zeros(2), np.zeros(3)], pa.list_(pa.float64(), 2), "expected rows of 2"),
        ([np.zeros(2, np.int64)], pa.list_(pa.int32()), r"\.astype\(np\.int32\)"),
        (pa.array([1, 2]), pa.int32(), "declared int32, got Arrow data of int64; cast it first"),
        (pa.array(["a"]).dictionary_encode(), pa.string(), "got Arrow data of dictionary"),
        (pa.array([b"a"]), pa.string(), "got Arrow data of binary"),
        (pa.array([[1]]), pa.list_(pa.int64(), 1), "got Arrow data of list"),
        (pa.array([b"a" * 16], pa.binary(16)), pa.uuid(), "fixed_size_binary"),
        (5, pa.int64(), "expected an array or a list for int64, got int"),
        ("abc", pa.string(), "got str"),
        (np.int64(5), pa.int64(), "got int64"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_was_asked_and_found(
    value: Any, kind: pa.DataType, message: str
) -> None:
    with pytest.raises(SchemaMismatch, match=f"^slice 3, column 'x': .*{message}"):
        slice_to_table({"x": value}, pa.schema([("x", kind)]), where="slice 3")


SCHEMA = pa.schema([("a", pa.int64()), pa.field("b", pa.list_(pa.string()), nullable=False)])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1]}, r"^slice 3: the stream declares columns \['a', 'b'\]; missing \['b'\]"),
        ({"a": [1], "b": [["x"]], "c": [1]}, r"not in it \['c'\]"),
        ({"a": [1], "b": [["x"]], 7: [1]}, r"not in it \[7\]"),
        ({"a": [1, 2], "b": [["x"]]}, r"equally many rows, got \{'a': 2, 'b': 1\}"),
        ({"a": [1], "b": [None]}, "^slice 3, column 'b' is declared not null, found null"),
        (pa.table([[1], [2]], ["a", "a"]), "^slice 3: column names must differ"),
        ([1, 2], "^slice 3: expected a mapping .* or an Arrow table, got list"),
        (None, "got NoneType"),
        (np.zeros(3), "got ndarray"),
        (pa.chunked_array([[1]]), "got ChunkedArray"),
    ],
)
def test_a_slice_unlike_its_schema_is_refused(value: Any, message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        slice_to_table(value, SCHEMA, where="slice 3")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.list_(pa.field("item", pa.int8(), nullable=False)), [[1], [None]]),
        (pa.list_(pa.field("item", pa.int8(), nullable=False), 1), [[1], [None]]),
        (pa.struct([pa.field("a", pa.int8(), nullable=False)]), [{"a": 1}, {"a": None}]),
        (pa.list_(pa.struct([pa.field("a", pa.int8(), nullable=False)])), [[{"a": None}], []]),
        (pa.map_(pa.string(), pa.field("value", pa.int8(), nullable=False)), [[("k", None)]]),
    ],
    ids=str,
)
def test_a_null_inside_a_column_declared_without_is_refused(
    kind: pa.DataType, values: list[Any]
) -> None:
    with pytest.raises(SchemaMismatch, match=r"'x'.* declared not null, found null"):
        slice_to_table({"x": values}, pa.schema([("x", kind)]), where="slice 3")


def test_nulls_hidden_in_dictionaries_and_runs_are_found() -> None:
    hidden = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None]))
    unused = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["a", None]))
    runs = pa.compute.run_end_encode(pa.array(["a", None]))
    for array in (hidden, runs):
        schema = pa.schema([pa.field("x", array.type, nullable=False)])
        with pytest.raises(SchemaMismatch, match="found null"):
            slice_to_table({"x": array}, schema, where="slice 3")
        slice_to_table({"x": array.slice(0, 1)}, schema, where="slice 3")
    slice_to_table(
        {"x": unused}, pa.schema([pa.field("x", unused.type, nullable=False)]), where="slice 3"
    )


def test_arrow_columns_may_come_in_another_order_and_layout() -> None:
    schema = pa.schema(
        [
            ("a", pa.list_(pa.field("item", pa.int32(), nullable=False))),
            ("b", pa.string()),
            ("c", pa.struct([("d", pa.large_list(pa.binary()))])),
        ],
        metadata={"note": "kept"},
    )
    table = pa.table(
        {
            "c": pa.array([{"d": [b"x"]}], pa.struct([("d", pa.list_view(pa.large_binary()))])),
            "b": pa.array(["y"], pa.string_view()),
            "a": pa.array([[1, 2]], pa.large_list(pa.int32())),
        }
    )
    for value in (table, table.to_batches()[0], dict(zip(table.column_names, table, strict=True))):
        found, arrays = slice_to_table(value, schema, where="slice 0")
        assert arrays == {}
        assert found.schema.equals(schema, check_metadata=True)
        assert found.to_pylist() == [{"a": [1, 2], "b": "y", "c": {"d": [b"x"]}}]


def test_data_frames_are_taken_as_arrow_tables() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"b": [["x"], []], "a": [1, None]})
    found, _ = slice_to_table(frame, SCHEMA, where="slice 0")
    assert found.to_pylist() == [{"a": 1, "b": ["x"]}, {"a": None, "b": []}]
    series = {"a": polars.Series([1, 2]), "b": [["x"], []]}
    found, _ = slice_to_table(series, SCHEMA, where="slice 0")
    assert found["a"].to_pylist() == [1, 2]


# ---- torch ----

TORCH = [*DTYPES, "bfloat16"]


def tensor(dtype: str, shape: tuple[int, ...]) -> Any:
    torch = pytest.importorskip("torch")
    if dtype == "bfloat16":
        return torch.from_numpy(sample("int16", shape)).view(torch.bfloat16)
    return torch.from_numpy(sample(dtype, shape))


def bits_of(value: Any) -> bytes:
    torch = pytest.importorskip("torch")
    value = value.detach()
    value = value.view(torch.int16) if value.dtype == torch.bfloat16 else value
    return bytes(value.numpy().tobytes())


@needs_torch
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TORCH)
def test_a_tensor_of_any_dtype_and_rank_comes_back_as_it_went_in(
    dtype: str, shape: tuple[int, ...]
) -> None:
    for rows, leaf in product((0, 3), declared_for(dtype)):
        given = tensor(dtype, (rows, *shape))
        for depth in {len(shape), min(len(shape), 1)}:
            table, arrays = publish(given, nest(leaf, depth))
            assert arrays["x"] == ArrayType(dtype, shape, "torch")
            found: Any = table_to_numpy(table, arrays)["x"]
            assert found.shape == (rows, *shape)
            assert found.dtype.name == dtype
            assert found.tobytes() == bits_of(given)


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_that_require_gradients_or_are_strided_are_taken(dtype: str) -> None:
    given = tensor(dtype, (4, 6))
    for value in (given.requires_grad_(), given.t().contiguous().t(), given[::2]):
        table, arrays = publish(value, pa.list_(pa.float32()))
        found: Any = table_to_numpy(table, arrays)["x"]
        assert found.tobytes() == bits_of(value)


@needs_torch
def test_rows_of_tensors_keep_their_lengths_and_kind() -> None:
    rows = [tensor("bfloat16", (3,)), None, tensor("bfloat16", (0,)), tensor("bfloat16", (5,))]
    table, arrays = publish(rows, pa.list_(pa.float32()))
    assert arrays["x"] == ArrayType("bfloat16", (-1,), "torch")
    found = table_to_numpy(table, arrays)["x"]
    assert found[1] is None
    for at in (0, 2, 3):
        assert found[at].tobytes() == bits_of(rows[at])


@needs_torch
@pytest.mark.parametrize(
    ("make_tensor", "message"),
    [
        (lambda torch: torch.zeros(2, dtype=torch.int64), r"int64.*\.to\(torch\.int32\)"),
        (lambda torch: torch.zeros(2, 2).to_sparse(), "expected a dense tensor"),
        (lambda torch: torch.zeros(2, dtype=torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda torch: torch.zeros(2, dtype=torch.complex64), "complex64"),
        (lambda torch: torch.zeros(2, device="meta"), "meta"),
        (lambda torch: torch.tensor(1), "rows as the first dimension|declared"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    make_tensor: Callable[[Any], Any], message: str
) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(SchemaMismatch, match=f"slice 3, column 'x': .*{message}"):
        publish(make_tensor(torch), pa.int32())


def test_all_public_names_have_a_docstring() -> None:
    assert all(getattr(columns, name).__doc__ for name in columns.__all__)


# -- without pandas ----------------------------------------------------------------------------

WITHOUT_PANDAS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")

sys.meta_path.insert(0, Blocked())
import numpy as np
import pyarrow as pa
from batchweave.columns import (
    from_storage, slice_to_table, table_to_numpy, to_storage,
)

NAMES = [f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)]
NAMES += ["float16", "float32", "float64", "bool"]
LEAVES = [(name, getattr(pa, name)() if name != "bool" else pa.bool_()) for name in NAMES]
TIMES = [(f"datetime64[{unit}]", pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")]
ENCODED = pa.run_end_encoded(pa.int16(), pa.int64())
for name, leaf in LEAVES + TIMES:
    grid = np.arange(6).astype(name).reshape(3, 2)
    plain = [[1], [], None] if leaf != pa.bool_() else [[True], [], None]
    fields = [pa.field("grid", pa.list_(leaf)), pa.field("ragged", pa.list_(leaf))]
    data = {"grid": grid, "ragged": [grid[0], grid[0][:1], grid[0][:0]]}
    if (name, leaf) in LEAVES:
        fields.append(pa.field("plain", pa.list_(leaf)))
        data["plain"] = plain
    fields.append(pa.field("runs", ENCODED))
    data["runs"] = [5, 5, 6]
    schema = pa.schema(fields)
    table, arrays = slice_to_table(data, schema, where="slice 0")
    table = from_storage(to_storage(table, schema), schema)
    found = table_to_numpy(table, arrays)
    assert found["grid"].dtype == grid.dtype and (found["grid"] == grid).all(), name
    assert [len(one) for one in found["ragged"]] == [2, 1, 0], name
    if "plain" in data:
        assert table["plain"].to_pylist() == plain, name
assert "pandas" not in sys.modules
print("ok")
"""


def test_arrays_and_lists_need_no_pandas() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PANDAS],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.stdout == "ok\n", result.stderr
