"""Files in the folder of a table whose catalog keeps a pointer to its metadata.

**Old metadata files**, ``metadata/00012-<uuid>.metadata.json``: pyiceberg removes old ones only
after its own transactions, and a commit that loses a race leaves its file behind. Their number is
that of the metadata that the commit began with, plus one. So once the table is at number n, nothing
of a smaller number can become current any more: a commit that prepared it finds the pointer moved.
That holds whatever a clock says. What is `METADATA_KEPT` numbers behind goes; a reader is slower
than that only if it began to read a file so long ago, and then it reads the pointer again.

**Dropping**: pyiceberg deletes what the last metadata names, one file at a time. Files of commits
that never came, positions, and metadata of long ago stay; `own` finds them too.
"""

from __future__ import annotations

import re

from batchweave.catalogs.files import relative_path
from batchweave.errors import StoreUnavailable
from batchweave.objects import Objects

FOLDER = "metadata"
METADATA_KEPT = 64
"""Numbers of metadata files, the current one included, that a slow reader can rely on."""

_FILE = re.compile(r"(?:(\d+)-[0-9a-f-]{36}|v(\d+))(?:\.gz)?\.metadata\.json(?:\.gz)?")
"""As pyiceberg, Iceberg's Java library and S3-table servers name them."""

_OWN = re.compile(
    r"data/(?:(?:positions/)?v\d+/.*|maintenance/.*|[^/]+\.parquet)"
    r"|metadata/(?:(?:lists|manifests)/)?[^/]+\.avro"
    r"|metadata/(?:[^/]+\.metadata\.json(?:\.gz)?|version-hint\.text)"
)
"""What a stream or an engine writes into a table's folder, and no table that lies inside of it."""


def overtaken(objects: Objects, current: str) -> list[str]:
    """Metadata files right below the table's ``metadata`` that are long overtaken by ``current``.

    Only those that are named as ``current`` is: a folder that was adopted from an object-store
    catalog keeps its own versions, the last of which says where the table went. None where the
    current file has a name or a place of another kind.
    """
    newest = _numbered(current)
    try:
        path = relative_path(objects, current)
    except StoreUnavailable:
        return []
    if newest is None or path.rpartition("/")[0] != FOLDER:
        return []
    found = []
    for info in objects.children(FOLDER)[1]:
        one = _numbered(info.path)
        if one is not None and one[0] == newest[0] and one[1] <= newest[1] - METADATA_KEPT:
            found.append(info.path)
    return found


def own(objects: Objects) -> list[str]:
    """All files in the folder that are the table's own."""
    return [info.path for info in objects.list() if _OWN.fullmatch(info.path)]


def _numbered(location: str) -> tuple[bool, int] | None:
    """Whether the number stands behind a ``v``, and the number."""
    match = _FILE.fullmatch(location.rpartition("/")[2])
    if match is None:
        return None
    plain, marked = match.groups()
    return marked is not None, int(marked or plain)
