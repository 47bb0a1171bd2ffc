"""pyiceberg's ``FileIO`` by location, over the same stores, credentials and trust as the streams.

pyiceberg's own looks for AWS credentials in other places than boto3 does, keeps what it found, and
cannot be told of a private certificate authority. With this one (``py-io-impl``) whatever pyiceberg
reads or writes is signed as everything else is, and renewed with it. Small files are read whole,
Parquet files by ranges.
"""

from __future__ import annotations

import io
import threading

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile
from pyiceberg.typedef import EMPTY_DICT, Properties

from batchweave.catalogs.files import ObjectsFileIO
from batchweave.objects import Objects, open_objects, split_uri

IMPLEMENTATION = "batchweave.catalogs.store_io.StoreFileIO"
"""What ``py-io-impl`` names."""


class StoreFileIO(FileIO):
    """Reads and writes any location that `batchweave.objects.open_objects` can open."""

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        super().__init__(properties)
        self._roots: dict[str, Objects] = {}
        self._lock = threading.Lock()

    def new_input(self, location: str) -> InputFile:
        root = self._root(location)
        return _Input(ObjectsFileIO(root).new_input(location), root, _below(root, location))

    def new_output(self, location: str) -> OutputFile:
        return ObjectsFileIO(self._root(location)).new_output(location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        uri = location if isinstance(location, str) else location.location
        ObjectsFileIO(self._root(uri)).delete(uri)

    def _root(self, location: str) -> Objects:
        """The bucket of a location (or the file system), opened once."""
        scheme, rest = split_uri(location)
        uri = "file:///" if scheme == "file" else f"{scheme}://{rest.partition('/')[0]}"
        with self._lock:
            if uri not in self._roots:
                given = {name: str(text) for name, text in self.properties.items()}
                self._roots[uri] = open_objects(uri, given)
            return self._roots[uri]


def _below(root: Objects, location: str) -> str:
    scheme, rest = split_uri(location)
    return rest.strip("/") if scheme == "file" else rest.partition("/")[2]


class _Input(InputFile):
    def __init__(self, whole: InputFile, objects: Objects, path: str) -> None:
        super().__init__(whole.location)
        self._whole, self._objects, self._path = whole, objects, path

    def __len__(self) -> int:
        return len(self._whole)

    def exists(self) -> bool:
        return self._whole.exists()

    def open(self, seekable: bool = True) -> InputStream:
        """Whole, unless the caller means to seek: that is who wants parts."""
        if not seekable or not self.location.endswith(".parquet"):
            return self._whole.open()
        return _Ranges(self._objects, self._path)


class _Ranges(io.RawIOBase):
    """A file of which each read is one request; nothing is kept."""

    def __init__(self, objects: Objects, path: str) -> None:
        super().__init__()
        self._objects, self._path = objects, path
        self._size = objects.head(path).size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size < 0 else min(size, left)
        if wanted == 0:
            return b""
        data = bytes(self._objects.get_range(self._path, self._at, wanted))
        self._at += len(data)
        return data
