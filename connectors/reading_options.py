"""Options of a `StreamDataset`, checked before anything is opened.

Imports: standard library, the core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchweave.errors import InvalidInput, SchemaMismatch
from batchweave.stream import Stream

_HABITS = {
    "shuffle": "the order is the stream's, equal in every run and audit: shuffle while producing",
    "shuffle_seed": "the order is the stream's: shuffle while producing",
    "sampler": "every step is read once, in the stream's order: there is nothing to sample from",
    "batch_size": "an element is this rank's share of a global batch, as large as it was published",
    "drop_last": "all global batches are whole",
    "num_replicas": "it is called world_size",
    "num_canonical_nodes": "any world size gives the same global batches",
    "predownload": "it is called prefetch, in steps",
    "local": "a local cache is cache_dir=",
    "remote": "a stream is opened with load_catalog(…).load_stream(name)",
}


def refuse_habits(given: Mapping[str, Any]) -> None:
    """Explain options that other datasets have and a stream cannot or need not have.

    Raises:
        InvalidInput: an option with a known meaning elsewhere.
        TypeError: any other, as Python says it.
    """
    for name, value in given.items():
        if name in ("shuffle", "drop_last") and not value:
            continue
        if name == "batch_size" and value is None:
            continue
        if name not in _HABITS:
            raise TypeError(f"StreamDataset got an unexpected keyword argument {name!r}")
        raise InvalidInput(f"StreamDataset has no {name}={value!r}: {_HABITS[name]}")


def check_options(
    stream: Stream,
    stop: int | None,
    columns: Sequence[str] | None,
    transform: object,
    collate: object,
    on_error: str,
    decode_threads: int,
    stall_after_s: float | None,
) -> None:
    """Refuse options out of their range.

    Raises:
        InvalidInput: one is; the message names it.
        SchemaMismatch: a column that the stream does not have.
    """
    if not isinstance(stream, Stream):
        raise InvalidInput(
            f"StreamDataset reads a Stream, for example catalog.load_stream('demo.tokens'), "
            f"got {type(stream).__name__}"
        )
    if stop is not None and (isinstance(stop, bool) or not isinstance(stop, int) or stop < 0):
        raise InvalidInput(f"stop is a step, got {stop!r}")
    if isinstance(columns, str):
        raise InvalidInput(f"columns is a list of names, got {columns!r}")
    if columns is not None:
        unknown = [name for name in columns if name not in stream.schema.names]
        if unknown or not columns:
            raise SchemaMismatch(
                f"the stream has columns {stream.schema.names}, asked for {list(columns)}"
            )
    for name, function in (("transform", transform), ("collate", collate)):
        if function is not None and not callable(function):
            raise InvalidInput(f"{name} is a function, got {function!r}")
    if on_error not in ("raise", "skip"):
        raise InvalidInput(f"on_error is 'raise' or 'skip', got {on_error!r}")
    whole = isinstance(decode_threads, int) and not isinstance(decode_threads, bool)
    if not whole or decode_threads < 1:
        raise InvalidInput(f"decode_threads is a whole number from 1, got {decode_threads!r}")
    if stall_after_s is not None and not stall_after_s > 0:
        raise InvalidInput(f"stall_after_s is above zero, or None for never, got {stall_after_s!r}")
