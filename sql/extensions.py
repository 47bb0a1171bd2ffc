"""DuckDB's extensions, out of their wheels alone: nothing is ever downloaded.

Imports: errors, DuckDB.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import duckdb

from batchweave.errors import InvalidSettings

OFFLINE = {
    "allow_community_extensions": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
"""By default DuckDB fetches an extension that a query needs, and runs it."""

EXACT = {"enable_external_file_cache": "false"}
"""DuckDB's cache of remote files reads the gaps between what it holds and what is asked for: a
question for one slice would fetch the next one, too."""


def open_offline(extensions: Iterable[str]) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with these extensions, which looks for no others.

    Raises:
        InvalidSettings: the wheel of one is not installed for this DuckDB.
    """
    paths = [str(extension_path(name)) for name in extensions]
    connection = duckdb.connect(config={**OFFLINE, **EXACT})
    for path in paths:
        connection.load_extension(path)
    return connection


def extension_path(name: str) -> Path:
    """Where the wheel of a DuckDB extension put it.

    Raises:
        InvalidSettings: the wheel is not installed for this DuckDB.
    """
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    folder = Path(package.origin).parent if package and package.origin else Path()
    path = folder / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not path.is_file():
        raise InvalidSettings(
            f"DuckDB {duckdb.__version__} has no extension {name!r}: "
            f"install duckdb-extension-{name}=={duckdb.__version__}"
        )
    return path
