"""A register in an object store: numbered objects, each written with put-if-absent, newest counts.

That is the whole compare-and-swap under Iceberg's metadata versions (`object_store`) and under
Delta's log entries (`delta_log`). What stands in a version is the caller's.

**Finding the newest.** Opening lists the folder and takes the largest number: live versions are
never cleaned up, so nothing stale of the same table can be larger. Following probes the next
number, one small request; now and then it lists instead, as a version whose successors were cleaned
away has nothing right behind it either.

**Strays.** A writer of a dropped table that is killed before it takes its version back may leave
one above those of its namesake. Cleaning leaves the last versions without a gap: so a largest
number with none right below it, of another table than those below, is a stray and passed over. A
writer that comes to its number, with the version before it of its own table, deletes it.

**Stale writers.** Old versions are deleted oldest first, each deletion acknowledged before the
next. A writer that slept at N may then find N + 1 free although it existed once. So whoever creates
N + 1 checks *afterwards* that N is still there, byte for byte (its version tag): as N is deleted
before N + 1, an N still present means that N + 1 had not been deleted, so it was never free twice.
A writer that finds N gone cannot tell what became of its commit: an unknown outcome. What it wrote
stays until the next cleaning, and is no head: whoever listed the number while it was the newest,
and slept before reading it, sees by its tag that this is another object and lists again. Only tags
of versions found genuine in one of these two ways are kept to compare with.
Alternatives: tombstones grow without bound; a durable boundary (SlateDB RFC 26) needs one more
object and one more read for the same answer.

Imports: errors and objects.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from batchweave.errors import ObjectExists, ObjectNotFound, StoreError
from batchweave.objects import Buffer, Objects

T = TypeVar("T")

VERSIONS_KEPT = 64
"""Versions that a slow reader can still rely on; cleaning leaves at least these."""

IDLE_POLLS_PER_LIST = 8

_TAGS_REMEMBERED_MAX = 1024


class Found(Enum):
    """What became of a version that a commit was based on."""

    GENUINE = "it was there all the time"
    DOUBTFUL = "it may have been cleaned up and written again"
    GONE = "it is gone, or another table's"


@dataclass(frozen=True, slots=True)
class Layout:
    """How versions are named: in ``folder``, matching ``pattern`` (one group: the number)."""

    folder: str
    pattern: re.Pattern[str]
    name: Callable[[int], str]
    owner: Callable[[bytes], str | None] = lambda _: None
    """The table that a version's content says it is of; None where it does not say."""

    def path(self, number: int) -> str:
        """Where version ``number`` lies below the table's folder."""
        return f"{self.folder}/{self.name(number)}"

    def number(self, path: str) -> int | None:
        """The number in a version's path or file name; None if it is none."""
        match = self.pattern.fullmatch(path.rpartition("/")[2])
        return int(match.group(1)) if match else None


@dataclass(frozen=True, slots=True)
class Base:
    """The version that a commit was made on, as its writer knows it.

    ``owner`` is the table's own identity, which a namesake does not share. ``judge`` says of bytes
    read whether they are the base's content (`Found.GENUINE`), another content of the same table
    (`Found.DOUBTFUL`), or another table's (`Found.GONE`).
    """

    number: int
    owner: str
    judge: Callable[[bytes], Found]


class Memory:
    """What one process remembers of all its registers: tags of genuine versions, polls made."""

    def __init__(self) -> None:
        self._tags: OrderedDict[str, str] = OrderedDict()
        self._polls: dict[str, int] = {}
        self._lock = threading.Lock()

    def tag(self, key: str) -> str | None:
        """The tag remembered under a key."""
        with self._lock:
            return self._tags.get(key)

    def remember(self, key: str, e_tag: str) -> None:
        """Keep a tag; the oldest ones are forgotten."""
        with self._lock:
            self._tags[key] = e_tag
            while len(self._tags) > _TAGS_REMEMBERED_MAX:
                self._tags.popitem(last=False)

    def poll(self, uri: str) -> int:
        """Count one more poll of a register."""
        with self._lock:
            self._polls[uri] = self._polls.get(uri, 0) + 1
            return self._polls[uri]

    def clear(self) -> None:
        """Forget all tags."""
        with self._lock:
            self._tags.clear()


class Versions:
    """The versions of one table. Thread-safe."""

    def __init__(self, objects: Objects, layout: Layout, memory: Memory) -> None:
        self.objects = objects
        self.layout = layout
        self._memory = memory

    # -- reading ---------------------------------------------------------------------------

    def listed(self) -> dict[int, str]:
        """The versions that are there: number -> version tag."""
        _, files = self.objects.children(self.layout.folder)
        numbered = ((self.layout.number(one.path), one.e_tag) for one in files)
        return {number: e_tag for number, e_tag in numbered if number is not None}

    def newest(self) -> int | None:
        """The largest number there is, but for strays; None where there is no version."""
        return max(self.without_strays(self.listed()), default=None)

    def get(self, number: int) -> tuple[Buffer, str]:
        """One version's bytes and tag. Raises `ObjectNotFound`."""
        return self.objects.get(self.layout.path(number))

    def read_newest(self, owner: str | None = None) -> tuple[int, Buffer, str] | None:
        """Number, bytes and tag of the newest version; None where there is none.

        With ``owner``, the table that the caller knows, the version before is asked only where the
        newest one is of another table; else always.
        """
        while listed := self.without_strays(self.listed()):
            number = max(listed)
            try:
                data, e_tag = self.get(number)
            except ObjectNotFound:
                continue  # dropped, or cleaned while we looked: look again
            if not self.is_the_listed(number, e_tag, listed[number]):
                continue
            asked = owner is None or self.layout.owner(bytes(data)) != owner
            if asked and number - 1 in listed and self.differ(number - 1, number):
                number -= 1  # nothing of one table follows another's: a stray
                with suppress(ObjectNotFound):
                    return number, *self.get(number)
                continue
            return number, data, e_tag
        return None

    def without_strays(self, listed: dict[int, T]) -> dict[int, T]:
        """What was listed, without the largest numbers that a dropped table's writers left."""
        numbers = sorted(listed)
        while len(numbers) > 1 and self._is_stray(numbers):
            numbers.pop()
        return {number: listed[number] for number in numbers}

    def _is_stray(self, numbers: list[int]) -> bool:
        """Whether the last of the numbers is of another table than the run of versions below it.

        A run begins with the table or has neighbours: one number alone may itself be a stray.
        """
        below, top = numbers[-2:]
        is_run = below <= 1 or (len(numbers) > 2 and numbers[-3] == below - 1)
        return top != below + 1 and is_run and self.differ(below, top)

    def differ(self, below: int, top: int) -> bool:
        """Whether two versions are there, and say that they are of two tables."""
        owners = self._owner(below), self._owner(top)
        return None not in owners and owners[0] != owners[1]

    def is_the_listed(self, number: int, found: str, listed: str) -> bool:
        """Whether the version that was read is the one that was listed as the newest.

        Between the two it may have been cleaned away, and its number filled again by a writer
        that slept. The newest version is never cleaned, so if it is still the newest it is the one;
        that also serves stores that write a tag in two ways.
        """
        return found == listed or self.newest() == number

    def time_to_list(self) -> bool:
        """Whether this poll lists the folder instead of probing the next number."""
        return self._memory.poll(self.objects.uri) % IDLE_POLLS_PER_LIST == 0

    def looks_idle(self, number: int) -> bool:
        """Whether no version follows ``number``: one small request."""
        if self.time_to_list():
            return self.newest() == number
        try:
            self.objects.head(self.layout.path(number + 1))
        except ObjectNotFound:
            return True
        return False

    # -- writing ---------------------------------------------------------------------------

    def create(self, number: int, data: bytes) -> str:
        """Write a version where none is and return its tag; `counts` tells whether it counts.

        Where a stray has the number it goes, and the caller, who lost, finds the number free.

        Raises:
            ObjectExists: another writer has the number, or an earlier try of this very call.
            StoreUnavailable: the store did not say.
        """
        try:
            return self.objects.create(self.layout.path(number), data)
        except ObjectExists:
            with suppress(StoreError):  # who comes next tries it too
                self._clear_stray(number, self.layout.owner(data))
            raise

    def _clear_stray(self, number: int, owner: str | None) -> None:
        """Delete what has a number if it is another table's, and our own version is before it.

        A namesake's version of that number would have the namesake's before it, for the newest
        versions are never cleaned: so ours there, and nothing above, says that it is a stray.
        Looked at in this order, as a namesake's versions come only after ours have gone.
        """
        if owner is None or self._owner(number) in (None, owner):
            return
        if self._owner(number - 1) == owner and max(self.listed(), default=-1) == number:
            self.delete([number])

    def _owner(self, number: int) -> str | None:
        """The table that a version says it is of; None where it is not there, or does not say."""
        with suppress(ObjectNotFound):
            return self.layout.owner(bytes(self.get(number)[0]))
        return None

    def counts(self, number: int, base: Base) -> bool:
        """After version ``number`` was created on ``base``: whether the base is still there.

        If not, the outcome is unknown. Raises `StoreError` where the store does not say.
        """
        found = self._now(base)
        if found is Found.GONE and max(self.listed(), default=None) == number:
            # Cleaning never reaches the newest versions: the table was dropped under us, and may
            # have been created again. Ours must not become the head of its namesake.
            self.delete([number])
        return found is Found.GENUINE

    def is_genuine(self, base: Base) -> bool:
        """Whether a version known earlier has been there all the time."""
        return self._now(base) is Found.GENUINE

    def remember(self, owner: str, number: int, e_tag: str) -> None:
        """Keep the tag of a version that is known to be genuine, and of no other."""
        self._memory.remember(self._key(owner, number), e_tag)

    def _now(self, base: Base) -> Found:
        """What became of the base.

        A tag that is the same proves that it is the same object; another one proves nothing (a
        restored or touched file, a store that writes tags in two ways). Then the same content is
        the base, unless it is so old that it may have been deleted and a late repetition of its
        own request wrote it again.
        """
        expected = self._memory.tag(self._key(base.owner, base.number))
        try:
            if expected is not None:
                now = self.objects.head(self.layout.path(base.number)).e_tag
                if now == expected:
                    return Found.GENUINE
            data, e_tag = self.get(base.number)
        except ObjectNotFound:
            return Found.GONE
        found = base.judge(bytes(data))
        if found is not Found.GENUINE:
            return found
        newest = self.newest()
        if newest is None or base.number <= newest - VERSIONS_KEPT:
            return Found.DOUBTFUL
        self.remember(base.owner, base.number, e_tag)
        return Found.GENUINE

    # -- deleting --------------------------------------------------------------------------

    def delete(self, ascending: Iterable[int]) -> None:
        """Delete versions, each deletion acknowledged before the next: the order is the safety.

        Stops at the first deletion that the store does not acknowledge.
        """
        for number in ascending:
            self.objects.delete([self.layout.path(number)])

    def delete_outdated(self, newest: int) -> int:
        """Delete all but the last `VERSIONS_KEPT` up to ``newest``, oldest first; return how many.

        ``newest`` is there as long as the table is. Where nothing that new is there any more, what
        is there is a namesake's, made after a drop, and stays.
        """
        there = sorted(self.listed())
        if not there or there[-1] < newest:
            return 0
        old = [number for number in there if number <= newest - VERSIONS_KEPT]
        self.delete(old)
        return len(old)

    def delete_all(self) -> None:
        """Delete all versions of a dropped table, those too that a live writer adds meanwhile.

        One that begins at the first number again is a namesake's, and stays.
        """
        dropped = -1
        while (versions := sorted(self.listed())) and versions[0] > dropped:
            self.delete(versions)
            dropped = versions[-1]

    def _key(self, owner: str, number: int) -> str:
        return f"{self.objects.uri}#{owner}#{number}"
