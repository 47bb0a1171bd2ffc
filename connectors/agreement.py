"""Agreement: what all ranks of a process group must see alike, asked of them together.

Every function here is a collective: all ranks call it, in the same order, or all of them wait.
Numbers travel as tensors, so that no object is unpickled.
Imports: standard library, torch, the core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from batchweave.errors import BatchWeaveError, StreamError

_ACCELERATOR_BACKENDS = {"nccl", "xccl", "hccl"}
FAILED = -1


def in_group() -> bool:
    """Whether this process is one of several ranks of an initialised process group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gathered(number: int, group: Any = None) -> list[int]:
    """Every rank's number, in the order of the ranks."""
    mine = torch.tensor([number], dtype=torch.int64, device=_device(group))
    each = [torch.zeros_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(each, mine, group=group)
    return [int(one.item()) for one in each]


def decided(question: Callable[[], int], what: str, group: Any = None) -> int:
    """What the group's first rank answers, on every rank: a number from 0.

    Raises:
        BatchWeaveError: on the first rank, what ``question`` raised; on the others, that it did.
    """
    first = dist.get_rank(group) == 0
    answer, failure = FAILED, None
    if first:
        try:
            answer = question()
        except BatchWeaveError as error:
            failure = error
    answer = gathered(answer, group)[0]
    if failure is not None:
        raise failure
    if answer == FAILED:
        raise StreamError(f"{what} failed on rank 0; its message says why")
    return answer


def _device(group: Any) -> torch.device:
    """Where the group's backend takes tensors from."""
    if str(dist.get_backend(group)) in _ACCELERATOR_BACKENDS:
        found = torch.accelerator.current_accelerator()
        if found is not None:
            return torch.device(found.type, torch.accelerator.current_device_index())
    return torch.device("cpu")
