"""Global batch <-> file bytes: Parquet, one row group a slice.

A part is a run of slices of one global batch. Its footer carries what the columns alone cannot:
the first slice, the array types that went in, and the source where all slices share it (key
``batchweave.slices``). Everything known only at commit (step, producer, sequence, time, digest) is
*not* in the file, so that a lost race rewrites no data.
Imports: standard library, pyarrow, errors, columns, table.

A reader fetches two ranges, the slice's row group and the footer, whose places the table's
metadata tells: ``offsets[i]`` and ``data_end``. Decoding reads them through a file object that
holds those two ranges only.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchweave.columns import ArrayType, from_storage
from batchweave.errors import StreamCorrupted
from batchweave.objects import Buffer
from batchweave.table import SLICE, SOURCE, Part

NOTES_KEY = "batchweave.slices"
FOOTER_TAIL_BYTES = 8
MAGIC = b"PAR1"
SOURCE_IN_METADATA_BYTES_MAX = 512


@dataclass(frozen=True, slots=True)
class SliceData:
    """One slice: its rows and how its arrays looked.

    On the way in the table is in storage form (`batchweave.columns.to_storage`), on the way out
    in the stream's schema.
    """

    table: pa.Table
    arrays: Mapping[str, ArrayType]
    source: str | None = None


@dataclass(frozen=True, slots=True)
class EncodedPart:
    """The bytes of one part, with everything that metadata will say of it but its path."""

    data: pa.Buffer
    digest: str
    first_slice: int
    slices: int
    rows: int
    offsets: tuple[int, ...]
    data_end: int
    column_bytes: tuple[int, ...]
    source: str | None = None

    def at(self, path: str) -> Part:
        """The part as it will stand in the table's metadata."""
        return Part(
            path=path,
            digest=self.digest,
            first_slice=self.first_slice,
            slices=self.slices,
            rows=self.rows,
            bytes=self.data.size,
            offsets=self.offsets,
            data_end=self.data_end,
            column_bytes=self.column_bytes,
            source=self.source,
        )


def encode(
    slices: Sequence[SliceData],
    first_slice: int,
    *,
    file_schema: pa.Schema,
    compression: str,
    compression_level: int | None,
) -> EncodedPart:
    """Encode neighbouring slices as one Parquet file. Equal input gives equal bytes.

    ``file_schema`` is the storage form of the stream's schema with the table format's field IDs,
    and with ``slice`` and ``source`` after the user's columns.
    """
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(
        sink,
        file_schema,
        compression=compression,
        compression_level=None if compression in ("none", "snappy") else compression_level,
        use_dictionary=[SLICE, SOURCE],
        write_statistics=[SLICE],
        write_page_checksum=True,
        store_schema=False,
    )
    with writer:
        for index, one in enumerate(slices, first_slice):
            table = _physical(one, index, file_schema)
            writer.write_table(table, row_group_size=table.num_rows)
        writer.add_key_value_metadata({NOTES_KEY: _notes_text(slices, first_slice)})
    data = sink.getvalue()
    return _described(data, slices, first_slice)


def _physical(one: SliceData, index: int, file_schema: pa.Schema) -> pa.Table:
    rows = one.table.num_rows
    arrays = [
        *one.table.columns,
        pa.repeat(pa.scalar(index, pa.int32()), rows),
        pa.repeat(pa.scalar(one.source, pa.string()), rows),
    ]
    named = [
        array if array.type == field.type else array.cast(field.type)
        for array, field in zip(arrays, file_schema, strict=True)
    ]
    return pa.Table.from_arrays(named, schema=file_schema)


def _notes_text(slices: Sequence[SliceData], first_slice: int) -> str:
    """What a reader needs besides the columns: said once where all slices agree.

    That goes for the source too, which spares readers a column; where sources differ it is left
    to the column.
    """
    notes: dict[str, Any] = {"first_slice": first_slice}
    if all(one.source == slices[0].source for one in slices):
        notes["source"] = slices[0].source
    each = [{name: kind.to_dict() for name, kind in one.arrays.items()} for one in slices]
    if all(arrays == each[0] for arrays in each):
        return _compact(notes | {"all": each[0]})
    numbered = {str(first_slice + i): arrays for i, arrays in enumerate(each) if arrays}
    return _compact(notes | {"slices": numbered})


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _described(data: pa.Buffer, slices: Sequence[SliceData], first_slice: int) -> EncodedPart:
    metadata = pq.read_metadata(pa.BufferReader(data))
    offsets: list[int] = []
    column_bytes = [0] * metadata.num_columns
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        starts = []
        for at in range(group.num_columns):
            column = group.column(at)
            starts.append(column.dictionary_page_offset or column.data_page_offset)
            column_bytes[at] += column.total_compressed_size
        offsets.append(min(starts))
    footer = int.from_bytes(data[-FOOTER_TAIL_BYTES:-4].to_pybytes(), "little")
    return EncodedPart(
        data=data,
        digest=hashlib.sha256(data).hexdigest(),
        first_slice=first_slice,
        slices=len(slices),
        rows=metadata.num_rows,
        offsets=tuple(offsets),
        data_end=data.size - FOOTER_TAIL_BYTES - footer,
        column_bytes=tuple(column_bytes),
        source=_one_source(slices),
    )


def _one_source(slices: Sequence[SliceData]) -> str | None:
    """The source that metadata can hold, for questions that open no file: short, and for all."""
    first = slices[0].source
    alike = all(one.source == first for one in slices)
    short = first is not None and len(first.encode()) <= SOURCE_IN_METADATA_BYTES_MAX
    return first if alike and short else None


class Fetched(io.RawIOBase):
    """A read-only file of which only some ranges are present; reading elsewhere is an error."""

    def __init__(self, size: int, ranges: Mapping[int, Buffer]) -> None:
        self._size = size
        self._at = 0
        self._ranges = [(start, memoryview(data)) for start, data in sorted(ranges.items())]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        """Bytes of the whole file."""
        return self._size

    def read(self, size: int = -1) -> memoryview:
        """The bytes at the current place; they must be within one of the ranges."""
        wanted = self._size - self._at if size < 0 else min(size, self._size - self._at)
        for start, data in self._ranges:
            inside = self._at - start
            if inside >= 0 and inside + wanted <= len(data):
                self._at += wanted
                return data[inside : inside + wanted]
        to_the_end = self._size - self._at
        if wanted == to_the_end and self._ranges:
            return self._tail(wanted)
        raise OSError(f"bytes {self._at} to {self._at + wanted} were not fetched")

    def _tail(self, wanted: int) -> memoryview:
        """The file's end for a reader that looks there for the footer: zeros where unfetched."""
        start, data = self._ranges[-1]
        if start + len(data) != self._size:
            raise OSError("the footer was not fetched")
        self._at = self._size
        return memoryview(bytes(wanted - len(data)) + bytes(data))


def decode(
    part: Part,
    slices: Sequence[int],
    source: pa.NativeFile | Mapping[int, Buffer],
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
) -> list[SliceData]:
    """Decode slices of a part, out of a file or the byte ranges fetched for them (see `spans`).

    ``columns`` limits what is decoded; None is all of the stream's columns.

    Raises:
        StreamCorrupted: the bytes are not the Parquet file that the metadata describes.
    """
    if isinstance(source, Mapping):
        source = pa.PythonFile(Fetched(part.bytes, source), mode="r")
    try:
        footer = _footer_bytes(part, source)
        file = pq.ParquetFile(
            source,
            pre_buffer=False,
            page_checksum_verification=True,
            # Nothing in a footer is longer than the footer: a damaged length allocates no more.
            thrift_string_size_limit=footer,
            thrift_container_size_limit=footer,
        )
        if file.metadata.num_row_groups != part.slices:
            raise StreamCorrupted(
                f"{part.path} has {file.metadata.num_row_groups} row groups, not {part.slices}"
            )
        text = (file.metadata.metadata or {}).get(NOTES_KEY.encode(), b"{}")
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        return [_decode_slice(file, part, index, wanted, text) for index in slices]
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise StreamCorrupted(f"{part.path} cannot be decoded: {error}") from error


def _footer_bytes(part: Part, source: pa.NativeFile) -> int:
    """The length of the footer; raises `StreamCorrupted` unless it ends the file that we know.

    It is looked at before the parser is, which trusts what it is given.
    """
    size = int(source.size())
    if size != part.bytes:
        raise StreamCorrupted(f"{part.path} has {size} bytes, not {part.bytes}")
    source.seek(size - FOOTER_TAIL_BYTES)
    tail = bytes(source.read(FOOTER_TAIL_BYTES))
    source.seek(0)
    length = int.from_bytes(tail[:4], "little")
    known = size - FOOTER_TAIL_BYTES - part.data_end
    if tail[4:] != MAGIC or length != known:
        raise StreamCorrupted(
            f"{part.path} does not end with a Parquet footer of {known} bytes: it was changed"
        )
    return known


def _decode_slice(file: Any, part: Part, index: int, schema: pa.Schema, text: bytes) -> SliceData:
    notes = _notes(text, index)
    if notes.first_slice != part.first_slice:
        raise StreamCorrupted(
            f"{part.path} begins at slice {notes.first_slice}, not {part.first_slice}"
        )
    names = schema.names if notes.has_source else [*schema.names, SOURCE]
    stored = file.read_row_group(index - part.first_slice, columns=names, use_threads=False)
    source = notes.source if notes.has_source else stored.column(SOURCE)[0].as_py()
    kinds = {name: kind for name, kind in notes.arrays.items() if name in schema.names}
    if not notes.has_source:
        stored = stored.select(schema.names)
    return SliceData(from_storage(stored, schema), kinds, source)


@dataclass(frozen=True, slots=True)
class _Notes:
    first_slice: int
    arrays: Mapping[str, ArrayType]
    has_source: bool
    source: str | None


@lru_cache(maxsize=1024)
def _notes(text: bytes, index: int) -> _Notes:
    """What a file's footer says of one slice. Files that say the same are parsed once."""
    notes = json.loads(text)
    found = notes.get("all") or notes.get("slices", {}).get(str(index), {})
    arrays = {name: ArrayType.from_dict(kind) for name, kind in found.items()}
    return _Notes(int(notes["first_slice"]), arrays, "source" in notes, notes.get("source"))


def spans(part: Part, slices: Sequence[int]) -> list[tuple[int, int]]:
    """The byte ranges (start, length) that decoding these slices needs: data, then footer.

    Neighbouring row groups are one range; a range that touches the footer includes it.
    """
    bounds = [*part.offsets, part.data_end]
    found: list[tuple[int, int]] = []
    for index in sorted(slices):
        at = index - part.first_slice
        start, end = bounds[at], bounds[at + 1]
        if found and found[-1][0] + found[-1][1] == start:
            found[-1] = (found[-1][0], end - found[-1][0])
        else:
            found.append((start, end - start))
    footer = (part.data_end, part.bytes - part.data_end)
    if found and found[-1][0] + found[-1][1] == footer[0]:
        found[-1] = (found[-1][0], part.bytes - found[-1][0])
        return found
    return [*found, footer]
