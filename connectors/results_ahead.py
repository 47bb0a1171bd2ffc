"""What worker processes made, taken out of their queue by a thread before the trainer asks.

A tensor travels as a file descriptor, which the taker fetches from the worker that made it: two
milliseconds of the trainer's time for every step, were it done when the trainer asks.
Imports: standard library.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
from dataclasses import dataclass
from typing import Any

CHECK_S = 0.1
JOIN_S = 5.0
FILL_BYTES = 1 << 16
FILLS_MAX = 1 << 16
"""Together 4 GiB, more than one result can have."""


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


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
        # While the interpreter goes, a thread that still runs torch's code would be cut off there.
        atexit.register(self.stop)

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
        atexit.unregister(self.stop)
        self._done.set()
        self._join(JOIN_S)

    def close(self) -> None:
        """End the thread, once the workers have ended."""
        if not self._is_blocked():
            return
        # Half a result, the rest of which died with its worker. The pipe's end may never come
        # either: a process forked since holds it open. So the rest is made up, and not looked at.
        filler = self._results._writer.fileno()
        os.set_blocking(filler, False)
        for _ in range(FILLS_MAX):
            with contextlib.suppress(BlockingIOError):
                os.write(filler, bytes(FILL_BYTES))
            self._join(0.001)
            if not self._is_blocked():
                return

    def _is_blocked(self) -> bool:
        return self._thread.is_alive() and self._thread is not threading.current_thread()

    def _join(self, timeout_s: float) -> None:
        """Wait for the thread, unless it is this one: an iterator may be let go anywhere."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._done.is_set():
            self._take()

    def _take(self) -> None:
        # A function of its own, so that nothing here holds a result that was handed out, nor an
        # error, whose traceback leads everywhere.
        try:
            self._ready.put(self._results.get(timeout=CHECK_S))
        except queue.Empty:
            return
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            failed = _Failed(error)
        else:
            return
        # If its worker was killed, a moment later torch sees that, and says so instead.
        self._done.wait(CHECK_S)
        self._ready.put(failed)
        del failed
        # A queue that is broken would fail at once again, and for ever.
        while not self._ready.empty() and not self._done.wait(CHECK_S):
            pass
