"""A producer's session that a test commits by hand, on any Iceberg catalog."""

from __future__ import annotations

from functools import partial

from batchweave.catalogs.iceberg import IcebergTable
from batchweave.clock import Clock, SystemClock
from batchweave.columns import slice_to_table, to_storage
from batchweave.parquet import EncodedPart, SliceData, encode
from batchweave.session import Session, Staged
from batchweave.table import Committed, Head, Lost, Unknown
from tests.streams import TOKENS, tokens


class Writer:
    """One opener of a producer name; streams of `TOKENS` with two slices."""

    def __init__(self, table: IcebergTable, name: str, clock: Clock | None = None) -> None:
        self.table = table
        clock = clock or SystemClock()
        self.session = Session(table, name, clock=clock, position_bytes_inline_max=4096)
        self.session.open()
        self.next = self.session.sequence + 1
        self.steps: dict[int, int] = {}
        self._encoded = _encoded(table)

    def stage(self) -> None:
        """Upload one batch and queue it."""
        part, version = self.session.upload(self.next, 0, self._encoded)
        done = partial(self.steps.__setitem__, self.next)
        self.session.stage(Staged(self.next, (self._encoded,), (part,), version, None, done))
        self.next += 1

    def attempt(self) -> Committed | Lost | Unknown | None:
        """Try once, with the upkeep of a commit."""
        outcome = self.session.attempt()
        if isinstance(outcome, Committed):
            self.table.tidy(outcome.head)
        return outcome

    def commit(self, count: int = 1) -> Head:
        """Stage and commit one by one, reading the head as often as it takes."""
        head = None
        for _ in range(count):
            self.stage()
            while not isinstance(outcome := self.attempt(), Committed):
                assert isinstance(outcome, Lost)
            head = outcome.head
        assert head is not None
        return head


def _encoded(table: IcebergTable) -> EncodedPart:
    rows, arrays = slice_to_table(tokens(1, rows=1, width=4), TOKENS, where="")
    one = SliceData(to_storage(rows, TOKENS), arrays)
    return encode(
        [one, one], 0, file_schema=table.file_schema, compression="zstd", compression_level=1
    )
