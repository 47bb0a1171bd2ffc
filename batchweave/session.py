"""A producer's session with the stream, without threads: open, stage, attempt.

The producer drives this from its threads, a simulation from its scheduler: the same code.
A session owns one generation of a producer name. Batches are staged in sequence order once their
files are uploaded; an attempt commits all that is staged, as one change.
Imports: standard library, errors, clock, dac, paths, side_objects, state, table, parquet,
batch, commit.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from batchweave.batch import Position, position_from_text
from batchweave.clock import Clock
from batchweave.commit import Retries, commit
from batchweave.dac import Claim
from batchweave.errors import ObjectExists, ObjectNotFound, StoreUnavailable, StreamCorrupted
from batchweave.parquet import EncodedPart
from batchweave.paths import data_path, position_path
from batchweave.side_objects import decode_text, encode_text
from batchweave.state import (
    Numbered,
    ProducerState,
    StreamState,
    append,
    check_generation,
    check_name,
    open_producer,
)
from batchweave.table import BatchEntry, Change, Committed, Head, Outcome, Part, Table, Unknown


@dataclass(slots=True)
class Staged:
    """A batch whose files are in the store, waiting to be committed."""

    sequence: int
    encoded: tuple[EncodedPart, ...]
    parts: tuple[Part, ...]
    upload_version: int
    position: str | None
    done: Callable[[int], None] = field(repr=False, default=lambda step: None)

    @property
    def bytes(self) -> int:
        """Encoded bytes that the batch keeps in memory."""
        return sum(part.data.size for part in self.encoded)


class Session:
    """One opener of a producer name. Its methods are called by one thread at a time.

    Only `upload` may be called from many threads.
    """

    def __init__(
        self, table: Table, name: str, *, clock: Clock, position_bytes_inline_max: int
    ) -> None:
        self.table = table
        self.name = check_name(name, "producer")
        self.generation = 0
        self.sequence = -1
        self._clock = clock
        self._inline_max = position_bytes_inline_max
        self._staged: list[Staged] = []
        self._head: Head | None = None
        self._stale = False
        self._vanished = False
        self._own_version = -1
        self._company = True
        self._position_text: str | None = None
        self._stored_positions: dict[int, tuple[int, str]] = {}
        self._version_lock = threading.Lock()

    # -- opening ---------------------------------------------------------------------------

    def open(self, retries: Retries | None = None) -> None:
        """Take the name: every earlier opener is fenced from now on.

        Repeating it after an unknown outcome only skips a generation.
        """
        opened: list[ProducerState] = []

        def plan(head: Head) -> Change:
            state, producer = open_producer(
                head.state, self.name, head.version + 1, self._clock.now_ms()
            )
            opened[:] = [producer]
            return Change(state)

        what = f"opening producer {self.name!r}"
        self._know(commit(self.table, plan, clock=self._clock, retries=retries, what=what))
        self.generation, self.sequence = opened[0].generation, opened[0].sequence
        self._position_text = opened[0].position

    @property
    def position(self) -> Position:
        """The position of the last committed batch; None before the first."""
        text = self._position_text
        if text is None:
            return None
        value = json.loads(text)
        if "object" not in value:
            return position_from_text(text)
        try:
            data, _ = self.table.objects.get(value["object"])
        except ObjectNotFound as error:
            check_generation(self.table.head().state, self.name, self.generation)  # superseded
            raise StreamCorrupted(f"the position object {value['object']!r} is gone") from error
        if hashlib.sha256(data).hexdigest() != value["sha256"]:
            raise StreamCorrupted(f"the position object {value['object']!r} was changed")
        return position_from_text(decode_text(data, value["object"]))

    @property
    def version(self) -> int:
        """The newest table version that this session knows."""
        with self._version_lock:
            return self._head.version if self._head else 0

    # -- staging ---------------------------------------------------------------------------

    def upload(self, sequence: int, index: int, part: EncodedPart) -> tuple[Part, int]:
        """Write one part under a name that nobody else has; return it and the version known.

        The name carries the table version known when the upload began, for the orphan sweep.
        """
        version = self.version
        path = data_path(version, self.name, self.generation, sequence, index, self._clock.token())
        self.put_once(path, part.data)
        return part.at(path), version

    def put_once(self, path: str, data: object) -> None:
        """Put-if-absent where the name is ours alone: finding it there means that we wrote it.

        So it is looked for: a store says the same of a write that is still in flight and may yet
        fail (S3's 409).
        """
        try:
            self.table.objects.create(path, data)
        except ObjectExists:
            try:
                self.table.objects.head(path)
            except ObjectNotFound:
                raise StoreUnavailable(
                    f"a write of {path!r} was refused, and nothing landed"
                ) from None

    def store_position(self, sequence: int, text: str | None) -> str | None:
        """What the state will hold of a position: its text, or a reference to an object."""
        if text is None or len(text.encode()) <= self._inline_max:
            return text
        data = encode_text(text)
        version = self.version
        path = position_path(version, self.name, self.generation, sequence, self._clock.token())
        self.put_once(path, data)
        self._stored_positions[sequence] = (version, text)
        return json.dumps({"object": path, "sha256": hashlib.sha256(data).hexdigest()})

    def stage(self, batch: Staged) -> None:
        """Queue an uploaded batch behind those before it."""
        self._staged.append(batch)

    @property
    def staged(self) -> Sequence[Staged]:
        """What waits for its commit, oldest first."""
        return self._staged

    # -- committing ------------------------------------------------------------------------

    def refresh(self) -> Head:
        """The head to attempt on; settles what it shows as landed.

        Read anew where it may be behind: after an attempt that did not commit, and as long as
        others commit too. Who commits alone keeps what it wrote as its next base.

        Raises:
            Fenced: the name was opened elsewhere.
        """
        if self._head is None or self._stale or self._company:
            # After an unknown outcome nothing known helps: the table may have been dropped, and a
            # namesake at the same version looks like an idle one to who only asks what is new.
            head = self.table.head(None if self._vanished else self._head)
            self._company = head.version != self._own_version
            self._know(head)
        known = self._known()
        self._settle(known.state)
        return known

    def attempt(self, claim: Claim | None = None) -> Outcome | None:
        """Try once to commit all that is staged; None if it turned out that nothing was left.

        ``claim`` is what the commit controller said to a `refresh` right before this.

        Raises:
            Fenced, StreamSealed: nothing more can be committed here.
            StoreError: the head could not be read, or an upload could not be renewed.
        """
        head = self.refresh() if claim is None else self._known()
        if not self._staged:
            return None
        self._renew(head.state.horizon)
        now_ms = self._clock.now_ms()
        state = append(
            head.state,
            self.name,
            self.generation,
            [
                Numbered(one.sequence, tuple(part.digest for part in one.parts), one.position)
                for one in self._staged
            ],
            version=head.version + 1,
            now_ms=now_ms,
            claim=claim,
        )
        added = tuple(
            BatchEntry(head.state.next_step + at, self.name, one.sequence, now_ms, one.parts)
            for at, one in enumerate(self._staged)
        )
        self._stale = True  # until the outcome says otherwise
        outcome = self.table.commit(head, Change(state, added))
        if isinstance(outcome, Committed):
            self._own_version = outcome.head.version
            self._know(outcome.head)
            self._settle(outcome.head.state)
        else:
            self._company = True
            self._vanished = isinstance(outcome, Unknown)
        return outcome

    @property
    def unsure(self) -> bool:
        """Whether an attempt was made whose outcome has not been read."""
        return self._stale

    def _known(self) -> Head:
        assert self._head is not None
        return self._head

    def _know(self, head: Head) -> None:
        with self._version_lock:
            self._head = head
        self._stale = self._vanished = False

    def _settle(self, state: StreamState) -> None:
        """Take what the table holds off the queue, whichever attempt of ours put it there.

        All that landed since the last look came in one commit, so its steps are neighbours: each
        attempt of a session carries on where the head read before it ends.
        """
        producer = check_generation(state, self.name, self.generation)
        landed = [one for one in self._staged if one.sequence <= producer.sequence]
        if not landed:
            return
        del self._staged[: len(landed)]
        self.sequence = producer.sequence
        self._position_text = producer.position
        for one in landed:
            self._stored_positions.pop(one.sequence, None)
            one.done(producer.step - (producer.sequence - one.sequence))

    def _renew(self, horizon: int) -> None:
        """Upload again what was uploaded under a version that the orphan sweep has passed."""
        for one in self._staged:
            if one.upload_version < horizon:
                uploads = [
                    self.upload(one.sequence, index, part) for index, part in enumerate(one.encoded)
                ]
                one.parts = tuple(part for part, _ in uploads)
                one.upload_version = min(version for _, version in uploads)
            version, text = self._stored_positions.get(one.sequence, (horizon, ""))
            if version < horizon:
                one.position = self.store_position(one.sequence, text)
