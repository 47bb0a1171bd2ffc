"""What says that a stream has moved: its folder's newest version names the catalog that has it.

A table folder of an object-store catalog is its own registration: whoever opens the folder can
commit to it. If another catalog held a pointer to the same files, both would go on committing, each
without seeing the other, and one stream would have become two. So a folder has one catalog at a
time, and moving it is a commit: a snapshot without data, with a table property that names the new
place. It takes the next version number, so that a writer that is about to commit loses the race,
reads the head, and is told. The property stays for good, for some catalogs name their metadata
files as an object-store catalog does: a later one must not look like a newer version of the folder.
Only object-store catalogs look at it.

Alternatives: to refuse adoption while writers may live cannot be checked; a mark after the
registration leaves a time in which both catalogs accept commits.
Imports: the core, pyiceberg.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit

from pyiceberg.catalog import Catalog
from pyiceberg.table.metadata import TableMetadata

from batchweave.errors import StreamMoved
from batchweave.state import PREFIX

MOVED_TO = PREFIX + "moved-to"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stream is registered: a catalog, as all who use it configure it, and a name.

    ``catalog`` is for people: what it is called differs from one configuration to the next.
    ``token`` is of the call that wrote the mark: only that call may take it back.
    """

    catalog: str = field(compare=False)
    uri: str
    warehouse: str
    stream: str
    token: str = field(default="", compare=False)

    @classmethod
    def of(cls, catalog: Catalog, name: tuple[str, ...], token: str = "") -> Place:
        """The place of ``name`` in a catalog, without any credentials."""
        properties = catalog.properties
        return cls(
            catalog=f"{properties.get('type') or type(catalog).__name__} catalog",
            uri=_without_credentials(str(properties.get("uri", ""))),
            warehouse=str(properties.get("warehouse", "")).rstrip("/"),
            stream=".".join(name),
            token=token,
        )

    @classmethod
    def from_text(cls, text: str) -> Place:
        """Read what `to_text` wrote. Raises `ValueError` or `TypeError` for anything else."""
        return cls(**json.loads(text))

    def to_text(self) -> str:
        """As it stands in the table's property."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    def __str__(self) -> str:
        where = self.uri or self.warehouse
        return f"{self.stream!r} in the {self.catalog}" + (f" at {where}" if where else "")


def moved_to(metadata: TableMetadata) -> Place | None:
    """Where the table has moved to, if it says that it has."""
    text = metadata.properties.get(MOVED_TO)
    if not text:
        return None
    try:
        return Place.from_text(text)
    except (TypeError, ValueError):
        return Place("catalog", "", "", str(text))  # it has moved, wherever to


def check_here(metadata: TableMetadata, name: str) -> None:
    """Raise `StreamMoved` if the table is another catalog's now."""
    place = moved_to(metadata)
    if place is not None:
        raise StreamMoved(
            f"{name} has moved and is now {place}: open it there, nothing can be read or "
            "committed through its folder any more"
        )


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri.partition("?")[0]
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")
