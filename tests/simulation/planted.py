"""Protocol bugs, planted on purpose: a simulator that misses one of them is not good enough.

Each is a mistake that some system has made, or that this one could make in a plausible change.
These are of the commit; `planted_retention` has those of keeping a stream small.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from batchweave import session as session_module
from batchweave import state as state_module
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.catalogs.manifests import MERGE_AGE_MAX, Manifests
from batchweave.catalogs.versions import Versions
from batchweave.commit import commit
from batchweave.dac import Claim
from batchweave.errors import ObjectExists, StoreUnavailable
from batchweave.parquet import EncodedPart
from batchweave.paths import DATA
from batchweave.session import Session, Staged
from batchweave.state import Numbered, ProducerState, StreamState, append
from batchweave.table import Change, Committed, Head, Lost, Outcome, Part, Unknown
from tests.simulation import actors
from tests.simulation.actors import Producing
from tests.simulation.planting import BOTH, ICEBERG, REGISTER, Bugs, swap
from tests.simulation.register import Detail, RegisterTable, _document, version_path

TABLES: dict[str, Any] = {"register": RegisterTable, "iceberg": IcebergTable}

planted = Bugs()


# -- sequences, generations, outcomes ------------------------------------------------------------


@planted(BOTH, tested=BOTH, profile="acknowledgements")
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

    with swap(Session, "refresh", refresh), swap(session_module, "append", careless):
        yield


@planted(BOTH)
def no_generation_check(kind: str) -> Iterator[None]:
    """Nobody is fenced."""

    def anyone(state: StreamState, name: str, generation: int) -> ProducerState:
        return state.producers[name]

    with (
        swap(session_module, "check_generation", anyone),
        swap(state_module, "check_generation", anyone),
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

    with swap(Session, "attempt", attempt_again), swap(Session, "stage", stage_next):
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

    with swap(Session, "attempt", trusting):
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

    with swap(Session, "attempt", tidy_minded):
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

        with swap(RegisterTable, "commit", register_commit):
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

    with swap(Manifests, "write_list", remember), swap(IcebergTable, "commit", clean_commit):
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

    with swap(RegisterTable, "commit", in_place):
        yield


@planted(BOTH)
def version_overwritten(kind: str) -> Iterator[None]:
    """The new version is written whatever is there."""
    if kind == "register":

        def write(self: Any, number: int, data: bytes) -> str:
            return str(self.objects.overwrite(version_path(number), data))

        with swap(RegisterTable, "_write", write):
            yield
        return

    def put_over(self: Any, number: int, data: bytes) -> str:
        return str(self.objects.overwrite(self.layout.path(number), data))

    with swap(Versions, "create", put_over):
        yield


@planted(BOTH, tested=BOTH)
def base_not_checked_after_writing(kind: str) -> Iterator[None]:
    """A version that existed once may be written again by a writer that slept."""
    with (
        swap(RegisterTable, "_still_there", lambda self, base: True),
        swap(Versions, "counts", lambda self, number, base: True),
    ):
        yield


@planted(BOTH, seeds_max=1000, profile="ghosts")
def head_not_checked_after_reading(kind: str) -> Iterator[None]:
    """A version that was listed, cleaned up and written again by a sleeper is taken as the head."""
    with (
        swap(RegisterTable, "_is_the_listed", lambda self, tag, listed: True),
        swap(Versions, "is_the_listed", lambda *arguments: True),
    ):
        yield


@planted(BOTH, seeds_max=600, profile="cleaners")
def newest_cleaned_first(kind: str) -> Iterator[None]:
    """Old versions are deleted newest first: a base can outlive its successor."""

    def register_delete(self: Any, ascending: list[int]) -> None:
        for number in reversed(ascending):
            self.objects.delete([version_path(number)])

    def catalog_delete(self: Any, ascending: list[int]) -> None:
        for number in reversed(ascending):
            self.objects.delete([self.layout.path(number)])

    with (
        swap(RegisterTable, "_delete_versions", register_delete),
        swap(Versions, "delete", catalog_delete),
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

    with swap(TABLES[kind], "commit", keeping):
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

    with swap(TABLES[kind], "commit", rebasing):
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
        swap(session_module, "append", without_position),
        swap(Session, "attempt", in_two),
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

    with swap(Session, "upload", upload):
        yield


@planted(BOTH, profile="uploads")
def existing_file_taken_for_ours(kind: str) -> Iterator[None]:
    """A refused put-if-absent is taken for one that landed."""

    def put_once(self: Any, path: str, data: object) -> None:
        with contextlib.suppress(ObjectExists):
            self.table.objects.create(path, data)

    with swap(Session, "put_once", put_once):
        yield


@planted(BOTH, profile="uploads")
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

    with swap(actors, "upload_parts", hasty):
        yield


@planted(BOTH, seeds_max=400, profile="upkeep")
def horizon_not_checked(kind: str) -> Iterator[None]:
    """A file that the orphan sweep may have taken is committed."""
    with swap(Session, "_renew", lambda self, horizon: None):
        yield


@planted(BOTH, seeds_max=400)
def seal_not_checked(kind: str) -> Iterator[None]:
    """A producer goes on after the seal."""

    def unsealed(
        state: StreamState, name: str, generation: int, batches: Sequence[Numbered], **rest: Any
    ) -> StreamState:
        after = append(replace(state, sealed=False), name, generation, batches, **rest)
        return replace(after, sealed=state.sealed)

    with swap(session_module, "append", unsealed):
        yield


@planted(ICEBERG, seeds_max=150, tested=ICEBERG)
def manifests_cleaned_too_early(kind: str) -> Iterator[None]:
    """A merged manifest that waits to be handed in is old enough to be deleted."""
    written = Manifests._written

    def aged(self: Any) -> Iterator[tuple[str, int, str]]:
        for letter, version, path in written(self):
            yield letter, version - (2 * MERGE_AGE_MAX if letter == "m" else 0), path

    with swap(Manifests, "_written", aged):
        yield
