"""Lineage columns: those of a stream's columns that say of each row where it came from.

Owns which columns may be declared as such, and how a table property names them. The ledger keeps
their distinct values, so they are limited to what JSON holds exactly and SQL compares by value.
Pure, on types alone; imports: standard library, pyarrow, errors and arrow_types.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from batchweave.columns.arrow_types import STRINGS, list_levels
from batchweave.errors import SchemaMismatch, UnsupportedType


def check_lineage_columns(schema: pa.Schema, names: Sequence[str]) -> tuple[str, ...]:
    """The names, if a stream of this schema can declare them as its lineage columns.

    Each is a column of strings or integers, or of lists of those (samples packed from several
    documents), however they are encoded.

    Raises:
        SchemaMismatch: not a sequence of names, no such column, or one named twice.
        UnsupportedType: a column of another type.
    """
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence):
        raise SchemaMismatch(
            f"lineage_columns is a sequence of column names, for example ('doc_id',); got {names!r}"
        )
    for name in names:
        if name not in schema.names:
            raise SchemaMismatch(
                f"lineage column {name!r} is not a column of the schema, which has "
                f"{', '.join(schema.names)}"
            )
        levels, value = list_levels(schema.field(name).type)
        if len(levels) > 1 or not (value in STRINGS or pa.types.is_integer(value)):
            raise UnsupportedType(
                f"lineage column {name!r} has type {schema.field(name).type}: it must hold "
                "strings, integers, or lists of one of those"
            )
    if len(set(names)) < len(names):
        raise SchemaMismatch(f"each lineage column is named once, got {', '.join(names)}")
    return tuple(names)


def lineage_to_text(names: Sequence[str]) -> str:
    """The names as a table property keeps them: a JSON array."""
    return json.dumps(list(names), separators=(",", ":"))


def lineage_from_text(text: str) -> tuple[str, ...]:
    """The inverse of `lineage_to_text`.

    Raises:
        ValueError: the text is no JSON array of strings.
    """
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"not an array of column names: {text!r}")
    return tuple(names)
