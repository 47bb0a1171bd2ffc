"""Where a stream's own files lie: names that say who wrote them, and when by the table's count.

Data files and position objects carry the table version that their writer knew when the upload
began. That is what the orphan sweep goes by: a file named with a version older than the horizon can
no longer be committed. Whatever does not match these names is not ours, and is never touched.
Imports: standard library.
"""

from __future__ import annotations

import re

DATA = "data"
POSITIONS = "data/positions"
CLOCK = "data/maintenance/clock.parquet"

_FOLDER = re.compile(r"v(\d{12,})")
_OWN = re.compile(
    r"(?:data/v(\d{12,})/[A-Za-z0-9._-]+-g\d+-q\d+-p\d+-[0-9a-f]{32}\.parquet"
    r"|data/positions/v(\d{12,})/[A-Za-z0-9._-]+-g\d+-q\d+-[0-9a-f]{32}\.parquet)"
)


def folder(kind: str, version: int) -> str:
    """The folder of `DATA` files or `POSITIONS` whose upload began under a table version."""
    return f"{kind}/v{version:012d}"


def data_path(
    version: int, producer: str, generation: int, sequence: int, part: int, token: str
) -> str:
    """The name of one part of a batch; nobody else has it, because of the token."""
    who = f"{producer}-g{generation}-q{sequence}-p{part}"
    return f"{folder(DATA, version)}/{who}-{token}.parquet"


def position_path(version: int, producer: str, generation: int, sequence: int, token: str) -> str:
    """The name of an object that holds a large position."""
    who = f"{producer}-g{generation}-q{sequence}"
    return f"{folder(POSITIONS, version)}/{who}-{token}.parquet"


def folder_version(name: str) -> int | None:
    """The table version in a folder's name (not its path); None if the folder is not ours."""
    match = _FOLDER.fullmatch(name)
    return int(match.group(1)) if match else None


def upload_version(path: str) -> int | None:
    """The table version that a file's upload began under; None if the file is not ours."""
    match = _OWN.fullmatch(path)
    return int(match.group(1) or match.group(2)) if match else None
