"""Cutting a long sequence into runs that are handled one at a time. Imports: standard library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def runs(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in order, ``size`` at a time; the last run may be shorter, none is empty."""
    run: list[T] = []
    for item in items:
        run.append(item)
        if len(run) == size:
            yield run
            run = []
    if run:
        yield run
