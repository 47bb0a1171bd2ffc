"""What a query may be.

Imports: errors, DuckDB.
"""

from __future__ import annotations

import duckdb

from batchweave.errors import InvalidSettings


def check_query(sql: str, *, read_only: bool = False) -> None:
    """Refuse what would load programs; in a read-only session everything but SELECT.

    An ``INSTALL`` would fetch a program from the network and ``LOAD`` would run one.

    Raises:
        InvalidSettings: the query is none that the session takes.
        duckdb.Error: it is not valid SQL.
    """
    kinds = [statement.type for statement in duckdb.extract_statements(sql)]
    if duckdb.StatementType.LOAD in kinds:
        raise InvalidSettings("a query cannot install or load extensions: give a SELECT")
    if read_only and any(kind != duckdb.StatementType.SELECT for kind in kinds):
        raise InvalidSettings(
            "the session is read-only: it takes SELECT and nothing else, so that no file can be "
            "written and no setting changed"
        )


def lock(connection: duckdb.DuckDBPyConnection, folders: list[str]) -> None:
    """Let the connection reach files below ``folders`` alone, for good.

    The Delta extension opens tables by itself: a session on a Delta table can read others that its
    credentials can.
    """
    listed = ", ".join("'" + folder.replace("'", "''") + "'" for folder in folders)
    connection.execute(f"set allowed_directories = [{listed}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
