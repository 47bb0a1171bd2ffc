"""Elements: what the training loop gets for one step, made of a batch; transforms and their errors.

Owns the row transform, how rows are put together again, and what becomes of a row that fails.
Imports: standard library, torch, the core, torch_tensors, read_state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from batchweave.batch import Batch
from batchweave.connectors.read_state import SkippedRow
from batchweave.connectors.torch_tensors import to_tensors
from batchweave.errors import TransformFailed

Row: TypeAlias = dict[str, Any]
Transform: TypeAlias = Callable[[Row], Mapping[str, Any]]
Collate: TypeAlias = Callable[[list[Row]], Mapping[str, Any]]
OnError: TypeAlias = Literal["raise", "skip"]


class Element(dict[str, Any]):
    """One step's data for this rank: columns by name, tensors where they are numbers.

    A ``dict`` in all respects. ``step`` is its place in the stream, ``slices`` says which slices
    it comes from; code that rebuilds the dictionary (moving it to a device) may drop both.
    """

    step: int | None = None
    slices: tuple[int, ...] = ()
    skipped: tuple[SkippedRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ElementMaker:
    """Makes elements of batches. Safe to use from several threads if the functions are.

    Attributes:
        transform: called with each row, a dict of column to value; its result takes the row's
            place. None leaves columns whole: tensors that share Arrow's memory.
        collate: puts the transformed rows together. By default equal shapes are stacked and
            numbers become a tensor; anything else becomes a list, one item a row.
        on_error: ``"raise"``, or ``"skip"`` to leave failing rows out; the others keep their order.
    """

    transform: Transform | None = None
    collate: Collate | None = None
    on_error: OnError = "raise"

    def __call__(self, batch: Batch) -> Element:
        """The batch as an element.

        Raises:
            TransformFailed: a row failed and is not to be skipped, all rows failed, or the
                functions return something that is no mapping.
        """
        columns = to_tensors(batch)
        skipped: tuple[SkippedRow, ...] = ()
        if self.transform is not None:
            columns, skipped = self._transformed(batch, columns, self.transform)
        elif self.collate is not None:
            columns = self._collated(batch, list(_rows(columns, batch.table.num_rows)))
        element = Element(columns)
        element.step, element.slices, element.skipped = batch.step, batch.slices, skipped
        return element

    def _transformed(
        self, batch: Batch, columns: Mapping[str, Any], transform: Transform
    ) -> tuple[dict[str, Any], tuple[SkippedRow, ...]]:
        done: list[Row] = []
        skipped: list[SkippedRow] = []
        failure: Exception | None = None
        for index, row in enumerate(_rows(columns, batch.table.num_rows)):
            try:
                done.append(_mapping(transform(row), "transform"))
            except Exception as error:
                failure = error
                if self.on_error == "raise":
                    raise _failed(batch, index, error) from error
                skipped.append((batch.step, *_place(batch, index)))
        if not done and failure is not None:
            raise TransformFailed(
                f"step {batch.step}: the transform failed on each of {len(skipped)} rows, so that "
                f"skipping leaves nothing; the last said: {_said(failure)}"
            ) from failure
        return self._collated(batch, done), tuple(skipped)

    def _collated(self, batch: Batch, rows: list[Row]) -> dict[str, Any]:
        try:
            return _mapping((self.collate or stack_rows)(rows), "collate")
        except Exception as error:
            raise TransformFailed(
                f"step {batch.step}, slices {list(batch.slices)}: its {len(rows)} rows could not "
                f"be put together: {_said(error)}"
            ) from error


def stack_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as columns: tensors of equal shape stacked, numbers as a tensor, else a list.

    Raises:
        ValueError: the rows do not have the same keys.
    """
    names = list(rows[0]) if rows else []
    for index, row in enumerate(rows):
        if set(row) != set(names):
            raise ValueError(f"row 0 has keys {names}, row {index} has {list(row)}")
    return {name: _stacked([row[name] for row in rows]) for name in names}


def _stacked(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        if all(
            isinstance(one, torch.Tensor) and (one.shape, one.dtype) == (first.shape, first.dtype)
            for one in values
        ):
            return torch.stack(values)
        return values
    if type(first) in (bool, int, float) and all(type(one) is type(first) for one in values):
        return torch.tensor(values)
    return values


def _rows(columns: Mapping[str, Any], count: int) -> Iterator[Row]:
    for index in range(count):
        yield {name: column[index] for name, column in columns.items()}


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} returns a mapping of names to values, got {type(value).__name__}")
    return dict(value)


def _place(batch: Batch, index: int) -> tuple[int, int]:
    """Slice, and the row within it, of a row of the batch."""
    for number, rows in zip(batch.slices, batch.rows, strict=False):
        if index < len(rows):
            return number, rows[index]
        index -= len(rows)
    return batch.slices[-1], index


def _failed(batch: Batch, index: int, error: Exception) -> TransformFailed:
    number, row = _place(batch, index)
    return TransformFailed(
        f"the transform failed at step {batch.step}, slice {number}, row {row}: {_said(error)}. "
        "Correct it, or leave such rows out with on_error='skip'"
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
