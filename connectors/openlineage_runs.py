"""A stream's events as OpenLineage's runs: which run an event belongs to, and what is said of it.

The producer ``p`` of stream ``s`` is the job ``s.producer.p``, each opening of it one run: START,
RUNNING at most once in so many seconds, then COMPLETE, ABORT (its owner left early) or FAIL. Each
step is in exactly one of these events. A checkpoint's registration or removal is a run of the job
``s.checkpoint.<consumer>``, each commit of a reclaim one of ``s.reclaim``.
Imports: standard library, openlineage, clock, events, openlineage_facets, openlineage_tally.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import RunFacet, output_statistics_output_dataset
from openlineage.client.uuid import generate_static_uuid

from batchweave.clock import Clock
from batchweave.connectors import openlineage_facets as facets
from batchweave.connectors.openlineage_tally import Tally
from batchweave.events import (
    BatchCommitted,
    CheckpointDropped,
    CheckpointRegistered,
    ProducerClosed,
    ProducerFailed,
    ProducerOpened,
    StepsReclaimed,
    StreamEvent,
)

RANGES_MAX = 256
"""A run tells early rather than hold more ranges than that: many producers, much interleaved."""


class Box(Protocol):
    """Where events are put."""

    @property
    def room(self) -> bool:
        """Whether one more would be taken."""
        ...

    def put(self, event: RunEvent) -> None:
        """Take an event, or drop and count it."""
        ...


@dataclass(frozen=True, slots=True)
class Naming:
    """What all events of an emitter have in common. ``every_s`` spaces a run's RUNNING events."""

    job_namespace: str
    every_s: float
    run_facets: dict[str, RunFacet] = field(default_factory=dict)


@dataclass(slots=True)
class ProducerRun:
    """One opening of a producer, as far as it has been told."""

    id: str
    job: str
    name: str
    generation: int
    told_s: float
    ended: bool = False
    new: Tally = field(default_factory=Tally)
    total: Tally = field(default_factory=Tally)


class StreamRuns:
    """The runs on one stream. Its caller sees to it that one thread at a time is in here."""

    def __init__(
        self,
        stream_id: str,
        dataset: facets.DatasetMaker,
        naming: Naming,
        clock: Clock,
        outbox: Box,
    ) -> None:
        self._stream_id = stream_id
        self._dataset = dataset
        self._naming = naming
        self._clock = clock
        self._outbox = outbox
        self._runs: dict[tuple[str, int], ProducerRun] = {}

    # -- what is heard ---------------------------------------------------------------------

    def hear(self, event: StreamEvent) -> None:
        """Take note of an event, and tell what is due at once."""
        if isinstance(event, ProducerOpened):
            self._run_of(event)
        elif isinstance(event, BatchCommitted):
            self._committed(event)
        elif isinstance(event, ProducerFailed):
            self._failed(event)
        elif isinstance(event, ProducerClosed):
            self._closed(event)
        elif isinstance(event, (CheckpointRegistered, CheckpointDropped)):
            self._checkpoint(event)
        elif isinstance(event, StepsReclaimed):
            self._reclaimed(event)

    def next_s(self) -> float | None:
        """When some run has something to tell, by the monotonic clock; None for nothing."""
        waiting = [run.told_s for run in self._runs.values() if run.new.batches]
        return min(waiting) + self._naming.every_s if waiting else None

    def tell_due(self, *, all_of_it: bool = False) -> bool:
        """Tell of the batches of every run whose time has come.

        What finds no room in the outbox is told later; whether all found some.
        """
        now_s = self._clock.monotonic_s()
        for run in self._runs.values():
            if run.new.batches and (all_of_it or now_s - run.told_s >= self._naming.every_s):
                if not self._outbox.room:
                    return False
                self._progress(run)
        return True

    def forget(self) -> None:
        """Leave all runs to another process."""
        self._runs.clear()

    # -- producers -------------------------------------------------------------------------

    def _run_of(
        self, event: ProducerOpened | BatchCommitted | ProducerFailed | ProducerClosed
    ) -> ProducerRun:
        """The event's run; begun here if this is the first that is heard of it."""
        key = (event.producer, event.generation)
        if key not in self._runs:
            job = f"{event.stream}.producer.{event.producer}"
            run = ProducerRun(
                self._run_id(event.at_ms, job, str(event.generation)),
                job,
                event.producer,
                event.generation,
                self._clock.monotonic_s(),
            )
            self._runs[key] = run
            self._say_of(run, RunState.START, event.at_ms, [self._dataset.output(event.version)])
        return self._runs[key]

    def _committed(self, event: BatchCommitted) -> None:
        run = self._run_of(event)
        run.new.add(event)
        if len(run.new.ranges) >= RANGES_MAX:
            self._progress(run)

    def _failed(self, event: ProducerFailed) -> None:
        run = self._run_of(event)
        self._end(run, RunState.FAIL, event, facets.said_of(event.error))

    def _closed(self, event: ProducerClosed) -> None:
        run = self._run_of(event)
        if run.ended:
            if run.new.batches:  # the last look before the end found them
                self._say_of(run, RunState.OTHER, event.at_ms, [self._published(run, event)])
        elif event.left or event.error is not None:
            why = f"{event.left} published batches were not committed"
            if event.error is not None:
                why = f"closed after {facets.said_of(event.error)}; {why}"
            self._end(run, RunState.ABORT, event, why)
        else:
            self._end(run, RunState.COMPLETE, event)
        del self._runs[event.producer, event.generation]

    def _end(self, run: ProducerRun, state: RunState, event: StreamEvent, why: str = "") -> None:
        run.ended = True
        extra = facets.error_facet(why) if why else {}
        self._say_of(run, state, event.at_ms, [self._published(run, event)], extra)

    def _progress(self, run: ProducerRun) -> None:
        run.told_s = self._clock.monotonic_s()
        state = RunState.OTHER if run.ended else RunState.RUNNING
        self._say_of(run, state, self._clock.now_ms(), [self._published(run)])

    def _published(self, run: ProducerRun, event: StreamEvent | None = None) -> OutputDataset:
        """The stream with what is new in it, which is old from now on."""
        new, run.new = run.new, Tally()
        run.total.count(new)
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=run.total.rows,
            size=run.total.bytes,
            fileCount=run.total.files,
            producer=facets.PRODUCER,
        )
        steps = facets.StepsOutputDatasetFacet(
            action="published",
            ranges=new.ranges,
            amount=new.amount(),
            total=run.total.amount(),
            writer=run.name,
            generation=run.generation,
            producer=facets.PRODUCER,
        )
        version = max(new.version, event.version if event else 0)
        return self._dataset.output(version, outputStatistics=statistics, batchweave_steps=steps)

    def _say_of(
        self,
        run: ProducerRun,
        state: RunState,
        at_ms: int,
        outputs: list[OutputDataset],
        extra: facets.Facets | None = None,
    ) -> None:
        kind = facets.job_facets("PRODUCER", every_s=self._naming.every_s)
        self._say(state, run.id, run.job, kind, at_ms, outputs=outputs, extra=extra)

    # -- checkpoints and reclaims ----------------------------------------------------------

    def _checkpoint(self, event: CheckpointRegistered | CheckpointDropped) -> None:
        job = f"{event.stream}.checkpoint.{event.consumer}"
        action = "consumed" if isinstance(event, CheckpointRegistered) else "dropped"
        seen = [facets.StepRange(0, event.next_step - 1)] if event.next_step else []
        steps = facets.StepsInputDatasetFacet(
            action=action,
            ranges=seen,
            checkpoint=event.checkpoint,
            consumer=event.consumer,
            producer=facets.PRODUCER,
        )
        run_id = self._run_id(event.at_ms, job, action, event.checkpoint, str(event.version))
        stream = self._dataset.input(event.version, batchweave_steps=steps)
        self._say_whole(event, run_id, job, "CHECKPOINT", stream)

    def _reclaimed(self, event: StepsReclaimed) -> None:
        job = f"{event.stream}.reclaim"
        steps = facets.StepsOutputDatasetFacet(
            action="reclaimed",
            ranges=[facets.StepRange(event.start, event.watermark - 1)],
            amount=facets.Amount(event.watermark - event.start, event.rows, event.bytes),
            watermark=event.watermark,
            producer=facets.PRODUCER,
        )
        run_id = self._run_id(event.at_ms, job, str(event.version))
        before, after = self._dataset.input, self._dataset.output
        self._say_whole(
            event,
            run_id,
            job,
            "RECLAIM",
            before(event.version - 1),
            after(event.version, batchweave_steps=steps),
        )

    def _say_whole(
        self,
        event: StreamEvent,
        run_id: str,
        job: str,
        kind: str,
        read: InputDataset,
        changed: OutputDataset | None = None,
    ) -> None:
        """A run that was one commit: its start, and its end with what it did."""
        types, at_ms = facets.job_facets(kind), event.at_ms
        outputs = [] if changed is None else [changed]
        self._say(RunState.START, run_id, job, types, at_ms)
        self._say(RunState.COMPLETE, run_id, job, types, at_ms, inputs=[read], outputs=outputs)

    # -- events ----------------------------------------------------------------------------

    def _say(
        self,
        state: RunState,
        run_id: str,
        job: str,
        types: facets.Facets,
        at_ms: int,
        *,
        inputs: list[InputDataset] | None = None,
        outputs: list[OutputDataset] | None = None,
        extra: facets.Facets | None = None,
    ) -> None:
        run_facets = {**facets.engine_facet(), **self._naming.run_facets, **(extra or {})}
        self._outbox.put(
            RunEvent(
                eventType=state,
                eventTime=_iso(at_ms),
                run=Run(run_id, facets=run_facets),
                job=Job(self._naming.job_namespace, job, facets=types),
                inputs=inputs or [],
                outputs=outputs or [],
                producer=facets.PRODUCER,
            )
        )

    def _run_id(self, at_ms: int, *what: str) -> str:
        """The same for the same thing, whoever says it."""
        data = "\0".join((self._stream_id, *what)).encode()
        return str(generate_static_uuid(_instant(at_ms), data))


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _iso(at_ms: int) -> str:
    return _instant(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
