"""The actions of a Delta log: what a commit of a stream writes, and what any entry says. Pure.

Source: Delta protocol, "Actions". One entry carries, all of it or nothing:

* the state, one ``domainMetadata`` for each property of `batchweave.state` that changed
  (domain = key, configuration = text; a key that went is ``removed``);
* one ``add`` for each part. ``partitionValues`` are the columns known only at commit, ``stats`` the
  rows and the bounds of ``slice``, the tag `PART_TAG` where the row groups lie;
* one ``remove`` for each part of a step that the commit reclaims;
* a ``commitInfo`` with a token that nobody else has, and the table's ID, by which a namesake's
  entry is told from ours.

What never changes (format version, mesh, schema) stands in the table's configuration as well, where
engines show it. Imports: errors, state, table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from batchweave.errors import StreamCorrupted, UnsupportedFormat
from batchweave.state import PREFIX
from batchweave.table import COMMIT_COLUMNS, SLICE, BatchEntry, Part

PART_TAG = PREFIX + "part"
TABLE_ID = PREFIX + "table"
ENGINE = "BatchWeave"

READER_FEATURES = ("timestampNtz",)
WRITER_FEATURES = ("appendOnly", "domainMetadata", "timestampNtz")
"""What streams follow. ``appendOnly`` asks nothing of a writer that only adds."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The table's ``metaData``; ``raw`` is the action as it was read."""

    id: str
    schema: str
    partition_columns: tuple[str, ...]
    configuration: Mapping[str, str]
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Removed:
    """A file that an entry took out of the table; ``step`` is None where the entry is silent."""

    path: str
    step: int | None
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A data file that BatchWeave did not write, kept as it was read."""

    path: str
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Added:
    """A part that an ``add`` names. ``batch`` is its batch's step, producer, sequence and time."""

    batch: tuple[int, str, int, int]
    part: Part
    version: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What one entry of the log says, as far as a stream cares.

    ``table_id`` is None in entries of other programs. ``properties`` are those set, None for one
    removed.
    """

    version: int
    digest: str
    table_id: str | None = None
    protocol: Mapping[str, Any] | None = None
    metadata: Metadata | None = None
    properties: Mapping[str, str | None] = field(default_factory=dict)
    domains: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    transactions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batches: tuple[BatchEntry, ...] = ()
    removed: tuple[Removed, ...] = ()
    foreign: tuple[Foreign, ...] = ()


# -- reading -----------------------------------------------------------------------------------


def digest_of(data: bytes) -> str:
    """What identifies an entry's content: each commit has a token of its own."""
    return hashlib.sha256(data).hexdigest()


def parse_entry(version: int, data: bytes, table: str) -> Entry:
    """Read one log entry.

    Raises:
        StreamCorrupted: it is not what the protocol says.
    """
    try:
        actions = [json.loads(line) for line in data.decode().split("\n") if line.strip()]
        return collect(version, digest_of(data), actions)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StreamCorrupted(
            f"entry {version} of the log of {table} is damaged: {error}"
        ) from error


def collect(version: int, digest: str, actions: Iterable[Mapping[str, Any]]) -> Entry:
    """Actions, sorted by what they mean. The last of a kind counts."""
    found: dict[str, Any] = {}
    properties: dict[str, str | None] = {}
    domains: dict[str, Mapping[str, Any]] = {}
    transactions: dict[str, Mapping[str, Any]] = {}
    added: list[Added] = []
    removed: list[Removed] = []
    foreign: list[Foreign] = []
    for action in actions:
        for kind, body in action.items():
            if kind == "add":
                known = parse_add(body)
                if known is None:
                    foreign.append(Foreign(unquote(body["path"]), body))
                else:
                    added.append(known)
            elif kind == "remove":
                removed.append(parse_remove(body))
            elif kind == "domainMetadata":
                domain = str(body["domain"])
                if domain.startswith(PREFIX):
                    gone = bool(body["removed"])
                    properties[domain] = None if gone else str(body["configuration"])
                else:
                    domains[domain] = body
            elif kind == "txn":
                transactions[body["appId"]] = body
            elif kind == "metaData":
                found["metadata"] = parse_metadata(body)
            elif kind == "protocol":
                found["protocol"] = body
            elif kind == "commitInfo":
                found["table_id"] = body.get(TABLE_ID)
    return Entry(
        version,
        digest,
        properties=properties,
        domains=domains,
        transactions=transactions,
        batches=group(added),
        removed=tuple(removed),
        foreign=tuple(foreign),
        **found,
    )


def parse_metadata(body: Mapping[str, Any]) -> Metadata:
    """The ``metaData`` action, of an entry or of a checkpoint."""
    return Metadata(
        id=body["id"],
        schema=body["schemaString"],
        partition_columns=tuple(body["partitionColumns"]),
        configuration=dict(body.get("configuration") or {}),
        raw=body,
    )


def parse_add(body: Mapping[str, Any]) -> Added | None:
    """The part and its batch; None for a file that is not a stream's."""
    values = dict(body.get("partitionValues") or {})
    if any(not values.get(name) for name in COMMIT_COLUMNS):
        return None
    stats = json.loads(body.get("stats") or "{}")
    tag = json.loads(dict(body.get("tags") or {}).get(PART_TAG) or "{}")
    low = stats.get("minValues", {}).get(SLICE)
    high = stats.get("maxValues", {}).get(SLICE)
    bounds = (0, 0) if low is None or high is None else (int(low), int(high) - int(low) + 1)
    part = Part(
        path=unquote(body["path"]),
        digest=values["digest"],
        first_slice=int(tag.get("first_slice", bounds[0])),
        slices=int(tag.get("slices", bounds[1])),
        rows=int(stats.get("numRecords", 0)),
        bytes=int(body["size"]),
        offsets=tuple(tag.get("offsets", ())),
        data_end=int(tag.get("data_end", 0)),
        column_bytes=tuple(tag.get("column_bytes", ())),
        source=tag.get("source"),
    )
    key = (
        int(values["step"]),
        values["producer"],
        int(values["sequence"]),
        time_from_text(values["committed_at"]),
    )
    return Added(key, part, int(tag.get("version", 0)))


def parse_remove(body: Mapping[str, Any]) -> Removed:
    """A ``remove`` action's file."""
    text = dict(body.get("partitionValues") or {}).get("step")
    step = int(text) if text else None
    return Removed(unquote(body["path"]), step, body)


def group(parts: Iterable[Added]) -> tuple[BatchEntry, ...]:
    """Parts put together to batches, in step order. A part named twice is there once."""
    batches: dict[tuple[int, str, int, int], dict[str, Part]] = {}
    versions: dict[tuple[int, str, int, int], int] = {}
    for one in parts:
        batches.setdefault(one.batch, {})[one.part.path] = one.part
        versions[one.batch] = one.version
    return tuple(
        BatchEntry(*key, _in_order(found.values()), versions[key])
        for key, found in sorted(batches.items())
    )


def _in_order(parts: Iterable[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: part.first_slice))


def time_to_text(milliseconds: int) -> str:
    """A partition value of type timestamp: ISO 8601 in UTC, whatever zone an engine is set to."""
    whole = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}000Z"


def time_from_text(text: str) -> int:
    """Milliseconds since 1970 of either form that the protocol allows."""
    when = datetime.fromisoformat(text)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    since = when - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


# -- writing -----------------------------------------------------------------------------------


def entry_bytes(actions: Sequence[Mapping[str, Any]]) -> bytes:
    """A log entry: one action a line."""
    return "\n".join(json.dumps(one, separators=(",", ":")) for one in actions).encode() + b"\n"


def protocol_action(*, timestamps_without_zone: bool) -> dict[str, Any]:
    """The lowest protocol that holds the stream: any reader of version 1 can read most streams."""
    if not timestamps_without_zone:
        features = {"writerFeatures": ["domainMetadata"]}
        return {"protocol": {"minReaderVersion": 1, "minWriterVersion": 7, **features}}
    return {
        "protocol": {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["timestampNtz"],
            "writerFeatures": ["domainMetadata", "timestampNtz"],
        }
    }


def domain_actions(changed: Mapping[str, str], removed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """State that changed, one action a property."""
    return [
        *({"domainMetadata": _domain(key, text, False)} for key, text in sorted(changed.items())),
        *({"domainMetadata": _domain(key, "", True)} for key in sorted(removed)),
    ]


def _domain(key: str, text: str, removed: bool) -> dict[str, Any]:
    return {"domain": key, "configuration": text, "removed": removed}


def add_actions(batches: Iterable[BatchEntry]) -> list[dict[str, Any]]:
    """The files of batches."""
    return [{"add": add_body(batch, part)} for batch in batches for part in batch.parts]


def add_body(batch: BatchEntry, part: Part) -> dict[str, Any]:
    """One ``add`` action's content."""
    last = part.first_slice + part.slices - 1
    stats = {
        "numRecords": part.rows,
        "minValues": {SLICE: part.first_slice},
        "maxValues": {SLICE: last},
        "nullCount": {SLICE: 0},
    }
    body: dict[str, Any] = {
        "path": quote(part.path),
        "partitionValues": {
            "step": str(batch.step),
            "producer": batch.producer,
            "sequence": str(batch.sequence),
            "committed_at": time_to_text(batch.committed_at_ms),
            "digest": part.digest,
        },
        "size": part.bytes,
        "modificationTime": batch.committed_at_ms,
        "dataChange": True,
    }
    if part.slices:
        body["stats"] = _compact(stats)
    if part.offsets:
        place = {
            "first_slice": part.first_slice,
            "slices": part.slices,
            "offsets": part.offsets,
            "data_end": part.data_end,
            "column_bytes": part.column_bytes,
            "source": part.source,
            "version": batch.version,
        }
        body["tags"] = {PART_TAG: _compact(place)}
    return body


def remove_actions(batches: Iterable[BatchEntry], now_ms: int) -> list[dict[str, Any]]:
    """Files of batches that leave the table; they are deleted later, and elsewhere."""
    return [
        {"remove": _remove_body(add_body(batch, part), now_ms)}
        for batch in batches
        for part in batch.parts
    ]


def _remove_body(added: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    return {
        "path": added["path"],
        "deletionTimestamp": now_ms,
        "dataChange": True,
        "extendedFileMetadata": True,
        "partitionValues": added["partitionValues"],
        "size": added["size"],
    }


def commit_info(
    table_id: str, token: str, now_ms: int, operation: str, notes: Mapping[str, str]
) -> dict[str, Any]:
    """Who wrote an entry, for people and for telling ours from a namesake's."""
    info = {
        "timestamp": now_ms,
        "operation": operation,
        "operationParameters": dict(notes),
        "engineInfo": ENGINE,
        "isBlindAppend": operation == "WRITE",
        "txnId": token,
        TABLE_ID: table_id,
    }
    return {"commitInfo": info}


def check_protocol(protocol: Mapping[str, Any] | None, table: str) -> None:
    """Raise `UnsupportedFormat` for a protocol or a table feature that streams do not follow."""
    if protocol is None:
        raise StreamCorrupted(f"the log of {table} names no protocol")
    reader, writer = int(protocol["minReaderVersion"]), int(protocol["minWriterVersion"])
    if reader not in (1, 3) or writer != 7:
        raise UnsupportedFormat(
            f"{table} is a Delta table of reader version {reader} and writer version {writer}: "
            "streams are of reader version 1 or 3 and writer version 7"
        )
    unknown = {*(protocol.get("readerFeatures") or ())} - {*READER_FEATURES}
    unknown |= {*(protocol.get("writerFeatures") or ())} - {*WRITER_FEATURES}
    if unknown:
        raise UnsupportedFormat(
            f"{table} uses table features that BatchWeave does not know: "
            f"{', '.join(sorted(unknown))}. Drop them, or upgrade BatchWeave"
        )


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
