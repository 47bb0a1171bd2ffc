"""Audits: is the history of a stream all there, in order, and unchanged?

Each audit is one ``.sql`` file (see `batchweave.sql.audit_files`) whose rows are evidence against
the stream. They see one version of it, and its metadata without the checks that readers make, so
they can say what is wrong where a reader can only refuse. Nothing is ever written.
Imports: the core, DuckDB, session, audit_files, audit_report, audit_tables.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from batchweave.clock import Clock, SystemClock
from batchweave.errors import BatchWeaveError, InvalidInput, StoreError
from batchweave.sql.audit_files import ALLOWED, AuditFile, Value, of_folder, shipped
from batchweave.sql.audit_making import Making
from batchweave.sql.audit_report import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    AuditReport,
    AuditResult,
)
from batchweave.sql.audit_tables import TABLES, check_expression, measured
from batchweave.sql.session import Session
from batchweave.stream import Stream

EVIDENCE_ROWS_MAX = 100
_ROWS_AT_ONCE = 2048
# Damage takes any shape: what it breaks in one audit must stop no other.
_FAILURES = (
    BatchWeaveError,
    duckdb.Error,
    pa.ArrowException,
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)

__all__ = ["AuditReport", "AuditResult", "audit", "available"]


def available(folder: str | Path | None = None) -> dict[str, AuditFile]:
    """The audits that there are, by name: those of BatchWeave, then those of the user's folder.

    Raises:
        InvalidInput: a file of the folder is not written as audits are.
    """
    found = shipped(TABLES)
    if folder is not None:
        found |= of_folder(folder, TABLES, taken=found)
    return found


def audit(
    stream: Stream,
    *,
    deep: bool = False,
    only: str | Iterable[str] | None = None,
    skip: str | Iterable[str] = (),
    folder: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    skew: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    clock: Clock | None = None,
    evidence_rows_max: int = EVIDENCE_ROWS_MAX,
) -> AuditReport:
    """Run audits on a stream's newest version and report what speaks against it.

    Without ``deep`` no data file is opened, except for what ``skew`` measures and, where only they
    know it, for the sources of each producer's newest batch.

    Args:
        stream: which stream.
        deep: read every live file again, and compare it with its digest.
        only: names of the audits to run; None for all.
        skip: names of audits not to run.
        folder: a folder of the user's own audits, ``*.sql``, run beside the others.
        parameters: values by ``"audit.parameter"``; every audit has ``"audit.allowed"``, its
            threshold.
        skew: a column expression to measure slices by, besides their bytes: ``"len(tokens)"``.
        progress: told the files read and those to read in all, where ``deep``.
        clock: what tells the age of files and batches.
        evidence_rows_max: how many rows of evidence a result keeps.

    Raises:
        InvalidInput: no such audit or parameter, a value of another type, a folder's file that is
            not written as audits are, an expression that is none.
        UnsupportedFormat, StreamCorrupted: SQL cannot read the table, or its state is broken.
        StoreDenied, StoreUnavailable, StoreError: its metadata cannot be read.
    """
    known = available(folder)
    chosen = _chosen(known, only, skip)
    values = _values(known, parameters or {})
    if skew is not None:
        check_expression(skew)
    with Session(stream, read_only=True) as session:
        session.sql("select 1")  # from here on it reaches no files but the stream's
        if skew is not None:
            with contextlib.suppress(StoreError):  # what cannot be read, the audit itself will say
                measured(session, skew)
        tell = progress or (lambda done, total: None)
        making = Making(session, clock or SystemClock(), deep, skew, tell, TABLES)
        run = _Run(making, values, evidence_rows_max)
        state = session.head.state
        return AuditReport(
            stream.name,
            session.head.version,
            state.watermark,
            state.next_step,
            deep,
            tuple(run.result(one) for one in chosen),
        )


def _chosen(
    known: Mapping[str, AuditFile], only: str | Iterable[str] | None, skip: str | Iterable[str]
) -> list[AuditFile]:
    wanted = _names(known, known if only is None else only)
    left_out = _names(known, skip)
    return [known[name] for name in known if name in wanted and name not in left_out]


def _names(known: Mapping[str, AuditFile], names: str | Iterable[str]) -> set[str]:
    found = {names} if isinstance(names, str) else set(names)
    for name in found:
        _check_known(known, name)
    return found


def _check_known(known: Mapping[str, AuditFile], name: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f": did you mean {near[0]!r}?" if near else f": there are {', '.join(known)}"
        raise InvalidInput(f"there is no audit {name!r}{hint}")


def _values(
    known: Mapping[str, AuditFile], given: Mapping[str, Any]
) -> dict[str, dict[str, Value]]:
    """The parameters' values of each audit."""
    by_audit: dict[str, dict[str, Any]] = {name: {} for name in known}
    for key, value in given.items():
        name, dot, parameter = str(key).partition(".")
        if not dot:
            raise InvalidInput(f"a parameter is named audit.parameter, got {key!r}")
        _check_known(known, name)
        by_audit[name][parameter] = value
    return {name: known[name].values(by_audit[name]) for name in known}


@dataclass(frozen=True, slots=True)
class _Run:
    making: Making
    values: Mapping[str, Mapping[str, Value]]
    rows_max: int

    def result(self, one: AuditFile) -> AuditResult:
        """Run one audit. That it cannot be run is its verdict, and stops no other."""
        values = dict(self.values[one.name])
        allowed = values.pop(ALLOWED)
        assert isinstance(allowed, int)
        missing = [name for name, value in values.items() if value is None]
        reason = ""
        if one.deep and not self.making.deep:
            reason = "it reads the data files: ask for a deep audit"
        elif missing:
            reason = f"it runs where {', '.join(f'{one.name}.{name}' for name in missing)} is given"
        if reason:
            return AuditResult(one.name, one.checks, SKIPPED, allowed, note=reason)
        try:
            for name in one.needs:
                self.making.need(name)
            evidence, count = self._evidence(one.sql, values)
        except _FAILURES as error:
            return AuditResult(one.name, one.checks, ERROR, allowed, note=str(error))
        notes = (self.making.notes.get(name, "") for name in one.needs)
        return AuditResult(
            one.name,
            one.checks,
            PASSED if count <= allowed else FAILED,
            allowed,
            count,
            evidence,
            "; ".join(filter(None, notes)),
        )

    def _evidence(self, sql: str, values: Mapping[str, Value]) -> tuple[pa.Table, int]:
        """The first rows of a query, and how many it has."""
        found = self.making.session.sql(sql, values).to_arrow_reader(_ROWS_AT_ONCE)
        kept, count = [], 0
        for batch in found:
            if count < self.rows_max:
                kept.append(batch.slice(0, self.rows_max - count))
            count += batch.num_rows
        return pa.Table.from_batches(kept, schema=found.schema), count
