"""Trouble with worker processes: whatever happens to one, the trainer learns of it and all ends."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import batchweave as bw
from batchweave.connectors import results_ahead
from batchweave.connectors.results_ahead import ResultsAhead
from tests.torch_streams import alone, no_threads_left, numbered_stream, steps_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
FORKED: dict[str, Any] = {"multiprocessing_context": "fork", "batch_size": None}
WAIT_S_MAX = 60


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bw.Stream:
    """Eleven sealed steps."""
    return numbered_stream(tmp_path_factory.mktemp("warehouse"), 11)


@pytest.fixture(autouse=True)
def _impatient_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cycle's collection torch waits for workers that it cannot tell to end any more."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)


# -- what is taken ahead -----------------------------------------------------------------------


class Result:
    """Something that can be watched."""


@pytest.fixture
def results() -> Iterator[Any]:
    """A queue as workers put into."""
    queue = multiprocessing.get_context("fork").Queue()
    yield queue
    queue.close()
    queue.join_thread()


def test_what_was_handed_out_is_held_no_longer(results: Any) -> None:
    with no_threads_left():
        ahead = ResultsAhead(results)
        results.put(Result())
        gone = threading.Event()
        weakref.finalize(ahead.get(WAIT_S_MAX), gone.set)
        assert gone.wait(WAIT_S_MAX)
        ahead.stop()
        ahead.close()


def test_a_queue_that_is_broken_is_told_once_until_somebody_asks(results: Any) -> None:
    with no_threads_left():
        ahead = ResultsAhead(results)
        results.close()  # every attempt fails from now on
        for _ in range(3):
            with pytest.raises(ValueError, match="closed"):
                ahead.get(WAIT_S_MAX)
        assert not threading.Event().wait(5 * results_ahead.CHECK_S)
        assert ahead._ready.qsize() <= 1
        ahead.stop()
        ahead.close()


def test_half_a_result_holds_nobody_up(results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_ahead, "JOIN_S", 0.2)
    writer = results._writer.fileno()
    held = os.dup(writer)  # as a process does that was forked since
    try:
        with no_threads_left():
            ahead = ResultsAhead(results)
            os.write(writer, struct.pack("!i", 3 << 20) + b"its worker was killed here")
            ahead.stop()
            ahead.close()
    finally:
        os.close(held)


# -- a result that cannot be taken -------------------------------------------------------------


class Unloadable:
    """Raises in the process that takes it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __reduce__(self) -> Any:
        return _load, (self.step, os.getpid())


def _unloadable(element: Any) -> Unloadable:
    return Unloadable(element.step)


def _load(step: int, _: int) -> Any:
    if step == 5:
        raise ImportError("no module of that name in this process")
    return step


@pytest.mark.parametrize("persistent", [False, True])
def test_a_result_that_cannot_be_unpickled_is_told_and_not_counted(
    stream: bw.Stream, persistent: bool
) -> None:
    with no_threads_left():
        dataset = alone(stream)
        options: Any = {"num_workers": 2, "persistent_workers": persistent, **FORKED}
        loader: Any = DataLoader(dataset, collate_fn=_unloadable, **options)
        seen: list[int] = []
        iterator = iter(loader)
        for _ in range(2):
            with pytest.raises(ImportError, match="no module of that name"):
                seen.extend(iterator)
        assert seen == list(range(5))[: len(seen)]  # torch may meet it before those due earlier
        assert dataset.next_step == len(seen)
        del iterator, loader
        gc.collect()
        rest = steps_of(DataLoader(dataset, num_workers=2, **FORKED))
        assert seen + rest == list(range(11))


# -- ends --------------------------------------------------------------------------------------


let_go = threading.Event()


class Collecting:
    """Runs the garbage collection in the thread that takes it out of the queue."""

    def __reduce__(self) -> Any:
        return _collect, ()


def _collect() -> None:
    assert let_go.wait(WAIT_S_MAX)
    gc.collect()


def _collecting(element: Any) -> Any:
    return Collecting()


def test_an_iterator_may_be_let_go_in_the_thread_that_takes_its_results(stream: bw.Stream) -> None:
    let_go.clear()
    with no_threads_left():
        gc.disable()
        try:
            iterator: Any = iter(
                DataLoader(alone(stream), num_workers=2, collate_fn=_collecting, **FORKED)
            )
            thread, workers = iterator._ahead._thread, iterator._workers
            iterator.itself = iterator
            del iterator
            let_go.set()
            thread.join(WAIT_S_MAX)
        finally:
            gc.enable()
        assert not thread.is_alive()
        assert not any(worker.is_alive() for worker in workers)


def test_more_open_files_than_select_knows_are_no_hindrance(stream: bw.Stream) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this system allows no more than 4,096 open files")
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        assert steps_of(DataLoader(alone(stream), num_workers=2, **FORKED)) == list(range(11))


def _program(folder: Path, text: str) -> list[str]:
    """What a program of its own prints: torch raises in whatever runs when a worker dies."""
    head = f"""
import gc, multiprocessing, os, random, signal, threading, time
from torch.utils.data import DataLoader
from tests.streams import catalog_at
from tests.torch_streams import alone, steps_of
dataset = alone(catalog_at({str(folder)!r}).load_stream("demo.tokens"))
options = {{"batch_size": None, "multiprocessing_context": "fork", "num_workers": 2}}
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + text],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_persistent_workers_one_of_which_was_killed_are_told_of_again(tmp_path: Path) -> None:
    numbered_stream(tmp_path, 11)
    said = _program(
        tmp_path,
        """
from torch.utils.data import _utils
_utils.MP_STATUS_CHECK_INTERVAL = 0.5  # how often torch looks after its workers
loader = DataLoader(dataset, persistent_workers=True, **options)
iterator = iter(loader)
print(next(iterator).step)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own look finds it
os.kill(iterator._workers[0].pid, signal.SIGKILL)
for _ in range(2):
    try:
        for element in iter(loader):
            print(element.step)
    except (RuntimeError, ConnectionError) as error:
        print("True")
del iterator, loader
gc.collect()
rest = steps_of(DataLoader(dataset, **options))
print(rest[-1], dataset.next_step)
print([one.name for one in threading.enumerate() if one.name.startswith("batchweave")])
""",
    )
    assert said[0] == "0"
    assert said.count("True") == 2  # the second iteration does not wait for it for ever
    assert said[-2:] == ["10 11", "[]"]
