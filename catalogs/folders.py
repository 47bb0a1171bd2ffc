"""Where a catalog that finds streams by their folders finds a name.

Imports: errors and objects.
"""

from __future__ import annotations

import re

from batchweave.errors import InvalidSettings
from batchweave.objects import Objects, join, split_uri

DELTA_LOG = "_delta_log"
ICEBERG_METADATA = "metadata"
DEPTH_MAX = 16
"""Folders inside of folders that are looked at."""

_DELTA = re.compile(r"\d{20}\.(?:json|checkpoint\..*)")
_ICEBERG = re.compile(r"(?:v\d+|\d+-.+)\.metadata\.json")


def holds_delta(objects: Objects) -> bool:
    """Whether a folder is a Delta table's."""
    return _holds(objects, DELTA_LOG, _DELTA)


def holds_iceberg(objects: Objects) -> bool:
    """Whether a folder is an Iceberg table's."""
    return _holds(objects, ICEBERG_METADATA, _ICEBERG)


def table_below(objects: Objects) -> str | None:
    """The folder of a table of either format that lies inside of a folder; None if none does."""
    waiting = [("", 0)]
    while waiting:
        parent, depth = waiting.pop()
        for name in objects.children(parent)[0]:
            path = join(parent, name) if parent else name
            inner = objects.within(path)
            if holds_delta(inner) or holds_iceberg(inner):
                return path
            if depth < DEPTH_MAX:
                waiting.append((path, depth + 1))
    return None


def _holds(objects: Objects, folder: str, pattern: re.Pattern[str]) -> bool:
    _, files = objects.children(folder)
    return any(pattern.fullmatch(one.path.rpartition("/")[2]) for one in files)


def check_own_folder(warehouse: str, location: str, name: tuple[str, ...]) -> None:
    """Refuse a folder that such a catalog would not find under the name.

    Raises:
        InvalidSettings: it lies elsewhere, or has another name.
    """
    root, folder = split_uri(warehouse), split_uri(location)
    below = root[1].rstrip("/") + "/"
    if root[0] != folder[0] or not folder[1].startswith(below):
        raise InvalidSettings(
            f"{location} does not lie below the warehouse {warehouse}, where this catalog finds "
            "its streams by their folders: open a catalog on the folder's own warehouse, or "
            "register it in one of type sql, rest or glue"
        )
    found = folder[1][len(below) :].strip("/").replace("/", ".")
    if found != ".".join(name):
        raise InvalidSettings(
            f"in this catalog the folder {location} is {found!r}, and cannot be {'.'.join(name)!r}"
        )
