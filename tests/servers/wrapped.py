"""A catalog of the user's own, for ``py-catalog-impl``: pyiceberg's methods and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog


class Wrapped(Catalog):
    """Whatever it is asked, an SQL catalog does; nobody can tell that it is one."""

    def __init__(self, name: str, **properties: str) -> None:
        super().__init__(name, **properties)
        self._inner = SqlCatalog(name, **properties)


def _delegating(method: str) -> Callable[..., Any]:
    return lambda self, *arguments, **named: getattr(self._inner, method)(*arguments, **named)


for _method in Catalog.__abstractmethods__:
    setattr(Wrapped, _method, _delegating(_method))
Wrapped.__abstractmethods__ = frozenset()
