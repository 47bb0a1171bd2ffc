"""The stream's state and its transitions: pure functions, no I/O, no clock.

The state travels in the table and changes atomically with each commit. A transition takes the
state that was read and returns the next one, or raises what the caller must do about it. It is
safe to repeat: after an unknown outcome the same transition on a fresh state finds what landed.
Imports: standard library, errors, dac, mesh, columns.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from operator import index
from typing import Any, SupportsIndex, TypeVar

from batchweave.columns import lineage_from_text, lineage_to_text
from batchweave.dac import Claim, Pace
from batchweave.errors import (
    CheckpointExists,
    Fenced,
    InvalidInput,
    InvalidName,
    NotAStream,
    StepReclaimed,
    StreamCorrupted,
    StreamSealed,
    UnsupportedFormat,
)
from batchweave.mesh import Mesh

FORMAT_VERSION = 1
PREFIX = "batchweave."
CHAIN_START = hashlib.sha256(b"batchweave chain 1").hexdigest()

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")


def check_name(name: str, what: str) -> str:
    """Return a producer's or checkpoint's name, or raise `InvalidName`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise InvalidName(
            f"a {what} name has 1 to 128 letters, digits, '.', '_' or '-', begins and ends with "
            f"a letter or digit and has no '..', got {name!r}"
        )
    return name


@dataclass(frozen=True, slots=True)
class ProducerState:
    """What the table knows of one producer name.

    ``sequence`` and ``step`` are those of its last committed batch, -1 before the first;
    ``version`` is the table version of its last commit (opening counts), ``opened_version`` that
    of its opening; ``turn_us`` is when it will try next (see `batchweave.dac`).
    """

    generation: int
    sequence: int = -1
    step: int = -1
    position: str | None = None
    version: int = 0
    opened_version: int = 0
    turn_us: int = 0
    committed_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """A registered model checkpoint: the first step that it has not consumed.

    ``version`` is the table version of its registration: the order of registrations.
    """

    next_step: int
    consumer: str = "default"
    registered_at_ms: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class ReclaimState:
    """A commit that took steps out of the table whose files stay for a grace period.

    ``version`` is that commit's; ``oldest_upload`` is the smallest table version in the names of
    the files that it removed; ``at_ms`` is the store's own time at which a sweep first met it, so
    never before the commit itself, however long that took to land; 0 until then.
    """

    version: int
    oldest_upload: int
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class StreamState:
    """Everything that a stream's table says about it, at one version. Immutable.

    ``mesh`` and ``lineage_columns`` are declared at the creation and never change.
    """

    mesh: Mesh
    next_step: int = 0
    sealed: bool = False
    watermark: int = 0
    horizon: int = 0
    chain: str = CHAIN_START
    pace: Pace = field(default_factory=Pace)
    producers: Mapping[str, ProducerState] = field(default_factory=dict)
    checkpoints: Mapping[str, CheckpointState] = field(default_factory=dict)
    reclaims: Mapping[str, ReclaimState] = field(default_factory=dict)
    lineage_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.watermark <= self.next_step:
            raise StreamCorrupted(
                f"the watermark {self.watermark} is not within 0 and next_step {self.next_step}"
            )


@dataclass(frozen=True, slots=True)
class Numbered:
    """What the state needs of one batch to be appended."""

    sequence: int
    digests: tuple[str, ...]
    position: str | None = None


def open_producer(
    state: StreamState, name: str, version: int, now_ms: int
) -> tuple[StreamState, ProducerState]:
    """Give ``name`` its next generation, which shuts every earlier opener out.

    Raises:
        InvalidName: the name cannot be used.
        StreamSealed: nothing can follow the last step.
    """
    check_name(name, "producer")
    if state.sealed:
        raise StreamSealed(f"the stream is sealed at step {state.next_step}: no producer can open")
    before = state.producers.get(name, ProducerState(generation=0))
    after = replace(
        before,
        generation=before.generation + 1,
        version=version,
        opened_version=version,
        turn_us=0,
        committed_at_ms=now_ms,
    )
    return replace(state, producers={**state.producers, name: after}), after


def check_generation(state: StreamState, name: str, generation: int) -> ProducerState:
    """Return the producer's state, or raise `Fenced` if another opener has the name now."""
    current = state.producers.get(name)
    if current is None or current.generation != generation:
        found = "none" if current is None else str(current.generation)
        raise Fenced(
            f"producer {name!r} was opened again elsewhere: this one is generation {generation}, "
            f"the stream is at {found}. Stop it, or give each process a name of its own"
        )
    return current


def append(
    state: StreamState,
    name: str,
    generation: int,
    batches: Sequence[Numbered],
    *,
    version: int,
    now_ms: int,
    claim: Claim | None = None,
) -> StreamState:
    """Give the batches the next steps and make the last one's position durable.

    The batches' sequences must follow the producer's last one without a gap: the caller drops
    what has landed before. ``claim`` is what the commit controller announces with it.

    Raises:
        Fenced: a newer generation of the name exists.
        StreamSealed: the stream was sealed.
    """
    producer = check_generation(state, name, generation)
    if state.sealed:
        raise StreamSealed(
            f"the stream is sealed at step {state.next_step}: "
            f"{len(batches)} batch(es) of {name!r} cannot be committed"
        )
    chain, step = state.chain, state.next_step
    for offset, batch in enumerate(batches):
        if batch.sequence != producer.sequence + 1 + offset:
            raise StreamCorrupted(
                f"sequence {batch.sequence} of {name!r} does not follow "
                f"{producer.sequence + offset}: refusing to commit out of order"
            )
        chain = next_chain(chain, step, batch.digests)
        step += 1
    after = replace(
        producer,
        sequence=batches[-1].sequence,
        step=step - 1,
        position=batches[-1].position,
        version=version,
        turn_us=claim.turn_us if claim else 0,
        committed_at_ms=now_ms,
    )
    return replace(
        state,
        next_step=step,
        chain=chain,
        pace=claim.pace if claim else state.pace,
        producers={**state.producers, name: after},
    )


def next_chain(chain: str, step: int, digests: Sequence[str]) -> str:
    """The running hash over all batches: ``H(chain, step, digests of the parts)``."""
    text = "\n".join([chain, str(step), *digests])
    return hashlib.sha256(text.encode()).hexdigest()


def seal(state: StreamState) -> StreamState:
    """Let nothing follow the last step. Sealing twice is sealing once."""
    return replace(state, sealed=True)


def register_checkpoint(
    state: StreamState,
    checkpoint_id: str,
    next_step: SupportsIndex,
    consumer: str,
    now_ms: int,
    version: int,
) -> StreamState:
    """Record a checkpoint; the same state where it stands already.

    Raises:
        InvalidName: the ID or the consumer's name cannot be used.
        InvalidInput: ``next_step`` is no step, or lies beyond the head.
        StepReclaimed: what the checkpoint would need is gone.
        CheckpointExists: the ID stands for another step or consumer.
    """
    check_name(checkpoint_id, "checkpoint")
    check_name(consumer, "consumer")
    step = _step(next_step)
    if step > state.next_step:
        raise InvalidInput(
            f"checkpoint {checkpoint_id!r} cannot have consumed the steps below {step}: "
            f"the stream's next step is {state.next_step}"
        )
    known = state.checkpoints.get(checkpoint_id)
    if known is not None:
        if (known.next_step, known.consumer) == (step, consumer):
            return state
        raise CheckpointExists(
            f"checkpoint {checkpoint_id!r} is registered with next_step {known.next_step} for "
            f"consumer {known.consumer!r}, not {step} for {consumer!r}: "
            "choose another ID, or drop it first"
        )
    if step < state.watermark:
        raise StepReclaimed(
            f"checkpoint {checkpoint_id!r} would need step {step}: "
            f"steps below {state.watermark} are reclaimed"
        )
    added = CheckpointState(step, consumer, now_ms, version)
    return replace(state, checkpoints={**state.checkpoints, checkpoint_id: added})


def _step(value: SupportsIndex) -> int:
    """A step as a plain integer, from NumPy's and torch's integers, too."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or index(value) < 0:
        raise InvalidInput(f"next_step is a whole number from 0 on, got {value!r}")
    return index(value)


def drop_checkpoint(state: StreamState, checkpoint_id: str) -> StreamState:
    """Forget a checkpoint; the same state where there is none of that ID."""
    if checkpoint_id not in state.checkpoints:
        return state
    kept = {name: one for name, one in state.checkpoints.items() if name != checkpoint_id}
    return replace(state, checkpoints=kept)


def retained_from(state: StreamState) -> int:
    """The first step that a registered checkpoint still needs; the watermark where none is."""
    return min((one.next_step for one in state.checkpoints.values()), default=state.watermark)


def reclaim(
    state: StreamState, watermark: int, reclaimed: ReclaimState, drop: Sequence[str] = ()
) -> StreamState:
    """Take all steps below ``watermark`` out of the table, and forget checkpoints, in one change.

    Their files stay until `age_reclaims` finds that their grace period is over.

    Raises:
        InvalidInput: the watermark would go back, or past a retained checkpoint or the head.
    """
    for name in drop:
        state = drop_checkpoint(state, name)
    if not state.watermark < watermark <= retained_from(state):
        raise InvalidInput(
            f"the watermark cannot go from {state.watermark} to {watermark}: retained checkpoints "
            f"need the steps from {retained_from(state)} on"
        )
    pending = {**state.reclaims, str(watermark): reclaimed}
    return replace(state, watermark=watermark, reclaims=pending)


def age_reclaims(state: StreamState, now_ms: int, grace_ms: int) -> StreamState:
    """Date the reclaims that have no date, and forget those whose grace period is over.

    ``now_ms`` is the store's own time, read after the state was.
    """
    dated = {
        name: one if one.at_ms else replace(one, at_ms=now_ms)
        for name, one in state.reclaims.items()
    }
    left = {name: one for name, one in dated.items() if one.at_ms + grace_ms > now_ms}
    return replace(state, reclaims=left)


def advance_horizon(state: StreamState, horizon: int) -> StreamState:
    """Let no upload older than ``horizon`` be committed any more. It never goes back."""
    return replace(state, horizon=max(state.horizon, horizon))


def sweepable_below(state: StreamState) -> int:
    """Files of ours named with an older version, and by nothing in the table, may be deleted.

    That is the horizon, unless files of a reclaim whose grace period lasts are older. They may be:
    the horizon can have passed them long before, while the table still named them.
    """
    return min((state.horizon, *(one.oldest_upload for one in state.reclaims.values())))


# -- the state as table properties -------------------------------------------------------------

_PRODUCER = PREFIX + "producer."
_CHECKPOINT = PREFIX + "checkpoint."
_RECLAIM = PREFIX + "reclaim."
_LINEAGE = PREFIX + "lineage-columns"


def to_properties(state: StreamState) -> dict[str, str]:
    """The state as string properties, one key a producer and a checkpoint.

    A commit then only carries the keys that changed. The inverse is `from_properties`.
    """
    found = {
        PREFIX + "format-version": str(FORMAT_VERSION),
        PREFIX + "mesh": state.mesh.to_json(),
        PREFIX + "next-step": str(state.next_step),
        PREFIX + "sealed": "true" if state.sealed else "false",
        PREFIX + "watermark": str(state.watermark),
        PREFIX + "horizon": str(state.horizon),
        PREFIX + "chain": state.chain,
        PREFIX + "pace": _compact(asdict(state.pace)),
    }
    if state.lineage_columns:
        found[_LINEAGE] = lineage_to_text(state.lineage_columns)
    for name, producer in state.producers.items():
        found[_PRODUCER + name] = _compact(asdict(producer))
    for name, checkpoint in state.checkpoints.items():
        found[_CHECKPOINT + name] = _compact(asdict(checkpoint))
    for watermark, reclaimed in state.reclaims.items():
        found[_RECLAIM + watermark] = _compact(asdict(reclaimed))
    return found


def from_properties(properties: Mapping[str, str], table: str) -> StreamState:
    """Read the state back. Properties that are not ours are ignored.

    Raises:
        NotAStream: the table has no BatchWeave properties.
        UnsupportedFormat: it was written by a newer BatchWeave.
        StreamCorrupted: a property is missing or cannot be read.
    """
    check_format(properties, table)
    try:
        return StreamState(
            mesh=Mesh.from_json(properties[PREFIX + "mesh"]),
            next_step=int(properties[PREFIX + "next-step"]),
            sealed={"true": True, "false": False}[properties[PREFIX + "sealed"]],
            watermark=int(properties[PREFIX + "watermark"]),
            horizon=int(properties[PREFIX + "horizon"]),
            chain=properties[PREFIX + "chain"],
            pace=_record(Pace, properties[PREFIX + "pace"]),
            producers=_records(ProducerState, properties, _PRODUCER),
            checkpoints=_records(CheckpointState, properties, _CHECKPOINT),
            reclaims=_records(ReclaimState, properties, _RECLAIM),
            lineage_columns=lineage_from_text(properties.get(_LINEAGE, "[]")),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise StreamCorrupted(f"the state of {table} cannot be read: {error}") from error


def check_format(properties: Mapping[str, str], table: str) -> None:
    """Raise `NotAStream` or `UnsupportedFormat` unless this version can read the table."""
    text = properties.get(PREFIX + "format-version")
    if text is None:
        raise NotAStream(f"{table} is a table, but not a BatchWeave stream")
    if not text.isdigit() or int(text) > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{table} has format version {text}, this BatchWeave reads up to {FORMAT_VERSION}: "
            "upgrade BatchWeave"
        )


def changed_properties(
    before: StreamState, after: StreamState
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The properties to set, and the keys to remove, to get from one state to the other."""
    old, new = to_properties(before), to_properties(after)
    changed = {key: text for key, text in new.items() if old.get(key) != text}
    return changed, tuple(key for key in old if key not in new)


_R = TypeVar("_R", ProducerState, CheckpointState, ReclaimState, Pace)
_KINDS = {"int": (int,), "str": (str,), "str | None": (str, type(None))}


def _records(kind: type[_R], properties: Mapping[str, str], prefix: str) -> dict[str, _R]:
    """The records whose keys begin with ``prefix``, by the rest of the key."""
    return {
        key[len(prefix) :]: _record(kind, text)
        for key, text in properties.items()
        if key.startswith(prefix)
    }


def _record(kind: type[_R], text: str) -> _R:
    """Read one record; a field of another type is found here, not by whoever computes with it."""
    found = kind(**json.loads(text))
    for item in fields(kind):
        value = getattr(found, item.name)
        if isinstance(value, bool) or not isinstance(value, _KINDS[str(item.type)]):
            raise ValueError(f"{item.name} is {value!r}, not {item.type}")
    return found


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
