"""Receivers of OpenLineage events on this machine, well and ill behaved, and what checks events.

`rebuilt` reads an event back into the classes that ``openlineage-python`` generates from the
published schema: an unknown field, a missing one or one of another type is an error.
"""

from __future__ import annotations

import json
import threading
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attr
import jsonschema
from openlineage.client import OpenLineageClient, facet_v2
from openlineage.client.event_v2 import RunEvent
from openlineage.client.facet_v2 import output_statistics_output_dataset
from openlineage.client.transport import Config, Transport

from batchweave.connectors.openlineage_facets import STEPS, steps_schema

STANDARD: dict[str, type[Any]] = {
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "dataSource": facet_v2.datasource_dataset.DatasourceDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "storage": facet_v2.storage_dataset.StorageDatasetFacet,
    "symlinks": facet_v2.symlinks_dataset.SymlinksDatasetFacet,
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "parent": facet_v2.parent_run.ParentRunFacet,
    "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet,
    "tags": facet_v2.tags_run.TagsRunFacet,
}


def rebuilt(event: dict[str, Any]) -> RunEvent:
    """The event as OpenLineage's own class, all of its facets checked on the way."""
    built: RunEvent = _built(RunEvent, event)
    return built


def _built(kind: type[Any], data: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in attr.fields(kind)}
    assert set(data) <= set(known), f"{kind.__name__} has no {set(data) - set(known)}"
    values = {}
    for name, value in data.items():
        made = _facets(value) if name.lower().endswith("facets") else _value(hints[name], value)
        if known[name].init:
            values[known[name].alias] = made
    instance = kind(**values)  # a missing field is a TypeError, a bad one fails its validator
    for name in ("schemaURL", "_schemaURL"):
        if name in known:
            assert data[name] == kind._get_schema()
    return instance


def _facets(found: dict[str, Any]) -> dict[str, Any]:
    for key, facet in found.items():
        if key == STEPS:
            check_steps(facet)
        else:
            _built(STANDARD[key], facet)
    return found


def check_steps(facet: dict[str, Any]) -> None:
    """Validate a facet of steps by the schema that is shipped."""
    schema = steps_schema()
    base, pointer = facet["_schemaURL"].split("#/$defs/")
    assert base == schema["$id"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(facet, {**schema, "$ref": f"#/$defs/{pointer}"})


def _value(hint: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (hint,) = (one for one in inner if one is not type(None))
        return _value(hint, value)
    if origin is list:
        assert isinstance(value, list)
        return [_value(inner[0], one) for one in value]
    if isinstance(hint, type) and attr.has(hint):
        return _built(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    assert type(value) is hint, f"{value!r} is no {hint}"
    return value


class Receiver:
    """An HTTP endpoint that keeps what it is sent.

    ``answer`` is the status that it gives; with ``hangs`` it gives none before `let_go`.
    """

    def __init__(self, *, answer: int = 201, hangs: bool = False) -> None:
        self.events: list[dict[str, Any]] = []
        self.asked = threading.Event()
        self._go = threading.Event()
        if not hangs:
            self._go.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.asked.set()
                receiver._go.wait()
                if answer < 300:
                    receiver.events.append(json.loads(body))
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def let_go(self) -> None:
        """Answer everybody who waits, and from now on at once."""
        self._go.set()


@contextmanager
def receiving(*, answer: int = 201, hangs: bool = False) -> Iterator[Receiver]:
    """A receiver that listens for as long as the block lasts."""
    receiver = Receiver(answer=answer, hangs=hangs)
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.let_go()
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()


class Held(Transport):
    """A transport that keeps events, and none before it is let go."""

    kind = "held"
    config_class = Config

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.asked = threading.Event()
        self.go = threading.Event()

    def emit(self, event: Any) -> None:
        self.asked.set()
        self.go.wait()
        self.events.append(event)


def client_for(**transport: Any) -> OpenLineageClient:
    """A client with a transport of that configuration, and nothing else."""
    return OpenLineageClient(config={"transport": transport})
