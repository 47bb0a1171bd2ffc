"""Objects: the one thin protocol through which every byte of a stream is read and written.

`ObstoreObjects` speaks to S3, GCS, Azure and local folders; `MemoryObjects` is its in-memory twin
for tests, simulations and ``memory://`` warehouses. Both are safe to use from many threads.
Imports: standard library, obstore, errors, clock, s3_store, cloud_stores, store_clients,
store_errors.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from batchweave.clock import Clock, SystemClock
from batchweave.cloud_stores import azure_place, open_azure, open_gcs
from batchweave.errors import InvalidSettings, ObjectExists, ObjectNotFound, StoreUnavailable
from batchweave.s3_store import open_s3
from batchweave.store_clients import LARGE_BYTES, Clients
from batchweave.store_errors import first_line, mapped

AZURE_SCHEMES = ("az", "azure", "abfs", "abfss")
Children: TypeAlias = "tuple[list[str], list[ObjectInfo]]"  # `list` is a method further down
Buffer: TypeAlias = Any  # bytes, memoryview or obstore.Bytes; typing.Buffer is Python 3.12


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: path below the root, size in bytes, version tag, and its store's time."""

    path: str
    size: int
    e_tag: str
    modified_ms: int


class Objects(Protocol):
    """A root under which objects are read and written by relative path.

    Every method raises `StoreUnavailable`, `StoreDenied` or `StoreFull` where the store does.
    """

    @property
    def uri(self) -> str:
        """The root, as table formats write it: no trailing slash."""
        ...

    def within(self, prefix: str) -> Objects:
        """The same store, rooted at a folder of this one."""
        ...

    def get(self, path: str) -> tuple[Buffer, str]:
        """The object's bytes and version tag, as one request. Raises `ObjectNotFound`."""
        ...

    def get_range(self, path: str, start: int, length: int) -> Buffer:
        """Bytes ``start`` to ``start + length``; shorter at the end. Raises `ObjectNotFound`."""
        ...

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        """Several ranges (start, length) of one object, fetched at the same time."""
        ...

    def local_file(self, path: str) -> str | None:
        """Where the object lies in this machine's file system, or None if it does not."""
        ...

    def head(self, path: str) -> ObjectInfo:
        """Size, version tag and time without the bytes. Raises `ObjectNotFound`."""
        ...

    def create(self, path: str, data: Buffer) -> str:
        """Write where nothing is (put-if-absent) and return the version tag.

        Atomic: readers see all of it or none. Raises `ObjectExists` where something is, which
        may be this very call's earlier attempt if the transport sent it twice: read to find out.
        """
        ...

    def overwrite(self, path: str, data: Buffer) -> str:
        """Write whatever is there, atomically, and return the version tag."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below a folder, at any depth, in no promised order."""
        ...

    def children(self, prefix: str = "") -> Children:
        """The folders (names, not paths) and the objects right below a folder."""
        ...

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects, in the order given where the store has one; missing ones are fine."""
        ...


def join(*parts: str) -> str:
    """Join relative paths, skipping empty parts."""
    return "/".join(part.strip("/") for part in parts if part.strip("/"))


class ObstoreObjects:
    """`Objects` over an obstore store. ``prefix`` is the folder inside of the store."""

    def __init__(self, store: Any, uri: str, prefix: str = "") -> None:
        self._stores = store
        self._store = store.reading if isinstance(store, Clients) else store
        self._uri = uri.rstrip("/")
        self._prefix = prefix

    @property
    def uri(self) -> str:
        return self._uri

    def within(self, prefix: str) -> ObstoreObjects:
        return ObstoreObjects(self._stores, f"{self._uri}/{prefix}", join(self._prefix, prefix))

    def get(self, path: str) -> tuple[Buffer, str]:
        with mapped(self._at(path)):
            result = obstore.get(self._store, self._path(path))
            return result.bytes(), result.meta["e_tag"] or ""

    def local_file(self, path: str) -> str | None:
        return f"/{self._path(path)}" if isinstance(self._store, LocalStore) else None

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        with mapped(self._at(path)):
            return obstore.get_ranges(
                self._store,
                self._path(path),
                starts=[start for start, _ in ranges],
                lengths=[length for _, length in ranges],
                coalesce=0,  # what lies between is other ranks' data
            )

    def get_range(self, path: str, start: int, length: int) -> Buffer:
        try:
            with mapped(self._at(path)):
                return obstore.get_range(self._store, self._path(path), start=start, length=length)
        except StoreUnavailable:
            if start < self.head(path).size:
                raise
            return b""  # stores refuse a range that begins where the object ends: nothing is there

    def head(self, path: str) -> ObjectInfo:
        with mapped(self._at(path)):
            return self._info(obstore.head(self._store, self._path(path)))

    def create(self, path: str, data: Buffer) -> str:
        body = _bytes(data)
        with mapped(self._at(path)):
            result = obstore.put(self._creating(body), self._path(path), body, mode="create")
            return result["e_tag"] or ""

    def overwrite(self, path: str, data: Buffer) -> str:
        with mapped(self._at(path)):
            return obstore.put(self._store, self._path(path), _bytes(data))["e_tag"] or ""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with mapped(self._at(prefix)):
            for chunk in obstore.list(self._store, prefix=self._path(prefix)):
                for meta in chunk:
                    yield self._info(meta)

    def children(self, prefix: str = "") -> Children:
        with mapped(self._at(prefix)):
            found = obstore.list_with_delimiter(self._store, self._path(prefix))
            folders = [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]
            return folders, [self._info(meta) for meta in found["objects"]]

    def delete(self, paths: Iterable[str]) -> None:
        wanted = list(paths)
        if not wanted:
            return
        if not isinstance(self._store, LocalStore):
            try:
                with mapped(self._uri):
                    obstore.delete(self._store, [self._path(path) for path in wanted])
                return
            except ObjectNotFound:
                pass  # Azure and GCS stop at what is missing, as a local store does; S3 does not
        for path in wanted:
            with contextlib.suppress(ObjectNotFound), mapped(self._at(path)):
                obstore.delete(self._store, self._path(path))

    def _creating(self, body: bytes | memoryview) -> Any:
        if not isinstance(self._stores, Clients):
            return self._store
        large = memoryview(body).nbytes > LARGE_BYTES
        return self._stores.creating_large if large else self._stores.creating

    def _path(self, path: str) -> str:
        return join(self._prefix, path)

    def _at(self, path: str) -> str:
        return f"{self._uri}/{path}" if path else self._uri

    def _info(self, meta: Any) -> ObjectInfo:
        path = meta["path"]
        if self._prefix:
            path = path[len(self._prefix) + 1 :]
        modified_ms = int(meta["last_modified"].timestamp() * 1000)
        return ObjectInfo(path, meta["size"], meta["e_tag"] or "", modified_ms)

    def __repr__(self) -> str:
        return f"Objects({self._uri!r})"


class MemoryObjects:
    """`Objects` in this process's memory. Equal to the real ones in everything but durability.

    Source: the in-memory stores that obstore and icechunk treat as first-class.
    """

    def __init__(
        self,
        uri: str = "memory://local",
        *,
        clock: Clock | None = None,
        _shared: _Shelf | None = None,
    ) -> None:
        """``clock`` is what objects are dated by."""
        self._uri = uri.rstrip("/")
        self._shelf = _shared or _Shelf(clock or SystemClock())
        self._prefix = ""

    @property
    def uri(self) -> str:
        return self._uri

    def within(self, prefix: str) -> MemoryObjects:
        inner = MemoryObjects(f"{self._uri}/{prefix}", _shared=self._shelf)
        inner._prefix = join(self._prefix, prefix)
        return inner

    def get(self, path: str) -> tuple[Buffer, str]:
        data, e_tag, _ = self._find(path)
        return data, e_tag

    def local_file(self, path: str) -> str | None:
        return None

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        return [self.get_range(path, start, length) for start, length in ranges]

    def get_range(self, path: str, start: int, length: int) -> Buffer:
        return memoryview(self._find(path)[0])[start : start + length]

    def head(self, path: str) -> ObjectInfo:
        data, e_tag, modified_ms = self._find(path)
        return ObjectInfo(path, len(data), e_tag, modified_ms)

    def create(self, path: str, data: Buffer) -> str:
        return self._put(path, data, absent=True)

    def overwrite(self, path: str, data: Buffer) -> str:
        return self._put(path, data, absent=False)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        root = join(self._prefix, prefix)
        with self._shelf.lock:
            keys = self._shelf.items
            found = sorted(key for key in keys if not root or key.startswith(root + "/"))
            sizes = {key: self._shelf.items[key] for key in found}
        skip = len(self._prefix) + 1 if self._prefix else 0
        for key, (data, e_tag, modified_ms) in sizes.items():
            yield ObjectInfo(key[skip:], len(data), e_tag, modified_ms)

    def children(self, prefix: str = "") -> Children:
        folders: dict[str, None] = {}
        objects = []
        skip = len(prefix.strip("/")) + 1 if prefix.strip("/") else 0
        for info in self.list(prefix):
            folder, slash, _ = info.path[skip:].partition("/")
            if slash:
                folders[folder] = None
            else:
                objects.append(info)
        return list(folders), objects

    def delete(self, paths: Iterable[str]) -> None:
        with self._shelf.lock:
            for path in paths:
                self._shelf.items.pop(join(self._prefix, path), None)

    def _find(self, path: str) -> tuple[bytes, str, int]:
        with self._shelf.lock:
            try:
                return self._shelf.items[join(self._prefix, path)]
            except KeyError:
                raise ObjectNotFound(f"no object at {self._uri}/{path}") from None

    def _put(self, path: str, data: Buffer, *, absent: bool) -> str:
        key = join(self._prefix, path)
        with self._shelf.lock:
            if absent and key in self._shelf.items:
                raise ObjectExists(f"an object exists at {self._uri}/{path}")
            e_tag = str(next(self._shelf.tags))
            self._shelf.items[key] = (bytes(data), e_tag, self._shelf.clock.now_ms())
            return e_tag

    def __repr__(self) -> str:
        return f"Objects({self._uri!r})"


class _Shelf:
    """What `MemoryObjects` that share a root keep: path -> (bytes, version tag, time)."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.items: dict[str, tuple[bytes, str, int]] = {}
        self.tags = itertools.count(1)
        self.lock = threading.Lock()


def open_objects(uri: str, properties: Mapping[str, str] | None = None) -> Objects:
    """Open the store behind a URI or a local path. Nothing is sent to it yet.

    Schemes: none or ``file``, ``memory``, ``s3`` (``s3a``), ``gs``, and ``abfss`` (``abfs``,
    ``az``, ``azure``), whose account is in the URI or in ``adls.account-name``. ``properties`` are
    pyiceberg's (``s3.endpoint``, ``s3.access-key-id``, ``gcs.oauth2.token``, ``adls.sas-token`` …).

    Raises:
        InvalidSettings: an unknown scheme, or a property that the store refuses.
        StoreDenied: no credentials were given, and none were found.
    """
    scheme, rest = split_uri(uri)
    if scheme == "memory":
        return MemoryObjects(f"memory://{rest}")
    if scheme == "file":
        return _open_local(rest)
    try:
        return _open_remote(uri, scheme, rest, properties or {})
    except (BaseError, ValueError) as error:
        raise InvalidSettings(f"cannot open {uri!r}: {first_line(error)}") from None


def _open_remote(uri: str, scheme: str, rest: str, properties: Mapping[str, str]) -> ObstoreObjects:
    bucket, account, prefix = azure_place(rest)
    if not bucket:
        raise ValueError("it names no bucket")
    if scheme in AZURE_SCHEMES:
        return ObstoreObjects(open_azure(bucket, account, properties), uri, prefix)
    bucket, _, prefix = rest.partition("/")
    if scheme in ("s3", "s3a"):
        return ObstoreObjects(open_s3(bucket, properties), uri, prefix.strip("/"))
    if scheme == "gs":
        return ObstoreObjects(open_gcs(bucket, properties), uri, prefix.strip("/"))
    raise ValueError("warehouses are folders, memory://, s3://, gs:// or az://")


def split_uri(uri: str) -> tuple[str, str]:
    """Scheme and the rest of a URI; a plain path is ``("file", absolute path)``."""
    if "://" not in uri:
        path = uri[5:] if uri.startswith("file:") else uri
        return "file", os.path.abspath(os.path.expanduser(path))
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return "file", unquote(parts.path) if "%" in parts.path else uri[len("file://") :]
    return parts.scheme, f"{parts.netloc}{parts.path}".rstrip("/")


def _open_local(path: str) -> ObstoreObjects:
    # Rooted at "/" so that reading a mistyped path makes no folder; writing makes what it needs.
    return ObstoreObjects(LocalStore(), f"file://{path}", path.strip("/"))


def _bytes(data: Buffer) -> bytes | memoryview:
    """A view that obstore takes: unsigned bytes, one dimension. Nothing is copied."""
    return data if isinstance(data, bytes) else memoryview(data).cast("B")
