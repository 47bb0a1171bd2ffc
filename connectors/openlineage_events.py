"""OpenLineage: what happens to streams, told to a lineage service, a file or the log.

::

    with OpenLineageEvents() as lineage:  # where to: openlineage.yml, OPENLINEAGE_URL, …
        lineage.follow(stream)
        with stream.producer("tokenizer-0") as producer:
            ...

Producers, checkpoints and reclaims of the stream become runs of jobs (`openlineage_runs`) on a
dataset (`openlineage_facets`). Nothing of that ever delays or fails a commit: events wait in a
bounded queue for a thread of their own (`openlineage_outbox`). Needs ``batchweave[openlineage]``.
Imports: standard library, openlineage, clock, errors, events, stream, the other openlineage_
modules.
"""

from __future__ import annotations

import atexit
import functools
import os
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType

from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import RunEvent
from openlineage.client.facet_v2 import RunFacet

from batchweave.clock import SystemClock
from batchweave.connectors import openlineage_facets as facets
from batchweave.connectors.openlineage_outbox import Outbox, OutboxStats, Work
from batchweave.connectors.openlineage_runs import Naming, StreamRuns
from batchweave.errors import InvalidSettings
from batchweave.events import StreamEvent
from batchweave.stream import Stream

NAMESPACE = "OPENLINEAGE_NAMESPACE"
PARENT = "OPENLINEAGE_PARENT_ID"
DEFAULT_NAMESPACE = "batchweave"
SAID_MAX = 300


class OpenLineageEvents:
    """Emits OpenLineage events for the streams that it follows. Safe to use from many threads.

    Delivery is best effort, and bounded: ``events_max`` events wait at most, and what finds no room
    or no receiver is dropped, counted (`stats`) and said in the log once. A producer's batches are
    summed up and told at most once in ``every_s`` seconds, and at its end.
    """

    def __init__(
        self,
        client: OpenLineageClient | None = None,
        *,
        job_namespace: str | None = None,
        parent: str | None = None,
        run_facets: Mapping[str, RunFacet] | None = None,
        symlink_namespace: str | None = None,
        every_s: float = 10.0,
        events_max: int = 1000,
        flush_at_exit_s: float = 5.0,
    ) -> None:
        """Make an emitter; nothing is sent yet.

        Args:
            client: where to send to. By default what OpenLineage's own configuration says:
                ``openlineage.yml``, ``OPENLINEAGE__TRANSPORT__TYPE``, ``OPENLINEAGE_URL``, …; with
                none of these it is the log. One that is given is not closed here.
            job_namespace: the jobs' namespace, by default ``OPENLINEAGE_NAMESPACE`` or
                ``batchweave``.
            parent: the run that these runs are a part of, as ``namespace/job/run id``; by default
                ``OPENLINEAGE_PARENT_ID``.
            run_facets: further facets for every run, for example ``nominalTime``.
            symlink_namespace: the streams' catalog, as other integrations name it.
            every_s: least time between two events of one producer's progress.
            events_max: how many events may wait.
            flush_at_exit_s: how long the program's end waits for what is not sent yet.

        Raises:
            InvalidSettings: a number out of its range, a parent of another form, or OpenLineage's
                configuration is wrong.
        """
        _check(every_s=every_s, flush_at_exit_s=flush_at_exit_s, events_max=events_max)
        self._given = client
        self._client: OpenLineageClient | None = client or _configured()
        self._symlinks = symlink_namespace
        self._flush_at_exit_s = flush_at_exit_s
        self._naming = Naming(
            job_namespace or os.environ.get(NAMESPACE) or DEFAULT_NAMESPACE,
            every_s,
            {**_parent(parent or os.environ.get(PARENT)), **(run_facets or {})},
        )
        self._clock = SystemClock()
        # Each belongs to those who tell of its stream, and goes when they go.
        self._streams: weakref.WeakSet[StreamRuns] = weakref.WeakSet()
        self._closed = False
        self._outbox: Outbox[RunEvent] = Outbox(
            self._emit,
            Work(self._next_s, self._tell_due, self._end, self._forget),
            self._clock,
            events_max=events_max,
            describe=_said_of,
        )
        atexit.register(self._at_exit)

    # -- following -------------------------------------------------------------------------

    def follow(self, stream: Stream) -> Callable[[], None]:
        """Emit events for all that is done through ``stream`` from now on.

        Returns what ends it, when called. Producers that are open then are told of no more.
        """
        dataset = facets.DatasetMaker(stream, self._symlinks)
        runs = StreamRuns(stream.table.id, dataset, self._naming, self._clock, self._outbox)

        def heard(event: StreamEvent) -> None:
            with self._outbox.changed:
                if self._closed:
                    return
                due_s = runs.next_s()
                runs.hear(event)
                if runs.next_s() != due_s:
                    self._outbox.wake()

        with self._outbox.changed:
            self._streams.add(runs)
        ended = stream.listen(heard)

        def stop() -> None:
            ended()
            with self._outbox.changed:
                if runs in self._streams:
                    runs.tell_due(all_of_it=True)
                    self._streams.discard(runs)

        return stop

    def stats(self) -> OutboxStats:
        """How many events were sent, could not be sent, were dropped, and wait."""
        return self._outbox.stats()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Tell of all batches committed so far; whether all events were dealt with in the time."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        return self._told(deadline_s) and self._outbox.drain(deadline_s - self._clock.monotonic_s())

    def close(self, timeout_s: float = 5.0) -> bool:
        """Flush and stop; whether all was dealt with in the time. What is left is dropped.

        Close the producers first: one that is still open gets no end. Closing twice is closing
        once.
        """
        atexit.unregister(self._at_exit)
        deadline_s = self._clock.monotonic_s() + timeout_s
        with self._outbox.changed:
            self._closed = True
        told = self._told(deadline_s)
        return self._outbox.close(deadline_s - self._clock.monotonic_s()) and told

    def __enter__(self) -> OpenLineageEvents:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        transport = getattr(self._given or self._client, "transport", None)
        return f"OpenLineageEvents({getattr(transport, 'kind', None)!r}, {self.stats()})"

    # -- the thread's work -----------------------------------------------------------------

    def _emit(self, event: RunEvent) -> None:
        if self._client is None:
            self._client = _configured()
        self._client.emit(event)

    def _next_s(self) -> float | None:
        due = [due_s for runs in self._streams if (due_s := runs.next_s()) is not None]
        return min(due, default=None)

    def _tell_due(self) -> None:
        for runs in self._streams:
            runs.tell_due()

    def _told(self, deadline_s: float) -> bool:
        """Put all that is known into the outbox, waiting for room if it must."""
        with self._outbox.changed:
            return self._outbox.changed.wait_for(
                lambda: all(runs.tell_due(all_of_it=True) for runs in self._streams),
                timeout=max(0.0, deadline_s - self._clock.monotonic_s()),
            )

    def _end(self) -> None:
        if self._given is None and self._client is not None:
            self._client.close(0)

    def _forget(self) -> None:
        """In a forked child: the parent's runs and its connections are the parent's."""
        for runs in self._streams:
            runs.forget()
        if self._given is None:
            self._client = None
        elif self._given.transport.kind == "http":
            self._given.transport.close(0)  # forgets its connection; the next event opens another

    def _at_exit(self) -> None:
        self.close(self._flush_at_exit_s)


@functools.cache
def shared() -> OpenLineageEvents:
    """The process's one emitter with default settings, for streams that are followed unasked."""
    return OpenLineageEvents()


def _configured() -> OpenLineageClient:
    try:
        return OpenLineageClient()
    except Exception as error:  # noqa: BLE001 - each transport has its own way to refuse
        # Without its chain: the configuration in there holds keys.
        raise InvalidSettings(
            f"OpenLineage's configuration was refused ({_said_of(error)}): see openlineage.yml and "
            "the OPENLINEAGE_ variables"
        ) from None


def _parent(text: str | None) -> dict[str, RunFacet]:
    if not text:
        return {}
    try:
        namespace, job, run_id = text.rsplit("/", 2)
        if not namespace or not job:
            raise ValueError("empty")
        return {"parent": facets.parent_facet(run_id, namespace, job)}
    except ValueError:
        raise InvalidSettings(
            f"a parent run is namespace/job/run id, the last a UUID, got {text!r}"
        ) from None


def _check(*, every_s: float, flush_at_exit_s: float, events_max: int) -> None:
    for name, value in (("every_s", every_s), ("flush_at_exit_s", flush_at_exit_s)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 86400:
            raise InvalidSettings(f"{name} is a number of seconds from 0 to a day, got {value!r}")
    if isinstance(events_max, bool) or not isinstance(events_max, int) or events_max < 1:
        raise InvalidSettings(f"events_max is a whole number from 1 on, got {events_max!r}")


def _said_of(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {facets.without_credentials(first)}"[:SAID_MAX]
