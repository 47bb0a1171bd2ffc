"""What positions and sources say of the data that a producer takes, as far as they can be compared.

Both are a producer's own words, so audits compare only those that follow a convention:

- A **source** is a JSON object, or a list of them, that names a range of whole numbers: where it
  begins (``start`` or ``offset``), and where it ends (``end`` or ``stop``, exclusive) or how long
  it is (``bytes``, ``length``, ``rows`` or ``count``). All other keys together say of what:
  ``{"file": "a.jsonl", "start": 0, "end": 4096}``. Where there are none, it is the producer's own
  numbering. A source that repeats its data on purpose says so with a key: ``"epoch": 2``.
- What an **assembler** writes has a list of places instead, ``{"rows": [{"source": "web",
  "in": "a.jsonl", "first": 0, "last": 63, "rows": 64}]}``: a place is a range if it has all rows
  from the first to the last, and none of them only in pieces. Without an ``id``, which tells the
  file from its namesakes, it is compared within one producer alone.
- A **position** of the same kind says where reading goes on: ``next``, ``end``, ``stop``,
  ``offset`` or ``start``; the other keys must be those of the sources:
  ``{"file": "a.jsonl", "offset": 4096}``.

What does not follow it is never counted against a stream. Imports: standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_START = ("start", "offset")
_END = ("end", "stop")
_LENGTH = ("bytes", "length", "rows", "count")
_PLACE = ("next", "end", "stop", "offset", "start")
_ALL = {*_START, *_END, *_LENGTH, *_PLACE}
WHOLE_MAX = 2**62


@dataclass(frozen=True, slots=True)
class Span:
    """A range of some thing, ``start`` to ``stop`` (exclusive)."""

    thing: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Said:
    """What a source says.

    Attributes:
        spans: the ranges that it names; none where it does not follow the convention.
        complete: whether they are all that it is about.
        assembled: whether an assembler wrote it. Two batches may have the same text then: it does
            not stand for their data.
    """

    spans: list[Span]
    complete: bool
    assembled: bool = False


def spans_of(source: str, producer: str) -> list[Span]:
    """The ranges that a source names; none where it does not follow the convention."""
    return said_by(source, producer).spans


def said_by(source: str, producer: str) -> Said:
    """What a source says, as far as it follows the convention."""
    value = _value(source)
    if isinstance(value, dict) and isinstance(value.get("rows"), list):
        places: list[Any] = value["rows"]
        found = [_place_span(one, producer) for one in places if isinstance(one, dict)]
        spans = [one for one in found if one is not None]
        complete = len(spans) == len(places) and "more" not in value
        return Said(spans, complete, assembled=True)
    items = value if isinstance(value, list) else [value]
    found = [_span(one, producer) for one in items if isinstance(one, dict)]
    spans = [one for one in found if one is not None]
    return Said(spans, 0 < len(spans) == len(items))


def _span(item: dict[str, Any], producer: str) -> Span | None:
    start, stop = _first(item, _START), _first(item, _END)
    length = _first(item, _LENGTH)
    if start is not None and stop is None and length is not None:
        stop = start + length
    if start is not None and stop is not None and stop >= start:
        return Span(_thing(item, producer), start, stop)
    return None


def _place_span(place: dict[str, Any], producer: str) -> Span | None:
    """The range that a place is; None if rows of it are left out, or are there only in part."""
    first, last, rows = (_first(place, (key,)) for key in ("first", "last", "rows"))
    if first is None or last is None or rows is None or "pieces" in place:
        return None
    if rows < 1 or last - first + 1 != rows:
        return None
    rest = {key: value for key, value in place.items() if key not in ("first", "last", "rows")}
    if "id" not in rest:
        rest["producer"] = producer
    return Span(json.dumps(rest, sort_keys=True, ensure_ascii=False), first, last + 1)


def places_of(position: str, producer: str) -> list[tuple[str, int]]:
    """Where a position (its JSON) says that reading goes on, by thing."""
    placed = ((item, _first(item, _PLACE)) for item in _items(position))
    return [(_thing(item, producer), place) for item, place in placed if place is not None]


def _value(text: str) -> Any:
    """The text as JSON; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _items(text: str) -> Iterator[dict[str, Any]]:
    value = _value(text)
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield item


def _first(item: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = item.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= WHOLE_MAX:
            return value
    return None


def _thing(item: dict[str, Any], producer: str) -> str:
    """The keys that say of what, in one order; the producer's own where there are none."""
    rest = {key: value for key, value in item.items() if key not in _ALL}
    return json.dumps(rest or {"producer": producer}, sort_keys=True, ensure_ascii=False)
