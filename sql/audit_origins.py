"""Tables of what producers say: their durable positions, and where their batches came from.

Imports: the core, audit_making, audit_sources.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from batchweave.errors import BatchWeaveError, ObjectNotFound, StreamCorrupted
from batchweave.ledger import batch_origins
from batchweave.runs import runs
from batchweave.side_objects import decode_text
from batchweave.sql.audit_making import Making, table
from batchweave.sql.audit_sources import places_of, said_by
from batchweave.sql.session import Session
from batchweave.state import ProducerState
from batchweave.table import BatchEntry, Part

_STEPS_AT_ONCE = 1000


def positions_read(making: Making) -> pa.Table:
    """Each producer's durable position: its JSON, the object that holds it, what is wrong."""
    session = making.session
    known = session.head.state.producers
    rows = {name: _position(session, name, one) for name, one in known.items()}
    if any(row["problem"] for row in rows.values()):
        now = session.stream.table.head().state.producers
        for name, row in rows.items():
            if now.get(name) != known[name]:
                row["problem"] = None  # it was superseded meanwhile, and may be swept
    return table(
        list(rows.values()),
        producer=pa.string(),
        object=pa.string(),
        position=pa.string(),
        problem=pa.string(),
    )


def _position(session: Session, name: str, known: ProducerState) -> dict[str, str | None]:
    row: dict[str, str | None] = {
        "producer": name,
        "object": None,
        "position": None,
        "problem": None,
    }
    try:
        value = json.loads(known.position) if known.position is not None else {}
        if "object" in value:
            row["object"] = path = str(value["object"])
            data, _ = session.stream.table.objects.get(path)
            if hashlib.sha256(data).hexdigest() != value["sha256"]:
                return {**row, "problem": "its position's object was changed"}
            value = json.loads(decode_text(data, path))
        if "json" in value:
            row["position"] = json.dumps(value["json"])
    except ObjectNotFound:
        row["problem"] = "its position's object is not there"
    except (StreamCorrupted, ValueError, TypeError, KeyError) as error:
        row["problem"] = f"its position cannot be read: {error}"
    return row


def position_places(making: Making) -> pa.Table:
    """Where each producer's position says that reading goes on, see `audit_sources`."""
    making.need("positions_read")
    known = making.rows("select producer, position from positions_read where position is not null")
    return table(
        [
            {"producer": producer, "thing": thing, "place": place}
            for producer, position in known
            for thing, place in places_of(position, producer)
        ],
        producer=pa.string(),
        thing=pa.string(),
        place=pa.int64(),
    )


def newest_ranges(making: Making) -> pa.Table:
    """The ranges that the newest batches name as their sources, where a position can be compared.

    They are few: what the metadata do not tell is read.
    """
    making.need("position_places")
    placed = set(making.rows("select producer, thing from position_places"))
    producers = {producer for producer, _ in placed}
    state = making.session.head.state
    newest = {one.step: name for name, one in state.producers.items() if name in producers}
    said: list[tuple[str, int, str]] = []
    for steps in runs(sorted(newest), _STEPS_AT_ONCE):
        try:
            said += [(newest[step], step, one) for step, one in _sources_of_steps(making, steps)]
        except BatchWeaveError as error:
            making.notes["newest_ranges"] = f"the newest sources cannot be read: {error}"
    found, _ = _ranges(said)
    named = zip(*(found.column(name).to_pylist() for name in ("producer", "thing")), strict=True)
    compared = {producer for producer, _ in placed.intersection(named)}
    given = sum(one.position is not None for one in state.producers.values())
    if len(compared) < given and "newest_ranges" not in making.notes:
        making.notes["newest_ranges"] = (
            f"{given - len(compared)} of {given} positions cannot be compared with sources"
        )
    return found


def _sources_of_steps(making: Making, steps: list[int]) -> list[tuple[int, str]]:
    """What the ledger, the metadata or else the data files say of a few steps."""
    wanted = ", ".join(f"{step:d}" for step in steps)
    said = [(step, source) for _, step, source in _recorded(making, f"batch_step in ({wanted})")]
    listed = making.session.sql(
        "select step, path, digest, first_slice, slices, rows, bytes, offsets, data_end, source "
        f"from parts where step in ({wanted})"
    )
    for row in listed.to_arrow_table().to_pylist():
        step = row.pop("step")
        if row["source"] is None:
            part = Part(**{**row, "offsets": tuple(row["offsets"])})
            entry = BatchEntry(step, "", 0, 0, (part,))
            origins = batch_origins(making.session.stream.table, entry)
            said += [(step, one) for one in origins.sources if one is not None]
        else:
            said.append((step, row["source"]))
    return said


def _recorded(making: Making, condition: str = "true") -> list[tuple[str, int, str]]:
    """What the ledger has: producer, step and source.

    The column is not named in a query, as the session would make the view of that name, which takes
    long where there are many files.
    """
    ledger = making.session.sql("from ledger").filter(condition)
    named = ledger.project("batch_producer, batch_step, unnest(sources) as source")
    return list(named.filter("source is not null").fetchall())


def source_ranges(making: Making) -> pa.Table:
    """The ranges that all sources name; ``start`` is null where one names none.

    (What an assembler wrote is left out where it names none: its text does not stand for its data.)
    What only the data files say is read where that was asked for.
    """
    notes = []
    if making.deep:
        said = making.rows(
            "select distinct owners.producer, step, source from sources join "
            "(select distinct step, producer from batches) as owners using (step) "
            "where source is not null"
        )
    else:
        listed = making.rows("select producer, step, source from parts where source is not null")
        said = list({*listed, *_recorded(making)})
        untold = making.rows("select count(distinct step) from parts where source is null")[0][0]
        if untold:
            notes.append(
                f"only the data files can tell the sources of some batches ({untold}): "
                "a deep audit reads them"
            )
    found, unnamed = _ranges(said)
    if unnamed:
        notes.append(
            f"{unnamed} of {len(said)} sources name no range, or not for all of their rows: "
            "these cannot be compared"
        )
    making.notes["source_ranges"] = "; ".join(notes)
    return found


def _ranges(said: Iterable[tuple[str, int, str]]) -> tuple[pa.Table, int]:
    """The ranges that sources name, and how many of them name none, or not all."""
    unnamed = 0
    columns: dict[str, list[Any]] = {
        name: [] for name in ("producer", "step", "thing", "start", "stop")
    }
    for producer, step, source in said:
        told = said_by(source, producer)
        unnamed += not told.complete
        named: list[tuple[str, int | None, int | None]] = [
            (one.thing, one.start, one.stop) for one in told.spans
        ]
        if not named and not told.assembled:
            named = [(source, None, None)]
        for values in named:
            for name, value in zip(columns, (producer, step, *values), strict=True):
                columns[name].append(value)
    kinds = (pa.string(), pa.int64(), pa.string(), pa.int64(), pa.int64())
    found = pa.table(
        {
            name: pa.array(values, kind)
            for (name, values), kind in zip(columns.items(), kinds, strict=True)
        }
    )
    return found, unnamed
