"""Checks that a dataset resumes exactly, for BatchWeave's tests and for its users' own.

`check_resume` takes a state before every element and restores each; `check_world_sizes` puts the
ranks' shares together and compares them over world sizes. Both work with every dataset that has
``state_dict`` and ``load_state_dict``, and raise `AssertionError` with the step that differs.
Imports: standard library, torch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader


class Resumable(Protocol):
    """A dataset with a state: torch's ``Stateful``, and iterable."""

    def __iter__(self) -> Iterator[Any]:
        """Elements from the state on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go there, with the next ``iter()``."""
        ...


Loader = Callable[[Any], Iterable[Any]]
"""Makes what is iterated of a dataset: the dataset itself, or a DataLoader over it."""


def plain_loader(**options: Any) -> Loader:
    """A ``DataLoader(dataset, batch_size=None, **options)``."""

    def loader(dataset: Any) -> Iterable[Any]:
        made: DataLoader[Any] = DataLoader(dataset, batch_size=None, **options)
        return made

    return loader


def check_resume(
    make: Callable[[], Resumable],
    *,
    loader: Loader | None = None,
    elements_max: int = 64,
    resumed_elements: int = 2,
    every: int = 1,
) -> list[str]:
    """Take the state before every element of a run, restore each, and compare what follows.

    States travel as JSON. ``make`` makes the dataset anew each time; at most ``elements_max``
    elements are looked at, ``resumed_elements`` after each restored state, and the state before
    every ``every``-th. Returns the elements' digests.

    Raises:
        AssertionError: a restored run gives something else, or ends elsewhere.
    """
    over = loader or plain_loader()
    dataset = make()
    states = [json.dumps(dataset.state_dict())]
    digests: list[str] = []
    for element in itertools.islice(over(dataset), elements_max):
        digests.append(digest(element))
        states.append(json.dumps(dataset.state_dict()))
    ended = len(digests) < elements_max
    for at in range(0, len(states), every):
        resumed = make()
        resumed.load_state_dict(json.loads(states[at]))
        assert json.dumps(resumed.state_dict()) == states[at], (
            f"the state before element {at} changes when it is loaded: {states[at]} became "
            f"{resumed.state_dict()}"
        )
        found = [digest(one) for one in itertools.islice(over(resumed), resumed_elements)]
        wanted = digests[at : at + resumed_elements]
        if not ended:
            found = found[: len(wanted)]  # the reference run was cut off
        assert found == wanted, (
            f"resuming before element {at} gave {len(found)} elements, and they are not the "
            f"{len(wanted)} of the run that was not interrupted"
        )
    return digests


def check_world_sizes(
    make: Callable[[int, int], Resumable],
    world_sizes: Sequence[int],
    *,
    loader: Loader | None = None,
    elements_max: int = 64,
) -> list[str]:
    """Compare the global batches of several world sizes: all ranks' rows, in the ranks' order.

    ``make(rank, world_size)`` makes one rank's dataset. Returns the global batches' digests.

    Raises:
        AssertionError: a step differs, or ranks end at different steps.
    """
    reference: list[str] | None = None
    for world_size in world_sizes:
        found = global_digests(make, world_size, loader=loader, elements_max=elements_max)
        reference = found if reference is None else reference
        differing = [step for step, pair in enumerate(zip(found, reference)) if pair[0] != pair[1]]  # noqa: B905 - lengths are compared next
        assert not differing, f"world size {world_size}: element {differing[0]} is another"
        assert len(found) == len(reference), (
            f"world size {world_size} ends after {len(found)} elements, world size "
            f"{world_sizes[0]} after {len(reference)}"
        )
    return reference or []


def global_digests(
    make: Callable[[int, int], Resumable],
    world_size: int,
    *,
    loader: Loader | None = None,
    elements_max: int = 64,
) -> list[str]:
    """Digests of the global batches as one world size reads them.

    Raises:
        AssertionError: ranks end at different steps.
    """
    over = loader or plain_loader()
    ranks = [
        list(itertools.islice(over(make(rank, world_size)), elements_max))
        for rank in range(world_size)
    ]
    ends = [len(elements) for elements in ranks]
    assert len(set(ends)) <= 1, f"the ranks of {world_size} end after {ends} elements"
    return [digest(joined(shares)) for shares in zip(*ranks, strict=True)]


def joined(shares: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several ranks' elements as one: rows of the first, then of the second, and so on."""
    found: dict[str, Any] = {}
    for name in shares[0]:
        values = [share[name] for share in shares]
        if all(isinstance(value, torch.Tensor) for value in values):
            found[name] = torch.cat(values)
        else:
            found[name] = [item for value in values for item in value]
    return found


def digest(value: Any) -> str:
    """SHA-256 over all that a nested value of tensors, mappings, lists and scalars holds."""
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        sha.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        sha.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        sha.update(f"mapping {len(value)} ".encode())
        for name in value:
            sha.update(f"{name!r} ".encode())
            _feed(sha, value[name])
    elif isinstance(value, (list, tuple)):
        sha.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(sha, item)
    else:
        sha.update(f"{type(value).__name__} {value!r} ".encode())
