"""Ranks as real processes with a gloo process group: ``python -m tests.torch_ranks SCENARIO DIR``.

torch is imported once and the ranks are forked, before anything is read. What a scenario finds goes
to standard output as JSON, for the tests to judge.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh

import batchweave as bw
import batchweave.catalogs  # here, so that forked ranks need not
from batchweave.connectors.torch_dataset import StreamDataset
from tests.streams import QUICK, catalog_at
from tests.torch_streams import numbered, publish

Work = Callable[[bw.Stream], Any]


def in_ranks(folder: Path, works: Sequence[Work | None]) -> list[Any]:
    """Run one function a rank, each in a process of its own; what they return, in order."""
    meeting = tempfile.mkdtemp(dir=folder)
    pids = []
    for rank, work in enumerate(works):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _rank(folder, Path(meeting), rank, len(works), work)
                code = 0
            except BaseException:  # noqa: BLE001 - a forked child must not return
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * len(works), f"the ranks ended with {codes}"
    return [json.loads((Path(meeting) / f"{rank}.json").read_text()) for rank in range(len(works))]


def _rank(folder: Path, meeting: Path, rank: int, world: int, work: Work | None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=world
    )
    stream = catalog_at(folder / "warehouse").load_stream("demo.tokens")
    found = None if work is None else work(stream)
    dist.barrier()
    dist.destroy_process_group()
    (meeting / f"{rank}.json").write_text(json.dumps(found))


# -- scenarios ---------------------------------------------------------------------------------


def elastic(folder: Path) -> Any:
    """2, 8, 2 and 1 ranks, one run after the other, each from the last one's checkpoint."""

    def some(count: int) -> Work:
        def work(stream: bw.Stream) -> Any:
            dataset = StreamDataset(stream, start="latest")
            names = []
            for element in dataset:
                names.append(element["name"])
                if len(names) == count:
                    break
            dataset.commit_checkpoint(f"step-{dataset.next_step}")
            dataset.close()
            return names

        return work

    phases = ((2, 3), (8, 4), (2, 2), (1, 9))
    return [in_ranks(folder, [some(count) for _ in range(world)]) for world, count in phases]


def live(folder: Path) -> Any:
    """Two ranks follow a stream that grows and is sealed, and meet at every step."""

    def follow(stream: bw.Stream) -> Any:
        seen = []
        dataset = StreamDataset(
            stream, settings=bw.ReaderSettings(poll_interval_s=0.01 + 0.2 * dist.get_rank())
        )
        for element in dataset:
            due = element.step or 0
            step = torch.tensor(due)
            dist.all_reduce(step)  # hangs, if a rank ends before another
            assert int(step) == 2 * due
            seen.append(due)
        return seen

    pid = os.fork()  # before this process reads anything: the store's threads do not fork
    if pid == 0:
        _produce(folder)
        os._exit(0)
    seen = in_ranks(folder, [follow, follow])
    assert os.waitpid(pid, 0)[1] == 0
    return seen


def _produce(folder: Path) -> None:
    stream = catalog_at(folder / "warehouse").load_stream("demo.tokens")
    with stream.producer("late", QUICK) as producer:
        for step in range(3, 9):
            producer.publish(numbered(step), position=step)
            producer.flush()
            time.sleep(0.05)
    stream.seal()


def agreed(folder: Path) -> Any:
    """Four ranks: the head, checkpoints, a device mesh, and torch's own checkpoints."""

    def work(stream: bw.Stream) -> Any:
        rank = dist.get_rank()
        found: dict[str, Any] = {}
        if rank == 2:
            publish(stream, 3, 2)  # rank 0 has read the head by then, or reads it now: all alike
        ends_here = StreamDataset(stream, follow=False)
        found["bounded"] = [element.step for element in ends_here]
        dataset = StreamDataset(stream)
        for element in dataset:
            if element.step == (1 if rank == 3 else 2):
                break
        try:
            dataset.commit_checkpoint("torn")
        except bw.InvalidInput as error:
            found["torn"] = str(error)
        dataset.commit_checkpoint("whole", next_step=2)
        found["from checkpoint"] = StreamDataset(stream, start="whole").next_step
        try:
            StreamDataset(stream, start="missing")
        except bw.BatchWeaveError as error:
            found["missing"] = type(error).__name__
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        found["mesh"] = StreamDataset(stream, device_mesh=mesh).placement.share.slices
        saved = folder / "dcp"
        dataset.seek(2)
        save({"data": dataset}, checkpoint_id=saved)
        fresh = StreamDataset(stream)
        load({"data": fresh}, checkpoint_id=saved)
        found["dcp"] = fresh.state_dict()
        dataset.close()
        return found

    return in_ranks(folder, [work for _ in range(4)])


if __name__ == "__main__":
    scenarios = {"elastic": elastic, "live": live, "agreed": agreed}
    print(json.dumps(scenarios[sys.argv[1]](Path(sys.argv[2]))))
