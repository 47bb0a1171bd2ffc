"""Reading every file of a stream again: bounded in memory, several at a time.

Imports: errors, objects, runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from batchweave.errors import ObjectNotFound
from batchweave.objects import Objects
from batchweave.runs import runs

THREADS = 8
CHUNK_BYTES = 8 << 20
"""So much of a file is in memory at a time, in each thread."""
AHEAD = 4
"""Files that wait for each thread."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file as the metadata has it."""

    step: int
    producer: str
    path: str
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file that is not what the metadata says, and how."""

    file: NamedFile
    problem: str
    expected: str | None = None
    found: str | None = None


def read_again(
    objects: Objects, files: Iterable[NamedFile], progress: Callable[[int], None]
) -> Iterator[ChangedFile]:
    """Read the files and yield those that were changed or are gone, in the order given.

    ``progress`` is told how many were read. Takes at most `THREADS` times `CHUNK_BYTES` of memory.

    Raises:
        StoreUnavailable, StoreDenied: the store failed; nothing is known of the other files.
    """
    done = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="batchweave-audit") as pool:
        for some in runs(files, THREADS * AHEAD):
            for found in pool.map(partial(_read, objects), some):
                done += 1
                progress(done)
                if found is not None:
                    yield found


def _read(objects: Objects, file: NamedFile) -> ChangedFile | None:
    """Hash a file; one byte more than it should have is asked for, and would be noticed."""
    hashed, at = hashlib.sha256(), 0
    try:
        while at <= file.bytes:
            wanted = min(CHUNK_BYTES, file.bytes + 1 - at)
            data = memoryview(objects.get_range(file.path, at, wanted))
            hashed.update(data)
            at += data.nbytes
            if data.nbytes < wanted:
                break
    except ObjectNotFound:
        return ChangedFile(file, "the file is not there")
    if at != file.bytes:
        size = f"{at} bytes" if at < file.bytes else f"more than {file.bytes} bytes"
        return ChangedFile(file, "the file has another size", f"{file.bytes} bytes", size)
    if hashed.hexdigest() != file.digest:
        return ChangedFile(file, "the file was changed", file.digest, hashed.hexdigest())
    return None
