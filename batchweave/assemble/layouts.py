"""Layouts: what a slice is made of, and how samples become its rows.

`FixedRows` gives each slice the same number of rows, `TokenBudget` as many whole rows as fit a
number of tokens, `PackedRows` rows that are each several documents, one behind the other, with
their lengths, so that attention can be masked. Imports: standard library, pyarrow, numpy, errors,
columns, items, packing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from batchweave.assemble.items import Item, gather, token_indices
from batchweave.assemble.packing import Bins, first_fit, spread
from batchweave.assemble.sources import check_columns
from batchweave.errors import InvalidSettings, SchemaMismatch

LOOKAHEAD = 64
"""Samples that may find no room before a batch is taken as full."""
SEGMENT_LENGTHS = "segment_lengths"

Take = Callable[[], Item | None]


class Layout(Protocol):
    """How samples become the slices of a batch."""

    @property
    def column(self) -> str | None:
        """The column that says how many tokens a row has; None if they are not counted."""
        ...

    @property
    def aligned(self) -> Sequence[str]:
        """Columns that must have one value for each token."""
        ...

    @property
    def capacity(self) -> int | None:
        """Tokens that the largest sample may have; None for no limit."""
        ...

    @property
    def splits(self) -> bool:
        """Whether larger samples are cut into pieces of that size."""
        ...

    def schema(self, source: pa.Schema) -> pa.Schema:
        """The schema of the slices. Raises `SchemaMismatch` for rows that this does not suit."""
        ...

    def deal(self, take: Take, slices: int) -> tuple[list[Bins] | None, list[Item]]:
        """The bins of each slice of the next batch, and what is left for the one after.

        None and all samples if there are not enough.
        """
        ...

    def deal_rest(self, items: Sequence[Item], slices: int) -> tuple[list[Bins] | None, list[Item]]:
        """The same for a last, smaller batch. None if not every slice can have a row."""
        ...

    def render(self, bins: Bins) -> pa.Table:
        """One slice's rows."""
        ...


@dataclass(frozen=True, slots=True)
class FixedRows:
    """``rows`` rows a slice, in the order of the samples: slice 0 gets the first ones.

    ``column`` only counts tokens (a list column, or one of whole numbers), for reports and for
    mixtures by tokens.
    """

    rows: int
    column: str | None = None

    def __post_init__(self) -> None:
        _positive(self, "rows")

    @property
    def aligned(self) -> Sequence[str]:
        return ()

    @property
    def capacity(self) -> int | None:
        return None

    @property
    def splits(self) -> bool:
        return False

    def schema(self, source: pa.Schema) -> pa.Schema:
        _check_sizes(source, self.column, lists_only=False)
        return source

    def deal(self, take: Take, slices: int) -> tuple[list[Bins] | None, list[Item]]:
        items: list[Item] = []
        while len(items) < slices * self.rows:
            item = take()
            if item is None:
                return None, items
            items.append(item)
        return [[items[at : at + self.rows]] for at in range(0, len(items), self.rows)], []

    def deal_rest(self, items: Sequence[Item], slices: int) -> tuple[list[Bins] | None, list[Item]]:
        if len(items) < slices:
            return None, list(items)
        count = min(len(items), slices * self.rows)
        edges = [at * count // slices for at in range(slices + 1)]
        bins = [[list(items[edges[at] : edges[at + 1]])] for at in range(slices)]
        return bins, list(items[count:])

    def render(self, bins: Bins) -> pa.Table:
        return gather(bins[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBudget:
    """As many whole rows a slice as ``tokens`` allow, each in the first slice with room for it.

    ``column`` is the list column that is counted, or a column of whole numbers that says how many
    tokens a row has. Slices differ in rows. A batch is full when ``lookahead`` samples found no
    room; they come first in the next one.
    """

    tokens: int
    column: str = "tokens"
    lookahead: int = LOOKAHEAD

    def __post_init__(self) -> None:
        _positive(self, "tokens", "lookahead")

    @property
    def aligned(self) -> Sequence[str]:
        return ()

    @property
    def capacity(self) -> int | None:
        return self.tokens

    @property
    def splits(self) -> bool:
        return False

    def schema(self, source: pa.Schema) -> pa.Schema:
        _check_sizes(source, self.column, lists_only=False)
        return source

    def deal(self, take: Take, slices: int) -> tuple[list[Bins] | None, list[Item]]:
        bins, left = first_fit(take, slices, self.tokens, self.lookahead)
        return None if bins is None else [[one] for one in bins], left

    def deal_rest(self, items: Sequence[Item], slices: int) -> tuple[list[Bins] | None, list[Item]]:
        return spread(items, slices, 1, self.tokens)

    def render(self, bins: Bins) -> pa.Table:
        return gather([item for one in bins for item in one])


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """``rows`` rows a slice, each of up to ``tokens`` tokens out of several documents.

    A row has the tokens of its documents one behind the other (the column keeps its name), and
    ``segment_lengths``, the number of tokens of each: their running sum is what attention kernels
    for sequences of different lengths take (``cu_seqlens``), and what a mask or position IDs are
    made from. Documents go to the first row with room; a batch is full when ``lookahead`` of them
    found none, and they come first in the next one.

    Attributes:
        tokens: the length of a row, at most; exactly, with ``pad``.
        rows: rows a slice.
        column: the list column of tokens.
        aligned: other list columns, one value a token (``labels``, ``loss_mask``), packed alike.
        lineage: columns that are kept as lists, one value a document (``doc_id``, ``url``).
        pad: fill each row up to ``tokens`` with this token (aligned columns with 0, or False). The
            padding is no segment: ``segment_lengths`` sum to the tokens that are documents'.
        long: documents above ``tokens``: ``refuse`` them as bad samples, or ``split`` them into
            pieces, each a segment of its own.
        lookahead: documents that may find no room before a batch is taken as full.
    """

    tokens: int
    rows: int = 1
    column: str = "tokens"
    aligned: Sequence[str] = ()
    lineage: Sequence[str] = ()
    pad: int | None = None
    long: str = "refuse"
    lookahead: int = LOOKAHEAD

    def __post_init__(self) -> None:
        _positive(self, "tokens", "rows", "lookahead")
        if self.long not in ("refuse", "split"):
            raise InvalidSettings(f"long is refuse or split, got {self.long!r}")
        names = [self.column, *self.aligned, *self.lineage, SEGMENT_LENGTHS]
        if len(set(names)) < len(names):
            raise InvalidSettings(f"the columns of packed rows must differ, got {names}")

    @property
    def capacity(self) -> int | None:
        return self.tokens

    @property
    def splits(self) -> bool:
        return self.long == "split"

    def schema(self, source: pa.Schema) -> pa.Schema:
        _check_sizes(source, self.column, lists_only=True)
        names = [*self.aligned, *self.lineage]
        check_columns(source, names, "the source")
        for name in self.aligned:
            _check_list(source, name)
        if self.pad is not None:
            for name in (self.column, *self.aligned):
                self._fill(name, source.field(name).type.value_type)
        fields = [
            pa.field(name, pa.list_(source.field(name).type.value_type))
            for name in (self.column, *self.aligned)
        ]
        fields.append(pa.field(SEGMENT_LENGTHS, pa.list_(pa.int32())))
        fields += [pa.field(name, pa.list_(source.field(name).type)) for name in self.lineage]
        return pa.schema(fields)

    def deal(self, take: Take, slices: int) -> tuple[list[Bins] | None, list[Item]]:
        bins, left = first_fit(take, slices * self.rows, self.tokens, self.lookahead)
        if bins is None:
            return None, left
        return [bins[at : at + self.rows] for at in range(0, len(bins), self.rows)], left

    def deal_rest(self, items: Sequence[Item], slices: int) -> tuple[list[Bins] | None, list[Item]]:
        return spread(items, slices, self.rows, self.tokens)

    def render(self, bins: Bins) -> pa.Table:
        items = [item for one in bins for item in one]
        rows = gather(items)
        tokens = [sum(item.size for item in one) for one in bins]
        columns = {
            name: self._joined(rows, items, name, tokens) for name in (self.column, *self.aligned)
        }
        documents = _offsets([len(one) for one in bins])
        lengths = pa.array([item.size for item in items], pa.int32())
        columns[SEGMENT_LENGTHS] = pa.ListArray.from_arrays(documents, lengths)
        for name in self.lineage:
            columns[name] = pa.ListArray.from_arrays(documents, _whole(rows.column(name)))
        return pa.table(columns)

    def _joined(
        self, rows: pa.Table, items: Sequence[Item], name: str, tokens: list[int]
    ) -> pa.Array:
        """The lists of a column joined into one a row, filled up where padding is asked for."""
        lists = _whole(rows.column(name))
        values = lists.flatten()
        wanted = token_indices(items, lists)
        if wanted is not None:
            values = values.take(pa.array(wanted))
        if self.pad is None:
            return pa.ListArray.from_arrays(_offsets(tokens), values)
        fill = self._fill(name, values.type)
        return pa.ListArray.from_arrays(
            _offsets([self.tokens] * len(tokens)), _padded(values, tokens, self.tokens, fill)
        )

    def _fill(self, name: str, kind: pa.DataType) -> pa.Scalar:
        """What fills a column's rows up: the padding token, or its type's zero."""
        if name != self.column:
            return _zero(name, kind)
        try:
            return pa.scalar(self.pad, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            raise SchemaMismatch(
                f"pad={self.pad!r} cannot be a value of column {name!r}, a list of {kind}: "
                "give a token of that type"
            ) from None


def _zero(name: str, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_boolean(kind):
        return pa.scalar(False, kind)
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if any(is_one(kind) for is_one in numeric):
        return pa.scalar(0, kind)
    raise SchemaMismatch(
        f"aligned column {name!r} is a list of {kind}, which has no zero to pad with: leave the "
        "column out, or pack without pad"
    )


def _padded(values: pa.Array, lengths: list[int], width: int, fill: pa.Scalar) -> pa.Array:
    """Runs of the given lengths, each filled up to ``width``."""
    pieces, at = [], 0
    for length in lengths:
        pieces.append(values.slice(at, length))
        pieces.append(pa.repeat(fill, width - length))
        at += length
    return pa.concat_arrays(pieces)


def _offsets(lengths: list[int]) -> pa.Array:
    return pa.array(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)


def _positive(layout: Any, *names: str) -> None:
    for name in names:
        value = getattr(layout, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            kind = type(layout).__name__
            raise InvalidSettings(f"{kind}.{name} is a whole number above 0, got {value!r}")


def _check_sizes(schema: pa.Schema, column: str | None, *, lists_only: bool) -> None:
    if column is None:
        return
    check_columns(schema, [column], "the source")
    if lists_only or not pa.types.is_integer(schema.field(column).type):
        _check_list(schema, column)


def _check_list(schema: pa.Schema, column: str) -> None:
    kind = schema.field(column).type
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise SchemaMismatch(
            f"column {column!r} must be a list of tokens to be counted or packed, it is {kind}; "
            "text has to be tokenised first"
        )
