"""A store that counts its requests and fails where a test says so; the bytes are another's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from batchweave.objects import Buffer, Children, ObjectInfo, Objects, join

Hook = Callable[[str, str], None]
"""Called with the verb and the path below the root; what it raises is the store's answer."""


def _nothing(verb: str, path: str) -> None:
    return None


class Watch:
    """What all folders of one watched store share."""

    def __init__(self) -> None:
        self.before: Hook = _nothing
        self.after: Hook = _nothing
        self.calls: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def clear(self) -> None:
        """Forget the requests counted so far."""
        self.calls.clear()


class WatchedObjects:
    """`Objects` over other objects: ``watch.before`` runs ahead of each request, ``after`` behind.

    An exception from ``before`` is a request that never had an effect, one from ``after`` a lost
    acknowledgement.
    """

    def __init__(self, inner: Objects, watch: Watch | None = None, prefix: str = "") -> None:
        self.inner = inner
        self.watch = watch or Watch()
        self._prefix = prefix

    @property
    def uri(self) -> str:
        return self.inner.uri

    def within(self, prefix: str) -> WatchedObjects:
        return WatchedObjects(self.inner.within(prefix), self.watch, join(self._prefix, prefix))

    def get(self, path: str) -> tuple[Buffer, str]:
        self._before("get", path)
        found = self.inner.get(path)
        self._after("get", path)
        return found

    def get_range(self, path: str, start: int, length: int) -> Buffer:
        self._before("get_range", path)
        found = self.inner.get_range(path, start, length)
        self._after("get_range", path)
        return found

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        self._before("get_ranges", path)
        found = self.inner.get_ranges(path, ranges)
        self._after("get_ranges", path)
        return found

    def local_file(self, path: str) -> str | None:
        return None  # nothing is read past the watch

    def head(self, path: str) -> ObjectInfo:
        self._before("head", path)
        found = self.inner.head(path)
        self._after("head", path)
        return found

    def create(self, path: str, data: Buffer) -> str:
        self._before("create", path)
        tag = self.inner.create(path, data)
        self._after("create", path)
        return tag

    def overwrite(self, path: str, data: Buffer) -> str:
        self._before("overwrite", path)
        tag = self.inner.overwrite(path, data)
        self._after("overwrite", path)
        return tag

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._before("list", prefix)
        found = list(self.inner.list(prefix))
        self._after("list", prefix)
        return iter(found)

    def children(self, prefix: str = "") -> Children:
        self._before("children", prefix)
        found = self.inner.children(prefix)
        self._after("children", prefix)
        return found

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._before("delete", path)
            self.inner.delete([path])
            self._after("delete", path)

    def _before(self, verb: str, path: str) -> None:
        with self.watch.lock:
            self.watch.calls.append((verb, join(self._prefix, path)))
        self.watch.before(verb, join(self._prefix, path))

    def _after(self, verb: str, path: str) -> None:
        self.watch.after(verb, join(self._prefix, path))

    def __repr__(self) -> str:
        return f"Watched({self.inner!r})"
