"""What worker processes made, taken out of their queue by a thread before the trainer asks.

A tensor travels as a file descriptor, which the taker fetches from the worker that made it: two
milliseconds of the trainer's time for every step, were it done when the trainer asks.
Imports: standard library.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import Any

CHECK_S = 0.1
JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


class ResultsAhead:
    """Stands for the result queue of a DataLoader's workers: `get` hands out what is ready.

    It holds no more than the DataLoader has asked its workers for.
    """

    def __init__(self, results: Any) -> None:
        """``results`` is the `multiprocessing.Queue` that the workers put into."""
        self._results = results
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batchweave-results", daemon=True)
        self._thread.start()

    def get(self, timeout: float | None = None) -> Any:
        """The next result; what went wrong in taking it is raised here.

        Raises:
            queue.Empty: none came within the ``timeout``, in seconds.
        """
        found = self._ready.get(timeout=timeout)
        if isinstance(found, _Failed):
            raise found.error
        return found

    def stop(self) -> None:
        """Take no more; before the workers end, who may leave half a result behind."""
        self._done.set()
        self._thread.join(JOIN_S)

    def close(self) -> None:
        """End the thread, once the workers have ended."""
        if self._thread.is_alive():  # half a result: its end never comes, but the pipe's does
            self._results._writer.close()
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                found = self._results.get(timeout=CHECK_S)
            except queue.Empty:
                continue
            except Exception as error:  # noqa: BLE001 - raised again where the result is asked for
                found = _Failed(error)
            self._ready.put(found)
            if isinstance(found, _Failed):
                self._done.wait(CHECK_S)  # of a worker that died it would come at once, for ever
