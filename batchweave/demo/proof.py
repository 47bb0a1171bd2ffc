"""The proof: what is in the stream and in the ranks' logs, against the files on the disk.

Nothing that a worker counted is believed. Every slice of every step is read again; the files are
put together from its rows; each log must say what the stream says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import batchweave as bw
from batchweave.demo.corpus import SLICES, Plan, offsets
from batchweave.demo.reader import Line, read_log, slice_hash
from batchweave.errors import StreamCorrupted

NAMED_MAX = 5
BYTE_MAX = 255


@dataclass
class Claim:
    """One sentence that is proved, and what was found against it.

    ``unproven`` says why nothing was found for it either.
    """

    text: str
    findings: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        return not self.findings and not self.unproven

    def add(self, found: Sequence[str]) -> None:
        """Add findings of one kind: the first few by name, the rest as a number."""
        self.findings += found[:NAMED_MAX]
        if len(found) > NAMED_MAX:
            self.findings.append(f"and {len(found) - NAMED_MAX:,} more like this")


@dataclass
class Proof:
    """What was found. All claims must hold."""

    steps: int = 0
    missing: int = 0
    doubled: int = 0
    files: int = 0
    ranks: int = 0
    claims: list[Claim] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every claim holds."""
        return all(claim.ok for claim in self.claims)

    @property
    def refuted(self) -> bool:
        """Whether something was found against a claim; what is only unproven is not."""
        return bool(self.findings)

    @property
    def findings(self) -> list[str]:
        """Everything that was found, of all claims."""
        return [text for claim in self.claims for text in claim.findings]


@dataclass
class _Read:
    """The stream, read again: where each chunk is, its bytes, and the hash of every slice."""

    steps: list[list[int]] = field(default_factory=list)
    hashes: dict[tuple[int, int], str] = field(default_factory=dict)
    places: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    pieces: dict[str, dict[int, bytes]] = field(default_factory=dict)
    not_bytes: list[str] = field(default_factory=list)


def prove(
    stream: bw.Stream,
    plan: Plan,
    logs: Sequence[Path],
    progress: Callable[[], None] = lambda: None,
) -> Proof:
    """Prove that the stream holds the corpus once, and that every rank read all of it once.

    ``progress`` is called after each slice that was read.
    """
    proof = Proof(steps=stream.head().next_step, ranks=len(logs))
    try:
        read = _read_again(stream, progress)
        sequences = _sequences(stream)
    except StreamCorrupted as error:
        proof.claims = [Claim("the stream can be read", [str(error)])]
        return proof
    proof.claims = [
        _prove_steps(proof, read, sequences),
        _prove_chunks(proof, read, plan),
        _prove_files(proof, read, plan),
        _prove_logs(proof, read, logs),
    ]
    return proof


def _read_again(stream: bw.Stream, progress: Callable[[], None]) -> _Read:
    read = _Read()
    for index in range(SLICES):
        steps = []
        with stream.read(slice=index) as reader:
            for batch in reader:
                steps.append(batch.step)
                read.hashes[index, batch.step] = slice_hash(batch.table)
                _take_rows(read, batch)
                progress()
        read.steps.append(steps)
    return read


def _take_rows(read: _Read, batch: bw.Batch) -> None:
    columns = (batch.table.column(name) for name in ("path", "offset", "tokens"))
    for path_value, offset_value, tokens in zip(*columns, strict=True):
        path, offset = path_value.as_py(), offset_value.as_py()
        values = tokens.values.to_numpy(zero_copy_only=False)
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) <= BYTE_MAX:
            read.not_bytes.append(f"step {batch.step} has tokens that are not bytes: {path}")
        read.places.setdefault((path, offset), []).append(batch.step)
        piece = values.astype(np.uint8).tobytes()
        read.pieces.setdefault(path, {}).setdefault(offset, piece)


def _sequences(stream: bw.Stream) -> list[str]:
    """What is wrong with the producers' running numbers: each counts its own batches from 0."""
    found = []
    following: dict[str, int] = {}
    for entry in stream.batches():
        expected = following.get(entry.producer, 0)
        if entry.sequence != expected:
            found.append(
                f"step {entry.step} is {entry.producer}'s batch {entry.sequence}, not {expected}"
            )
        following[entry.producer] = entry.sequence + 1
    return found


def _prove_steps(proof: Proof, read: _Read, sequences: list[str]) -> Claim:
    claim = Claim(f"{proof.steps:,} steps, dense from 0, each with all {SLICES} slices")
    for index, steps in enumerate(read.steps):
        claim.add([f"slice {index}: {text}" for text in _out_of_order(steps, proof.steps)])
    claim.add(sequences)
    return claim


def _prove_chunks(proof: Proof, read: _Read, plan: Plan) -> Claim:
    wanted = {(source.path, offset) for source in plan.sources for offset in offsets(source)}
    claim = Claim(f"{len(wanted):,} chunks, each in exactly one step")
    doubled = {place: steps for place, steps in read.places.items() if len(steps) > 1}
    missing = sorted(wanted - set(read.places))
    proof.doubled, proof.missing = len(doubled), len(missing)
    claim.add(
        [
            f"chunk doubled: {path} at byte {offset} is in steps {', '.join(map(str, steps))}"
            for (path, offset), steps in sorted(doubled.items())
        ]
    )
    claim.add([f"chunk missing: {path} at byte {offset} is in no step" for path, offset in missing])
    claim.add(
        [
            f"chunk of no file: {path} at byte {offset} is in step {read.places[path, offset][0]}"
            for path, offset in sorted(set(read.places) - wanted)
        ]
    )
    return claim


def _prove_files(proof: Proof, read: _Read, plan: Plan) -> Claim:
    claim = Claim(f"{len(plan.sources):,} files put together from the rows, equal by SHA-256")
    claim.add(read.not_bytes)
    changed = []
    for source in plan.sources:
        pieces = read.pieces.get(source.path, {})
        found = hashlib.sha256(b"".join(pieces[at] for at in sorted(pieces))).hexdigest()
        if pieces and found == hashlib.sha256(plan.read(source)).hexdigest():
            proof.files += 1
        else:
            changed.append(f"file differs: {source.path} in the stream is not what is on the disk")
    claim.add(changed)
    return claim


def _prove_logs(proof: Proof, read: _Read, logs: Sequence[Path]) -> Claim:
    claim = Claim(
        f"{len(logs)} ranks logged every step once, in order, "
        f"with the hashes of the {len(read.hashes):,} slices"
    )
    for rank, log in enumerate(logs):
        claim.add([f"rank {rank}: {text}" for text in _wrong_in_log(proof, read, rank, log)])
    return claim


def _wrong_in_log(proof: Proof, read: _Read, rank: int, log: Path) -> list[str]:
    try:
        lines, length = read_log(log)
    except (ValueError, TypeError) as error:
        return [f"its log cannot be read: {error}"]
    torn = log.exists() and log.stat().st_size != length
    found = ["the last line of its log is torn"] if torn else []
    found += _out_of_order([line.step for line in lines], proof.steps)
    return found + _other_content(lines, read, rank)


def _out_of_order(steps: Sequence[int], count: int) -> list[str]:
    """What keeps ``steps`` from being 0 to ``count`` once, in order."""
    times: dict[int, int] = {}
    for step in steps:
        times[step] = times.get(step, 0) + 1
    found = [f"step {step} is missing" for step in range(count) if step not in times]
    found += [
        f"step {step} is there {number} times" for step, number in times.items() if number > 1
    ]
    found += [f"step {step} is not of the stream" for step in times if not 0 <= step < count]
    if not found and list(steps) != sorted(steps):
        at = next(i for i in range(1, len(steps)) if steps[i] < steps[i - 1])
        found.append(f"step {steps[at]} came after step {steps[at - 1]}")
    return found


def _other_content(lines: Iterable[Line], read: _Read, rank: int) -> list[str]:
    return [
        f"step {line.step} was not what the stream holds"
        for line in lines
        if read.hashes.get((rank, line.step), line.sha256) != line.sha256
    ]
