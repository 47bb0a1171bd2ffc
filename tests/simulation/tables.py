"""Both kinds of table over the simulated store: opened for an actor, and read back afterwards.

``register`` is `tests.simulation.register`; ``iceberg`` is the real `IcebergTable` over the real
`ObjectStoreCatalog`. The limits that decide when history is cleaned up are made small, so that a
short history meets them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Protocol
from unittest import mock

from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestEntry, read_manifest_list
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil

from batchweave import ledger, retention, sweep
from batchweave.batch import Position, position_from_text
from batchweave.catalog import Catalog
from batchweave.catalogs import iceberg, iceberg_commit, manifests, merging, versions
from batchweave.catalogs.files import ObjectsFileIO
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.catalogs.iceberg_catalog import IcebergCatalog
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.clock import Clock
from batchweave.columns import schema_to_text
from batchweave.errors import BatchWeaveError
from batchweave.ledger import Ledger, records
from batchweave.objects import MemoryObjects, Objects
from batchweave.side_objects import decode_text
from batchweave.state import PREFIX, StreamState, from_properties, to_properties
from batchweave.table import BatchEntry, Part, Table
from batchweave.testing.suite import NotAsked
from tests.simulation import register
from tests.simulation.chronicle import Chronicle, Version, Written
from tests.simulation.content import MESH, SCHEMA, Encoder
from tests.simulation.record import Final, FinalRow
from tests.simulation.register import RegisterTable, physical

ROOT = "memory://simulated"
NAME = ("demo", "stream")
LEDGER = "ledger"
LEDGER_NAME = ("demo", "stream__ledger")


class Kind(Protocol):
    """One kind of table."""

    encoder: Encoder
    folder: str
    reclaims: bool

    def first_objects(self) -> dict[str, bytes]:
        """What the store holds when a stream has just been created."""
        ...

    def open(self, objects: Objects, clock: Clock, process: dict[str, Any]) -> Table:
        """The table, for one actor; actors of one process share what the process remembers."""
        ...

    def open_ledger(self, objects: Objects, clock: Clock) -> Ledger:
        """The stream's ledger, without threads. Only where ``reclaims``."""
        ...

    def final(self, items: dict[str, bytes]) -> tuple[int, StreamState, list[FinalRow]]:
        """Version, state and rows, read from the store's content."""
        ...

    def dangling(self, items: dict[str, bytes]) -> list[str]:
        """Files that are gone although some snapshot or tag of the final table names them."""
        ...

    def chronicle(self, writes: list[Written]) -> Chronicle:
        """Every version of the table and its ledger, from all that was ever written."""
        ...

    def limits(self) -> contextlib.AbstractContextManager[None]:
        """Small limits, while a history runs."""
        ...


class Register:
    """`RegisterTable`, with a ledger in a folder of its own."""

    folder = ""
    reclaims = True

    def __init__(self) -> None:
        self.encoder = Encoder(physical(SCHEMA))

    def first_objects(self) -> dict[str, bytes]:
        objects = MemoryObjects(ROOT)
        RegisterTable.created(objects, StreamState(mesh=MESH))
        RegisterTable.created(objects.within(LEDGER), StreamState(mesh=ledger.MESH))
        return _content(objects)

    def open(self, objects: Objects, clock: Clock, process: dict[str, Any]) -> Table:
        return RegisterTable(objects, clock)

    def open_ledger(self, objects: Objects, clock: Clock) -> Ledger:
        table = RegisterTable(
            objects.within(LEDGER),
            clock,
            name="simulated.register__ledger",
            schema=ledger.SCHEMA,
            mesh=ledger.MESH,
        )
        return Ledger(table, "simulated.register", clock, threads=0)

    def final(self, items: dict[str, bytes]) -> tuple[int, StreamState, list[FinalRow]]:
        names = [name for name in items if name.startswith(register.FOLDER + "/")]
        version, state, batches = register.document(items[max(names, key=_number)])
        return version, state, rows_of(batches, items)

    def dangling(self, items: dict[str, bytes]) -> list[str]:
        return []

    def chronicle(self, writes: list[Written]) -> Chronicle:
        ordered = sorted(writes, key=lambda one: one.serial)
        return Chronicle(
            ordered,
            _versions(ordered, f"{register.FOLDER}/"),
            _versions(ordered, f"{LEDGER}/{register.FOLDER}/"),
            self.folder,
            f"{LEDGER}/",
        )

    @contextlib.contextmanager
    def limits(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module, name, value in (
                (retention, "STEPS_PER_COMMIT", 3),
                (sweep, "DELETES_PER_REQUEST", 2),
                (records, "ROWS_PER_BATCH", 2),
            ):
                stack.enter_context(mock.patch.object(module, name, value))
            yield


def _versions(ordered: Sequence[Written], folder: str) -> list[Version]:
    """The register's versions that were the newest when they were written.

    One that a sleeper wrote below the newest never counted.
    """
    found: list[Version] = []
    for one in ordered:
        if not one.key.startswith(folder) or (found and _number(one.key) < found[-1].number):
            continue
        number, state, batches = register.document(one.data)
        found.append(Version(number, one.from_us, state, tuple(batches)))
    return found


def _number(path: str) -> int:
    """The version in the name of a version's object."""
    return int(path.rpartition("/v")[2].partition(".")[0])


def rows_of(batches: Sequence[BatchEntry], items: dict[str, bytes]) -> list[FinalRow]:
    """One row a part, with the bytes that lie at its path."""
    return [
        FinalRow(
            step=batch.step,
            producer=batch.producer,
            sequence=batch.sequence,
            digest=part.digest,
            path=part.path,
            first_slice=part.first_slice,
            slices=part.slices,
            data=items.get(part.path),
        )
        for batch in batches
        for part in batch.parts
    ]


class Iceberg:
    """`IcebergTable` over `ObjectStoreCatalog`."""

    folder = "/".join(NAME) + "/"
    ledger_folder = "/".join(LEDGER_NAME) + "/"
    reclaims = True

    def __init__(self) -> None:
        catalog = ObjectStoreCatalog("simulated", warehouse=ROOT)
        tables = IcebergCatalog(catalog)
        made = Catalog("simulated", tables, NotAsked())
        table = made.create_stream(".".join(NAME), schema=SCHEMA, mesh=MESH).table
        rows = to_properties(StreamState(mesh=ledger.MESH))
        rows[PREFIX + "schema"] = schema_to_text(ledger.SCHEMA)
        tables.create(LEDGER_NAME, ledger.SCHEMA, rows)
        self._first = _content(catalog.objects)
        self.encoder = Encoder(table.file_schema)

    def first_objects(self) -> dict[str, bytes]:
        return self._first

    def open(self, objects: Objects, clock: Clock, process: dict[str, Any]) -> Table:
        if "catalog" not in process:
            process["catalog"] = ObjectStoreCatalog("simulated", warehouse=ROOT)
            process["catalog"].objects = objects
        catalog = process["catalog"]
        return IcebergTable(catalog, catalog.load_table(NAME), clock=clock)

    def open_ledger(self, objects: Objects, clock: Clock) -> Ledger:
        catalog = ObjectStoreCatalog("simulated", warehouse=ROOT)
        catalog.objects = objects
        table = IcebergTable(catalog, catalog.load_table(LEDGER_NAME), clock=clock)
        return Ledger(table, ".".join(NAME), clock, threads=0)

    def _newest(self, items: dict[str, bytes]) -> TableMetadata:
        names = [
            name
            for name in items
            if name.startswith(self.folder) and name.endswith(".metadata.json")
        ]
        return TableMetadataUtil.parse_raw(items[max(names, key=_number)].decode())

    def dangling(self, items: dict[str, bytes]) -> list[str]:
        metadata, io = self._newest(items), ObjectsFileIO(in_memory(items))
        return [
            f"snapshot {snapshot.sequence_number} names {entry.data_file.file_path}, which is gone"
            for snapshot in metadata.snapshots
            for manifest in read_manifest_list(io.new_input(snapshot.manifest_list))
            for entry in manifest.fetch_manifest_entry(io)
            if entry.data_file.file_path.removeprefix(f"{ROOT}/") not in items
        ]

    def chronicle(self, writes: list[Written]) -> Chronicle:
        ordered = sorted(writes, key=lambda one: one.serial)
        io = ObjectsFileIO(in_memory({one.key: one.data for one in ordered}))
        return Chronicle(
            ordered,
            _iceberg_versions(ordered, self.folder, io),
            _iceberg_versions(ordered, self.ledger_folder, io),
            self.folder,
            self.ledger_folder,
        )

    def final(self, items: dict[str, bytes]) -> tuple[int, StreamState, list[FinalRow]]:
        metadata = self._newest(items)
        state = from_properties(metadata.properties, "the final table")
        snapshot = metadata.current_snapshot()
        if snapshot is None:
            return 0, state, []
        io = ObjectsFileIO(in_memory(items))
        rows = [
            _row(entry.data_file, items)
            for manifest in read_manifest_list(io.new_input(snapshot.manifest_list))
            for entry in manifest.fetch_manifest_entry(io)
        ]
        return snapshot.sequence_number or 0, state, rows

    @contextlib.contextmanager
    def limits(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module, name, value in (
                (versions, "VERSIONS_KEPT", 4),
                (versions, "IDLE_POLLS_PER_LIST", 4),
                (iceberg_commit, "SNAPSHOTS_LIVE", 4),
                (iceberg, "TIDY_EVERY", 3),
                (merging, "FAN_IN", 3),
                (manifests, "LATE_VERSIONS", 9),
                (manifests, "MERGE_AGE_MAX", 3),
            ):
                stack.enter_context(mock.patch.object(module, name, value))
            yield


def _iceberg_versions(ordered: Sequence[Written], folder: str, io: FileIO) -> list[Version]:
    """The table's versions that were the newest when they were written."""
    found: list[Version] = []
    newest = -1
    known: dict[str, list[BatchEntry]] = {}
    for one in ordered:
        named = one.key.startswith(f"{folder}metadata/v") and one.key.endswith(".metadata.json")
        if not named or _number(one.key) <= newest:
            continue
        newest = _number(one.key)
        metadata = TableMetadataUtil.parse_raw(one.data.decode())
        state = from_properties(metadata.properties, one.key)
        snapshot = metadata.current_snapshot()
        batches: dict[int, list[BatchEntry]] = {}
        for manifest in (
            read_manifest_list(io.new_input(snapshot.manifest_list)) if snapshot else ()
        ):
            path = manifest.manifest_path
            if path not in known:
                entries = manifest.fetch_manifest_entry(io)
                known[path] = [_entry(one, folder) for one in entries]
            for batch in known[path]:
                batches.setdefault(batch.step, []).append(batch)
        whole = tuple(_whole(parts) for _, parts in sorted(batches.items()))
        version = snapshot.sequence_number or 0 if snapshot else 0
        found.append(Version(version, one.from_us, state, whole))
    return found


def _entry(entry: ManifestEntry, folder: str) -> BatchEntry:
    """One part of a batch, as a batch."""
    file = entry.data_file
    bound = file.lower_bounds[min(file.value_counts)]  # of the slice column, the only one counted
    source = next((text for text in file.lower_bounds.values() if text != bound), None)
    part = Part(
        path=file.file_path.removeprefix(f"{ROOT}/{folder}"),
        digest=file.partition[4],
        first_slice=int.from_bytes(bound, "little"),
        slices=len(file.split_offsets or ()),
        rows=file.record_count,
        bytes=file.file_size_in_bytes,
        offsets=tuple(file.split_offsets or ()),
        data_end=0,
        source=None if source is None else source.decode(),
    )
    step, producer, sequence, committed_at, _ = (file.partition[at] for at in range(5))
    return BatchEntry(step, producer, sequence, committed_at // 1000, (part,))


def _whole(parts: Sequence[BatchEntry]) -> BatchEntry:
    ordered = sorted(parts, key=lambda one: one.parts[0].first_slice)
    return replace(ordered[0], parts=tuple(one.parts[0] for one in ordered))


def _row(file: DataFile, items: dict[str, bytes]) -> FinalRow:
    path = file.file_path.removeprefix(f"{ROOT}/")
    bound = file.lower_bounds[min(file.value_counts)]  # of the slice column, the only one counted
    return FinalRow(
        step=file.partition[0],
        producer=file.partition[1],
        sequence=file.partition[2],
        digest=file.partition[4],
        path=path,
        first_slice=int.from_bytes(bound, "little"),
        slices=len(file.split_offsets or ()),
        data=items.get(path),
    )


def in_memory(items: dict[str, bytes]) -> MemoryObjects:
    """The same content in a store without a simulation."""
    objects = MemoryObjects(ROOT)
    for path, data in items.items():
        objects.create(path, data)
    return objects


@cache
def kind(name: str) -> Kind:
    """The kind of that name; made once a process."""
    return Register() if name == "register" else Iceberg()


def read_final(
    which: Kind,
    items: dict[str, bytes],
    table: Table,
    rows_ledger: Ledger | None,
    chronicle: Chronicle,
) -> Final:
    """The table as it is in the end; ``table`` and its ledger read without faults."""
    errors: list[str] = []
    version, state, rows = which.final(items)
    try:
        head = table.head()
        entries = list(table.entries(head, head.state.watermark, head.state.next_step))
    except (BatchWeaveError, FileNotFoundError) as error:
        entries = []
        errors.append(f"the final table cannot be read: {error!r}")
    final = Final(version, state, sorted(rows, key=_order), entries, errors, chronicle)
    for name, producer in state.producers.items():
        try:
            final.positions[name] = _position(producer.position, which.folder, items)
        except (KeyError, ValueError) as error:
            errors.append(f"the position of producer {name!r} cannot be read: {error!r}")
    final.former = _former(chronicle, state.watermark)
    final.dangling = which.dangling(items)
    if rows_ledger is not None:
        try:
            final.recorded = list(rows_ledger.read())
            final.recorded_to = rows_ledger.place()
        except (BatchWeaveError, FileNotFoundError) as error:
            errors.append(f"the ledger cannot be read: {error!r}")
    return final


def _former(chronicle: Chronicle, watermark: int) -> list[FinalRow]:
    """The rows of batches that left the table, as they were last in it."""
    found: dict[int, BatchEntry] = {}
    for version in chronicle.versions:
        found.update((one.step, one) for one in version.batches if one.step < watermark)
    batches = [batch for _, batch in sorted(found.items())]
    skip = len(chronicle.folder)
    content = {key[skip:]: data for key, data in chronicle.content().items()}
    return sorted(rows_of(batches, content), key=_order)


def _order(row: FinalRow) -> tuple[int, int, str]:
    return row.step, row.first_slice, row.path


def _position(text: str | None, folder: str, items: dict[str, bytes]) -> Position:
    if text is None or "object" not in json.loads(text):
        return position_from_text(text)
    reference = json.loads(text)
    data = items[folder + reference["object"]]
    if hashlib.sha256(data).hexdigest() != reference["sha256"]:
        raise ValueError("its object was changed")
    return position_from_text(decode_text(data, reference["object"]))


def _content(objects: Objects) -> dict[str, bytes]:
    return {info.path: bytes(objects.get(info.path)[0]) for info in objects.list()}
