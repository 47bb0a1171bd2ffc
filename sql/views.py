"""Making the views of ``sql/views`` over one version of a stream.

In the files ``this`` stands for where the views of the stream are, so that those of several
streams can be in one session; names in braces are numbers, and the columns of the mesh's axes.
Imports: the core, catalogs, DuckDB, metadata, scans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from importlib import resources

import duckdb
import pyarrow as pa

from batchweave.catalogs.delta import DeltaTable
from batchweave.ledger import SCHEMA as LEDGER_SCHEMA
from batchweave.mesh import Mesh
from batchweave.sql.metadata import metadata_of
from batchweave.sql.relation import told_as
from batchweave.sql.scans import Rows, Source, source_of
from batchweave.stream import Stream
from batchweave.table import RESERVED_COLUMNS, Head

VIEWS = (
    "samples",
    "parts",
    "slices",
    "slice_rows",
    "ledger",
    "checkpoints",
    "batches",
    "sources",
    "commits",
    "producers",
    "consumers",
)
"""The views that are documented, besides the tables `STATE_TABLES`."""

STATE_TABLES = ("stream_state", "snapshots", "foreign_files")
TEMPORARY = "temp"

_LITERAL_OR_THIS = re.compile(r"('(?:[^']|'')*')|\bthis\.")
_THIS = re.compile(r"\bthis\.(\w+)")
_CREATE = re.compile(r"\bcreate (view|table) this\.")

_TIME = pa.timestamp("ms", tz="UTC")


class Views:
    """The views of one stream in one connection, each made when it is first needed.

    What binds a view may read a good deal of metadata: a question about batches shall not pay for
    what samples take. ``home`` is the database that holds them.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        stream: Stream,
        head: Head,
        rows: Source,
        ledger: Source | None,
        *,
        home: str = TEMPORARY,
    ) -> None:
        self.stop = head.state.next_step
        self._connection = connection
        self._stream = stream
        self._head = head
        self._rows = rows
        self._ledger = ledger or Rows(LEDGER_SCHEMA.empty_table())
        self.home = home
        self._made: set[str] = set()

    def see(self, stop: int) -> None:
        """Bound everything by a step."""
        self.stop = stop
        self._made -= {*VIEWS, "stream_state"}

    def make(self, names: Iterable[str]) -> None:
        """Make those of the names that are views, or tables beside them, and are not there yet.

        Raises:
            StoreDenied, StoreUnavailable, StoreError: what the table names cannot be read.
        """
        for name in names:
            if name in self._made:
                continue
            if name in VIEWS:
                self._make_view(name)
            elif name in _FROM_STATE:
                self._put(name, _FROM_STATE[name](self._stream, self._head, self.stop))
            elif name in _FROM_METADATA:
                self._make_metadata()
            elif name == "rows_of_stream":
                self._make_input(name, self._rows)
            elif name == "ledger_of_stream":
                self._make_input(name, self._ledger, LEDGER_SCHEMA.names)
            else:
                continue
            self._made.add(name)

    def _make_view(self, name: str) -> None:
        text = resources.files("batchweave.sql").joinpath(f"views/{name}.sql").read_text()
        self.make(_THIS.findall(text.partition(f"create view this.{name} as")[2]))
        self._run(self._filled(text))

    def _make_metadata(self) -> None:
        metadata = metadata_of(self._stream.table, self._head)
        for name, table in metadata.inputs.items():
            self._put(name, table)
        self._put("snapshots", metadata.snapshots)
        self._put("foreign_files", metadata.foreign)
        # Read once: most views need it several times over.
        self._run(f"create table this.parts_of_stream as {metadata.parts}")
        self._made |= _FROM_METADATA

    def _make_input(self, name: str, source: Source, columns: Sequence[str] = ()) -> None:
        chosen = ", ".join(map(quoted, columns)) or "*"
        if isinstance(source, Rows):
            self._put(f"{name}_here", source.table)
            found = f"this.{name}_here"
        else:
            found = source.sql
        self._run(f"create view this.{name} as select {chosen} from {found}")

    def _put(self, name: str, table: pa.Table) -> None:
        """A table of its own: what is registered is in the connection's own schema alone."""
        passing = "batchweave_passing"
        self._connection.register(passing, table)
        self._run(f"create table this.{name} as select * from {passing}")
        self._connection.unregister(passing)

    def _run(self, text: str) -> None:
        """Make what a text says: it begins with ``create``, perhaps after a comment."""
        home = quoted(self.home)
        kind = r"temp \1 " if self.home == TEMPORARY else rf"\1 {home}."
        made = _CREATE.sub(f"create or replace {kind}", text, count=1)
        try:
            self._connection.execute(_named(made, home))
        except duckdb.Error as error:
            raise told_as(error, f"{self._stream.name} cannot be read") from None

    def _filled(self, text: str) -> str:
        state = self._head.state
        numbers = {
            "stop": self.stop,
            "watermark": state.watermark,
            "slices": state.mesh.slices,
        }
        text = text.replace("{axes}", axes(state.mesh, self._stream.schema.names))
        for name, number in numbers.items():
            text = text.replace("{" + name + "}", str(int(number)))
        return text


def described() -> dict[str, str]:
    """What each view holds: the first sentence of its file."""
    found = {}
    for name in VIEWS:
        text = resources.files("batchweave.sql").joinpath(f"views/{name}.sql").read_text()
        comment = " ".join(
            line.removeprefix("--").strip() for line in text.splitlines() if line.startswith("--")
        )
        found[name] = comment.partition(": ")[2].partition(". ")[0].rstrip(".")
    return found | {
        "stream_state": "one row: the stream's next step, watermark, chain and so on",
        "snapshots": "the commits that the table's metadata still knows, other programs' too",
        "foreign_files": "files in the table's metadata that BatchWeave did not write",
    }


def axes(mesh: Mesh, columns: Sequence[str]) -> str:
    """The slice's place on each axis, as columns: ``, slice // 2 % 4 as "dp"``."""
    taken = {name.lower() for name in (*columns, *RESERVED_COLUMNS)}
    found, stride = "", mesh.slices
    for axis, size in mesh.axes.items():
        stride //= size
        name = axis
        while name.lower() in taken:
            name = f"mesh_{name}"
        found += f", (slice // {stride:d} % {size:d})::integer as {quoted(name)}"
    return found


def _named(text: str, home: str) -> str:
    """The text with ``home`` for ``this``, but not inside of literals: a path may hold it, too."""
    return _LITERAL_OR_THIS.sub(lambda found: found[1] or f"{home}.", text)


def quoted(identifier: str) -> str:
    """A name as SQL takes it, whatever it holds."""
    return '"' + identifier.replace('"', '""') + '"'


def source_of_ledger(stream: Stream) -> tuple[Source | None, str]:
    """How to read the ledger's rows, and its folder; None where nothing was reclaimed."""
    ledger = stream.ledger
    if ledger is None:
        return None, ""
    return source_of(ledger.table, ledger.table.head()), ledger.table.objects.uri


# -- the state as tables -----------------------------------------------------------------------


def _stream_state(stream: Stream, head: Head, stop: int) -> pa.Table:
    state = head.state
    row = {
        "stream": stream.name,
        "table_id": stream.table.id,
        "format": "delta" if isinstance(stream.table, DeltaTable) else "iceberg",
        "version": head.version,
        "mesh": state.mesh.to_json(),
        "slices": state.mesh.slices,
        "next_step": state.next_step,
        "watermark": state.watermark,
        "horizon": state.horizon,
        "sealed": state.sealed,
        "chain": state.chain,
        "stop": stop,
    }
    return pa.Table.from_pylist([row])


def _producer_states(stream: Stream, head: Head, stop: int) -> pa.Table:
    schema = pa.schema(
        [
            ("producer", pa.string()),
            ("generation", pa.int64()),
            ("sequence", pa.int64()),
            ("step", pa.int64()),
            ("last_commit_at", _TIME),
            ("position", pa.string()),
        ]
    )
    rows = [
        {
            "producer": name,
            "generation": one.generation,
            "sequence": one.sequence,
            "step": one.step if one.step >= 0 else None,
            "last_commit_at": one.committed_at_ms,
            "position": one.position,
        }
        for name, one in sorted(head.state.producers.items())
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _checkpoint_states(stream: Stream, head: Head, stop: int) -> pa.Table:
    schema = pa.schema(
        [
            ("checkpoint", pa.string()),
            ("consumer", pa.string()),
            ("next_step", pa.int64()),
            ("registered_at", _TIME),
            ("version", pa.int64()),
        ]
    )
    rows = [
        {
            "checkpoint": name,
            "consumer": one.consumer,
            "next_step": one.next_step,
            "registered_at": one.registered_at_ms,
            "version": one.version,
        }
        for name, one in sorted(head.state.checkpoints.items())
    ]
    return pa.Table.from_pylist(rows, schema=schema)


_FROM_STATE: dict[str, Callable[[Stream, Head, int], pa.Table]] = {
    "stream_state": _stream_state,
    "producer_states": _producer_states,
    "checkpoint_states": _checkpoint_states,
}
_FROM_METADATA = {"parts_of_stream", "snapshots", "foreign_files"}
