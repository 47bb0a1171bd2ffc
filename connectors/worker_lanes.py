"""Lanes: how the worker processes of a DataLoader get their batches.

Only the process that trains reads the stream. It hands step ``start + i`` to worker ``i``,
``start + k + i`` next, and so on, over one socket pair a worker: so the round of a DataLoader
gives the stream's order. A worker makes elements of batches (decoding, transforms) and never opens
the store: neither threads nor connections have to survive a fork, and credentials stay where they
are. Alternatives: readers in the workers cannot follow a fork, since the store's runtime hangs in
the child once the parent has used it; and each would have to look up all steps by itself.
Imports: standard library, the core, batch_frames, lookahead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence

from batchweave.batch import Batch
from batchweave.connectors.batch_frames import (
    Frame,
    Kind,
    LaneClosed,
    batch_frame,
    frame_batch,
    receive,
    send,
)
from batchweave.connectors.lookahead import Lookahead
from batchweave.errors import InvalidInput, StreamError

Open = Callable[[int, Callable[[Batch], Frame]], Lookahead[Frame]]
"""Opens the stream at a step; makes frames of its batches, ahead of time."""
QUEUED_MAX = 1


class WorkerLanes:
    """The training process's end of all lanes of one DataLoader.

    `worker_ends` go to the workers; once all of these have been started, `begin` starts an
    iteration, and ends the one before it. Both sides count iterations from one, so that what is
    left of an older one is known as such. ``started`` is called with each iteration's first step.
    """

    def __init__(self, count: int, open_at: Open, started: Callable[[int], None]) -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        self.worker_ends = [theirs for _, theirs in pairs]
        self.ends = [ours for ours, _ in pairs]
        self._senders = [_Sender(end) for end in self.ends]
        self._open_at = open_at
        self._started = started
        self._lock = threading.Lock()
        self._iteration = 0
        self._running = False
        self._ahead: Lookahead[Frame] | None = None
        self._server: threading.Thread | None = None
        self._closed = False
        self.failure: BaseException | None = None
        """What ended the iteration, as it was raised in this process."""

    def begin(self, start: int) -> None:
        """Begin an iteration at ``start``; workers that still wait in the last one are freed."""
        self.end_iteration()
        for sender in self._senders:
            sender.start()
        self.failure = None
        self._iteration += 1
        self._running = True
        self._server = threading.Thread(
            target=self._serve, args=(self._iteration, start), name="batchweave-lanes", daemon=True
        )
        self._server.start()

    @property
    def depth(self) -> int:
        """Batches that wait to be sent to a worker."""
        ahead = self._ahead
        return 0 if ahead is None else ahead.depth

    def end_iteration(self) -> None:
        """Free the workers that wait for a step, so that they begin anew or can be stopped."""
        with self._lock:
            if not self._running:
                return
            self._running = False
            ahead, server = self._ahead, self._server
            self._ahead, self._server = None, None
        for sender in self._senders:
            sender.drop_and_put(Frame(Kind.END, {"iteration": self._iteration}))
        if ahead is not None:
            ahead.close()
        if self._closed:  # the server may wait for workers that will not say anything any more
            for end in self.ends:
                _shut(end, socket.SHUT_RD)
        _join(server)

    def close(self) -> None:
        """End everything and wait for the threads. Closing twice is closing once."""
        if self._closed:
            return
        self._closed = True
        self.end_iteration()
        for sender in self._senders:
            sender.close()
        for end in [*self.ends, *self.worker_ends]:
            end.close()

    # -- serving ---------------------------------------------------------------------------

    def _serve(self, iteration: int, start: int) -> None:
        try:
            first, lane_of = self._greet(iteration, start)
            for end in self.worker_ends:
                end.close()  # every worker has its own copy by now
            self._started(first)
            self._send_all(iteration, first, lane_of)
            last = Frame(Kind.END, {"iteration": iteration})
        except LaneClosed:
            return  # a worker is gone, which the DataLoader tells, or the iteration is over
        except BaseException as error:  # noqa: BLE001 - raised again by whoever takes the elements
            self.failure = error
            last = Frame(Kind.FAILED, {"iteration": iteration, "said": str(error)})
        for sender in self._senders:
            sender.put(last, self._is_running)

    def _is_running(self) -> bool:
        return self._running

    def _send_all(self, iteration: int, first: int, lane_of: Sequence[int]) -> None:
        ahead = self._open_at(first, lambda batch: batch_frame(batch, iteration))
        try:
            with self._lock:
                if not self._running:
                    return
                self._ahead = ahead
            for frame in ahead:
                lane = lane_of[frame.header["step"] % len(lane_of)]
                if not self._senders[lane].put(frame, self._is_running):
                    raise LaneClosed("the lane is not read any more")
        finally:
            ahead.close()

    def _greet(self, iteration: int, start: int) -> tuple[int, list[int]]:
        """Wait for all workers; the first step, and the lane of each step modulo the lanes."""
        count = len(self.ends)
        next_steps = [0] * count
        for lane, end in enumerate(self.ends):
            hello = receive(end, self._is_running)
            while hello.header["iteration"] != iteration:
                hello = receive(end, self._is_running)  # of one that ended before it began
            own = hello.header["next_step"]
            next_steps[lane] = start + lane if own is None else int(own)
            go = Frame(Kind.GO, {"iteration": iteration, "start": start})
            self._senders[lane].put(go, self._is_running)
        first = min(next_steps)
        if sorted(next_steps) != list(range(first, first + count)):
            raise InvalidInput(
                f"the workers' states go on at steps {next_steps}: they are not {count} "
                "neighbours, so they are not of one run with as many workers"
            )
        lane_of = [0] * count
        for lane, step in enumerate(next_steps):
            lane_of[step % count] = lane
        return first, lane_of


class _Sender:
    """A thread that writes one lane's frames, so that a busy worker holds up no other."""

    def __init__(self, lane: socket.socket) -> None:
        self._lane = lane
        self._changed = threading.Condition()
        self._queue: deque[Frame] = deque()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="batchweave-lane", daemon=True)
            self._thread.start()

    def put(self, frame: Frame, wanted: Callable[[], bool]) -> bool:
        """Queue a frame, waiting for room; False if it is not ``wanted`` any more."""
        with self._changed:
            while len(self._queue) >= QUEUED_MAX and wanted() and not self._closed:
                self._changed.wait()
            if self._closed or not wanted():
                return False
            self._queue.append(frame)
            self._changed.notify_all()
            return True

    def drop_and_put(self, frame: Frame) -> None:
        """Queue a frame in place of those that wait, and wake who waits for room."""
        with self._changed:
            self._queue.clear()
            self._queue.append(frame)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        _shut(self._lane, socket.SHUT_RDWR)
        _join(self._thread)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return
                frame = self._queue.popleft()
                self._changed.notify_all()
            try:
                send(self._lane, frame)
            except LaneClosed:  # the worker is gone, and the DataLoader says so
                with self._changed:
                    self._closed = True
                    self._changed.notify_all()


def _join(thread: threading.Thread | None) -> None:
    """Wait for a thread, unless it is this one: an object may be let go anywhere."""
    if thread is not None and thread is not threading.current_thread():
        thread.join()


def _shut(end: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # closed already
        end.shutdown(how)


class WorkerEnd:
    """A worker process's end: the batches of its lane. Lives as long as the worker."""

    def __init__(self, lane: socket.socket, others: Sequence[socket.socket]) -> None:
        for other in others:
            other.close()
        self._lane = lane
        self._parent = os.getppid()
        self._iteration = 0
        self._over = True

    def begin(self, next_step: int | None) -> int | None:
        """Begin an iteration; returns where it begins, which is the same for all workers.

        None if it was over before it began.
        """
        self._iteration += 1
        self._over = False
        self._send(Frame(Kind.HELLO, {"iteration": self._iteration, "next_step": next_step}))
        frame = self._of_this_iteration()
        self._over = frame.kind is not Kind.GO
        return None if self._over else int(frame.header["start"])

    def take(self) -> Batch | None:
        """The lane's next batch; None at the end.

        Raises:
            StreamError: reading failed; the training process raises the error itself.
        """
        if self._over:
            return None
        frame = self._of_this_iteration()
        if frame.kind is Kind.BATCH:
            return frame_batch(frame)
        self._over = True
        if frame.kind is Kind.FAILED:
            raise StreamError(str(frame.header["said"]))
        return None

    def _of_this_iteration(self) -> Frame:
        frame = self._receive()
        while frame.header["iteration"] != self._iteration:
            frame = self._receive()  # the rest of one that was left
        return frame

    def _send(self, frame: Frame) -> None:
        try:
            send(self._lane, frame)
        except LaneClosed as error:
            raise _orphaned(error) from None

    def _receive(self) -> Frame:
        try:
            return receive(self._lane, lambda: os.getppid() == self._parent)
        except LaneClosed as error:
            raise _orphaned(error) from None


def _orphaned(error: LaneClosed) -> StreamError:
    return StreamError(f"the process that reads the stream stopped: {error}")
