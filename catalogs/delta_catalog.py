"""Streams as Delta tables in a warehouse: what `batchweave.catalog.TableCatalog` asks.

The table of ``a.b.name`` is the folder ``<warehouse>/a/b/name``; its ``_delta_log`` is the
registration. Creating is one put-if-absent of entry 0.
"""

from __future__ import annotations

import contextlib
import re

import pyarrow as pa

from batchweave.catalogs import delta_schema
from batchweave.catalogs.delta import DeltaTable
from batchweave.catalogs.delta_actions import (
    commit_info,
    domain_actions,
    entry_bytes,
    parse_entry,
    protocol_action,
)
from batchweave.catalogs.delta_checkpoint import LOG, checkpoint_path
from batchweave.catalogs.delta_log import DeltaLog
from batchweave.catalogs.delta_snapshot import Snapshot, is_stream
from batchweave.catalogs.delta_upkeep import HINT
from batchweave.catalogs.folders import DEPTH_MAX, check_own_folder, holds_iceberg, table_below
from batchweave.catalogs.versions import Memory
from batchweave.clock import Clock, SystemClock
from batchweave.conditional_writes import check_conditional_writes
from batchweave.errors import (
    InvalidName,
    InvalidSettings,
    NotAStream,
    ObjectExists,
    StoreError,
    StoreUnavailable,
    StreamCorrupted,
    StreamExists,
    StreamNotFound,
)
from batchweave.objects import Objects, join, open_objects
from batchweave.state import PREFIX
from batchweave.table import COMMIT_COLUMNS

IMMUTABLE = tuple(PREFIX + name for name in ("format-version", "mesh", "schema"))
"""State that never changes stands in the table's configuration, where engines show it."""

CONFIGURATION = {"delta.enableExpiredLogCleanup": "false"}
_ALLOWED = ("delta.deletedFileRetentionDuration", "delta.logRetentionDuration")
_OWN = re.compile(
    r"_delta_log/.*"
    r"|data/(?:(?:positions/)?v\d+|maintenance)/.*"
    r"|(?:_change_data/)?(?:[^/=]+=[^/]*/)*[^/]+\.(?:parquet|bin)"
)
"""What a stream or an engine writes into a table's folder, and no table that lies inside of it."""

_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")


class DeltaCatalog:
    """Streams as Delta tables below one folder, bucket prefix or memory root."""

    def __init__(
        self, name: str, properties: dict[str, str], *, clock: Clock | None = None
    ) -> None:
        warehouse = properties.get("warehouse")
        if not warehouse:
            raise InvalidSettings(
                f"catalog {name!r} needs a warehouse, for example warehouse='./warehouse'"
            )
        self.name = name
        self.properties = dict(properties)
        self.objects: Objects = open_objects(warehouse, properties)
        self._clock = clock or SystemClock()
        self._memory = Memory()

    def create(
        self, name: tuple[str, ...], schema: pa.Schema, properties: dict[str, str]
    ) -> DeltaTable:
        dotted = ".".join(name)
        table_schema = delta_schema.table_schema(schema)
        _check_properties(properties)
        self._check_free(name)
        check_conditional_writes(self.objects, self._clock)
        log = self._log(name)
        self._clear(log)
        table_id = _uuid(self._clock.token())
        now_ms = self._clock.now_ms()
        state = {k: v for k, v in properties.items() if k.startswith(PREFIX)}
        configuration = {k: v for k, v in properties.items() if k not in state} | CONFIGURATION
        configuration |= {key: state.pop(key) for key in IMMUTABLE}
        metadata = {
            "id": table_id,
            "name": dotted,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": table_schema,
            "partitionColumns": list(COMMIT_COLUMNS),
            "createdTime": now_ms,
            "configuration": configuration,
        }
        without_zone = delta_schema.uses_timestamps_without_zone(schema)
        actions = [
            commit_info(table_id, self._clock.token(), now_ms, "CREATE TABLE", {}),
            protocol_action(timestamps_without_zone=without_zone),
            {"metaData": metadata},
            *domain_actions(state),
        ]
        try:
            log.versions.create(0, entry_bytes(actions))
        except (ObjectExists, StoreUnavailable) as error:
            if not self._is_ours(log, table_id):
                if isinstance(error, StoreUnavailable):
                    raise
                raise _exists(dotted) from None
        return self._table(dotted, log, log.open())

    def load(self, name: tuple[str, ...]) -> DeltaTable:
        dotted = ".".join(name)
        log = self._log(name)
        try:
            snapshot = log.open()
        except StreamNotFound:
            if self._is_iceberg(name):
                raise NotAStream(
                    f"{dotted} is an Iceberg table: open its catalog with type='object-store'"
                ) from None
            raise StreamNotFound(
                f"there is no stream {dotted!r} in catalog {self.name!r}"
            ) from None
        return self._table(dotted, log, snapshot)

    def streams(self) -> list[str]:
        found = []
        for name in self._tables(()):
            with contextlib.suppress(StreamNotFound):  # dropped meanwhile
                if is_stream(self._log(name).open()):
                    found.append(".".join(name))
        return sorted(found)

    def register(self, name: tuple[str, ...], location: str, *, take_over: bool) -> DeltaTable:
        """Nothing is written: the log is the registration. So there is nothing to take over."""
        check_own_folder(self.objects.uri, location, name)
        return self.load(name)

    def drop(self, name: tuple[str, ...]) -> None:
        """Remove a stream: its entries first, oldest first, then what was there before that.

        Its name may be taken again at once, so nothing is deleted that came after; nor is anything
        of a table that lies inside of the folder.
        """
        dotted = ".".join(name)
        log = self._log(name)
        try:
            stream = is_stream(log.open())
        except StreamNotFound:
            raise StreamNotFound(
                f"there is no stream {dotted!r} in catalog {self.name!r}"
            ) from None
        except StreamCorrupted:
            stream = self._was_stream(log)  # dropping it was begun before
        if not stream:
            raise NotAStream(f"{dotted} is not a BatchWeave stream: it was not dropped")
        others = [
            info.path
            for info in log.objects.list()
            if _OWN.fullmatch(info.path)
            and (log.versions.layout.number(info.path) is None or not info.path.startswith(LOG))
        ]
        log.objects.delete([HINT])
        log.versions.delete_all()
        log.objects.delete(others)

    # -- names -----------------------------------------------------------------------------

    def _table(self, dotted: str, log: DeltaLog, snapshot: Snapshot) -> DeltaTable:
        return DeltaTable(dotted, log, snapshot, clock=self._clock, properties=self.properties)

    def _log(self, name: tuple[str, ...]) -> DeltaLog:
        return DeltaLog(self.objects.within(join(*name)), ".".join(name), self._memory)

    def _check_free(self, name: tuple[str, ...]) -> None:
        dotted = ".".join(name)
        if self._is_delta(name):
            raise _exists(dotted)
        if self._is_iceberg(name):
            raise StreamExists(f"{dotted} exists already as an Iceberg table: choose another name")
        for depth in range(1, len(name)):
            if self._is_delta(name[:depth]) or self._is_iceberg(name[:depth]):
                raise InvalidName(
                    f"{'.'.join(name[:depth])} is a table: nothing can be created below it"
                )
        below = table_below(self._log(name).objects)
        if below is not None:
            raise StreamExists(
                f"{dotted} is a namespace, {below} in it is a table: choose another name"
            )

    def _is_delta(self, name: tuple[str, ...]) -> bool:
        return self._log(name).versions.newest() is not None

    def _is_iceberg(self, name: tuple[str, ...]) -> bool:
        return holds_iceberg(self.objects.within(join(*name)))

    def _tables(self, parent: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Names of all Delta tables below a namespace."""
        found: list[tuple[str, ...]] = []
        folders, _ = self.objects.children(join(*parent))
        for folder in sorted(folders):
            name = (*parent, folder)
            if not _FOLDER.fullmatch(folder) or len(name) > DEPTH_MAX or folder == LOG:
                continue
            if self._is_delta(name):
                found.append(name)
            elif not self._is_iceberg(name):
                found += self._tables(name)
        return found

    def _clear(self, log: DeltaLog) -> None:
        """Remove what an interrupted drop left in a log without entries."""
        folder = log.folder()
        if not folder.entries:
            log.objects.delete([HINT, *(checkpoint_path(one) for one in folder.checkpoints)])

    def _was_stream(self, log: DeltaLog) -> bool:
        """Whether the newest entry is BatchWeave's, where the log cannot be read as a whole."""
        found = log.versions.read_newest()
        return found is not None and parse_entry(found[0], bytes(found[1]), "").table_id is not None

    def _is_ours(self, log: DeltaLog, table_id: str) -> bool:
        """Whether entry 0 is the one just written: the store wrote it, its answer was lost."""
        try:
            data, _ = log.versions.get(0)
        except StoreError:
            return False
        return parse_entry(0, bytes(data), "").table_id == table_id

    def __repr__(self) -> str:
        return f"DeltaCatalog({self.name!r}, warehouse={self.objects.uri!r})"


def _uuid(token: str) -> str:
    """A token in the form that engines take for a table's ID."""
    return "-".join((token[:8], token[8:12], token[12:16], token[16:20], token[20:]))


def _exists(dotted: str) -> StreamExists:
    return StreamExists(f"{dotted} exists already: load it, or choose another name")


def _check_properties(properties: dict[str, str]) -> None:
    refused = [
        key for key in properties if key.lower().startswith("delta.") and key not in _ALLOWED
    ]
    if refused:
        raise InvalidSettings(
            f"properties of Delta itself cannot be set on a stream: {', '.join(sorted(refused))}; "
            f"allowed are {', '.join(_ALLOWED)}"
        )
