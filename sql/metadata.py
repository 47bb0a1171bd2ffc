"""How DuckDB reads a table's own metadata: the files that one version names, and recent commits.

DuckDB reads manifests (Avro) and log checkpoints (Parquet) by itself, so a hundred thousand steps
take a second or two and no data file is opened. Nothing is checked here as a reader would check
it: an audit has to see also what is wrong. Where DuckDB cannot reach the files (``memory:``), the
batches are read here.
Imports: the core, catalogs, pyarrow, scans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from pyiceberg.manifest import ManifestContent, ManifestFile

from batchweave.catalogs.delta import DeltaTable
from batchweave.catalogs.delta_checkpoint import Checkpoint
from batchweave.catalogs.delta_checkpoint_writer import newest_of_each
from batchweave.catalogs.delta_snapshot import Snapshot, batches_since
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.catalogs.iceberg_schema import field_id
from batchweave.catalogs.manifests import SPEC_ID, has_files
from batchweave.objects import split_uri
from batchweave.sql.scans import MEMORY, literal
from batchweave.state import PREFIX
from batchweave.table import SLICE, SOURCE, BatchEntry, Head, Table

PARTS = pa.schema(
    [
        ("step", pa.int64()),
        ("producer", pa.string()),
        ("sequence", pa.int64()),
        ("committed_at", pa.timestamp("ms", tz="UTC")),
        ("version", pa.int64()),
        ("snapshot", pa.int64()),
        ("path", pa.string()),
        ("first_slice", pa.int32()),
        ("slices", pa.int32()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("digest", pa.string()),
        ("source", pa.string()),
        ("offsets", pa.list_(pa.int64())),
        ("data_end", pa.int64()),
    ]
)
"""One row a data file."""

SNAPSHOTS = pa.schema(
    [
        ("version", pa.int64()),
        ("snapshot", pa.int64()),
        ("committed_at", pa.timestamp("ms", tz="UTC")),
        ("own", pa.bool_()),
        ("operation", pa.string()),
        ("summary", pa.map_(pa.string(), pa.string())),
    ]
)
"""One row a commit that the metadata still knows; ``own`` tells those that BatchWeave made."""

FOREIGN = pa.schema([("path", pa.string()), ("what", pa.string())])
"""Files in the table's metadata that BatchWeave did not write."""

_PATH = "[^/]+/[^/]+/[^/]+$"


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a version's metadata says, as DuckDB gets it.

    ``parts`` is a SELECT in the columns of `PARTS` (less exact in its types) over the tables of
    ``inputs``, whose names stand in it as ``this.<name>``.
    """

    parts: str
    inputs: Mapping[str, pa.Table]
    snapshots: pa.Table = field(default_factory=SNAPSHOTS.empty_table)
    foreign: pa.Table = field(default_factory=FOREIGN.empty_table)


def metadata_of(table: Table, head: Head) -> Metadata:
    """How to read the metadata of ``head``'s version."""
    in_memory = split_uri(table.objects.uri)[0] == MEMORY
    if isinstance(table, IcebergTable):
        return _iceberg(table, head, in_memory=in_memory)
    if isinstance(table, DeltaTable):
        return _delta(table, head, in_memory=in_memory)
    return _plain(table, head)


def _plain(table: Table, head: Head) -> Metadata:
    return Metadata(
        "select * from this.listed_parts",
        {"listed_parts": _listed(table.entries(head, head.state.watermark, head.state.next_step))},
    )


def _listed(batches: Iterable[BatchEntry]) -> pa.Table:
    """Batches that were read here, in the columns of `PARTS`."""
    rows = [_row(batch, at) for batch in batches for at in range(len(batch.parts))]
    return pa.Table.from_pylist(rows, schema=PARTS)


def _row(batch: BatchEntry, at: int) -> dict[str, Any]:
    part = batch.parts[at]
    return {
        "step": batch.step,
        "producer": batch.producer,
        "sequence": batch.sequence,
        "committed_at": batch.committed_at_ms,
        "version": batch.version or None,
        "path": part.path,
        "first_slice": part.first_slice,
        "slices": part.slices,
        "rows": part.rows,
        "bytes": part.bytes,
        "digest": part.digest,
        "source": part.source,
        "offsets": part.offsets,
        "data_end": part.data_end,
    }


# -- Iceberg -----------------------------------------------------------------------------------


def _iceberg(table: IcebergTable, head: Head, *, in_memory: bool) -> Metadata:
    metadata = head.detail.metadata
    snapshots = [
        {
            "version": one.sequence_number,
            "snapshot": one.snapshot_id,
            "committed_at": one.timestamp_ms,
            "own": bool(one.summary and one.summary.additional_properties.get(_OWN)),
            "operation": one.summary.operation.value if one.summary else None,
            "summary": list(one.summary.additional_properties.items()) if one.summary else [],
        }
        for one in metadata.snapshots
    ]
    listed = [one for one in table.manifest_list(head) if has_files(one)]
    ours = [
        one
        for one in listed
        if one.content == ManifestContent.DATA and one.partition_spec_id == SPEC_ID
    ]
    foreign = [
        {"path": one.manifest_path, "what": "a manifest of rows or deletions by another program"}
        for one in listed
        if one not in ours
    ]
    found = _plain(table, head) if in_memory else _iceberg_parts(table, ours)
    return replace(
        found,
        snapshots=pa.Table.from_pylist(snapshots, schema=SNAPSHOTS),
        foreign=pa.Table.from_pylist(foreign, schema=FOREIGN),
    )


_OWN = PREFIX + "format-version"


def _iceberg_parts(table: IcebergTable, manifests: Sequence[ManifestFile]) -> Metadata:
    """All live entries of the manifests. One that is new has its manifest's version."""
    if not manifests:
        return Metadata("select * from this.listed_parts", {"listed_parts": PARTS.empty_table()})
    paths = [one.manifest_path for one in manifests]
    inputs = {
        "manifests": pa.table(
            {
                "file": pa.array([local(path) for path in paths], pa.string()),
                "version": pa.array([one.sequence_number for one in manifests], pa.int64()),
                "snapshot": pa.array([one.added_snapshot_id for one in manifests], pa.int64()),
            }
        )
    }
    slice_id, source_id = (field_id(table.file_schema.field(name)) for name in (SLICE, SOURCE))
    parts = f"""
        select
            one.partition.step as step, one.partition.producer as producer,
            one.partition."sequence" as "sequence", one.partition.committed_at as committed_at,
            coalesce(found.sequence_number, manifests.version) as version,
            coalesce(found.snapshot_id, manifests.snapshot) as snapshot,
            regexp_extract(one.file_path, {literal(_PATH)}) as path,
            {_little_endian(f"hex(one.lower_bounds[{slice_id}])")}::integer as first_slice,
            len(one.split_offsets)::integer as slices,
            one.record_count as "rows", one.file_size_in_bytes as bytes,
            one.partition.digest as digest,
            decode(one.lower_bounds[{source_id}]) as source,
            one.split_offsets as offsets,
            4 + list_sum(map_values(one.column_sizes))::bigint as data_end
        from (
            select *, data_file as one
            from read_avro({_files(paths)}, filename => true)
            where status <> 2
        ) as found
        join this.manifests on found.filename = manifests.file
        where one.partition.step is not null"""
    return Metadata(parts, inputs)


def _little_endian(hexadecimal: str) -> str:
    """The integer in four bytes, given as their hexadecimal digits."""
    order = " || ".join(f"({hexadecimal})[{at}:{at + 1}]" for at in (7, 5, 3, 1))
    return f"('0x' || {order})::bigint"


# -- Delta -------------------------------------------------------------------------------------


def _delta(table: DeltaTable, head: Head, *, in_memory: bool) -> Metadata:
    snapshot: Snapshot = head.detail
    foreign = [{"path": one.path, "what": "rows by another program"} for one in snapshot.foreign]
    commits = [{"version": at, "own": own} for at, own in _links(snapshot)]
    found = _plain(table, head) if in_memory else _delta_parts(table, snapshot, head)
    return replace(
        found,
        snapshots=pa.Table.from_pylist(commits, schema=SNAPSHOTS),
        foreign=pa.Table.from_pylist(foreign, schema=FOREIGN),
    )


def _links(snapshot: Snapshot) -> Iterator[tuple[int, bool]]:
    link = snapshot.tail
    while link is not None:
        yield link.version, link.own
        link = link.before


def _delta_parts(table: DeltaTable, snapshot: Snapshot, head: Head) -> Metadata:
    """What the log names since its checkpoint, and what that names besides."""
    watermark, anchor = head.state.watermark, snapshot.anchor
    recent = batches_since(snapshot, watermark)
    checkpoint = ""
    if isinstance(anchor, Checkpoint) and anchor.own:
        checkpoint = f"{table.objects.uri}/{anchor.path}"
    elif isinstance(anchor, Checkpoint):
        recent = sorted([*anchor.entry.batches, *recent], key=lambda batch: batch.step)
    gone = pa.table({"path": pa.array([one.path for one in snapshot.removed], pa.string())})
    inputs = {"listed_parts": _listed(newest_of_each(recent)), "removed_parts": gone}
    return Metadata(_delta_select(watermark, checkpoint), inputs)


def _delta_select(watermark: int, checkpoint: str) -> str:
    recent = f"""
        select * from this.listed_parts
        where step >= {watermark:d} and path not in (select path from this.removed_parts)"""
    if not checkpoint:
        return recent
    return f"""
        with rows as (
            select add.*, add.partitionValues as values, json(add.tags['{PREFIX}part']) as tag
            from read_parquet({_files([checkpoint])})
            where add is not null
        ),
        named as (
            select
                values['step']::bigint as step, values['producer'] as producer,
                values['sequence']::bigint as "sequence",
                values['committed_at']::timestamptz as committed_at,
                nullif((tag ->> 'version')::bigint, 0) as version,
                null::bigint as snapshot,
                url_decode(path) as path,
                (tag ->> 'first_slice')::integer as first_slice,
                (tag ->> 'slices')::integer as slices,
                (json(stats) ->> 'numRecords')::bigint as "rows",
                size as bytes,
                values['digest'] as digest,
                tag ->> 'source' as source,
                (tag -> 'offsets')::bigint[] as offsets,
                (tag ->> 'data_end')::bigint as data_end
            from rows
            where values['step'] is not null
        )
        {recent}
        union all
        select * from named
        where step >= {watermark:d}
            and path not in (select path from this.listed_parts)
            and path not in (select path from this.removed_parts)"""


# -- both --------------------------------------------------------------------------------------


def _files(paths: Sequence[str]) -> str:
    """Paths as a table function takes them, none of them a pattern."""
    return "[" + ", ".join(literal(no_pattern(local(path))) for path in paths) + "]"


def local(path: str) -> str:
    """A path as DuckDB names the file: without the scheme of local ones."""
    return path.removeprefix("file://")


def no_pattern(path: str) -> str:
    """The pattern that matches a path and nothing else."""
    return "".join(f"[{sign}]" if sign in "[*?" else sign for sign in path)
