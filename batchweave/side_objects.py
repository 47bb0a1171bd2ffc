"""Objects beside the data that hold one text: large positions, and the sweep's clock.

They are Parquet files of a single value and lie below ``data/``, because a managed table bucket
takes no other kinds of files, and none elsewhere.
Imports: standard library, pyarrow, errors.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from batchweave.errors import StreamCorrupted

COLUMN = "text"


def encode_text(text: str) -> pa.Buffer:
    """A Parquet file whose only value is ``text``."""
    sink = pa.BufferOutputStream()
    column = pa.array([text], pa.large_string())
    pq.write_table(pa.table({COLUMN: column}), sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def decode_text(data: object, path: str) -> str:
    """The inverse of `encode_text`.

    Raises:
        StreamCorrupted: the object is something else.
    """
    try:
        table = pq.read_table(pa.BufferReader(pa.py_buffer(data)), columns=[COLUMN])
        return str(table.column(COLUMN)[0].as_py())
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise StreamCorrupted(f"the object {path!r} holds no text: {error}") from error
