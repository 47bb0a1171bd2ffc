"""The files of a source: found once, in the order of their names, and opened one by one.

They lie on this machine or in any store that streams can lie in, and are read through the same
layer, with the same credentials. Imports: standard library, pyarrow, errors, objects.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from batchweave.errors import InvalidInput, ObjectNotFound, StoreError
from batchweave.objects import ObjectInfo, Objects, open_objects

_WILD = "*?["


@dataclass(frozen=True, slots=True)
class File:
    """One file: the name that positions and lineage know it by, and where it is."""

    name: str
    size: int
    path: str = field(repr=False)
    objects: Objects = field(repr=False)

    @property
    def identity(self) -> str:
        """A short hash of where the file is, and of its size."""
        text = f"{self.objects.uri.rstrip('/')}/{self.path}\n{self.size}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @contextmanager
    def open(self) -> Iterator[pa.NativeFile]:
        """Its bytes.

        Raises `StoreError` where the store did, whatever Arrow made of it: an outage must never be
        taken for a file that is broken.
        """
        local = self.objects.local_file(self.path)
        if local is not None:
            with pa.OSFile(local) as data:
                yield data
            return
        ranges = _Ranges(self)
        try:
            with pa.PythonFile(ranges, mode="r") as data:
                yield data
        except Exception:
            if ranges.failure is not None:
                raise ranges.failure from None
            raise


class _Ranges(io.RawIOBase):
    """A file in a store of which each read is one request; nothing is kept."""

    def __init__(self, file: File) -> None:
        super().__init__()
        self._file = file
        self._at = 0
        self.failure: StoreError | None = None
        """What the store refused."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._at)
        wanted = left if size < 0 else min(size, left)
        if wanted == 0:
            return b""
        file = self._file
        try:
            data = bytes(file.objects.get_range(file.path, self._at, wanted))
        except StoreError as error:
            self.failure = error
            raise
        self._at += len(data)
        return data


def find_files(
    locations: Sequence[str], suffixes: Collection[str], properties: Mapping[str, str]
) -> list[File]:
    """The files at the locations: each a file, a folder with all below it, or a pattern.

    Files of other suffixes are passed over in folders, and so is what begins with ``_`` or ``.``.
    Sorted by name within a location; a name is the path below the folder.

    Raises:
        InvalidInput: a location has no file of these kinds, or two files have the same name.
        StoreError: the store refuses or fails.
    """
    found: list[File] = []
    for location in locations:
        here = _at(location, tuple(suffixes), properties)
        if not here:
            raise InvalidInput(
                f"there are no files at {location!r} that can be read "
                f"({', '.join(sorted(suffixes))})"
            )
        found += sorted(here, key=lambda file: file.name)
    names = [file.name for file in found]
    if len(set(names)) < len(names):
        name = next(name for name, count in Counter(names).items() if count > 1)
        raise InvalidInput(f"two of the files are named {name!r}: give the folder that holds both")
    return found


def _at(location: str, suffixes: tuple[str, ...], properties: Mapping[str, str]) -> list[File]:
    wild = min((location.find(sign) for sign in _WILD if sign in location), default=-1)
    if wild >= 0:
        folder, _, pattern = location[:wild].rpartition("/")
        pattern += location[wild:]
        objects = open_objects(folder or ("/" if location.startswith("/") else "."), properties)
        return [
            _file(objects, info)
            for info in objects.list()
            if fnmatch.fnmatchcase(info.path, pattern) and info.path.endswith(suffixes)
        ]
    single = _single(location, properties)
    if single is not None:
        return [single]
    objects = open_objects(location, properties)
    return [
        _file(objects, info)
        for info in objects.list()
        if info.path.endswith(suffixes) and not _is_hidden(info.path)
    ]


def _single(location: str, properties: Mapping[str, str]) -> File | None:
    """The file at a location, if it is one."""
    folder, _, name = location.rstrip("/").rpartition("/")
    if not name or folder.endswith(":/"):
        return None
    objects = open_objects(folder or ("/" if location.startswith("/") else "."), properties)
    local = objects.local_file(name)
    if local is not None and not os.path.isfile(local):
        return None
    try:
        return _file(objects, objects.head(name))
    except ObjectNotFound:
        return None


def _file(objects: Objects, info: ObjectInfo) -> File:
    return File(info.path, info.size, info.path, objects)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def running_digests(files: Sequence[File]) -> list[str]:
    """For each number of files from the front: a short hash of their names and sizes."""
    digests = [""]
    for file in files:
        text = f"{digests[-1]}\n{file.name}\n{file.size}"
        digests.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    return digests
