"""First-fit packing of samples into the bins of one global batch.

A batch is packed by itself: all its bins are open at once, so nothing but a few samples that found
no room is carried to the next batch, and those come first there. Pure; imports: standard library,
numpy, items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from batchweave.assemble.items import Item

Bins = list[list[Item]]


class _Room:
    """Room left in each bin."""

    def __init__(self, bins: int, capacity: int) -> None:
        self._left: np.ndarray[Any, Any] = np.full(bins, capacity, np.int64)
        self._left_in_all = bins * capacity
        self.bins: Bins = [[] for _ in range(bins)]

    def put(self, item: Item, bin_index: int) -> None:
        self._left[bin_index] -= item.size
        self._left_in_all -= item.size
        self.bins[bin_index].append(item)

    def first(self, size: int) -> int | None:
        """The first bin with room."""
        fits = self._left >= size
        at = int(fits.argmax())
        return at if fits[at] else None

    def widest(self, size: int) -> int | None:
        """The bin with the most room, if that is enough; the first of several."""
        at = int(self._left.argmax())
        return at if self._left[at] >= size else None

    @property
    def full(self) -> bool:
        return self._left_in_all == 0


def first_fit(
    take: Callable[[], Item | None], bins: int, capacity: int, lookahead: int
) -> tuple[Bins | None, list[Item]]:
    """Fill the bins of one batch, each sample into the first that has room for it.

    It is done when all bins are full, or when ``lookahead`` samples have found no room.

    Returns:
        The bins, none of them empty, and the samples that found no room; or, if the samples ended
        before, None and all of them in order.
    """
    room = _Room(bins, capacity)
    left: list[Item] = []
    taken: list[Item] = []
    while len(left) < lookahead and not room.full:
        item = take()
        if item is None:
            return None, taken
        taken.append(item)
        found = room.first(item.size)
        if found is None:
            left.append(item)
        else:
            room.put(item, found)
    return room.bins, left


def spread(
    items: Sequence[Item], slices: int, bins_per_slice: int, capacity: int
) -> tuple[list[Bins] | None, list[Item]]:
    """A last batch of what is left: each slice gets something, in as few bins as that takes.

    Returns:
        The bins of each slice and the samples that found no room, or None and all samples if there
        are too few to give each slice one.
    """
    room = _Room(slices * bins_per_slice, capacity)
    left = _put_all(items, room, room.first)
    used = [one for one in room.bins if one]
    if len(used) < slices:
        room = _Room(slices, capacity)
        left = _put_all(items, room, room.widest)
        used = [one for one in room.bins if one]
    if len(used) < slices:
        return None, list(items)
    edges = [at * len(used) // slices for at in range(slices + 1)]
    return [used[edges[at] : edges[at + 1]] for at in range(slices)], left


def _put_all(items: Sequence[Item], room: _Room, choose: Callable[[int], int | None]) -> list[Item]:
    left = []
    for item in items:
        found = choose(item.size)
        if found is None:
            left.append(item)
        else:
            room.put(item, found)
    return left
