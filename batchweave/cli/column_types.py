"""The little language of ``--column NAME=TYPE``: Arrow types as text, parsed, never evaluated.

type   = scalar | decimal | list | struct | map
scalar = bool, int8 … int64, uint8 … uint64, float16, float32, float64, string, binary, date,
         timestamp, timestamptz; also int, long, float and double, as Iceberg has them
decimal = "decimal" "(" precision "," scale ")"
list    = "list" "<" type ">"
struct  = "struct" "<" name ":" type { "," name ":" type } ">"
map     = "map" "<" type "," type ">"
"""

from __future__ import annotations

import re

import pyarrow as pa

from batchweave.errors import InvalidInput

SCALARS: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "boolean": pa.bool_(),
    **{f"int{bits}": getattr(pa, f"int{bits}")() for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": getattr(pa, f"uint{bits}")() for bits in (8, 16, 32, 64)},
    "int": pa.int32(),
    "long": pa.int64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", tz="UTC"),
}
_NAMES = {name: kind for name, kind in SCALARS.items() if name not in ("boolean", "int", "long")}
DEPTH_MAX = 16
PRECISION_MAX = 38

_TOKEN = re.compile(r"\s*(?:([A-Za-z_][A-Za-z0-9_-]*)|(\d+)|([<>(),:]))")


def parse_type(text: str) -> pa.DataType:
    """The Arrow type that ``text`` names.

    Raises:
        InvalidInput: with the place where the text stops making sense.
    """
    parser = _Parser(text)
    found = parser.type(0)
    parser.end()
    return found


def type_text(kind: pa.DataType) -> str:
    """A type in the same language; Arrow's own name where it has none."""
    if pa.types.is_map(kind):
        return f"map<{type_text(kind.key_type)}, {type_text(kind.item_type)}>"
    if pa.types.is_list(kind):
        return f"list<{type_text(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{one.name}: {type_text(one.type)}' for one in kind)}>"
    if pa.types.is_decimal128(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    return next((name for name, known in _NAMES.items() if known.equals(kind)), str(kind))


class _Parser:
    """Recursive descent over one type's text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def type(self, depth: int) -> pa.DataType:
        if depth > DEPTH_MAX:
            raise self.wrong(f"at most {DEPTH_MAX} types within another")
        start = self.at
        name = self.word("a type")
        if name in SCALARS:
            return SCALARS[name]
        if name == "decimal":
            return self.decimal()
        if name == "list":
            return pa.list_(self.within(depth, 1)[0])
        if name == "map":
            return pa.map_(*self.within(depth, 2))
        if name == "struct":
            return self.struct(depth)
        self.at = start
        known = ", ".join(sorted(SCALARS))
        raise self.wrong(f"one of {known}, decimal(p, s), list<…>, struct<…>, map<…, …>")

    def within(self, depth: int, count: int) -> list[pa.DataType]:
        self.sign("<")
        found = [self.type(depth + 1)]
        while len(found) < count:
            self.sign(",")
            found.append(self.type(depth + 1))
        self.sign(">")
        return found

    def struct(self, depth: int) -> pa.DataType:
        self.sign("<")
        fields: list[pa.Field] = []
        while True:
            name = self.word("a field's name")
            if any(field.name == name for field in fields):
                raise self.wrong(f"field names that differ (there is {name!r} already)")
            self.sign(":")
            fields.append(pa.field(name, self.type(depth + 1)))
            if self.sign(",", ">") == ">":
                return pa.struct(fields)

    def decimal(self) -> pa.DataType:
        self.sign("(")
        precision = self.number()
        self.sign(",")
        scale = self.number()
        if not 1 <= precision <= PRECISION_MAX or scale > precision:
            raise self.wrong(f"a precision of 1 to {PRECISION_MAX} and a scale up to it")
        self.sign(")")
        return pa.decimal128(precision, scale)

    def word(self, what: str) -> str:
        return self.token(1, what)

    def number(self) -> int:
        return int(self.token(2, "a number"))

    def sign(self, *wanted: str) -> str:
        before = self.at
        what = " or ".join(repr(one) for one in wanted)
        found = self.token(3, what)
        if found not in wanted:
            self.at = before
            raise self.wrong(what)
        return found

    def token(self, group: int, what: str) -> str:
        match = _TOKEN.match(self.text, self.at)
        if match is None or match.group(group) is None:
            raise self.wrong(what)
        self.at = match.end()
        return match.group(group)

    def end(self) -> None:
        if self.text[self.at :].strip():
            raise self.wrong("nothing more")

    def wrong(self, wanted: str) -> InvalidInput:
        rest = self.text[self.at :].strip()
        found = repr(rest) if rest else "the end"
        return InvalidInput(f"type {self.text!r}: expected {wanted}; found {found}")
