"""Audits as ``.sql`` files: what their headers declare, checked before anything is run.

A file begins with comment lines ``-- key: value``; a line ``--   …`` goes on with the value before
it, and the first other line ends the header::

    -- name: stalled
    -- checks: No producer falls behind the others for longer than `seconds`.
    -- allowed: 0
    -- parameter: seconds double = 3600 (how long the others may have gone on without it)
    -- needs: moment

``name`` and ``checks`` must be there. ``allowed`` is the threshold: how many rows of evidence the
query may return (0). ``parameter`` stands once for each ``$name`` of the query, with its type
(``bigint``, ``double``, ``varchar`` or ``boolean``) and a default in JSON; one whose default is
null must be given, or the audit is skipped. ``needs`` names the tables of
`batchweave.sql.audit_tables` that are made for it, besides the session's views. ``deep: yes`` marks
an audit that reads data files and runs only when that is asked for. The rest of the file is one
SELECT that returns the evidence.
Imports: errors, DuckDB.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import duckdb

from batchweave.errors import InvalidInput

Value: TypeAlias = int | float | str | bool | None

ALLOWED = "allowed"
"""The parameter that every audit has: its threshold."""

_KEYS = ("name", "checks", "allowed", "deep", "parameter", "needs")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_HEADER = re.compile(r"-- ?([A-Za-z_]+) *: *(.*)")
_CONTINUED = re.compile(r"--\s{3,}(\S.*)")
_PARAMETER = re.compile(r"(\w+) +(\w+) *= *(.+?)(?: +\((.*)\))?")
_FLAGS = {"true": True, "false": False, "yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that a query takes as ``$name``. ``default`` None: it must be given."""

    name: str
    kind: str
    default: Value
    about: str = ""

    def read(self, value: Any) -> Value:
        """A given value in the parameter's type; text is read as the command line has it.

        Raises:
            InvalidInput: it is no such value.
        """
        try:
            return _READERS[self.kind](value)
        except (ValueError, TypeError, OverflowError):
            raise InvalidInput(
                f"parameter {self.name!r} is a {self.kind.upper()}, got {value!r}"
            ) from None


@dataclass(frozen=True, slots=True)
class AuditFile:
    """One audit as its file declares it; ``sql`` is the query."""

    name: str
    checks: str
    sql: str = field(repr=False)
    allowed: int = 0
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    deep: bool = False

    def values(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """All parameters' values, the threshold's among them.

        Raises:
            InvalidInput: there is no parameter of a name, or a value is of another type.
        """
        known = {**self.parameters, ALLOWED: Parameter(ALLOWED, "bigint", self.allowed)}
        for name in given:
            if name not in known:
                raise InvalidInput(
                    f"audit {self.name!r} has no parameter {name!r}: it has {', '.join(known)}"
                )
        found = {
            name: one.read(given[name]) if name in given else one.default
            for name, one in known.items()
        }
        allowed = found[ALLOWED]
        if not isinstance(allowed, int) or allowed < 0:
            raise InvalidInput(f"{self.name}.{ALLOWED} is a number from 0 on, got {allowed!r}")
        return found


def shipped(tables: Collection[str]) -> dict[str, AuditFile]:
    """The audits of ``sql/audits``, by name. ``tables`` are those that ``needs`` may name."""
    folder = resources.files("batchweave.sql").joinpath("audits")
    texts = {one.name: one.read_text() for one in folder.iterdir() if one.name.endswith(".sql")}
    return _by_name({name: texts[name] for name in sorted(texts)}, tables, taken=())


def of_folder(
    folder: str | Path, tables: Collection[str], taken: Iterable[str]
) -> dict[str, AuditFile]:
    """The audits of a user's folder, by name; ``taken`` are names that they may not have.

    Raises:
        InvalidInput: there is no such folder, no audit in it, or one is not written as it must be.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InvalidInput(f"there is no folder {str(folder)!r} of audits")
    texts = {}
    for one in sorted(path.glob("*.sql")):
        try:
            texts[str(one)] = one.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"the audit {str(one)!r} cannot be read: {error}") from None
    if not texts:
        raise InvalidInput(f"the folder {str(folder)!r} has no audit: audits are *.sql files")
    return _by_name(texts, tables, taken=taken)


def _by_name(
    texts: Mapping[str, str], tables: Collection[str], taken: Iterable[str]
) -> dict[str, AuditFile]:
    found: dict[str, AuditFile] = {}
    used = set(taken)
    for where, text in texts.items():
        one = parse(text, where, tables)
        if one.name in used:
            raise InvalidInput(f"{where}: there is an audit {one.name!r} already: rename this one")
        used.add(one.name)
        found[one.name] = one
    return found


def parse(text: str, where: str, tables: Collection[str]) -> AuditFile:
    """Read one file; ``where`` names it in errors.

    Raises:
        InvalidInput: the header lacks something or has something unknown, the rest is not one
            SELECT, or its ``$names`` are not the parameters that the header declares.
    """
    header, sql = _split(text, where)
    single = {key: values[0] for key, values in header.items() if key != "parameter"}
    for key, values in header.items():
        if key != "parameter" and len(values) > 1:
            raise InvalidInput(f"{where}: the header says {key!r} more than once")
    for key in ("name", "checks"):
        if not single.get(key):
            raise InvalidInput(f"{where}: the header lacks a line '-- {key}: …'")
    if not _NAME.fullmatch(single["name"]):
        raise InvalidInput(
            f"{where}: an audit's name has small letters, digits and '_', and begins with a "
            f"letter, got {single['name']!r}"
        )
    parameters = _parameters(header.get("parameter", []), where)
    _check_query(sql, set(parameters), where)
    return AuditFile(
        name=single["name"],
        checks=single["checks"],
        sql=sql,
        allowed=_allowed(single.get("allowed", "0"), where),
        parameters=parameters,
        needs=_needs(single.get("needs", ""), tables, where),
        deep=_flag(single.get("deep", "no"), where),
    )


def _split(text: str, where: str) -> tuple[dict[str, list[str]], str]:
    """The header's values by key, and the query below it."""
    lines = text.splitlines()
    header: dict[str, list[str]] = {}
    last: list[str] | None = None
    for number, line in enumerate(lines):
        match, more = _HEADER.fullmatch(line.rstrip()), _CONTINUED.fullmatch(line.rstrip())
        if more and last:
            last[-1] += f" {more.group(1)}"
        elif match:
            key = match.group(1).lower()
            if key not in _KEYS:
                raise InvalidInput(
                    f"{where}, line {number + 1}: a header has no {key!r}, only {', '.join(_KEYS)}"
                )
            last = header.setdefault(key, [])
            last.append(match.group(2).strip())
        else:
            return header, "\n".join(lines[number:])
    return header, ""


def _parameters(lines: Iterable[str], where: str) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for line in lines:
        match = _PARAMETER.fullmatch(line)
        kind = match.group(2).lower() if match else ""
        if match is None or kind not in _READERS or not _NAME.fullmatch(match.group(1)):
            raise InvalidInput(
                f"{where}: a parameter is declared as 'name type = default (what it is)', with a "
                f"type of {', '.join(_READERS)}, got {line!r}"
            )
        name = match.group(1)
        if name in found or name == ALLOWED:
            raise InvalidInput(f"{where}: parameter {name!r} is there already")
        found[name] = Parameter(name, kind, None, match.group(4) or "")
        try:
            value = json.loads(match.group(3))
            default = None if value is None else found[name].read(value)
        except ValueError as error:  # InvalidInput is one, too
            raise InvalidInput(
                f"{where}: the default of {name!r} is no {kind} in JSON: {error}"
            ) from None
        found[name] = replace(found[name], default=default)
    return found


def _check_query(sql: str, declared: set[str], where: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise InvalidInput(f"{where}: {error}") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise InvalidInput(f"{where}: below its header an audit is one SELECT")
    used = set(statements[0].named_parameters)
    if used - declared:
        names = ", ".join(f"${name}" for name in sorted(used - declared))
        raise InvalidInput(f"{where}: the header declares no parameter for {names}")
    if declared - used:
        names = ", ".join(sorted(declared - used))
        raise InvalidInput(f"{where}: the query does not use its parameter {names}")


def _allowed(text: str, where: str) -> int:
    if not text.isdecimal():
        raise InvalidInput(f"{where}: 'allowed' is a number of rows from 0 on, got {text!r}")
    return int(text)


def _needs(text: str, tables: Collection[str], where: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in tables:
            raise InvalidInput(
                f"{where}: no table {name!r} is made for audits, only {', '.join(tables)}"
            )
    return names


def _flag(text: str, where: str) -> bool:
    if text.lower() not in _FLAGS:
        raise InvalidInput(f"{where}: 'deep' is yes or no, got {text!r}")
    return _FLAGS[text.lower()]


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError
    found = int(value)
    if not -(2**63) <= found < 2**63:
        raise OverflowError
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    found = float(value)
    if not math.isfinite(found):
        raise ValueError
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _boolean(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    if not isinstance(value, bool):
        raise TypeError
    return value


_READERS: Mapping[str, Callable[[Any], Value]] = {
    "bigint": _whole,
    "double": _number,
    "varchar": _text,
    "boolean": _boolean,
}
