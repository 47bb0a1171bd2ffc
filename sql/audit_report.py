"""What an audit found: one result a check, and the report of all. Imports: pyarrow."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any

import pyarrow as pa

PASSED = "passed"
FAILED = "failed"
SKIPPED = "skipped"
ERROR = "error"


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What one audit says of a stream.

    Attributes:
        name: the audit's.
        checks: the promise that it checks, in a sentence.
        verdict: ``passed``, ``failed``, ``skipped`` (``note`` says why), or ``error``: it could not
            be run, ``note`` has the message.
        measured: how many rows speak against the promise; None unless it ran.
        threshold: how many may.
        evidence: the first of these rows; None unless it ran.
        note: why it did not run, or what it did not look at.
    """

    name: str
    checks: str
    verdict: str
    threshold: int
    measured: int | None = None
    evidence: pa.Table | None = field(repr=False, default=None)
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the stream: it passed, or was skipped."""
        return self.verdict in (PASSED, SKIPPED)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it; times and intervals in ISO 8601, bytes in base64."""
        return {
            "name": self.name,
            "checks": self.checks,
            "verdict": self.verdict,
            "measured": self.measured,
            "threshold": self.threshold,
            "note": self.note,
            "evidence": None if self.evidence is None else _plain(self.evidence.to_pylist()),
        }


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What all audits say of one version of a stream.

    ``findings`` has a result for each audit that was chosen, in the order in which they ran.
    """

    stream: str
    version: int
    watermark: int
    next_step: int
    deep: bool
    findings: tuple[AuditResult, ...]

    @property
    def ok(self) -> bool:
        """Whether no audit failed, and each could be run that was not skipped."""
        return all(one.ok for one in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the audits that failed."""
        return tuple(one.name for one in self.findings if one.verdict == FAILED)

    def __getitem__(self, name: str) -> AuditResult:
        """The result of one audit; `KeyError` where it was not chosen."""
        for one in self.findings:
            if one.name == name:
                return one
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "stream": self.stream,
            "version": self.version,
            "watermark": self.watermark,
            "next_step": self.next_step,
            "deep": self.deep,
            "ok": self.ok,
            "findings": [one.to_dict() for one in self.findings],
        }

    def __str__(self) -> str:
        width = max((len(one.name) for one in self.findings), default=0)
        lines = [_line(one, width) for one in self.findings]
        return "\n".join([f"{self.stream} at version {self.version}", *lines])


def _line(one: AuditResult, width: int) -> str:
    found = "" if one.measured is None else f"{one.measured} found, {one.threshold} allowed"
    return f"{one.name.ljust(width)}  {one.verdict:8}{'; '.join(filter(None, [found, one.note]))}"


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, pa.MonthDayNano):
        months, days, nanoseconds = value
        return f"P{months}M{days}DT{nanoseconds / 1e9:g}S"
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)
