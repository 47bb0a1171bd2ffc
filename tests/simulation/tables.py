"""Both kinds of table over the simulated store: opened for an actor, and read back at the end.

``register`` is `tests.simulation.register`; ``iceberg`` is the real `IcebergTable` over the real
`ObjectStoreCatalog`. The limits that decide when history is cleaned up are made small, so that a
short history meets them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Protocol
from unittest import mock

from pyiceberg.manifest import DataFile, read_manifest_list
from pyiceberg.table.metadata import TableMetadataUtil

from batchweave.batch import Position, position_from_text
from batchweave.catalog import Catalog
from batchweave.catalogs import iceberg, manifests, merging, object_store
from batchweave.catalogs.files import ObjectsFileIO
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.catalogs.iceberg_catalog import IcebergCatalog
from batchweave.catalogs.object_store import ObjectStoreCatalog
from batchweave.clock import Clock
from batchweave.errors import BatchWeaveError
from batchweave.objects import MemoryObjects, Objects
from batchweave.state import StreamState, from_properties
from batchweave.table import Table
from tests.simulation import register
from tests.simulation.content import MESH, SCHEMA, Encoder, ParquetEncoder, TextEncoder
from tests.simulation.record import Final, FinalRow
from tests.simulation.register import RegisterTable

ROOT = "memory://simulated"
NAME = ("demo", "stream")


class Kind(Protocol):
    """One kind of table."""

    encoder: Encoder
    folder: str

    def first_objects(self) -> dict[str, bytes]:
        """What the store holds when a stream has just been created."""
        ...

    def open(self, objects: Objects, clock: Clock, process: dict[str, Any]) -> Table:
        """The table, for one actor; actors of one process share what the process remembers."""
        ...

    def final(self, items: dict[str, bytes]) -> tuple[int, dict[str, str], list[FinalRow]]:
        """Version, properties and rows, read from the store's content."""
        ...

    def limits(self) -> contextlib.AbstractContextManager[None]:
        """Small limits, while a history runs."""
        ...


class Register:
    """`RegisterTable`."""

    folder = ""

    def __init__(self) -> None:
        self.encoder: Encoder = TextEncoder()

    def first_objects(self) -> dict[str, bytes]:
        objects = MemoryObjects(ROOT)
        RegisterTable.created(objects, StreamState(mesh=MESH))
        return _content(objects)

    def open(self, objects: Objects, clock: Clock, process: dict[str, Any]) -> Table:
        return RegisterTable(objects, clock)

    def final(self, items: dict[str, bytes]) -> tuple[int, dict[str, str], list[FinalRow]]:
        names = [name for name in items if name.startswith(register.FOLDER + "/")]
        newest = max(names, key=lambda name: int(name.rpartition("/v")[2].partition(".")[0]))
        version, properties, batches = register.documents(items[newest])
        rows = [
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
        return version, properties, rows

    def limits(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Iceberg:
    """`IcebergTable` over `ObjectStoreCatalog`."""

    folder = "/".join(NAME) + "/"

    def __init__(self) -> None:
        catalog = ObjectStoreCatalog("simulated", warehouse=ROOT)
        made = Catalog("simulated", IcebergCatalog(catalog), lambda stream, query: None)
        table = made.create_stream(".".join(NAME), schema=SCHEMA, mesh=MESH).table
        self._first = _content(catalog.objects)
        self.encoder: Encoder = ParquetEncoder(table.file_schema)

    def first_objects(self) -> dict[str, bytes]:
        return self._first

    def open(self, objects: Objects, clock: Clock, process: dict[str, Any]) -> Table:
        if "catalog" not in process:
            process["catalog"] = ObjectStoreCatalog("simulated", warehouse=ROOT)
            process["catalog"].objects = objects
        catalog = process["catalog"]
        return IcebergTable(catalog, catalog.load_table(NAME), clock=clock)

    def final(self, items: dict[str, bytes]) -> tuple[int, dict[str, str], list[FinalRow]]:
        names = [name for name in items if name.endswith(".metadata.json")]
        newest = max(names, key=lambda name: int(name.rpartition("/v")[2].partition(".")[0]))
        metadata = TableMetadataUtil.parse_raw(items[newest].decode())
        snapshot = metadata.current_snapshot()
        if snapshot is None:
            return 0, metadata.properties, []
        io = ObjectsFileIO(in_memory(items))
        rows = [
            _row(entry.data_file, items)
            for manifest in read_manifest_list(io.new_input(snapshot.manifest_list))
            for entry in manifest.fetch_manifest_entry(io)
        ]
        return snapshot.sequence_number or 0, metadata.properties, rows

    @contextlib.contextmanager
    def limits(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module, name, value in (
                (object_store, "VERSIONS_KEPT", 4),
                (object_store, "IDLE_POLLS_PER_LIST", 4),
                (iceberg, "SNAPSHOTS_LIVE", 4),
                (iceberg, "TIDY_EVERY", 3),
                (merging, "FAN_IN", 3),
                (manifests, "LATE_VERSIONS", 9),
                (manifests, "MERGE_AGE_MAX", 3),
            ):
                stack.enter_context(mock.patch.object(module, name, value))
            yield


def _row(file: DataFile, items: dict[str, bytes]) -> FinalRow:
    path = file.file_path.removeprefix(f"{ROOT}/")
    (bound,) = file.lower_bounds.values()  # of the slice column
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


def read_final(which: Kind, items: dict[str, bytes], table: Table) -> Final:
    """The table as it is in the end; ``table`` reads without faults."""
    errors: list[str] = []
    version, properties, rows = which.final(items)
    state = from_properties(properties, "the final table")
    try:
        head = table.head()
        entries = list(table.entries(head, 0, head.state.next_step))
    except (BatchWeaveError, FileNotFoundError) as error:
        entries = []
        errors.append(f"the final table cannot be read: {error!r}")
    positions: dict[str, Position] = {}
    for name, producer in state.producers.items():
        try:
            positions[name] = _position(producer.position, which.folder, items)
        except (KeyError, ValueError) as error:
            errors.append(f"the position of producer {name!r} cannot be read: {error!r}")
    return Final(version, properties, state, sorted(rows, key=_order), entries, positions, errors)


def _order(row: FinalRow) -> tuple[int, int, str]:
    return row.step, row.first_slice, row.path


def _position(text: str | None, folder: str, items: dict[str, bytes]) -> Position:
    if text is None or "object" not in json.loads(text):
        return position_from_text(text)
    reference = json.loads(text)
    data = items[folder + reference["object"]]
    if hashlib.sha256(data).hexdigest() != reference["sha256"]:
        raise ValueError("its object was changed")
    return position_from_text(data.decode())


def _content(objects: Objects) -> dict[str, bytes]:
    return {info.path: bytes(objects.get(info.path)[0]) for info in objects.list()}
