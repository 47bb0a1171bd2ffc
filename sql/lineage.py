"""Lineage: what a checkpoint has seen, who has seen a document, what two checkpoints differ in.

Everything is asked of one version of the stream. Of live steps the answer comes from the table; of
reclaimed ones from the ledger, which keeps each batch's sources and the distinct values of the
stream's lineage columns. Each row says which it is, and what could not be asked is said in words.
Imports: the core, DuckDB, session and the modules of lineage.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from types import TracebackType

import pyarrow as pa

from batchweave.columns.arrow_types import STRINGS, list_levels
from batchweave.errors import CheckpointNotFound, InvalidInput
from batchweave.sql.lineage_answers import (
    CheckpointLineage,
    Difference,
    Extent,
    Occurrences,
)
from batchweave.sql.lineage_extents import ORIGINS, STEPS, Known, make_extent, with_readers
from batchweave.sql.lineage_graph import (
    Edge,
    Graph,
    Node,
    build_graph,
    counted,
    joined,
    node_id,
    range_text,
)
from batchweave.sql.lineage_near import Near, pattern_inside
from batchweave.sql.lineage_predicate import parse_predicate
from batchweave.sql.lineage_queries import MATCHES, Match, Queries, batch_columns
from batchweave.sql.moments import Moment
from batchweave.sql.session import Session
from batchweave.stream import Stream

FILES_MAX = 2_000
WORLD_SIZE_MAX = 1 << 20


class Lineage:
    """Lineage of one stream at one version. Close it, or use it as a context manager.

    Args:
        stream: whose history it is.
        at: the moment that is seen, see `batchweave.sql.moments.Moment`; None for the head.
        files_max: `checkpoint` and `difference` list sources out of the metadata and the ledger.
            Where only data files know them (long ones, or several in a file), at most so many are
            read for it; the answer says what was left out.

    Raises:
        InvalidInput, CheckpointNotFound: there is no such moment.
        StoreDenied, StoreUnavailable: the table cannot be read.
    """

    def __init__(
        self, stream: Stream, at: Moment | None = None, *, files_max: int = FILES_MAX
    ) -> None:
        self._session = Session(stream, at=at, read_only=True)
        self._queries = Queries(self._session)
        self._stream = stream.name
        self._schema = stream.schema
        self._state = self._session.head.state
        self._stop = self._session.stop
        self._gone = min(self._state.watermark, self._stop)
        self._files_max = files_max

    def close(self) -> None:
        """Close the session behind it; answers stay."""
        self._session.close()

    def __enter__(self) -> Lineage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- from checkpoints ------------------------------------------------------------------

    def checkpoint(self, checkpoint_id: str) -> CheckpointLineage:
        """What a checkpoint has seen: every step below its own, their producers and sources.

        One that was dropped is answered for where the ledger remembers it.

        Raises:
            CheckpointNotFound: neither the stream nor its ledger knows it.
        """
        one = self._find(checkpoint_id)
        extent, graph, unasked = self._extent(0, min(one.next_step, self._stop), [one])
        return CheckpointLineage(
            self._stream,
            self._stop,
            f"What checkpoint {one.checkpoint} of {self._stream} has seen",
            self._live(extent.stop),
            unasked=unasked,
            graph=graph,
            checkpoint=one.has_seen_below(self._stop, self._state.mesh.slices),
            seen=extent,
        )

    def difference(self, a: str, b: str) -> Difference:
        """What of two checkpoints, of one consumer or two, one saw that the other did not.

        Raises:
            CheckpointNotFound: neither the stream nor its ledger knows one of them.
        """
        one, other = self._find(a), self._find(b)
        behind, ahead = sorted((one, other), key=lambda known: known.next_step)
        start, stop = (min(known.next_step, self._stop) for known in (behind, ahead))
        extent, graph, unasked = self._extent(start, stop, [ahead] if start < stop else [])
        nothing = make_extent(stop, stop, STEPS.empty_table(), ORIGINS.empty_table())
        slices = self._state.mesh.slices
        return Difference(
            self._stream,
            self._stop,
            f"What checkpoints {a} and {b} of {self._stream} differ in",
            self._live(stop),
            unasked=unasked,
            graph=_with_common(graph, one, other, start, gone=start <= self._gone),
            a=one.has_seen_below(self._stop, slices),
            b=other.has_seen_below(self._stop, slices),
            only_a=extent if one is ahead else nothing,
            only_b=extent if other is ahead else nothing,
        )

    # -- to checkpoints --------------------------------------------------------------------

    def source(
        self, text: str, match: Match = "exact", *, world_size: int | None = None
    ) -> Occurrences:
        """Who has seen what came from a source, by the text that its producer gave.

        ``match``: the whole text, its beginning, or a pattern with ``*``, ``?`` and ``[…]``. Where
        nothing matches, the answer says how many sources have the text inside.

        Raises:
            InvalidInput: no text, or another way to match.
            InvalidMesh: the slices cannot be dealt to so many ranks.
        """
        if not isinstance(text, str) or match not in MATCHES:
            raise InvalidInput(
                f"a source is asked for by text, matched {', '.join(MATCHES)}; got {text!r}, "
                f"{match!r}"
            )
        self._check_world(world_size)
        how = {"exact": "", "prefix": "that begins with ", "glob": "like "}[match]
        title = f"Who has seen source {how}{text} of {self._stream}"
        found, pattern = self._queries.of_source(text, match), pattern_inside(text, match)
        near = None
        if pattern is not None and not found.num_rows:
            near = self._queries.near(pattern, self._files_max)
        nearly = near.sentence(text, match) if near is not None else ""
        return self._occurrences(title, found, self._ledger_lacks(), world_size, near, nearly)

    def document(
        self, column: str, value: str | int, *, world_size: int | None = None
    ) -> Occurrences:
        """Who has seen the rows with a value in a column (or in one of its lists).

        Of reclaimed steps the ledger knows it for lineage columns alone.

        Raises:
            InvalidInput: no such column, or its values are neither strings nor integers, or
                ``value`` is of the other kind or out of the column's range.
            InvalidMesh: the slices cannot be dealt to so many ranks.
        """
        column, value = self._check_value(column, value)
        self._check_world(world_size)
        found, unasked = [self._queries.live_document(column, value)], self._ledger_lacks()
        if self._gone and column in self._state.lineage_columns:
            found.append(self._queries.recorded_document(column, value))
            unasked += self._lineage_lacks()
        elif self._gone:
            unasked += (self._unknown(f"{column} is not a lineage column of the stream"),)
        title = f"Who has seen {column} {value} of {self._stream}"
        return self._occurrences(title, _joined(found), unasked, world_size)

    def where(self, predicate: str, *, world_size: int | None = None) -> Occurrences:
        """Who has seen the rows for which a SQL predicate on ``samples`` holds.

        Of reclaimed steps it can be told where the predicate names no other columns than one
        lineage column (no list) and those of the slice: ``step``, ``slice``, the mesh's axes,
        ``producer``, ``sequence``, ``committed_at``, ``source``.

        Raises:
            InvalidInput: it is not one boolean expression about a row.
            InvalidMesh: the slices cannot be dealt to so many ranks.
        """
        self._check_world(world_size)
        columns = list(self._queries.types)
        asked = parse_predicate(predicate, columns)
        self._queries.check_boolean(asked)
        found, unasked = [self._queries.live_where(asked)], self._ledger_lacks()
        if self._gone:
            users = asked.columns - batch_columns(columns, self._schema)
            why = self._not_in_ledger(users)
            if why is None:
                found.append(self._queries.recorded_where(asked, next(iter(users), None)))
                unasked += self._lineage_lacks() if users else ()
            else:
                unasked += (self._unknown(why),)
        title = f"Who has seen the rows of {self._stream} where {predicate}"
        return self._occurrences(title, _joined(found), unasked, world_size)

    def value_of(self, column: str, text: str) -> str | int:
        """What a text stands for in a column: a number where the column holds integers.

        Raises:
            InvalidInput: no such column, or no integer.
        """
        kind = list_levels(self._schema.field(self._column(column)).type)[1]
        if not pa.types.is_integer(kind):
            return text
        try:
            return int(text)
        except ValueError:
            raise InvalidInput(f"column {column!r} has integers, asked for {text!r}") from None

    # -- checks ----------------------------------------------------------------------------

    def _find(self, checkpoint_id: str) -> Known:
        known = self._queries.checkpoints()
        for one in known:
            if one.checkpoint == checkpoint_id:
                return one
        names = ", ".join(one.checkpoint for one in known[-20:])
        raise CheckpointNotFound(
            f"{self._stream} has no checkpoint {checkpoint_id!r} below step {self._stop}, and its "
            f"ledger remembers none; known are {names or 'none'}"
        )

    def _column(self, column: str) -> str:
        """A column as it is spelled."""
        known = {name.lower(): name for name in self._schema.names}
        if not isinstance(column, str) or column.lower() not in known:
            raise InvalidInput(
                f"{self._stream} has no column {column!r}; it has {', '.join(self._schema.names)}"
            )
        return str(known[column.lower()])

    def _check_value(self, column: str, value: str | int) -> tuple[str, str | int]:
        """The column as it is spelled, and the value as it is compared."""
        column = self._column(column)
        levels, kind = list_levels(self._schema.field(column).type)
        text = kind in STRINGS
        if len(levels) > 1 or not (text or pa.types.is_integer(kind)):
            raise InvalidInput(
                f"column {column!r} has type {self._schema.field(column).type}: a document is told "
                "by strings, integers or lists of those; use a predicate"
            )
        if text and isinstance(value, str):
            return column, value
        try:
            if not text and not isinstance(value, (bool, str)):
                return column, _in_range(column, kind, index(value))
        except TypeError:
            pass
        what = "strings" if text else "integers"
        raise InvalidInput(f"column {column!r} has {what}, asked for {value!r}")

    def _check_world(self, world_size: int | None) -> None:
        if world_size is None:
            return
        if isinstance(world_size, bool) or not isinstance(world_size, int):
            raise InvalidInput(f"world_size is a number of ranks, got {world_size!r}")
        if world_size > WORLD_SIZE_MAX:
            raise InvalidInput(f"a world has at most {WORLD_SIZE_MAX} ranks, got {world_size}")
        self._state.mesh.share(0, world_size)

    # -- what cannot be told ---------------------------------------------------------------

    def _not_in_ledger(self, users: frozenset[str]) -> str | None:
        """Why the ledger cannot tell of rows with these columns; None if it can."""
        lineage = self._state.lineage_columns
        others = sorted(users - set(lineage))
        if others:
            names = " and ".join(others)
            return (
                f"the ledger keeps nothing of {names} (lineage columns: "
                f"{', '.join(lineage) or 'none'})"
            )
        if len(users) > 1:
            return (
                f"the ledger keeps the values of {' and '.join(sorted(users))} each by itself, not "
                "which of them stood in one row; ask for one of them"
            )
        lists = [name for name in users if list_levels(self._schema.field(name).type)[0]]
        if lists:
            return f"the ledger keeps the items of {lists[0]}, not its lists; ask by document"
        return None

    def _unknown(self, why: str) -> str:
        return f"Not known of {range_text(0, self._gone - 1)}: their data is reclaimed, and {why}."

    def _ledger_lacks(self, stop: int | None = None) -> tuple[str, ...]:
        """What is said where reclaimed steps have no rows in the ledger."""
        gone = self._gone if stop is None else min(self._gone, stop)
        rows = self._queries.ledger_gaps(gone)[0] if gone else 0
        if rows == gone:
            return ()
        return (f"The ledger has {rows:,} rows of {counted(gone, 'reclaimed step')}: audit it.",)

    def _lineage_lacks(self) -> tuple[str, ...]:
        without = self._queries.ledger_gaps(self._gone)[1]
        if not without:
            return ()
        return (f"Of {counted(without, 'reclaimed step')} the ledger has no lineage.",)

    def _live(self, stop: int) -> str:
        """What is live and what is not, of the steps below ``stop``."""
        gone = min(self._gone, stop)
        if not stop:
            return "There is no step."
        if not gone:
            return f"{_begun(0, stop)} live: the answer comes from the table."
        told = f"{_begun(0, gone)} reclaimed: what is said of them comes from the ledger."
        return told if gone == stop else f"{_begun(gone, stop)} live. {told}"

    # -- putting answers together ----------------------------------------------------------

    def _extent(
        self, start: int, stop: int, ends: Sequence[Known]
    ) -> tuple[Extent, Graph, tuple[str, ...]]:
        steps, unread = self._queries.steps(start, stop), self._queries.unread(start, stop)
        origins, unasked = self._queries.origins(start, stop, unread), self._ledger_lacks(stop)
        if 0 < unread.files <= self._files_max:
            origins = pa.concat_tables([origins, self._queries.origins_in_files(unread)])
        elif unread.files:
            unasked += (
                f"Where {counted(unread.steps, 'live step')} came from stands in "
                f"{counted(unread.files, 'data file')} alone, more than the {self._files_max:,} "
                "that are read for a list of sources.",
            )
        graph = build_graph(steps, origins, [one.end for one in ends])
        return make_extent(start, stop, steps, origins), graph, unasked

    def _occurrences(
        self,
        title: str,
        found: pa.Table,
        unasked: tuple[str, ...],
        world_size: int | None,
        near: Near | None = None,
        nearly: str = "",
    ) -> Occurrences:
        known = self._queries.checkpoints()
        steps = found["step"].to_numpy()
        reached = [one for one in known if len(steps) and one.next_step > steps[0]]
        slices = with_readers(found, known, self._state.mesh, world_size)
        of_steps = found.group_by(["step", "producer", "reclaimed"]).aggregate([])
        origins = found.group_by(["step", "source"]).aggregate([])
        return Occurrences(
            self._stream,
            self._stop,
            title,
            _sentences(
                "" if near and near.sources else _found(found, of_steps, unasked),
                nearly,
                self._live(self._stop),
            ),
            unasked=unasked,
            graph=build_graph(of_steps.sort_by("step"), origins, [one.end for one in reached]),
            world_size=world_size,
            slices=slices,
            checkpoints=tuple(one.has_seen(steps) for one in reached),
            steps=of_steps.num_rows,
            reclaimed_steps=sum(of_steps["reclaimed"].to_pylist()),
            near_sources=near.sources if near is not None else 0,
        )


def _sentences(*sentences: str) -> str:
    return " ".join(one for one in sentences if one)


def _in_range(column: str, kind: pa.DataType, value: int) -> int:
    """The value, if the column's integers go so far."""
    signed = not pa.types.is_unsigned_integer(kind)
    largest = (1 << (kind.bit_width - signed)) - 1
    least = -largest - 1 if signed else 0
    if least <= value <= largest:
        return value
    asked = str(value) if value.bit_length() <= 256 else f"one of {value.bit_length():,} bits"
    raise InvalidInput(
        f"column {column!r} has integers from {least} to {largest}, asked for {asked}"
    )


def _found(slices: pa.Table, steps: pa.Table, unasked: Sequence[str]) -> str:
    if not slices.num_rows:
        return "It is in no slice that could be asked." if unasked else "It is in no slice."
    count = f"{counted(slices.num_rows, 'slice')} of {counted(steps.num_rows, 'step')}"
    return f"It is in {count}."


def _joined(found: Sequence[pa.Table]) -> pa.Table:
    """Live and reclaimed slices, in step order."""
    return pa.concat_tables(found).sort_by([("step", "ascending"), ("slice", "ascending")])


def _begun(start: int, stop: int) -> str:
    """``Steps 3 to 9 are``, the beginning of a sentence."""
    return f"{range_text(start, stop - 1).capitalize()} {'is' if stop - start == 1 else 'are'}"


def _with_common(graph: Graph, one: Known, other: Known, stop: int, *, gone: bool) -> Graph:
    """The graph of a difference, with what both checkpoints have seen, and both of them."""
    behind, ahead = sorted((one, other), key=lambda known: known.next_step)
    both = Node("both", "steps", "no step", "seen by both")
    if stop:
        detail = f"{counted(stop, 'step')}, seen by both"
        both = Node("both", "steps", range_text(0, stop - 1), detail, reclaimed=gone)
    found = [node for node in graph.nodes if node.kind != "checkpoint"]
    ends = {"behind": behind.end, "ahead": ahead.end}
    nodes = [Node(name, "checkpoint", end.id, end.detail) for name, end in ends.items()]
    edges = [Edge("both", name, stop) for name in ends] if stop else []
    moved = [
        Edge(edge.start, "ahead" if edge.end == node_id("checkpoint", 0) else edge.end, edge.steps)
        for edge in graph.edges
    ]
    return joined(Graph((*found, *nodes), tuple(moved)), both, edges)
