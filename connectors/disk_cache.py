"""A cache of fetched bytes on a local disk, shared by the processes of a machine.

Owns its folder. Files are written under another name, renamed when whole, and carry a digest of
their content, so that a crash at any moment costs nothing but the entry. A file lock, which the
system releases when a process dies, guards the sum of sizes; nothing is kept in shared memory.
Imports: standard library, the core.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from batchweave.clock import Clock, SystemClock
from batchweave.errors import InvalidSettings
from batchweave.objects import Buffer

log = logging.getLogger("batchweave.cache")
LOCK = "lock"
SIZE = "size"
"""A file that holds the sum of the entries' sizes, never less than it is."""
DIGEST_BYTES = 32
KEPT_AT_CLEANING = 0.8
"""How full the cache is left when it has become too full."""
ABANDONED_S = 3600
"""Age from which a file that was never renamed belongs to a process that died."""


class DiskCache:
    """Bytes by key, at most ``bytes_max`` on the disk, the least recently used going first.

    What the disk refuses (full, read-only, gone) is a miss: a cache never fails a reader.

    Raises:
        InvalidSettings: the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path, bytes_max: int, clock: Clock | None = None) -> None:
        if isinstance(bytes_max, bool) or not isinstance(bytes_max, int) or bytes_max < 1:
            raise InvalidSettings(f"a cache needs bytes_max of at least 1, got {bytes_max!r}")
        self._folder = Path(folder).expanduser().absolute()
        self._bytes_max = bytes_max
        self._clock = clock or SystemClock()
        self._told = False
        try:
            (self._folder / "entries").mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._write_size(self._clean(bytes_max))
        except OSError as error:
            raise InvalidSettings(
                f"the cache folder {str(folder)!r} cannot be used: {error}"
            ) from None

    def get(self, key: str) -> bytes | None:
        """The bytes under a key, checked against their digest; None if they are not there."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(error)
            return None
        digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now
        return content

    def put(self, key: str, data: Buffer) -> None:
        """Keep bytes under a key, if they fit at all."""
        content = memoryview(data)
        size = content.nbytes + DIGEST_BYTES
        path = self._path(key)
        if size > self._bytes_max or path.exists():
            return
        part = path.with_name(f"{path.name}.{self._clock.token()}.part")
        try:
            with part.open("xb") as file:
                file.write(hashlib.sha256(content).digest())
                file.write(content)
            with self._locked():
                total = self._read_size() + size
                if total > self._bytes_max:
                    total = self._clean(int(self._bytes_max * KEPT_AT_CLEANING) - size) + size
                self._write_size(total)  # before the rename: a crash in between overstates it
                part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            self._tell(error)

    def _path(self, key: str) -> Path:
        return self._folder / "entries" / hashlib.sha256(key.encode()).hexdigest()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read_size(self) -> int:
        try:
            return int((self._folder / SIZE).read_text())
        except (FileNotFoundError, ValueError):
            return self._bytes_max  # unknown: counted anew

    def _write_size(self, size: int) -> None:
        (self._folder / SIZE).write_text(str(size))

    def _clean(self, bytes_kept: int) -> int:
        """Remove entries, the least recently used first, down to a size; returns the size left."""
        found = []
        now_s = self._clock.now_ms() / 1000
        with os.scandir(self._folder / "entries") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    if not entry.name.endswith(".part"):
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
                    elif now_s - status.st_mtime > ABANDONED_S:
                        os.unlink(entry.path)
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= max(bytes_kept, 0):
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
        return total

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            log.warning("the cache in %s is not used where it fails: %s", self._folder, error)

    def __repr__(self) -> str:
        return f"DiskCache({str(self._folder)!r}, bytes_max={self._bytes_max})"
