"""Adopting a stream's folder into a catalog, in an order that never leaves two writable streams.

1. Everything is checked, and nothing is written: the folder, what is in it, the name.
2. The mark of `batchweave.catalogs.moves` is committed to the folder: its writers stop.
3. The version that carries the mark is registered under the new name.

A crash between 2 and 3 leaves a stream that nobody can write; the same call again goes on from
there. A registration that was definitely refused takes its own mark back, and nobody else's. One
whose outcome is not known leaves it: the request may still land.

Adopters may come at the same time. A mark is set only over none, over one of the same place, or
over the one that the caller was shown and takes over; whoever finds another one in the commit
itself has lost. A mark of the same place is written again with the token of the later call, which
may rely on it: the earlier call, if it is refused, then leaves it.
Imports: the core, catalogs.failures, moves, object_store, iceberg, pyiceberg.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    BadRequestError,
    ForbiddenError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    UnauthorizedError,
)
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table as IcebergHandle
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import (
    RemovePropertiesUpdate,
    SetPropertiesUpdate,
    TableRequirement,
    TableUpdate,
)

from batchweave.catalogs.failures import (
    as_store_error,
    first_line,
    is_refusal,
    without_secrets,
)
from batchweave.catalogs.folders import check_own_folder
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.catalogs.moves import MOVED_TO, Place, moved_to
from batchweave.catalogs.object_store import METADATA, NAMESPACE, ObjectStoreCatalog
from batchweave.clock import Clock, SystemClock
from batchweave.commit import commit
from batchweave.errors import (
    BatchWeaveError,
    InvalidSettings,
    StoreUnavailable,
    StreamExists,
    StreamMoved,
    StreamNotFound,
    UnsupportedFormat,
)
from batchweave.objects import Objects, open_objects, split_uri
from batchweave.state import check_format
from batchweave.table import Change, Head

_REFUSALS = (
    AuthorizationExpiredError,
    BadRequestError,
    ForbiddenError,
    NoSuchNamespaceError,
    NotImplementedError,
    TableAlreadyExistsError,
    UnauthorizedError,
)
"""After these the catalog has not registered anything, and will not."""

_OWN_VERSION = re.compile(r"v(\d+)\.metadata\.json")
_FORMAT = 2

Prepared: TypeAlias = tuple[
    IcebergHandle, tuple[TableRequirement, ...], tuple[TableUpdate, ...], list[ManifestFile]
]


class _Folder(ObjectStoreCatalog):
    """The folder that is to be adopted, as a catalog of one table, also after it has moved."""

    def check_here(self, metadata: TableMetadata, name: str) -> None:
        """Whoever moves it may look."""


def adopt(
    catalog: Catalog,
    name: tuple[str, ...],
    location: str,
    *,
    make_namespace: Callable[[tuple[str, ...]], None],
    take_over: bool = False,
    clock: Clock | None = None,
) -> IcebergHandle:
    """Register the stream in a folder under a name; its writers elsewhere are stopped first.

    ``take_over`` adopts a folder that is marked as moved to some other place. What was committed
    through that place since is not seen, and is lost if it is used any further.

    Raises:
        InvalidSettings: this catalog cannot hold the folder, or the folder cannot be reached.
        StreamNotFound: there is no table in it.
        NotAStream, UnsupportedFormat: it is not what can be adopted.
        StreamMoved: it is some other catalog's.
        StreamExists: the name is taken.
        StoreDenied: the folder or the catalog cannot be written.
        StoreUnavailable: the outcome is not known; the same call again finds out.
    """
    objects = open_objects(location, catalog.properties)
    if split_uri(objects.uri)[0] == "memory":
        raise InvalidSettings(f"{objects.uri} is this process's own: no catalog can hold it")
    clock = clock or SystemClock()
    source = _open_source(catalog, objects, clock)
    place = Place.of(catalog, name, clock.token())
    known = _registered(catalog, name)
    if known is not None:
        if known.metadata.table_uuid == source.uuid and source.place == place:
            return known
        raise StreamExists(f"{place.stream} exists already: choose another name")
    source.check_movable(place, take_over)
    make_namespace(name[:-1])
    source.mark(place)
    return _register(catalog, name, source)


def own_folder(
    catalog: ObjectStoreCatalog, name: tuple[str, ...], location: str, *, take_over: bool = False
) -> None:
    """Check that a folder is the one that an object-store catalog finds under the name.

    There is nothing to write but the namespaces: the folder is its own registration. With
    ``take_over`` a mark that says it has moved is taken back.
    """
    check_own_folder(catalog.objects.uri, location, name)
    objects = catalog.objects.within("/".join(name))
    source = _open_source(catalog, objects, SystemClock(), in_namespace=False)
    if source.place is not None and not take_over:
        raise _elsewhere(location, source.place)
    if source.place is not None:
        source.take_back()


class _Marking(IcebergTable):
    """A table whose commits also set the mark to ``place``, or remove it."""

    place: Place | None = None

    def _prepared(self, base: Head, change: Change) -> Prepared:
        handle, requirements, updates, manifests = super()._prepared(base, change)
        mark: TableUpdate = RemovePropertiesUpdate(removals=[MOVED_TO])
        if self.place is not None:
            mark = SetPropertiesUpdate(updates={MOVED_TO: self.place.to_text()})
        return handle, requirements, (*updates, mark), manifests


class _Source:
    """A stream in a folder: what it is, and the commits that mark it."""

    def __init__(self, catalog: _Folder, handle: IcebergHandle, clock: Clock) -> None:
        self._table = _Marking(catalog, handle, clock=clock)
        self._clock = clock
        self.uuid = handle.metadata.table_uuid
        self.place = moved_to(handle.metadata)
        self.location = handle.metadata_location
        self.is_free = self.place is None
        self._overridden: Place | None = None
        self._stopped_by_us = False

    @property
    def objects(self) -> Objects:
        """The folder."""
        return self._table.objects

    def check_movable(self, place: Place, take_over: bool) -> None:
        """Refuse what another place has, or has had, unless the caller knows better."""
        if take_over:
            self._overridden = self.place
        if take_over or self.place is None:
            return
        if self.place != place:
            raise _elsewhere(self.objects.uri, self.place)
        if _foreign_versions(self.objects):
            raise StreamMoved(
                f"{self.objects.uri} was registered as {place} before, and commits followed there: "
                "to register what this folder knew until then, loses them (take_over does it)"
            )

    def mark(self, place: Place) -> None:
        """Commit that the stream has moved; from then on nobody writes through the folder.

        Raises:
            StreamMoved: another place has it meanwhile.
        """
        replaced: list[Place | None] = []

        def plan(head: Head) -> Change | None:
            found = moved_to(head.detail.metadata)
            if found is not None and found.token == place.token:
                return None  # an earlier try of this very call
            if found is not None and found not in (place, self._overridden):
                raise _elsewhere(self.objects.uri, found)
            replaced.append(found)
            return Change(head.state)

        self._commit(place, plan)
        self.place = place
        self._stopped_by_us = replaced[-1] != place

    def unmark(self) -> bool:
        """Commit that it has not moved after all, if the mark is of this call alone.

        Another call may rely on a mark of the same place that was there before, or came since.
        Returns whether the folder's writers can go on.
        """
        mine = self.place

        def plan(head: Head) -> Change | None:
            found = moved_to(head.detail.metadata)
            theirs = found is None or mine is None or found.token != mine.token
            return None if theirs else Change(head.state)

        if self._stopped_by_us:
            self._commit(None, plan)
        return self.is_free

    def take_back(self) -> None:
        """Commit that the stream is the folder's own again: the mark that was shown goes.

        Raises:
            StreamMoved: another place has it meanwhile.
        """
        shown = self.place

        def plan(head: Head) -> Change | None:
            found = moved_to(head.detail.metadata)
            if found is None:
                return None
            if found != shown:
                raise _elsewhere(self.objects.uri, found)
            return Change(head.state)

        self._commit(None, plan)

    def _commit(self, place: Place | None, plan: Callable[[Head], Change | None]) -> None:
        self._table.place = place
        head = commit(self._table, plan, clock=self._clock, what="marking as moved")
        self.location = head.detail.handle.metadata_location
        self.is_free = moved_to(head.detail.metadata) is None


def _open_source(
    catalog: Catalog, objects: Objects, clock: Clock, *, in_namespace: bool = True
) -> _Source:
    uri = objects.uri
    parent, _, leaf = uri.rstrip("/").rpartition("/")
    if not parent.partition("://")[2]:
        raise InvalidSettings(f"{uri} is not the folder of a table: it has no namespace above it")
    folder = _Folder("folder", **{**catalog.properties, "warehouse": parent})
    try:
        handle = folder.load_table((leaf,))
    except NoSuchTableError:
        raise _nothing_in(objects) from None
    check_format(handle.properties, uri)
    version = handle.metadata.format_version
    if version != _FORMAT:
        raise UnsupportedFormat(f"{uri} is an Iceberg v{version} table, streams are v{_FORMAT}")
    if split_uri(handle.location()) != split_uri(uri):
        raise InvalidSettings(
            f"the table in {uri} was made at {handle.location()} and its metadata names its files "
            "there: a copied or moved folder cannot be adopted"
        )
    if in_namespace and NAMESPACE not in {one.path for one in folder.objects.children()[1]}:
        raise UnsupportedFormat(
            f"{uri} was not made by an object-store catalog: the catalog that has it alone knows "
            "which of its metadata files is the newest, and alone can give it away"
        )
    return _Source(folder, handle, clock)


def _nothing_in(objects: Objects) -> Exception:
    folders, _ = objects.children()
    if "_delta_log" in folders:
        return UnsupportedFormat(
            f"{objects.uri} is a Delta table: a catalog of type delta finds it by its folder"
        )
    if METADATA in folders:
        return UnsupportedFormat(
            f"{objects.uri} is an Iceberg table that no object-store catalog made: the catalog "
            "that has it alone knows which of its metadata files is the newest"
        )
    return StreamNotFound(f"there is no stream's table in {objects.uri}")


def _elsewhere(location: str, place: Place) -> StreamMoved:
    return StreamMoved(
        f"the stream in {location} has moved and is now {place}: open it there. If that place "
        "does not have it, and never will, take_over adopts it all the same"
    )


def _foreign_versions(objects: Objects) -> bool:
    """Whether a catalog that names its metadata files in another way has committed here."""
    names = (one.path.rpartition("/")[2] for one in objects.children(METADATA)[1])
    return any(
        name.endswith(".metadata.json") and not _OWN_VERSION.fullmatch(name) for name in names
    )


def _registered(catalog: Catalog, name: tuple[str, ...]) -> IcebergHandle | None:
    try:
        return catalog.load_table(name)
    except (NoSuchTableError, NoSuchNamespaceError):
        return None


def _register(catalog: Catalog, name: tuple[str, ...], source: _Source) -> IcebergHandle:
    dotted = ".".join(name)
    unknown = (
        f"whether {dotted} was registered is not known. The folder's writers are stopped; the "
        "same call again goes on from here"
    )
    try:
        return catalog.register_table(name, source.location)
    except _REFUSALS as error:
        try:
            known = _registered(catalog, name)
        except Exception as unseen:
            raise _unavailable(unseen, unknown, catalog) from unseen
        if known is not None and known.metadata.table_uuid == source.uuid:
            return known  # an answer was lost and the request repeated
        raise _refused(catalog, dotted, error, freed=source.unmark()) from error
    except Exception as error:
        raise _unavailable(error, unknown, catalog) from error


def _refused(catalog: Catalog, dotted: str, error: Exception, *, freed: bool) -> BatchWeaveError:
    stays = (
        ""
        if freed
        else (
            ". The folder stays marked as moved, for another call may rely on that; take_over in "
            "its own catalog takes the mark back"
        )
    )
    if isinstance(error, TableAlreadyExistsError):
        return StreamExists(f"{dotted} exists already: choose another name{stays}")
    if is_refusal(error):
        return as_store_error(error, f"{dotted} could not be registered{stays}", catalog.properties)
    said = without_secrets(first_line(error), catalog.properties)
    return InvalidSettings(f"this catalog cannot register a table: {said}{stays}")


def _unavailable(error: Exception, what: str, catalog: Catalog) -> StoreUnavailable:
    """Whatever went wrong: the outcome is not known, whether the catalog refused or was lost."""
    said = without_secrets(first_line(error), catalog.properties)
    return StoreUnavailable(f"{what}: {said}")
