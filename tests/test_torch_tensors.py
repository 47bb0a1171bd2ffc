"""Tensors come back with the shape and dtype that went in."""

from __future__ import annotations

import gc
from pathlib import Path

import pyarrow as pa
import pytest
import torch

import batchweave as bw
from batchweave.connectors.torch_tensors import to_tensors
from tests.streams import QUICK, make_stream

DTYPES = [
    (torch.float16, pa.float32()),
    (torch.bfloat16, pa.float32()),
    (torch.float32, pa.float32()),
    (torch.float64, pa.float64()),
    (torch.int8, pa.int8()),
    (torch.uint8, pa.uint8()),
    (torch.uint16, pa.uint16()),
    (torch.int16, pa.int16()),
    (torch.int32, pa.int32()),
    (torch.int64, pa.int64()),
    (torch.bool, pa.bool_()),
]


def round_trip(folder: Path, schema: pa.Schema, columns: dict[str, object]) -> bw.Batch:
    stream = make_stream(folder, schema=schema, mesh=bw.Mesh(dp=1))
    with stream.producer("p", QUICK) as producer:
        producer.publish([columns])
    (batch,) = stream.read(slice=0)
    return batch


@pytest.mark.parametrize(("dtype", "column"), DTYPES, ids=lambda value: str(value))
@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 2), (3, 2, 2, 2)], ids=str)
def test_a_tensor_comes_back_as_it_went_in(
    tmp_path: Path, dtype: torch.dtype, column: pa.DataType, shape: tuple[int, ...]
) -> None:
    given = (torch.arange(torch.Size(shape).numel()).reshape(shape) % 7).to(dtype)
    schema = pa.schema([("x", column if len(shape) == 1 else pa.list_(column))])
    batch = round_trip(tmp_path, schema, {"x": given})
    found = to_tensors(batch)["x"]
    del batch
    gc.collect()  # the tensor keeps its memory alive by itself
    assert found.dtype == dtype
    assert found.shape == given.shape
    assert torch.equal(found, given)


def test_special_floats_survive(tmp_path: Path) -> None:
    given = torch.tensor([[float("nan"), float("inf"), -0.0, 1e-40]], dtype=torch.bfloat16)
    schema = pa.schema([("x", pa.list_(pa.float32()))])
    found = to_tensors(round_trip(tmp_path, schema, {"x": given}))["x"]
    assert torch.equal(found.view(torch.int16), given.view(torch.int16))


def test_ragged_tensors_come_back_as_a_list(tmp_path: Path) -> None:
    given = [torch.arange(n, dtype=torch.int32) for n in (3, 0, 5)]
    schema = pa.schema([("x", pa.list_(pa.int32()))])
    found = to_tensors(round_trip(tmp_path, schema, {"x": given}))["x"]
    assert [row.tolist() for row in found] == [row.tolist() for row in given]


def test_what_is_no_number_comes_back_as_python_values(tmp_path: Path) -> None:
    schema = pa.schema([("x", pa.list_(pa.int32())), ("text", pa.string()), ("raw", pa.binary())])
    columns = {"x": torch.ones(2, 3, dtype=torch.int32), "text": ["a", "b"], "raw": [b"1", b"2"]}
    found = to_tensors(round_trip(tmp_path, schema, columns))
    assert found["text"] == ["a", "b"]
    assert found["raw"] == [b"1", b"2"]
    assert found["x"].shape == (2, 3)


def test_lists_come_back_as_one_tensor_where_they_are_regular(tmp_path: Path) -> None:
    schema = pa.schema([("x", pa.list_(pa.int32()))])
    found = to_tensors(round_trip(tmp_path, schema, {"x": [[1, 2], [3, 4]]}))["x"]
    assert found.tolist() == [[1, 2], [3, 4]]
