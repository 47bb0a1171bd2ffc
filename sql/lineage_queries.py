"""What lineage asks of a session: each question a file of ``sql/lineage``, its answer in Arrow.

Values are bound, never pasted; names of columns are quoted, and only those of the stream's schema
get here. Live steps are asked in their metadata, and in their data where that does not say;
reclaimed ones in the ledger.
Imports: the core, DuckDB, session, views, lineage_extents, lineage_near, lineage_predicate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, Literal, TypeAlias

import duckdb
import pyarrow as pa

from batchweave.columns.arrow_types import STRINGS, list_levels
from batchweave.errors import InvalidInput
from batchweave.sql.lineage_extents import FOUND, ORIGINS, STEPS, Known
from batchweave.sql.lineage_near import Near
from batchweave.sql.lineage_predicate import Predicate
from batchweave.sql.relation import Relation, told
from batchweave.sql.scans import literal
from batchweave.sql.session import Session
from batchweave.sql.views import axes, quoted

Match: TypeAlias = Literal["exact", "prefix", "glob"]
MATCHES: dict[str, str] = {
    "exact": "source = $text",
    "prefix": "starts_with(source, $text)",
    "glob": "source glob $text",
}
OF_SLICE = (
    'step, slice, any_value(producer) as producer, any_value("sequence") as "sequence", '
    "any_value(committed_at) as committed_at, any_value(source) as source"
)
CHECKPOINTS = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("consumer", pa.string()),
        ("next_step", pa.int64()),
        ("registered_at", pa.timestamp("us", tz="UTC")),
    ]
)
TEXT, NUMBER = "varchar", "hugeint"


@dataclass(frozen=True, slots=True)
class Unread:
    """Files that alone say where their steps came from."""

    files: int
    steps: int
    first: int
    last: int


class Queries:
    """The questions, to one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._schema = session.stream.schema
        self._slices = session.head.state.mesh.slices

    # -- steps and their sources -----------------------------------------------------------

    def steps(self, start: int, stop: int) -> pa.Table:
        """Who published what, in `STEPS`."""
        return self._ask("steps", {"start": start, "stop": stop}).cast(STEPS)

    def unread(self, start: int, stop: int) -> Unread:
        """The files of live steps whose sources are not in the metadata."""
        answer = self._ask("unknown_sources", {"start": start, "stop": stop}).to_pylist()[0]
        return Unread(**{name: value or 0 for name, value in answer.items()})

    def origins(self, start: int, stop: int, unread: Unread) -> pa.Table:
        """The sources of the steps, in `ORIGINS`; steps that only files know are left out."""
        bounds = {"start": start, "stop": stop}
        return self._ask("origins", bounds, known=_known(unread)).cast(ORIGINS)

    def origins_in_files(self, unread: Unread) -> pa.Table:
        """The sources of the steps that `origins` leaves out."""
        bounds = {"first": unread.first, "last": unread.last}
        return self._ask("origins_in_files", bounds).cast(ORIGINS)

    # -- slices that hold something --------------------------------------------------------

    def of_source(self, text: str, match: Match) -> pa.Table:
        """Slices by the text of their source, in `FOUND`."""
        matches, unread = MATCHES[match], self.unread(0, self._session.stop)
        found = [self._ask("source", {"text": text}, matches=matches, known=_known(unread))]
        if unread.files:
            bounds = {"first": unread.first, "last": unread.last, "text": text}
            found.append(self._ask("source_in_files", bounds, matches=matches))
        return _in_order(found)

    def near(self, pattern: str, files_max: int) -> Near:
        """How many sources match a pattern; asks data files too if they are not too many."""
        unread, bounds, files = self.unread(0, self._session.stop), {}, ""
        if 0 < unread.files <= files_max:
            bounds = {"first": unread.first, "last": unread.last}
            files = f" union all {self._text('sources_of_files')}"
        (found,) = self._ask("sources_inside", {"text": pattern, **bounds}, files=files).to_pylist()
        return Near(pattern, found["sources"], least=unread.files > files_max)

    def live_document(self, column: str, value: str | int) -> pa.Table:
        """Slices of live steps that have a value in a column, or in one of its lists."""
        held, wanted = duckdb.SQLExpression(quoted(column)), duckdb.ConstantExpression(value)
        nested, _ = self._kind(column)
        if nested:
            return self._live(duckdb.FunctionExpression("list_contains", held, wanted))
        return self._live(held == wanted)

    def recorded_document(self, column: str, value: str | int) -> pa.Table:
        """The same of reclaimed steps, for a lineage column."""
        _, kind = self._kind(column)
        values = {"column": column, "value": value, "text": json.dumps(value, ensure_ascii=False)}
        return _in_order([self._ask("document_in_ledger", values, kind=kind)])

    def live_where(self, predicate: Predicate) -> pa.Table:
        """Slices of live steps with a row for which a predicate holds."""
        return self._live(predicate.expression)

    def recorded_where(self, predicate: Predicate, column: str | None) -> pa.Table:
        """The same of reclaimed steps; the predicate names at most the one lineage column."""
        if column is None:
            text = f"select * exclude (lineage) from ({self._text('slices_of_ledger')})"
        else:
            _, kind = self._kind(column)
            text = self._text(
                "values_of_ledger",
                column=literal(column),
                kind=kind,
                type=self.types[column],
                as_name=quoted(column),
            )
        held = self._session.sql(text).set_alias("samples").filter(predicate.expression)
        chosen = f"{OF_SLICE}, null::bigint as rows, true as reclaimed"
        return _in_order([held.aggregate(chosen, "step, slice").to_arrow_table()])

    def _live(self, condition: duckdb.Expression) -> pa.Table:
        if self._session.stop <= self._session.head.state.watermark:
            return FOUND.empty_table()  # to plan a scan of nothing takes seconds in a long history
        chosen = f"{OF_SLICE}, count(*) as rows, false as reclaimed"
        held = self.samples.filter(condition)
        return _in_order([held.aggregate(chosen, "step, slice").to_arrow_table()])

    @cached_property
    def samples(self) -> Relation:
        """All rows of the live steps. To look at its columns takes as long as to plan a scan."""
        found: Relation = self._session.sql("select * from samples").set_alias("samples")
        return found

    @cached_property
    def types(self) -> dict[str, str]:
        """The columns of ``samples`` and their types, as DuckDB names them."""
        return dict(zip(self.samples.columns, map(str, self.samples.types), strict=True))

    def check_boolean(self, predicate: Predicate) -> None:
        """Refuse a predicate that is not one.

        Raises:
            InvalidInput: its type is another, or what it calls does not fit.
        """
        with told():
            kind = str(self.samples.select(predicate.expression).types[0])
        if kind != "BOOLEAN":
            raise InvalidInput(
                f"a predicate is true or false for each row; {predicate.text!r} is {kind}"
            )

    # -- checkpoints and what the ledger lacks ---------------------------------------------

    def checkpoints(self) -> list[Known]:
        """All that are registered, and those that the ledger remembers; by ``next_step``."""
        asked = "select checkpoint, consumer, next_step, registered_at from checkpoints"
        rows = self._session.sql(asked).to_arrow_table().cast(CHECKPOINTS).to_pylist()
        found = [Known(**one, registered=True) for one in rows]
        registered = self._session.head.state.checkpoints
        for one in self._ask("remembered", {}).to_pylist():
            if one["checkpoint"] not in registered:
                found.append(Known(**one, consumer=None, registered=False, registered_at=None))
        return sorted(found, key=lambda one: (one.next_step, one.checkpoint))

    def ledger_gaps(self, stop: int) -> tuple[int, int]:
        """How many rows the ledger has below a step, and how many of them without lineage."""
        answer = self._ask("ledger_gaps", {"stop": stop}).to_pylist()[0]
        return answer["rows"], answer["without_lineage"]

    # -- helpers ---------------------------------------------------------------------------

    def _kind(self, column: str) -> tuple[bool, str]:
        """Whether a column holds lists, and the SQL type that its values have in the ledger."""
        levels, value = list_levels(self._schema.field(column).type)
        return bool(levels), TEXT if value in STRINGS else NUMBER

    def _ask(self, name: str, values: dict[str, Any], **names: str) -> pa.Table:
        text = self._text(name, **names)
        return self._session.sql(text, values or None).to_arrow_table()

    def _text(self, name: str, **names: str) -> str:
        """The text of a file; names in braces are replaced by text that is ours."""
        text = _file(name)
        text = text.replace("{slices_of_ledger}", _file("slices_of_ledger"))
        text = text.replace(
            "{axes}", axes(self._session.head.state.mesh, self._schema.names)
        ).replace("{slices}", str(self._slices))
        for key, value in names.items():
            text = text.replace("{" + key + "}", value)
        return text


def batch_columns(columns: list[str], schema: pa.Schema) -> frozenset[str]:
    """Those of ``samples`` that are known of a slice without its data: not the users', and not
    the digest, which the ledger has for the batch's files together."""
    return frozenset(name for name in columns if name not in (*schema.names, "digest"))


def _known(unread: Unread) -> str:
    """The condition for live steps whose sources are all in the metadata."""
    within = f"step between {unread.first:d} and {unread.last:d}"
    in_files = f"step in (select step from parts where source is null and {within})"
    return f"not ({within} and {in_files})" if unread.files else "true"


def _in_order(found: list[pa.Table]) -> pa.Table:
    tables = [table.select(FOUND.names).cast(FOUND) for table in found]
    return pa.concat_tables(tables).sort_by([("step", "ascending"), ("slice", "ascending")])


def _file(name: str) -> str:
    text = resources.files("batchweave.sql").joinpath(f"lineage/{name}.sql").read_text()
    return text.rstrip().removesuffix(";")
