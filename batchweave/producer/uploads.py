"""Uploads: threads that encode a batch's parts and bring them, and its position, into the store.

Imports: standard library, clock, errors, parquet, session, settings, table, backlog.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from batchweave.clock import exiting
from batchweave.errors import PendingLimit, StoreError
from batchweave.parquet import EncodedPart, SliceData, encode
from batchweave.producer.backlog import RETRY_FIRST_S, RETRY_MAX_S, Backlog, Pending
from batchweave.session import Session
from batchweave.settings import ProducerSettings
from batchweave.table import Part, Table

T = TypeVar("T")


class Uploads:
    """The pool of threads that upload. Their results are the futures of each `Pending`."""

    def __init__(
        self, table: Table, session: Session, backlog: Backlog, settings: ProducerSettings
    ) -> None:
        self._table = table
        self._session = session
        self._backlog = backlog
        self._settings = settings
        self._pool = ThreadPoolExecutor(
            settings.upload_threads, thread_name_prefix=f"batchweave-upload-{session.name}"
        )

    def start(self, pending: Pending, data: list[SliceData]) -> None:
        """Begin to upload a batch, all of it or nothing.

        Raises:
            PendingLimit: the system starts no more threads.
        """
        try:
            self._submit(pending, data)
        except RuntimeError as error:  # the system starts no more threads
            for future in pending.uploads:
                future.cancel()
            raise PendingLimit(f"nothing was published, publish again: {error}") from error

    def close(self) -> None:
        """Wait for what has begun, drop the rest."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, pending: Pending, data: list[SliceData]) -> None:
        sequence, text = pending.sequence, pending.position_text
        per_file = self._settings.slices_per_file
        for index, first in enumerate(range(0, len(data), per_file)):
            run = data[first : first + per_file]
            pending.uploads.append(self._pool.submit(self._upload, sequence, index, first, run))
        pending.position = self._pool.submit(
            self._retried, lambda: self._session.store_position(sequence, text)
        )
        for future in pending.futures():
            future.add_done_callback(self._backlog.notify)

    def _upload(
        self, sequence: int, index: int, first: int, data: list[SliceData]
    ) -> tuple[EncodedPart, Part, int]:
        encoded = encode(
            data,
            first,
            file_schema=self._table.file_schema,
            compression=self._settings.compression,
            compression_level=self._settings.compression_level,
        )
        part, version = self._retried(lambda: self._session.upload(sequence, index, encoded))
        return encoded, part, version

    def _retried(self, operation: Callable[[], T]) -> T:
        """Repeat a store operation until it works or the producer is closed or has failed."""
        backlog = self._backlog
        wait_s = RETRY_FIRST_S
        while True:
            try:
                result = operation()
            except StoreError as error:
                backlog.note_trouble(error)
                backlog.pause(wait_s)
                wait_s = min(RETRY_MAX_S, wait_s * 2)
                with backlog.changed:
                    if backlog.closing or backlog.failure or exiting():
                        raise
            else:
                backlog.note_trouble(None)
                return result
