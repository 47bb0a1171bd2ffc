"""A StreamDataset gives the global batches in order, and its state counts what was received."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

import batchweave as bw
from batchweave.connectors.elements import Element
from batchweave.connectors.read_state import ReadState, check_readable, from_loader_state
from batchweave.connectors.testing import check_resume, check_world_sizes, digest, plain_loader
from batchweave.connectors.torch_dataset import StreamDataset
from tests.torch_streams import alone, no_threads_left, numbered_stream, publish, steps_of

pytestmark = [
    # Said on machines with fewer cores than a test has workers.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    # Said where there is no device to pin memory for.
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
    # torchdata 0.11 calls it whenever a loader is made.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]
# Workers are forked where nothing else is said: a spawned one has to import torch first.
FORKED: dict[str, Any] = {"multiprocessing_context": "fork"}
LOADERS = [
    pytest.param(DataLoader, {}, id="0 workers"),
    pytest.param(DataLoader, {"pin_memory": True}, id="pinned"),
    pytest.param(DataLoader, {"num_workers": 1, **FORKED}, id="1 worker"),
    pytest.param(DataLoader, {"num_workers": 3, **FORKED}, id="3 workers"),
    pytest.param(
        DataLoader, {"num_workers": 3, "persistent_workers": True, **FORKED}, id="persistent"
    ),
    pytest.param(StatefulDataLoader, {}, id="stateful, 0 workers"),
    pytest.param(StatefulDataLoader, {"num_workers": 3, **FORKED}, id="stateful, 3 workers"),
    pytest.param(
        StatefulDataLoader,
        {"num_workers": 2, "persistent_workers": True, **FORKED},
        id="stateful, persistent",
    ),
]


def forked(workers: int) -> dict[str, Any]:
    """Options of a DataLoader with forked workers, or with none."""
    return {"num_workers": workers, **FORKED} if workers else {}


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bw.Stream:
    """Eleven sealed steps: workers have lanes of different lengths."""
    return numbered_stream(tmp_path_factory.mktemp("warehouse"), 11)


# -- elements ----------------------------------------------------------------------------------


def test_an_element_is_this_ranks_share_as_tensors(stream: bw.Stream) -> None:
    dataset = StreamDataset(stream, rank=1, world_size=2, columns=["tokens"])
    element = next(iter(dataset))
    dataset.close()
    assert isinstance(element, dict)
    assert list(element) == ["tokens"]
    assert (element.step, element.slices) == (0, (2, 3))
    assert element["tokens"].dtype == torch.int32
    assert element["tokens"].shape == (8, 3)
    assert element["tokens"][0].tolist() == [200, 201, 202]


def test_more_ranks_than_slices_share_the_rows_of_a_slice(stream: bw.Stream) -> None:
    with StreamDataset(stream, rank=5, world_size=8) as dataset:
        assert next(iter(dataset))["name"] == ["0/2/2", "0/2/3"]


# -- order and state ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), LOADERS)
def test_the_state_counts_what_was_received(
    stream: bw.Stream, kind: type[Any], options: dict[str, Any]
) -> None:
    with no_threads_left():
        dataset = alone(stream)
        loader = kind(dataset, batch_size=None, **options)
        seen = []
        assert dataset.state_dict()["next_step"] == 0
        for element in loader:
            seen.append(element.step)
            assert dataset.state_dict() == {
                "version": 1,
                "stream": "demo.tokens",
                "next_step": len(seen),
            }
            if len(seen) == 5:
                break
        seen += steps_of(loader)  # goes on where the loop was left
        assert seen == list(range(11))
        dataset.seek(4)
        assert steps_of(loader) == list(range(4, 11))  # also in workers that are still the same
        assert dataset.state_dict()["next_step"] == 11
        del loader


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_state_restores_on_every_world_size(stream: bw.Stream, workers: int) -> None:
    loader = plain_loader(**forked(workers))
    check_world_sizes(
        lambda rank, world: StreamDataset(stream, rank=rank, world_size=world),
        [1, 2, 4, 8],
        loader=loader,
    )
    check_resume(lambda: StreamDataset(stream, rank=1, world_size=4), loader=loader)


def test_spawned_workers_give_the_same(stream: bw.Stream) -> None:
    dataset = StreamDataset(stream, rank=1, world_size=2)
    here = [digest(element) for element in dataset]
    dataset.seek(3)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn", prefetch_factor=1
    )
    assert [digest(element) for element in loader] == here[3:]
    assert dataset.next_step == 11


def test_a_state_of_one_world_size_resumes_on_another(stream: bw.Stream) -> None:
    two = StreamDataset(stream, rank=1, world_size=2)
    for element in two:
        if element.step == 3:
            break
    state = json.loads(json.dumps(two.state_dict()))
    two.close()
    eight = StreamDataset(stream, rank=7, world_size=8)
    eight.load_state_dict(state)
    assert eight.state_dict() == state
    assert steps_of(eight) == list(range(4, 11))


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_restores_its_own_state(stream: bw.Stream, workers: int) -> None:
    def loader_over(dataset: StreamDataset) -> Any:
        return StatefulDataLoader(dataset, batch_size=None, **forked(workers))

    first = loader_over(alone(stream))
    states = []
    for _ in first:
        states.append(first.state_dict())
    del first
    for at in (0, 3, 4, 9):
        dataset = alone(stream)
        resumed = loader_over(dataset)
        resumed.load_state_dict(states[at])
        seen = []
        for element in resumed:
            seen.append(element.step)
            assert dataset.next_step == element.step + 1
        assert seen == list(range(at + 1, 11))
        elsewhere = alone(stream)  # on any number of workers
        elsewhere.load_state_dict(from_loader_state(states[at]))
        assert elsewhere.next_step == at + 1


def test_a_fork_after_the_parent_has_read_goes_on(stream: bw.Stream) -> None:
    dataset = alone(stream)
    before = [element.step for element, _ in zip(dataset, range(3), strict=False)]
    # zip takes one more element than it gives.
    loader = DataLoader(dataset, batch_size=None, num_workers=2, **FORKED)
    assert before == [0, 1, 2]
    assert steps_of(loader) == list(range(4, 11))


def test_a_collate_fn_is_counted_like_any(stream: bw.Stream) -> None:
    dataset = alone(stream)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, collate_fn=_only_sum, **FORKED)
    for at, total in enumerate(loader):
        assert isinstance(total, float)
        assert dataset.next_step == at + 1


def _only_sum(element: Any) -> float:
    assert isinstance(element, Element)
    return float(element["tokens"].sum())


def test_a_newer_iterator_voids_the_older(stream: bw.Stream) -> None:
    dataset = alone(stream)
    old = iter(dataset)
    next(old)
    new = iter(dataset)
    assert next(new).step == 1
    with pytest.raises(bw.InvalidInput, match="one iterator"):
        next(old)
    assert dataset.next_step == 2


def test_a_length_is_known_where_the_end_is(tmp_path: Path, stream: bw.Stream) -> None:
    assert len(alone(stream)) == 11
    assert len(alone(stream, start=4, stop=9)) == 5
    live = numbered_stream(tmp_path, 3, sealed=False)
    assert len(alone(live, follow=False)) == 3
    with pytest.raises(TypeError, match="not known"):
        len(alone(live))
    assert bool(alone(live))


def test_without_follow_it_ends_at_the_head_it_was_made_at(tmp_path: Path) -> None:
    live = numbered_stream(tmp_path, 3, sealed=False)
    dataset = alone(live, follow=False)
    publish(live, 3, 2)
    assert steps_of(dataset) == [0, 1, 2]


# -- failing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_that_fails_names_step_slice_and_row(stream: bw.Stream, workers: int) -> None:
    dataset = alone(stream, transform=_refuse_one)
    loader = DataLoader(dataset, batch_size=None, **forked(workers))
    seen: list[int] = []
    iterator = iter(loader)
    with pytest.raises(bw.TransformFailed, match="step 5, slice 2, row 3: KeyError"):
        seen.extend(element.step for element in iterator)
    assert seen == [0, 1, 2, 3, 4]
    assert dataset.next_step == 5  # what failed was not received
    with pytest.raises(bw.TransformFailed):
        next(iterator)
    assert dataset.next_step == 5
    assert multiprocessing.active_children() == []  # although the traceback is kept here


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_rows_keep_order_and_are_in_the_state(stream: bw.Stream, workers: int) -> None:
    dataset = alone(stream, transform=_refuse_one, on_error="skip")
    loader = DataLoader(dataset, batch_size=None, **forked(workers))
    for element in loader:
        rows = 15 if element.step == 5 else 16
        assert len(element["name"]) == rows
        seen = element.step >= 5
        assert dataset.state_dict()["skipped"] == {
            "rows": 1 if seen else 0,
            "recent": [[5, 2, 3]] if seen else [],
        }
    resumed = alone(stream, transform=_refuse_one, on_error="skip")
    resumed.load_state_dict(dataset.state_dict())
    assert resumed.stats().skipped_rows == 1


def _refuse_one(row: dict[str, Any]) -> dict[str, Any]:
    if row["name"] == "5/2/3":
        raise KeyError("no such thing")
    return row


def test_a_step_of_which_nothing_is_left_is_an_error(stream: bw.Stream) -> None:
    def refuse(row: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("never")

    with (
        alone(stream, transform=refuse, on_error="skip") as dataset,
        pytest.raises(bw.TransformFailed, match="leaves nothing"),
    ):
        next(iter(dataset))


def test_a_killed_worker_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    numbered_stream(tmp_path, 11)
    # A program of its own: torch raises in whatever runs when the system tells of the death.
    program = f"""
import os, signal
from torch.utils.data import DataLoader
from tests.streams import catalog_at
from tests.torch_streams import alone, steps_of
dataset = alone(catalog_at({str(tmp_path)!r}).load_stream("demo.tokens"))
options = {{"num_workers": 2, "prefetch_factor": 1, "multiprocessing_context": "fork"}}
iterator = iter(DataLoader(dataset, batch_size=None, **options))
seen = [next(iterator).step, next(iterator).step]
try:
    os.kill(iterator._workers[0].pid, signal.SIGKILL)
    for element in iterator:
        seen.append(element.step)
except RuntimeError as error:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    print("DataLoader worker" in str(error))
try:
    iterator._shutdown_workers()
except RuntimeError:
    pass
print(seen + steps_of(DataLoader(dataset, batch_size=None, **options)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.splitlines() == ["True", str(list(range(11)))], done.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_step_is_raised_as_what_it_is(tmp_path: Path, workers: int) -> None:
    stream = numbered_stream(tmp_path, 4)
    (entry,) = stream.batches(2, 3)
    (tmp_path / "demo" / "tokens" / entry.parts[0].path).unlink()
    dataset = alone(stream)
    seen: list[Any] = []
    with pytest.raises(bw.StreamCorrupted, match="step 2"):
        seen.extend(DataLoader(dataset, batch_size=None, **forked(workers)))
    assert [element.step for element in seen] == [0, 1]
    assert dataset.next_step == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_program_that_just_ends_does_end(tmp_path: Path, workers: int) -> None:
    numbered_stream(tmp_path, 3, sealed=False)
    program = f"""
from torch.utils.data import DataLoader
from tests.streams import catalog_at
from tests.torch_streams import alone
dataset = alone(catalog_at({str(tmp_path)!r}).load_stream("demo.tokens"))
options = {{"num_workers": {workers}, "multiprocessing_context": "fork"}} if {workers} else {{}}
iterator = iter(DataLoader(dataset, batch_size=None, **options))
print(next(iterator).step)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_ctrl_c_leaves_no_process_and_no_thread(tmp_path: Path) -> None:
    numbered_stream(tmp_path, 3, sealed=False)
    program = f"""
import os, signal, sys, threading
from torch.utils.data import DataLoader
from tests.streams import catalog_at
from tests.torch_streams import alone
dataset = alone(catalog_at({str(tmp_path)!r}).load_stream("demo.tokens"))
loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
try:
    for element in loader:  # follows: waits after step 2
        if element.step == 2:
            threading.Timer(0.5, os.kill, (0, signal.SIGINT)).start()
except KeyboardInterrupt:
    print("interrupted at", dataset.next_step)
loader = None
import gc; gc.collect()
import multiprocessing
print([one.name for one in threading.enumerate() if one.name.startswith("batchweave")])
print(multiprocessing.active_children())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        start_new_session=True,
    )
    assert done.stdout.splitlines() == ["interrupted at 3", "[]", "[]"], done.stderr
    assert done.returncode == 0


# -- bad input ---------------------------------------------------------------------------------


def test_loaders_that_would_break_the_order_are_refused(stream: bw.Stream) -> None:
    dataset = alone(stream)
    with pytest.raises(bw.InvalidInput, match="batch_size=None"):
        iter(DataLoader(dataset))
    with pytest.raises(bw.InvalidInput, match="batch_size=None"):
        iter(DataLoader(dataset, batch_size=8, num_workers=2, **FORKED))
    with pytest.raises(bw.InvalidInput, match="in_order"):
        iter(DataLoader(dataset, batch_size=None, num_workers=2, in_order=False, **FORKED))
    with pytest.raises(ValueError, match="shuffle"):
        DataLoader(dataset, batch_size=None, shuffle=True)
    with pytest.raises(ValueError, match="sampler"):
        DataLoader(dataset, batch_size=None, sampler=[1])


def test_a_wrapped_dataset_cannot_hide_in_workers(stream: bw.Stream) -> None:
    class Wrapper(IterableDataset[Any]):
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __iter__(self) -> Any:
            return iter(self.inner)

    with pytest.raises(bw.StreamError, match="transform="):
        next(iter(DataLoader(Wrapper(alone(stream)), batch_size=None, num_workers=1, **FORKED)))
    assert len(list(DataLoader(Wrapper(alone(stream)), batch_size=None))) == 11


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shuffle": True}, "shuffle while producing"),
        ({"batch_size": 8}, "global batch"),
        ({"sampler": [1]}, "nothing to sample"),
        ({"start": -1}, "start"),
        ({"start": 1.5}, "start"),
        ({"stop": -1}, "stop"),
        ({"columns": []}, "columns"),
        ({"columns": ["nope"]}, "nope"),
        ({"columns": "tokens"}, "list of names"),
        ({"on_error": "ignore"}, "on_error"),
        ({"transform": 3}, "transform"),
        ({"prefetch": 0}, "prefetch"),
        ({"decode_threads": 0}, "decode_threads"),
        ({"stall_after_s": 0}, "stall_after_s"),
        ({"cache_dir": "/proc/none"}, "cache folder"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_explained(
    stream: bw.Stream, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(bw.InvalidInput, match=said):
        alone(stream, **options)
    with pytest.raises(TypeError, match="sorcery"):
        alone(stream, sorcery=1)


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ({"version": 1, "stream": "other.one", "next_step": 1}, bw.InvalidInput, "other.one"),
        ({"version": 2, "stream": "demo.tokens", "next_step": 1}, bw.UnsupportedFormat, "2"),
        ({"version": 1, "stream": "demo.tokens", "next_step": 12}, bw.InvalidInput, "step 11"),
        ({"version": 1, "stream": "demo.tokens", "next_step": -1}, bw.InvalidInput, "-1"),
        ({"version": 1, "stream": "demo.tokens", "next_step": "3"}, bw.InvalidInput, "'3'"),
        ({"version": 1, "stream": "demo.tokens"}, bw.InvalidInput, "state_dict"),
        ({"epoch": 1, "sample_in_epoch": 8}, bw.InvalidInput, "sample_in_epoch"),
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_is_refused(
    stream: bw.Stream, state: dict[str, Any], error: type[Exception], said: str
) -> None:
    dataset = alone(stream)
    with pytest.raises(error, match=said):
        dataset.load_state_dict(state)
    assert dataset.next_step == 0


def test_a_state_below_the_watermark_is_refused(stream: bw.Stream) -> None:
    head = replace(stream.head(), watermark=4)
    check_readable(ReadState("demo.tokens", 4), head)
    with pytest.raises(bw.StepReclaimed, match="from step 4 on"):
        check_readable(ReadState("demo.tokens", 3), head)


def test_a_pickled_copy_carries_no_connection(stream: bw.Stream) -> None:
    copy = object.__new__(StreamDataset)
    copy.__setstate__(alone(stream).__getstate__())
    with pytest.raises(bw.StreamError, match="Make a StreamDataset here"):
        iter(copy)
