"""pyiceberg's ``FileIO`` over `batchweave.objects`, so that metadata and data share one I/O stack.

Small files only (metadata, manifests): each is read and written whole.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream

from batchweave.errors import ObjectNotFound, StoreUnavailable
from batchweave.objects import Objects, split_uri

FILE_SYSTEM = "file:"
"""The URI of objects rooted at ``/``."""


class ObjectsFileIO(FileIO):
    """Reads and writes by URI what lies below one root."""

    def __init__(self, objects: Objects) -> None:
        super().__init__({})
        self._objects = objects

    def new_input(self, location: str) -> InputFile:
        return _Input(location, self._objects, relative_path(self._objects, location))

    def new_output(self, location: str) -> OutputFile:
        return _Output(location, self._objects, relative_path(self._objects, location))

    def delete(self, location: str | InputFile | OutputFile) -> None:
        uri = location if isinstance(location, str) else location.location
        self._objects.delete([relative_path(self._objects, uri)])


def relative_path(objects: Objects, location: str) -> str:
    """The path of a URI below the root of ``objects``.

    Raises:
        StoreUnavailable: the URI lies elsewhere, where these objects cannot reach.
    """
    if location.startswith(objects.uri + "/"):
        return location[len(objects.uri) + 1 :]
    root = ("file", "") if objects.uri == FILE_SYSTEM else split_uri(objects.uri)
    here = split_uri(location)
    if root[0] != here[0] or not (here[1] + "/").startswith(root[1].rstrip("/") + "/"):
        raise StoreUnavailable(f"{location!r} does not lie below {objects.uri!r}")
    return here[1][len(root[1].rstrip("/")) :].strip("/")


class _Input(InputFile):
    def __init__(self, location: str, objects: Objects, path: str) -> None:
        super().__init__(location)
        self._objects, self._path = objects, path

    def __len__(self) -> int:
        return self._objects.head(self._path).size

    def exists(self) -> bool:
        try:
            self._objects.head(self._path)
        except ObjectNotFound:
            return False
        return True

    def open(self, seekable: bool = True) -> InputStream:
        try:
            data, _ = self._objects.get(self._path)
        except ObjectNotFound as error:
            raise FileNotFoundError(str(error)) from None
        return io.BytesIO(data)


class _Output(OutputFile):
    def __init__(self, location: str, objects: Objects, path: str) -> None:
        super().__init__(location)
        self._objects, self._path = objects, path
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def exists(self) -> bool:
        return self.to_input_file().exists()

    def to_input_file(self) -> InputFile:
        return _Input(self.location, self._objects, self._path)

    def create(self, overwrite: bool = False) -> OutputStream:
        put = self._objects.overwrite if overwrite else self._objects.create

        def write(data: bytes) -> None:
            self._size = len(data)
            put(self._path, data)

        return _Stream(write)


class _Stream(io.BytesIO):
    """Hands its bytes over when closed without an error.

    pyiceberg's writers close it from their own ``__exit__`` without saying why, so the error is
    looked up: it is whatever is being handled now and was not when the stream was opened.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._write = write
        self._handled = sys.exc_info()[1]

    def close(self) -> None:
        if self.closed:
            return
        data = self.getvalue()
        super().close()
        if sys.exc_info()[1] is self._handled:
            self._write(data)
        self._handled = None

    def __del__(self) -> None:
        super().close()  # abandoned, not closed: nothing is handed over
