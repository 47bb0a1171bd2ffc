"""Lookahead: batches of a reader made into something else by threads, ahead of whoever takes them.

Bounded in number and bytes; order is the reader's. What `Lookahead` waits for is told to a watch.
Imports: standard library, the core, stalls.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from batchweave.batch import Batch
from batchweave.clock import Clock
from batchweave.connectors.stalls import StallWatch

T = TypeVar("T")
EXIT_CHECK_S = 0.5
"""Longest sleep of a thread between looks at whether anybody still wants its work."""


class Batches(Protocol):
    """What is looked ahead in: a `batchweave.Reader`, as far as this module is concerned."""

    def __next__(self) -> Batch:
        """The next batch in step order."""
        ...

    def close(self) -> None:
        """End it, and whoever waits in it."""
        ...


class Lookahead(Generic[T]):
    """An iterator of ``make(batch)`` in step order, made by threads ahead of time.

    The thread that takes the batches starts with the first of them and ends with `close`, or when
    nobody holds the iterator any more. An error of the reader or of ``make`` is raised where its
    step is due, after which the iterator is closed.
    """

    def __init__(
        self,
        batches: Batches,
        make: Callable[[Batch], T],
        *,
        threads: int,
        depth: int,
        bytes_max: int,
        watch: StallWatch,
        clock: Clock,
    ) -> None:
        self._inner = _Inner(batches, make, threads, depth, bytes_max)
        self._watch = watch
        self._clock = clock
        self._inner.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        inner = self._inner
        began_s = self._clock.monotonic_s()
        with inner.changed:
            while not inner.ready and not inner.ended:
                waited_s = self._clock.monotonic_s() - began_s
                inner.changed.wait(min(EXIT_CHECK_S, self._watch.sleep_s(waited_s)))
                if not inner.ready and not inner.ended:
                    # The look into the table must not keep the threads from going on.
                    inner.changed.release()
                    try:
                        self._watch.look(self._clock.monotonic_s() - began_s)
                    finally:
                        inner.changed.acquire()
            if not inner.ready:
                if inner.failure is not None:
                    raise inner.failure
                raise StopIteration
            _, future = inner.ready[0]
        self._watch.arrived()
        try:
            return future.result()
        except CancelledError:  # closed by another thread meanwhile
            raise StopIteration from None
        except BaseException as error:
            if isinstance(error, Exception):
                inner.failure = error  # told again at every call
            self.close()
            raise
        finally:
            inner.taken()

    @property
    def depth(self) -> int:
        """How many are finished and wait to be taken."""
        with self._inner.changed:
            return sum(future.done() for _, future in self._inner.ready)

    def close(self) -> None:
        """End the threads and wait for them. Closing twice is closing once."""
        self._inner.stop()
        self._inner.join()

    def __del__(self, exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        # Bound above: while the interpreter goes, modules go, and no thread runs that could end.
        inner = getattr(self, "_inner", None)
        if inner is not None and not exiting():
            inner.stop()


class _Inner(Generic[T]):
    """The part that threads hold on to, so that the iterator itself can be let go."""

    def __init__(
        self,
        batches: Batches,
        make: Callable[[Batch], T],
        threads: int,
        depth: int,
        bytes_max: int,
    ) -> None:
        self.changed = threading.Condition()
        self.ready: deque[tuple[int, Future[T]]] = deque()
        self.ended = False
        self.failure: BaseException | None = None
        self._batches = batches
        self._make = make
        self._depth = depth
        self._bytes_max = bytes_max
        self._ready_bytes = 0
        self._stopped = False
        self._pid = os.getpid()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batchweave-decode")
        self._puller = threading.Thread(target=self._pull, name="batchweave-ahead", daemon=True)
        self._closer: threading.Thread | None = None

    def start(self) -> None:
        self._puller.start()

    def taken(self) -> None:
        """Give back the room of the oldest."""
        with self.changed:
            if self.ready:
                size, _ = self.ready.popleft()
                self._ready_bytes -= size
                self.changed.notify_all()

    def stop(self) -> None:
        """Tell the threads to end, without waiting for them: this may run in any of them."""
        if os.getpid() != self._pid:
            return  # a copy in a forked process: its threads are not here, its locks may be held
        with self.changed:
            if self._stopped:
                return
            self._stopped = True
            self.ended = True
            self.ready.clear()
            self.changed.notify_all()
            # A puller that waits in the reader for a step that may never come is freed from
            # outside. Started under the lock: who finds us stopped may join it at once.
            closer = threading.Thread(target=self._end, name="batchweave-close")
            with contextlib.suppress(RuntimeError):  # exiting: the reader ends by itself
                closer.start()
                self._closer = closer

    def _end(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._batches.close()

    def join(self) -> None:
        for thread in (self._closer, self._puller):
            if thread is not None and thread is not threading.current_thread():
                thread.join()
        self._pool.shutdown(wait=True)

    def _pull(self) -> None:
        try:
            while self._has_room():
                batch = next(self._batches)
                size = batch.table.nbytes
                with self.changed:
                    if self._stopped:
                        return
                    self.ready.append((size, self._pool.submit(self._make, batch)))
                    self._ready_bytes += size
                    self.changed.notify_all()
        except StopIteration:
            self._batches.close()
            self._pool.shutdown(wait=False)
        except BaseException as error:  # noqa: BLE001 - raised where the step is due
            with self.changed:
                if not self._stopped:
                    self.failure = error
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def _has_room(self) -> bool:
        """Wait for room; one is always allowed. False once stopped."""
        with self.changed:
            while not self._stopped and self.ready and self._is_full():
                self.changed.wait()
            return not self._stopped

    def _is_full(self) -> bool:
        return len(self.ready) >= self._depth or self._ready_bytes >= self._bytes_max
