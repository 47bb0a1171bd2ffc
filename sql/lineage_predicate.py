"""A predicate on a sample, as users write it: taken only as one expression on one row.

It never becomes part of a statement's text. DuckDB parses it here, to see what it is made of, and
takes it as an expression of its own.
Imports: errors, DuckDB.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from batchweave.errors import InvalidInput

_NO_PREDICATE = {
    "SUBQUERY": "a subquery",
    "STAR": "'*' or COLUMNS",
    "WINDOW": "a window function",
    "PARAMETER": "a parameter",
    "DEFAULT": "DEFAULT",
}
_NOT_TWICE = ("where_clause", "having", "qualify", "sample")


@dataclass(frozen=True, slots=True)
class Predicate:
    """One boolean expression, and the columns that it names, as ``samples`` spells them."""

    text: str
    expression: duckdb.Expression
    columns: frozenset[str]


def parse_predicate(text: str, columns: Collection[str]) -> Predicate:
    """Take a predicate on the columns of ``samples``.

    Raises:
        InvalidInput: it is no expression, or more than one, or asks for more than one row's values
            (a subquery, a window, a parameter); or it names a column that is not there.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f"a predicate is text such as \"doc_id = 'a'\", got {text!r}")
    parsed = _parsed(text)
    known = {name.lower(): name for name in columns}
    named = set()
    for path in _references(parsed, frozenset()):
        first = path[1] if len(path) > 1 and path[0].lower() == "samples" else path[0]
        if first.lower() not in known:
            raise InvalidInput(
                f"the predicate names {'.'.join(path)!r}; samples has {', '.join(columns)}"
            )
        named.add(known[first.lower()])
    try:
        return Predicate(text, duckdb.SQLExpression(text), frozenset(named))
    except duckdb.Error as error:
        raise _refused(text, str(error)) from None


def _parsed(text: str) -> Any:
    """The expression's tree, which DuckDB's parser makes and nothing runs."""
    with duckdb.connect() as connection:
        try:
            answer = connection.execute(
                "select json_serialize_sql('select ' || $text)", {"text": text}
            ).fetchone()
        except duckdb.Error as error:
            raise _refused(text, str(error)) from None
    found: dict[str, Any] = json.loads(answer[0]) if answer else {"error": True}
    if found.get("error_type") == "not implemented":
        raise _refused(text, "it is more than one expression")
    if found.get("error"):
        raise _refused(text, found.get("error_message", "it cannot be parsed"))
    statements = found["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    plain = (
        node.get("type") == "SELECT_NODE"
        and node["from_table"]["type"] == "EMPTY"
        and not (node["modifiers"] or node["cte_map"]["map"] or node["group_expressions"])
        and not any(node[name] for name in _NOT_TWICE)
        and len(node["select_list"]) == 1
        and not node["select_list"][0]["alias"]
    )
    if not plain:
        raise _refused(text, "it is more than one expression")
    return node["select_list"][0]


def _references(node: Any, own: frozenset[str]) -> Iterator[list[str]]:
    """Every column that is named; ``own`` are the names that a lambda gives."""
    if isinstance(node, list):
        for one in node:
            yield from _references(one, own)
        return
    if not isinstance(node, dict):
        return
    kind = node.get("class")
    if kind in _NO_PREDICATE:
        raise InvalidInput(
            f"a predicate is about one row of samples, without {_NO_PREDICATE[kind]}"
        )
    if kind == "COLUMN_REF":
        if node["column_names"][0] not in own:
            yield list(node["column_names"])
    elif kind == "LAMBDA" and _parameters(node["lhs"]) is not None:
        yield from _references(node["expr"], own | frozenset(_parameters(node["lhs"]) or ()))
    else:
        for one in node.values():
            yield from _references(one, own)


def _parameters(node: Any) -> list[str] | None:
    """The names on the left of a lambda; None for what only looks like one."""
    if node.get("class") == "COLUMN_REF":
        return [str(node["column_names"][0])]
    if node.get("class") == "FUNCTION" and node.get("function_name") == "row":
        names = [_parameters(one) for one in node["children"]]
        return [name for each in names for name in each or ()]
    return None


def _refused(text: str, why: str) -> InvalidInput:
    return InvalidInput(f"the predicate {text!r} is not one expression on a row of samples: {why}")
