"""The assembler: samples in, global batches out, from any batch on.

Its whole state is a small JSON value that is taken between two batches and travels as the
producer's position: places in the sources, never their rows. Imports: standard library, pyarrow,
errors, mesh, and this package's items, layouts, packing, samples, skips, sources, state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from batchweave.assemble.items import Item, origin_text
from batchweave.assemble.layouts import Layout
from batchweave.assemble.packing import Bins
from batchweave.assemble.samples import Order, Samples, check_choice, check_whole
from batchweave.assemble.skips import Skips
from batchweave.assemble.sources import Position, Source
from batchweave.assemble.state import VERSION, Totals, check_state
from batchweave.errors import InvalidSettings, SourceError
from batchweave.mesh import Mesh

REMAINDERS = ("carry", "publish", "drop")


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """One assembled batch: what `Producer.publish` takes.

    Attributes:
        slices: one Arrow table a slice, in slice order.
        position: the assembler's state behind this batch, a JSON value.
        sources: where each slice's rows came from, short JSON (`items.origin_text`).
        rows, tokens: how many samples (documents) begin in it, and its tokens if they are counted.
    """

    slices: list[pa.Table] = field(repr=False)
    position: Position = field(repr=False)
    sources: list[str] = field(repr=False)
    rows: int
    tokens: int


class Assembler:
    """Global batches out of one source, or a mixture of several. Iterate it for `GlobalBatch` es.

    The same sources, seed and settings give the same batches, however the sources' rows come in
    chunks; and `resume` with a batch's position gives the batches that follow it, exactly.

    Args:
        sources: a source, or sources by name. All have the same columns.
        layout: `FixedRows`, `TokenBudget` or `PackedRows`.
        mesh: the stream's mesh, or its number of slices.
        weights: of each source, by name; equal if not given. 0 pauses a source.
        mix_by: whether weights are of ``rows`` (samples) or of ``tokens``.
        at_end: when one source ends: ``continue`` with the others, ``stop``, or ``repeat`` it.
        seed, shuffle_window: each run of so many rows of a source comes in an order that the seed
            decides; they are held in memory. 1 keeps the source's order.
        remainder: rows that fill no last batch. ``carry`` leaves them where they are, for a next
            run that finds more behind them; ``publish`` makes smaller batches of them (none if
            there are fewer samples than slices, in all); ``drop`` passes over them for good.
        on_bad: ``stop`` with an error at what cannot be used, or ``skip`` and record it.

    Raises:
        InvalidInput, InvalidSettings: an argument is not one of those.
        SchemaMismatch: the sources differ in columns, or have none that the layout needs.
    """

    def __init__(
        self,
        sources: Source | Mapping[str, Source],
        layout: Layout,
        mesh: Mesh | int,
        *,
        weights: Mapping[str, float] | None = None,
        mix_by: str = "rows",
        at_end: str = "continue",
        seed: int = 0,
        shuffle_window: int = 1,
        remainder: str = "carry",
        on_bad: str = "stop",
    ) -> None:
        order = Order(
            mix_by=mix_by, at_end=at_end, seed=seed, shuffle_window=shuffle_window, on_bad=on_bad
        )
        check_choice("remainder", remainder, REMAINDERS)
        self._slices = mesh.slices if isinstance(mesh, Mesh) else mesh
        check_whole("the number of slices", self._slices)
        if mix_by == "tokens" and layout.column is None:
            raise InvalidSettings("mix_by='tokens' needs a layout with a column to count them")
        self._samples = Samples(sources, layout, order, weights)
        self._schema = layout.schema(self._samples.schema)
        self._layout = layout
        self._remainder = remainder
        self._totals = Totals()

    # -- what it is ------------------------------------------------------------------------

    @property
    def schema(self) -> pa.Schema:
        """The schema of the slices: create the stream with it."""
        return self._schema

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the batch that was assembled last, or of the first."""
        return self._samples.mixture.weights

    @property
    def skips(self) -> Skips:
        """What was left out so far, since the producer's first batch."""
        return self._samples.skips.copy()

    @property
    def totals(self) -> Totals:
        """Batches, rows and tokens so far, since the producer's first batch."""
        return self._totals

    @property
    def waiting(self) -> int:
        """Samples that were read and are in no batch yet."""
        return self._samples.rows_waiting()

    @property
    def progress(self) -> float | None:
        """How much of all sources was read, 0.0 to 1.0; None if that cannot be known."""
        return self._samples.progress

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Mix by other weights from the next batch on that is assembled.

        They are in that batch's position and sources, so the commit that makes the batch visible
        also says from which step they hold, and whoever resumes goes on with them.

        Raises:
            InvalidSettings: not one weight for each source, or none above 0.
        """
        self._samples.set_weights(weights)

    # -- resuming --------------------------------------------------------------------------

    def resume(self, position: Position) -> None:
        """Go on behind the batch that had this position; None is the beginning.

        Weights go on as they were in that batch. If the constructor was given others than those
        that it was given then, these hold from the next batch on. A source that the position does
        not know starts at its beginning.

        Raises:
            InvalidInput: no assembler made this position.
            InvalidSettings: seed, window or a source's settings are not those of the position, or
                a source is missing: other rows would follow, some twice.
            SourceChanged: a source is not what it was (unless that is to be skipped).
        """
        if position is None:
            return
        check_state(position, self._samples.config)
        self._totals = Totals(**position["totals"])
        self._samples.restore(position)

    def _state(self) -> Position:
        return {
            "assembler": VERSION,
            "totals": self._totals.to_json(),
            **self._samples.state(),
        }

    # -- assembling ------------------------------------------------------------------------

    def __iter__(self) -> Iterator[GlobalBatch]:
        """The batches from here on. Each is assembled when it is asked for.

        Unless remainders are carried one batch more is assembled than was given, because what
        becomes of the last one depends on what is left.

        Raises:
            InvalidSample, SourceCorrupted, SourceChanged: what cannot be used, with source and row
                (unless that is to be skipped).
        """
        if self._remainder == "carry":
            while (dealt := self._deal()) is not None:
                yield self._batch(dealt)
            return
        yield from self._with_remainder()

    def _with_remainder(self) -> Iterator[GlobalBatch]:
        # What follows a batch must depend on its position alone, as it does for who resumes there:
        # so each batch of the remainder is followed by looking for whole ones again.
        while True:
            yield from self._whole_ones()
            dealt = None if self._remainder == "drop" else self._deal_waiting()
            if dealt is None:
                return
            yield self._batch(dealt)

    def _whole_ones(self) -> Iterator[GlobalBatch]:
        """Batches while there are samples enough; the last one only if what is left allows it."""
        last: GlobalBatch | None = None
        held: list[Bins] = []
        before = self._totals
        try:
            while (dealt := self._deal()) is not None:
                if last is not None:
                    yield last
                held, before = dealt, self._totals
                last = self._batch(dealt)
        except SourceError:
            if last is not None:
                yield last
            raise
        if last is None:
            return
        if self._remainder == "drop":
            self._drop_waiting()
            yield replace(last, position=self._state())
        elif self._too_few(held):
            self._totals = before
            self._samples.put_back([item for bins in held for one in bins for item in one])
        else:
            yield last

    def _too_few(self, held: list[Bins]) -> bool:
        """Whether too few samples wait for a last batch, but enough with those of this one."""
        waiting = len(self._samples.waiting)
        together = waiting + sum(len(one) for bins in held for one in bins)
        return 0 < waiting < self._slices and together >= 2 * self._slices

    def _deal_waiting(self) -> list[Bins] | None:
        """A smaller batch of what waits; if something is left, it is enough for one more."""
        items = list(self._samples.waiting)
        dealt, left = self._layout.deal_rest(items, self._slices)
        if dealt is None:
            return None
        if 0 < len(left) < self._slices and len(items) >= 2 * self._slices:
            kept = items[-self._slices :]
            dealt, left = self._layout.deal_rest(items[: -self._slices], self._slices)
            left = [*left, *kept]
        self._samples.waiting.clear()
        self._samples.put_back(left)
        return dealt

    def _drop_waiting(self) -> None:
        waiting = self._samples.waiting
        if not waiting:
            return
        item, rows = waiting[0], self.waiting
        self._samples.skips.add(
            self._samples.names[item.source],
            "remainder",
            "1 row fills no batch" if rows == 1 else f"{rows} rows fill no batch",
            origin=item.chunk.origin,
            row=int(item.chunk.numbers[item.row]),
            rows=rows,
        )
        waiting.clear()

    def _deal(self) -> list[Bins] | None:
        """The bins of the next whole batch; None, and all that is left waits, at the end."""
        self._samples.begin_batch()
        dealt, left = self._layout.deal(self._samples.take, self._slices)
        self._samples.put_back(left)
        return dealt

    def _batch(self, dealt: list[Bins]) -> GlobalBatch:
        names = self._samples.names
        slices: list[list[Item]] = [[item for one in bins for item in one] for bins in dealt]
        weights = self.weights if len(names) > 1 else None
        rows = sum(not item.start for items in slices for item in items)
        counted = self._layout.column is not None
        tokens = sum(item.size for items in slices for item in items) if counted else 0
        self._totals = self._totals.plus(rows, tokens)
        return GlobalBatch(
            slices=[self._layout.render(bins) for bins in dealt],
            position=self._state(),
            sources=[origin_text(items, names, weights) for items in slices],
            rows=rows,
            tokens=tokens,
        )
