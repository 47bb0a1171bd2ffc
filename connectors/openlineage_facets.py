"""OpenLineage's names and facets for streams: what a dataset, a job and a run of ours look like.

Datasets are named by where the table lies, as OpenLineage's naming rules have it for object stores
and files: namespace ``s3://bucket`` and the key, or ``file`` and the absolute path. Everything here
is a value; nothing is sent. The facet of step ranges, ``batchweave_steps``, is described by
``BatchWeaveStepsFacet.json`` beside this module (`steps_schema`).
Imports: standard library, pyarrow, attr, openlineage, the core, catalogs.
"""

from __future__ import annotations

import json
import re
from importlib import metadata, resources
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import attr
import pyarrow as pa

from batchweave.catalogs.delta import DeltaTable
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.errors import BatchWeaveError
from batchweave.stream import Stream

try:
    from openlineage.client import facet_v2
    from openlineage.client.event_v2 import InputDataset, OutputDataset
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}. OpenLineage events need its client: pip install 'batchweave[openlineage]'",
        name=error.name,
    ) from error

VERSION = metadata.version("batchweave")
PRODUCER = f"urn:batchweave:release:{VERSION}"
"""Who says so, in every event and facet: this version of BatchWeave."""

STEPS = "batchweave_steps"
STEPS_FILE = "BatchWeaveStepsFacet.json"
STEPS_URL = f"urn:batchweave:schema:1-0-0:{STEPS_FILE}"
MESSAGE_MAX = 1000

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@|[^/@:\s]+:[^/@\s]+@")
_QUERY = re.compile(r"(?<=[\w/])\?[^\s'\"<>)]*=[^\s'\"<>)]*")
_AZURE = ("abfs", "abfss", "wasb", "wasbs")  # a container stands where others have a user


@attr.define
class StepRange:
    """Steps ``first`` to ``last``, both included."""

    first: int
    last: int


@attr.define
class Amount:
    """So many batches, with their rows and the bytes of their files."""

    batches: int
    rows: int
    bytes: int


@attr.define
class StepsInputDatasetFacet(facet_v2.InputDatasetFacet):
    """Which steps of a stream a run has read, or asks to keep no longer."""

    action: str
    ranges: list[StepRange]
    checkpoint: str | None = attr.field(default=None)
    consumer: str | None = attr.field(default=None)

    @staticmethod
    def _get_schema() -> str:
        return f"{STEPS_URL}#/$defs/BatchWeaveStepsInputDatasetFacet"


@attr.define
class StepsOutputDatasetFacet(facet_v2.OutputDatasetFacet):
    """Which steps of a stream a run has published, or taken out, since its previous event."""

    action: str
    ranges: list[StepRange]
    amount: Amount
    total: Amount | None = attr.field(default=None)
    writer: str | None = attr.field(default=None)
    generation: int | None = attr.field(default=None)
    watermark: int | None = attr.field(default=None)

    @staticmethod
    def _get_schema() -> str:
        return f"{STEPS_URL}#/$defs/BatchWeaveStepsOutputDatasetFacet"


Facets: TypeAlias = dict[str, Any]


def steps_schema() -> dict[str, Any]:
    """The JSON schema of ``batchweave_steps``, for those who check or document events."""
    text = resources.files("batchweave.connectors").joinpath(STEPS_FILE).read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def place_of(uri: str) -> tuple[str, str]:
    """Namespace and name of the dataset at a table's folder. Holds no credentials."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return "file", unquote(parts.path).rstrip("/") or "/"
    host = parts.netloc if parts.scheme in _AZURE else parts.netloc.rpartition("@")[2]
    scheme = "s3" if parts.scheme in ("s3a", "s3n") else parts.scheme
    return f"{scheme}://{host}", parts.path.strip("/") or "/"


class DatasetMaker:
    """Makes the dataset of one stream, at any version, for events to refer to.

    ``symlink_namespace`` is the catalog as other integrations name it (``hive://host:9083``,
    ``arn:aws:glue:region:account``): given, the dataset is linked to the table's name there.
    """

    def __init__(self, stream: Stream, symlink_namespace: str | None = None) -> None:
        self.namespace, self.name = place_of(stream.table.objects.uri)
        self._stream = stream.name
        self._fields = _fields(stream.schema)
        self._layer = _layer(stream)
        self._symlink = symlink_namespace

    def input(self, version: int, **facets: facet_v2.InputDatasetFacet) -> InputDataset:
        """The stream as what a run has read."""
        return InputDataset(
            self.namespace, self.name, facets=self._facets(version), inputFacets=dict(facets)
        )

    def output(self, version: int, **facets: facet_v2.OutputDatasetFacet) -> OutputDataset:
        """The stream as what a run has changed."""
        return OutputDataset(
            self.namespace, self.name, facets=self._facets(version), outputFacets=dict(facets)
        )

    def _facets(self, version: int) -> Facets:
        slash = "" if self.name.startswith("/") else "/"
        scheme = "file://" if self.namespace == "file" else self.namespace
        found: Facets = {
            "schema": facet_v2.schema_dataset.SchemaDatasetFacet(
                fields=self._fields, producer=PRODUCER
            ),
            "dataSource": facet_v2.datasource_dataset.DatasourceDatasetFacet(
                name=self._stream, uri=f"{scheme}{slash}{self.name}", producer=PRODUCER
            ),
            "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(
                datasetVersion=str(version), producer=PRODUCER
            ),
        }
        if self._layer is not None:
            found["storage"] = facet_v2.storage_dataset.StorageDatasetFacet(
                storageLayer=self._layer, fileFormat="parquet", producer=PRODUCER
            )
        if self._symlink is not None:
            table = facet_v2.symlinks_dataset.Identifier(self._symlink, self._stream, "TABLE")
            found["symlinks"] = facet_v2.symlinks_dataset.SymlinksDatasetFacet(
                identifiers=[table], producer=PRODUCER
            )
        return found


def job_facets(kind: str, *, every_s: float | None = None) -> Facets:
    """What sort of job it is: a stream's writer, which tells more every ``every_s``, or a task."""
    facet = facet_v2.job_type_job
    pattern = facet.EmissionPattern(
        "EVENT_BASED" if every_s is None else "PERIODIC",
        "COMPLETE_SNAPSHOT" if every_s is None else "ACCUMULATIVE",
        None if every_s is None else max(1, round(every_s)),
    )
    return {
        "jobType": facet.JobTypeJobFacet(
            processingType="BATCH" if every_s is None else "STREAMING",
            integration="BATCHWEAVE",
            jobType=kind,
            emissionPattern=pattern,
            producer=PRODUCER,
        )
    }


def engine_facet() -> Facets:
    """The run's engine: this BatchWeave."""
    return {
        "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet(
            version=VERSION,
            name="BatchWeave",
            openlineageAdapterVersion=VERSION,
            producer=PRODUCER,
        )
    }


def parent_facet(run_id: str, namespace: str, name: str) -> facet_v2.parent_run.ParentRunFacet:
    """The run that ours is a part of. Raises `ValueError` if ``run_id`` is no UUID."""
    parent = facet_v2.parent_run
    return parent.ParentRunFacet(
        run=parent.Run(run_id), job=parent.Job(namespace, name), producer=PRODUCER
    )


def error_facet(text: str) -> Facets:
    """Why a run failed."""
    return {
        "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet(
            message=text[:MESSAGE_MAX], programmingLanguage="Python", producer=PRODUCER
        )
    }


def said_of(error: BaseException) -> str:
    """What may leave the process of an error: of a foreign one its class alone, ours in full."""
    kind = type(error).__name__
    return f"{kind}: {without_credentials(str(error))}" if _is_ours(error) else kind


def without_credentials(text: str) -> str:
    """A message without what URLs in it may carry: users, passwords, signed queries."""
    return _QUERY.sub("?***", _USERINFO.sub("***@", text))


def _is_ours(error: BaseException) -> bool:
    return isinstance(error, BatchWeaveError)


def _layer(stream: Stream) -> str | None:
    if isinstance(stream.table, IcebergTable):
        return "iceberg"
    return "delta" if isinstance(stream.table, DeltaTable) else None


def _fields(schema: pa.Schema) -> list[facet_v2.schema_dataset.SchemaDatasetFacetFields]:
    return [_field(field, at) for at, field in enumerate(schema, start=1)]


def _field(field: pa.Field, at: int) -> facet_v2.schema_dataset.SchemaDatasetFacetFields:
    inner = field.type
    while pa.types.is_list(inner) or pa.types.is_large_list(inner):
        inner = inner.value_type
    nested = [_field(one, n) for n, one in enumerate(inner, 1)] if pa.types.is_struct(inner) else []
    return facet_v2.schema_dataset.SchemaDatasetFacetFields(
        name=field.name, type=str(field.type), ordinal_position=at, fields=nested
    )
