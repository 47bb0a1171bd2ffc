"""Protocol bugs, planted on purpose: a simulator that misses one of them is not good enough.

Each is a patch of the code under test while it is entered, for one or both kinds of table, and each
is a mistake that some system has made, or that this one could make in a plausible change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from batchweave import session as session_module
from batchweave import state as state_module
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.catalogs.manifests import MANIFESTS, MERGE_AGE_MAX, Manifests
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.commit import commit
from batchweave.dac import Claim
from batchweave.errors import ObjectExists, StoreUnavailable
from batchweave.parquet import EncodedPart
from batchweave.session import DATA, Session, Staged
from batchweave.state import Numbered, ProducerState, StreamState, append
from batchweave.table import Change, Committed, Head, Lost, Outcome, Part, Unknown
from tests.simulation import actors
from tests.simulation.actors import Producing
from tests.simulation.register import Detail, RegisterTable, _document, version_path
from tests.simulation.run import Result, simulate

BOTH = ("register", "iceberg")
REGISTER = ("register",)
ICEBERG = ("iceberg",)
TABLES: dict[str, Any] = {"register": RegisterTable, "iceberg": IcebergTable}


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug: how to plant it, in which kinds of table, and within how many seeds it is found."""

    name: str
    kinds: tuple[str, ...]
    tested: tuple[str, ...]
    seeds_max: int
    plant: Callable[[str], contextlib.AbstractContextManager[Any]]

    def hunt(self, kind: str, start: int = 0) -> tuple[int, Result] | None:
        """How many seeds it took to catch it, and the history; None if it got away."""
        with self.plant(kind):
            for count in range(1, self.seeds_max + 1):
                result = simulate(start + count - 1, kind)
                if not result.ok:
                    return count, result
        return None


PLANTED: list[Planted] = []


def planted(
    kinds: tuple[str, ...], seeds_max: int = 200, tested: tuple[str, ...] = ("register",)
) -> Callable[[Callable[[str], Iterator[None]]], None]:
    """Register a bug under its function's name.

    ``tested`` are the kinds where every run of the tests hunts it; the others take longer.
    """

    def add(function: Callable[[str], Iterator[None]]) -> None:
        plant = contextlib.contextmanager(function)
        PLANTED.append(Planted(function.__name__, kinds, tested, seeds_max, plant))

    return add


def _swap(owner: Any, name: str, value: Any) -> Any:
    return mock.patch.object(owner, name, value)


# -- sequences, generations, outcomes ------------------------------------------------------------


@planted(BOTH, tested=BOTH)
def no_sequence_check(kind: str) -> Iterator[None]:
    """What landed unseen is committed again: the head's sequence is not looked at."""

    def refresh(self: Any) -> Head:
        if self._head is None or self._stale or self._company:
            self._know(self.table.head(self._head))
        state_module.check_generation(self._head.state, self.name, self.generation)
        head: Head = self._head
        return head

    def careless(
        state: StreamState, name: str, generation: int, batches: Sequence[Numbered], **rest: Any
    ) -> StreamState:
        before = replace(state.producers[name], sequence=batches[0].sequence - 1)
        state = replace(state, producers={**state.producers, name: before})
        return append(state, name, generation, batches, **rest)

    with _swap(Session, "refresh", refresh), _swap(session_module, "append", careless):
        yield


@planted(BOTH)
def no_generation_check(kind: str) -> Iterator[None]:
    """Nobody is fenced."""

    def anyone(state: StreamState, name: str, generation: int) -> ProducerState:
        return state.producers[name]

    with (
        _swap(session_module, "check_generation", anyone),
        _swap(state_module, "check_generation", anyone),
    ):
        yield


@planted(BOTH)
def unknown_is_failed(kind: str) -> Iterator[None]:
    """An unknown outcome is taken for a failure: the batches are published again, as new ones."""
    attempt, stage = Session.attempt, Session.stage

    def attempt_again(self: Any, claim: Claim | None = None) -> Outcome | None:
        outcome = attempt(self, claim)
        if isinstance(outcome, Unknown):
            head = self.table.head()
            self._know(head)
            last = head.state.producers[self.name].sequence
            for at, one in enumerate(self._staged):
                one.sequence = last + 1 + at
        return outcome

    def stage_next(self: Any, batch: Staged) -> None:
        last = self._staged[-1].sequence if self._staged else self.sequence
        batch.sequence = last + 1
        stage(self, batch)

    with _swap(Session, "attempt", attempt_again), _swap(Session, "stage", stage_next):
        yield


@planted(BOTH)
def unknown_is_committed(kind: str) -> Iterator[None]:
    """An unknown outcome is taken for a success."""
    attempt = Session.attempt

    def trusting(self: Any, claim: Claim | None = None) -> Outcome | None:
        outcome = attempt(self, claim)
        if isinstance(outcome, Unknown):
            step = self._head.state.next_step
            landed = list(self._staged)
            self._staged.clear()
            self.sequence = landed[-1].sequence
            for at, one in enumerate(landed):
                one.done(step + at)
        return outcome

    with _swap(Session, "attempt", trusting):
        yield


@planted(BOTH)
def files_deleted_on_unknown(kind: str) -> Iterator[None]:
    """After an unknown outcome the files are deleted and uploaded afresh."""
    attempt = Session.attempt

    def tidy_minded(self: Any, claim: Claim | None = None) -> Outcome | None:
        outcome = attempt(self, claim)
        if isinstance(outcome, Unknown):
            self.table.objects.delete([part.path for one in self._staged for part in one.parts])
            for one in self._staged:
                one.upload_version = -1  # below any horizon: the next attempt uploads again
        return outcome

    with _swap(Session, "attempt", tidy_minded):
        yield


@planted(BOTH, tested=BOTH)
def metadata_deleted_unless_committed(kind: str) -> Iterator[None]:
    """A lost or unknown attempt deletes the metadata that it wrote (pyiceberg's own clean-up)."""
    if kind == "register":
        whole = RegisterTable.commit

        def register_commit(self: Any, base: Head, change: Change) -> Outcome:
            outcome = whole(self, base, change)
            if isinstance(outcome, Unknown):
                self.objects.delete([version_path(base.version + 1)])
            return outcome

        with _swap(RegisterTable, "commit", register_commit):
            yield
        return
    iceberg_commit, write_list = IcebergTable.commit, Manifests.write_list

    def remember(self: Any, *arguments: Any) -> str:
        self.last_list = write_list(self, *arguments)
        return str(self.last_list)

    def clean_commit(self: Any, base: Head, change: Change) -> Outcome:
        outcome = iceberg_commit(self, base, change)
        if not isinstance(outcome, Committed) and hasattr(self._manifests, "last_list"):
            self._io.delete(self._manifests.last_list)
        return outcome

    with _swap(Manifests, "write_list", remember), _swap(IcebergTable, "commit", clean_commit):
        yield


# -- the compare-and-swap ------------------------------------------------------------------------


@planted(REGISTER)
def state_changed_in_place(kind: str) -> Iterator[None]:
    """A change of state without data makes no new version: a writer's compare does not see it."""
    whole = RegisterTable.commit

    def in_place(self: Any, base: Head, change: Change) -> Outcome:
        if change.added:
            return whole(self, base, change)
        data = _document(base.version, self._clock.token(), change.state, base.detail.lines)
        try:
            if not self._still_there(base):
                return Lost()
            tag = self.objects.overwrite(version_path(base.version), data)
        except StoreUnavailable as error:
            return Unknown(error)
        return Committed(Head(base.version, change.state, Detail(tag, base.detail.lines)))

    with _swap(RegisterTable, "commit", in_place):
        yield


@planted(BOTH)
def version_overwritten(kind: str) -> Iterator[None]:
    """The new version is written whatever is there."""
    if kind == "register":

        def write(self: Any, number: int, data: bytes) -> str:
            return str(self.objects.overwrite(version_path(number), data))

        with _swap(RegisterTable, "_write", write):
            yield
        return

    def put_over(self: Any, objects: Any, number: int, metadata: Any) -> str:
        data = metadata.model_dump_json(exclude_none=True).encode()
        return str(objects.overwrite(f"metadata/v{number}.metadata.json", data))

    with _swap(ObjectStoreCatalog, "_put_version", put_over):
        yield


@planted(BOTH, tested=BOTH)
def base_not_checked_after_writing(kind: str) -> Iterator[None]:
    """A version that existed once may be written again by a writer that slept."""
    with (
        _swap(RegisterTable, "_still_there", lambda self, base: True),
        _swap(ObjectStoreCatalog, "_check_base", lambda self, objects, base, number: None),
    ):
        yield


@planted(BOTH, seeds_max=3000)
def head_not_checked_after_reading(kind: str) -> Iterator[None]:
    """A version that was listed, cleaned up and written again by a sleeper is taken as the head."""
    with (
        _swap(RegisterTable, "_is_the_listed", lambda self, tag, listed: True),
        _swap(ObjectStoreCatalog, "_is_the_listed", lambda *arguments: True),
    ):
        yield


@planted(BOTH, seeds_max=600)
def newest_cleaned_first(kind: str) -> Iterator[None]:
    """Old versions are deleted newest first: a base can outlive its successor."""

    def register_delete(self: Any, ascending: list[int]) -> None:
        for number in reversed(ascending):
            self.objects.delete([version_path(number)])

    def catalog_delete(self: Any, objects: Any, ascending: list[int]) -> None:
        for number in reversed(ascending):
            objects.delete([f"metadata/v{number}.metadata.json"])

    with (
        _swap(RegisterTable, "_delete_versions", register_delete),
        _swap(ObjectStoreCatalog, "_delete_versions", catalog_delete),
    ):
        yield


@planted(BOTH)
def steps_kept_after_a_lost_race(kind: str) -> Iterator[None]:
    """Steps are given before the compare-and-swap and kept for the next attempt."""
    whole = TABLES[kind].commit

    def keeping(self: Any, base: Head, change: Change) -> Outcome:
        given = self.__dict__.setdefault("given", {})
        added = tuple(
            replace(one, step=given.setdefault((one.producer, one.sequence), one.step))
            for one in change.added
        )
        outcome: Outcome = whole(self, base, replace(change, added=added))
        return outcome

    with _swap(TABLES[kind], "commit", keeping):
        yield


@planted(BOTH)
def lost_attempt_rebased_blindly(kind: str) -> Iterator[None]:
    """A lost attempt is put on top of the new head without checking again (pyiceberg's retries)."""
    whole = TABLES[kind].commit

    def rebasing(self: Any, base: Head, change: Change) -> Outcome:
        outcome: Outcome = whole(self, base, change)
        if not isinstance(outcome, Lost) or not change.added:
            return outcome
        head = self.head()
        added, chain = [], head.state.chain
        for at, one in enumerate(change.added):
            step = head.state.next_step + at
            added.append(replace(one, step=step))
            chain = state_module.next_chain(chain, step, [part.digest for part in one.parts])
        name = change.added[0].producer
        state = replace(
            head.state,
            next_step=head.state.next_step + len(added),
            chain=chain,
            producers={**head.state.producers, name: change.state.producers[name]},
        )
        again: Outcome = whole(self, head, Change(state, tuple(added)))
        return again

    with _swap(TABLES[kind], "commit", rebasing):
        yield


# -- positions, files, sealing -------------------------------------------------------------------


@planted(BOTH)
def position_in_a_later_commit(kind: str) -> Iterator[None]:
    """Batches first, their position in a commit of its own."""
    attempt = Session.attempt

    def without_position(
        state: StreamState, name: str, generation: int, batches: Sequence[Numbered], **rest: Any
    ) -> StreamState:
        after = append(state, name, generation, batches, **rest)
        old = replace(after.producers[name], position=state.producers[name].position)
        return replace(after, producers={**after.producers, name: old})

    def in_two(self: Any, claim: Claim | None = None) -> Outcome | None:
        position = self._staged[-1].position if self._staged else None
        outcome = attempt(self, claim)

        def plan(head: Head) -> Change | None:
            mine = head.state.producers[self.name]
            if mine.generation != self.generation or mine.position == position:
                return None
            producers = {**head.state.producers, self.name: replace(mine, position=position)}
            return Change(replace(head.state, producers=producers))

        if isinstance(outcome, Committed):
            self._know(commit(self.table, plan, clock=self._clock, retries=actors.RETRIES))
        return outcome

    with (
        _swap(session_module, "append", without_position),
        _swap(Session, "attempt", in_two),
    ):
        yield


@planted(BOTH)
def file_names_not_unique(kind: str) -> Iterator[None]:
    """A restarted producer meets its forerunner's file and takes it for its own."""

    def upload(self: Any, sequence: int, index: int, part: EncodedPart) -> tuple[Part, int]:
        version = self.version
        path = f"{DATA}/v{0:012d}/{self.name}-q{sequence}-p{index}.parquet"
        self.put_once(path, part.data)
        return part.at(path), version

    with _swap(Session, "upload", upload):
        yield


@planted(BOTH)
def existing_file_taken_for_ours(kind: str) -> Iterator[None]:
    """A refused put-if-absent is taken for one that landed."""

    def put_once(self: Any, path: str, data: object) -> None:
        with contextlib.suppress(ObjectExists):
            self.table.objects.create(path, data)

    with _swap(Session, "put_once", put_once):
        yield


@planted(BOTH)
def partial_batches(kind: str) -> Iterator[None]:
    """A part that could not be uploaded at once is left out."""

    def hasty(
        producing: Producing, sequence: int, encoded: tuple[EncodedPart, ...]
    ) -> tuple[tuple[Part, ...], int]:
        uploads = [producing.upload_one(sequence, 0, encoded[0])]
        for at, part in enumerate(encoded[1:], 1):
            with contextlib.suppress(StoreUnavailable):
                uploads.append(producing.session.upload(sequence, at, part))
        return tuple(part for part, _ in uploads), min(version for _, version in uploads)

    with _swap(actors, "upload_parts", hasty):
        yield


@planted(BOTH, seeds_max=400)
def horizon_not_checked(kind: str) -> Iterator[None]:
    """A file that the orphan sweep may have taken is committed."""
    with _swap(Session, "_renew", lambda self, horizon: None):
        yield


@planted(BOTH, seeds_max=400)
def seal_not_checked(kind: str) -> Iterator[None]:
    """A producer goes on after the seal."""

    def unsealed(
        state: StreamState, name: str, generation: int, batches: Sequence[Numbered], **rest: Any
    ) -> StreamState:
        after = append(replace(state, sealed=False), name, generation, batches, **rest)
        return replace(after, sealed=state.sealed)

    with _swap(session_module, "append", unsealed):
        yield


@planted(ICEBERG, seeds_max=150, tested=ICEBERG)
def manifests_cleaned_too_early(kind: str) -> Iterator[None]:
    """A merged manifest that waits to be handed in is old enough to be deleted."""
    older = Manifests._older_than

    def eager(self: Any, folder: str, version: int) -> list[str]:
        return older(self, folder, version + (2 * MERGE_AGE_MAX if folder == MANIFESTS else 0))

    with _swap(Manifests, "_older_than", eager):
        yield
