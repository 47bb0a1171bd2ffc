"""What every part of the conformance suite stands on: fixtures, and what an adapter gives.

Imports: standard library, pytest, pyarrow, the core.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import pytest

import batchweave as bw
from batchweave.clock import SystemClock
from batchweave.testing.faults import Faults, FaultyTable, WrappedTables
from batchweave.testing.samples import SCHEMA, SMALL_SCHEMA

HISTORY_VARIABLE = "BATCHWEAVE_CONFORMANCE_COMMITS"
PROCESS_S_MAX = 240.0


class Conformance:
    """Fixtures and hooks. Subclass `CatalogConformance`, not this.

    To give: the fixture `properties`, and `open_catalog` if `batchweave.load_catalog` does not know
    the catalog. The other methods tell the suite how to meddle with the format from outside; those
    that are left out skip the tests that need them, with the reason.

    Attributes:
        schema: the columns of the test of values: at least one column named ``number`` (int64), and
            any others of `batchweave.testing.samples.COLUMNS`. All of them unless a format lacks
            a kind.
        shared: whether another object, and another process, that opens the catalog with the same
            properties finds the same streams. Not so for what lies in a process's memory.
        history_commits: how many commits the test of long histories makes. The variable
            ``BATCHWEAVE_CONFORMANCE_COMMITS`` in the environment goes before it.
    """

    schema: ClassVar[pa.Schema] = SCHEMA
    shared: ClassVar[bool] = True
    history_commits: ClassVar[int] = 1000

    # -- what an adapter gives -------------------------------------------------------------------

    @pytest.fixture
    def properties(self) -> dict[str, str]:
        """What `open_catalog` takes. Override it, with any scope."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture `properties`: what opens its catalog"
        )

    @classmethod
    def open_catalog(cls, properties: Mapping[str, str]) -> bw.Catalog:
        """Open the catalog; called anew for each test, and in other processes."""
        return bw.load_catalog("conformance", **properties)

    def failing(
        self, catalog: bw.Catalog, faults: Faults
    ) -> contextlib.AbstractContextManager[bw.Catalog]:
        """A catalog whose streams' commits are interrupted by ``faults``, within a ``with`` block.

        Here it is the table that fails. An adapter proves more if it makes what it commits through
        fail (`batchweave.testing.faults.interrupted`): then it is its own translation of errors
        that is put to the test.
        """
        tables = WrappedTables(catalog.tables, lambda table: FaultyTable(table, faults))
        return contextlib.nullcontext(bw.Catalog(catalog.name, tables, NotAsked()))

    def make_foreign_table(self, catalog: bw.Catalog, name: str) -> None:
        """Let another program create a table, not a stream, of that name in the catalog."""
        pytest.skip("no way is known to create a foreign table: override make_foreign_table")

    def foreign_commit(self, catalog: bw.Catalog, stream: bw.Stream) -> None:
        """Let another engine change the stream's table: add a column or a tag, delete nothing."""
        pytest.skip("no other engine is known to commit to it: override foreign_commit")

    def check_foreign_commit(self, catalog: bw.Catalog, stream: bw.Stream) -> None:
        """Assert that what `foreign_commit` did to the table is still there."""
        raise NotImplementedError

    def foreign_reads(
        self, stream: bw.Stream, properties: Mapping[str, str]
    ) -> Iterator[tuple[str, pa.Table]]:
        """All rows of the stream's table as other engines read them, with the engines' names."""
        pytest.skip("no other engine is known to read it: override foreign_reads")

    # -- what the tests use ----------------------------------------------------------------------

    @pytest.fixture
    def catalog(self, properties: Mapping[str, str]) -> bw.Catalog:
        """The catalog under test."""
        return self.open_catalog(properties)

    @pytest.fixture
    def open_again(
        self, catalog: bw.Catalog, properties: Mapping[str, str]
    ) -> Callable[[], bw.Catalog]:
        """Opens the catalog as another program would, if it can be found from there."""
        return (lambda: self.open_catalog(properties)) if self.shared else (lambda: catalog)

    @pytest.fixture
    def name(self) -> str:
        """The name of a stream in a namespace of this test's own; neither exists."""
        return f"conformance_{SystemClock().token()[:12]}.stream"

    def create(
        self,
        catalog: bw.Catalog,
        name: str,
        *,
        mesh: bw.Mesh | None = None,
        schema: pa.Schema = SMALL_SCHEMA,
    ) -> bw.Stream:
        """A stream with few columns and two slices, unless more is asked."""
        return catalog.create_stream(name, schema=schema, mesh=mesh or bw.Mesh(dp=2))

    def commits_of_a_long_history(self) -> int:
        """`history_commits`, unless the environment asks for another number."""
        return int(os.environ.get(HISTORY_VARIABLE) or self.history_commits)

    def start_elsewhere(
        self, properties: Mapping[str, str], name: str, producer: str, numbers: Sequence[int]
    ) -> subprocess.Popen[str]:
        """Start a process that opens the stream by its name and publishes those batches."""
        if not self.shared:
            pytest.skip("what lies in this process's memory cannot be found by another")
        suite = type(self)
        classes = [one for one in suite.__mro__ if "open_catalog" in vars(one)]
        own = classes[0] is not Conformance
        task = {
            "suite": [suite.__module__, suite.__qualname__] if own else None,
            "properties": dict(properties),
            "stream": name,
            "producer": producer,
            "numbers": list(numbers),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "batchweave.testing.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(task) + "\n")  # not in its arguments: it holds credentials
        process.stdin.flush()
        return process


class NotAsked:
    """A stream of a test's own making is not asked by SQL."""

    def sql(self, stream: bw.Stream, *_: object) -> Any:
        """Refuse."""
        raise bw.InvalidSettings(f"{stream.name} is asked through the catalog that it came from")

    def audit(self, stream: bw.Stream, **_: object) -> Any:
        """Refuse."""
        return self.sql(stream)

    def lineage(self, stream: bw.Stream, *_: object) -> Any:
        """Refuse."""
        return self.sql(stream)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Let a process end by itself after the ``with`` block; see to it that it does.

    Raises:
        AssertionError: it failed.
    """
    try:
        yield
        process.communicate(timeout=PROCESS_S_MAX)
        if process.returncode != 0:
            raise AssertionError(f"the other process failed: it ended with {process.returncode}")
    finally:
        process.kill()
        process.communicate()
