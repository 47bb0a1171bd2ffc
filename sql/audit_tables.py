"""Tables that audits need and that no view has: computed here, and registered in the session.

Imports: the core, DuckDB, session, and what the tables are computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from batchweave.errors import InvalidInput, StreamCorrupted
from batchweave.ledger.rows import from_arrow
from batchweave.paths import DATA, upload_version
from batchweave.sql.audit_chain import ledger_breaks, live_breaks
from batchweave.sql.audit_digests import NamedFile, read_again
from batchweave.sql.audit_making import Making, table
from batchweave.sql.audit_origins import (
    newest_ranges,
    position_places,
    positions_read,
    source_ranges,
)
from batchweave.sql.relation import told
from batchweave.sql.session import Session

_TIME = pa.timestamp("ms", tz="UTC")
_NUMBERS = {
    *("tinyint", "smallint", "integer", "bigint", "hugeint"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "uhugeint"),
    *("float", "double", "decimal", "boolean"),
}


def moment(making: Making) -> pa.Table:
    """``now``: the present by the caller's clock."""
    now = datetime.fromtimestamp(making.clock.now_ms() / 1000, UTC)
    return pa.table({"now": pa.array([now], _TIME)})


# -- chain -------------------------------------------------------------------------------------


def chain_breaks(making: Making) -> pa.Table:
    """Steps at which the hashes of ledger and live batches do not follow, see `audit_chain`."""
    session, state = making.session, making.session.head.state
    recorded = session.sql("from ledger order by batch_step").to_arrow_table()
    try:
        rows = list(from_arrow(recorded))
    except (TypeError, AttributeError) as error:
        raise StreamCorrupted(f"a row of the ledger lacks a value: {error}") from error
    end = None
    ledger = session.stream.ledger if state.watermark else None
    if ledger is not None:
        end = ledger.place()
        if end.next_step > state.watermark:  # recorded, but not reclaimed yet
            rows += ledger.read(state.watermark, end.next_step)
    if end is not None and end.gaps:
        lost = ", ".join(f"{first} to {stop - 1}" for first, stop in end.gaps)
        proven = f"the history is proven from step {end.gaps[-1][1]} on"
        making.notes["chain_breaks"] = f"the ledger's rows of steps {lost} were given up: {proven}"
    found, place = ledger_breaks(rows, state.watermark, end)
    live = making.rows(
        "select step, list(digest order by first_slice, path) from parts "
        "where step is not null group by step order by step"
    )
    if place.next_step == state.watermark:
        found += live_breaks(live, state.watermark, state.next_step, place.chain, state.chain)
    return table(
        [asdict(one) for one in found],
        step=pa.int64(),
        problem=pa.string(),
        expected=pa.string(),
        found=pa.string(),
    )


def given_up(making: Making) -> pa.Table:
    """Runs of steps whose rows in the ledger are lost, as `Stream.restart_ledger` recorded them."""
    ledger = making.session.stream.ledger if making.session.head.state.watermark else None
    gaps = () if ledger is None else ledger.place().gaps
    return table(
        [{"first": first, "stop": stop} for first, stop in gaps], first=pa.int64(), stop=pa.int64()
    )


# -- files -------------------------------------------------------------------------------------


def listing(making: Making) -> pa.Table:
    """Every file in the stream's data folder; ``upload_version`` is null where it is not ours."""
    objects = making.session.stream.table.objects
    paths, sizes, versions, times = [], [], [], []
    for info in objects.list(DATA):
        paths.append(info.path)
        sizes.append(info.size)
        versions.append(upload_version(info.path))
        times.append(info.modified_ms)
    return pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "bytes": pa.array(sizes, pa.int64()),
            "upload_version": pa.array(versions, pa.int64()),
            "modified_at": pa.array(times, pa.int64()).cast(_TIME),
        }
    )


def state_now(making: Making) -> pa.Table:
    """The stream's state after the files were listed; ``oldest_pending`` is that of all reclaims.

    Files uploaded under that version or a later one may be those of a reclaim whose grace period
    lasts.
    """
    making.need("listing")
    before, now = making.session.head.state, making.session.stream.table.head().state
    pending = [one.oldest_upload for one in (*before.reclaims.values(), *now.reclaims.values())]
    return table(
        [{"watermark": now.watermark, "oldest_pending": min(pending, default=None)}],
        watermark=pa.int64(),
        oldest_pending=pa.int64(),
    )


def digests_read(making: Making) -> pa.Table:
    """Files of live batches that were changed or are gone: all of them are read again."""
    session = making.session
    named = [
        NamedFile(*row)
        for row in making.rows(
            "select step, producer, path, bytes, digest from parts "
            "where path is not null order by step, path"
        )
    ]
    objects = session.stream.table.objects
    changed = list(read_again(objects, named, lambda done: making.progress(done, len(named))))
    watermark = session.stream.table.head().state.watermark if changed else 0
    return table(
        [
            {
                "step": one.file.step,
                "producer": one.file.producer,
                "path": one.file.path,
                "problem": one.problem,
                "expected": one.expected,
                "found": one.found,
            }
            for one in changed
            if one.file.step >= watermark  # or it was reclaimed, and swept, meanwhile
        ],
        step=pa.int64(),
        producer=pa.string(),
        path=pa.string(),
        problem=pa.string(),
        expected=pa.string(),
        found=pa.string(),
    )


# -- skew --------------------------------------------------------------------------------------


def slice_values(making: Making) -> pa.Table:
    """What each slice holds, by measure: ``bytes``; with ``deep`` its ``rows``; and the user's."""
    queries = [
        "select 'bytes' as measure, step, slice, bytes::double as value from slices",
        "select 'rows', step, slice, rows::double from slice_rows",
    ]
    found = making.session.sql(" union all ".join(queries if making.deep else queries[:1]))
    tables = [found.to_arrow_table()]
    if making.skew is not None:
        own = measured(making.session, making.skew).to_arrow_table()
        named = pa.repeat(pa.scalar(making.skew, pa.string()), own.num_rows)
        tables.append(own.add_column(0, "measure", named).cast(tables[0].schema))
    return pa.concat_tables(tables)


def check_expression(expression: str) -> duckdb.Expression:
    """Text as one expression, which is never part of a statement.

    Raises:
        InvalidInput: it is none, or more than one.
    """
    try:
        # As text SQLExpression takes more than it keeps: what follows the expression is dropped.
        whole = duckdb.extract_statements(f"select ({expression}\n)")
        if len(whole) == 1 and not whole[0].named_parameters:
            return duckdb.SQLExpression(expression)
        raise InvalidInput("it is more than an expression")
    except (duckdb.Error, InvalidInput, TypeError) as error:
        raise _no_measure(expression, error) from error


def measured(session: Session, expression: str) -> Any:
    """The sum of a column expression over the rows of each slice: step, slice, value.

    Raises:
        InvalidInput: it is not one expression, or none that the samples have a number for.
    """
    value = check_expression(expression)
    try:
        with told():
            samples = session.sql("from samples").bare
            if samples.select(value).types[0].id not in _NUMBERS:
                raise InvalidInput("its value is not a number")
            total = duckdb.FunctionExpression("sum", value.cast("DOUBLE")).alias("value")
            place = [duckdb.ColumnExpression("step"), duckdb.ColumnExpression("slice")]
            return samples.aggregate([*place, total], "step, slice")
    except InvalidInput as error:
        raise _no_measure(expression, error) from error


def _no_measure(expression: str, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"skew is measured by one expression over the columns of samples, such as len(tokens); "
        f"{expression!r} is none: {error}"
    )


TABLES: Mapping[str, Callable[[Making], pa.Table]] = {
    one.__name__: one
    for one in (
        moment,
        chain_breaks,
        given_up,
        listing,
        state_now,
        digests_read,
        positions_read,
        position_places,
        newest_ranges,
        source_ranges,
        slice_values,
    )
}
"""What the header of an audit may need, by name."""
