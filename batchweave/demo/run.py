"""The conductor: make the stream, run the workers, kill two in mid-run, seal, prove, tell."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import batchweave as bw
from batchweave.cli.output import messages
from batchweave.demo.corpus import (
    CHUNK_BYTES,
    MESH,
    PRODUCERS,
    SCHEMA,
    SLICES,
    Plan,
    Source,
    batch_chunks,
    make_plan,
    offsets,
)
from batchweave.demo.crew import Crew, DemoFailed, Event
from batchweave.demo.display import Display, Status, View
from batchweave.demo.kills import Kill, plan_kills
from batchweave.demo.places import prepared
from batchweave.demo.proof import Claim, prove
from batchweave.demo.verdict import show_history, tell
from batchweave.demo.worker import STREAM, write_address

DOWN_S = 1.0
TICK_S = 0.1
LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says. What ``kind``, ``store`` and ``properties`` leave open is made.

    ``kind`` and ``store`` are those of `batchweave.demo.places`.
    """

    catalog: str = "demo"
    kind: str | None = None
    store: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    stream: str = "demo.stdlib"
    steps: int | None = None
    limit_files: int | None = None
    seconds: int = 600
    kill: bool = True
    seed: int = 0
    keep: bool = False
    root: Path | None = None


def run(options: Options) -> bool:
    """Run the demo; return whether all of the proof holds.

    Raises:
        InvalidInput: too few files for what is asked, or a catalog that cannot be.
        DemoFailed: a worker failed, or the time was up.
        BatchWeaveError: what the catalog or the stream says.
    """
    plan = make_plan(options.root, files=options.limit_files, steps=options.steps)
    kills = plan_kills(plan, options.seed) if options.kill else []
    folder = Path(tempfile.mkdtemp(prefix="batchweave-demo-"))
    keep = False  # what never began leaves nothing
    try:
        with prepared(options.kind, options.store, options.properties, folder) as properties:
            demo = _Demo(options, plan, kills, folder, properties)
            demo.create()
            keep = True  # an error is to be looked at
            try:
                ok = demo.run()
            except KeyboardInterrupt:
                keep = options.keep
                raise
            keep = options.keep or not ok
            return ok
    finally:
        if keep:
            messages().print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


class _Demo:
    """One run: the view, the kills, and the workers' events."""

    def __init__(
        self,
        options: Options,
        plan: Plan,
        kills: list[Kill],
        folder: Path,
        properties: dict[str, str],
    ) -> None:
        self.options = options
        self.plan = plan
        self.kills = {kill.worker: kill for kill in kills}
        self.folder = folder
        self.properties = properties
        self.logs = [folder / f"rank-{rank}.log" for rank in range(SLICES)]
        self.finished: set[str] = set()
        self.view = View(plan.steps)
        self.display = Display(messages(), self.view)
        self.look_s = 0.0
        self.sizes = [_cumulative(share) for share in plan.shares]

    def create(self) -> None:
        """Make the stream: whatever is wrong with the catalog shows here."""
        catalog = bw.load_catalog(self.options.catalog, **self.properties)
        self.stream = catalog.create_stream(
            self.options.stream,
            schema=SCHEMA,
            mesh=MESH,
            properties={"lineage-columns": "path,offset", "corpus": self.plan.label},
        )

    def run(self) -> bool:
        """Introduce, run, seal and prove; return whether all of the proof holds."""
        self._introduce()
        with self.display:
            address = write_address(self.options.catalog, self.properties, self.options.stream)
            with self._interrupted(), Crew({STREAM: address}, self.folder) as self.crew:
                self._start()
                self._until_all("producer")
                self.stream.seal()
                self.display.line(f"all producers are done; sealed at {self._next_step()} steps")
                self._until_all("rank")
            self.display.begin_proof(self.plan.steps * SLICES)
            proof = prove(self.stream, self.plan, self.logs, self.display.advance_proof)
            if self.kills:
                proof.claims.append(self._prove_kills())
            took_s = self.display.elapsed_s
        messages().print(f"proved from the data itself, {took_s:.0f} s after the start:")
        tell(proof)
        show_history(self.stream)
        return proof.ok

    def _prove_kills(self) -> Claim:
        names = " and ".join(self.kills)
        text = f"{names} were killed in the middle of their work and came back"
        kills = self.kills.items()
        return Claim(
            text, unproven=[f"{name}: {one.unproven}" for name, one in kills if one.unproven]
        )

    @contextmanager
    def _interrupted(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self.display.line("stopped; no process is left", "yellow")
            raise

    def _introduce(self) -> None:
        plan, console = self.plan, messages()
        # A catalog's uri may hold a password: it is not shown.
        where = self.properties.get("warehouse", f"catalog {self.options.catalog!r}")
        where += {"sql": " and an SQL catalog", "rest": " and a REST catalog"}.get(
            self.properties.get("type", ""), ""
        )
        console.print(
            f"{len(plan.sources)} files of {plan.label}, {plan.size / 1e6:.1f} MB, "
            f"in chunks of {CHUNK_BYTES // 1024} KiB, one token a byte"
        )
        console.print(
            f"{PRODUCERS} producers publish them to {self.options.stream}, {MESH}, and "
            f"{SLICES} ranks follow; all they share is {where}"
        )
        for kill in self.kills.values():
            console.print(f"{kill.worker} will be killed near batch {kill.at} of {kill.total}")

    # -- running ---------------------------------------------------------------------------

    def _start(self) -> None:
        path = self.folder / "plan.json"
        path.write_text(self.plan.to_json())
        for index in range(PRODUCERS):
            name = f"producer-{index}"
            self.view.workers[name] = Status(len(batch_chunks(self.plan.shares[index])))
            self.crew.start(name, "batchweave.demo.producer", str(path), str(index))
        for rank, log in enumerate(self.logs):
            name = f"rank-{rank}"
            self.view.workers[name] = Status(self.plan.steps)
            self.crew.start(name, "batchweave.demo.reader", str(rank), str(log))

    def _until_all(self, kind: str) -> None:
        wanted = {name for name in self.view.workers if name.startswith(kind)}
        while not wanted <= self.finished:
            event = self.crew.next_event(TICK_S)
            if event is not None:
                self._take(event)
            self._restart_killed()
            self._look()
            if self.display.elapsed_s > self.options.seconds:
                left = ", ".join(sorted(wanted - self.finished))
                raise DemoFailed(f"not done after {self.options.seconds} s: {left}")

    def _take(self, event: Event) -> None:
        name, status = event.worker, self.view.workers[event.worker]
        kill = self.kills.get(name)
        if event.run != self.crew.runs(name) or status.state == "killed":
            return  # the last words of one that was killed
        if event.code is not None:
            if event.code != 0:
                raise DemoFailed(
                    f"{name} ended with exit code {event.code}: {self.crew.last_words(name)}"
                )
            status.state = "done"
            self.finished.add(name)
            return
        told = event.told
        if "generation" in told or "resumed" in told:
            self._take_start(name, status, told)
            return
        status.state = "back" if kill is not None and kill.restarted else "working"
        status.done = 1 + told.get("step", told.get("sequence", 0) - told.get("pending", 0))
        if kill is not None and kill.is_due(told):
            self._kill(kill, status, told.get("pending"))

    def _take_start(self, name: str, status: Status, told: dict[str, Any]) -> None:
        kill = self.kills.get(name)
        if kill is None or not kill.restarted:
            status.state = "working"
            return
        kill.take_back(self.plan, told)
        status.state, status.said = "back", kill.back
        others = self._next_step() - kill.steps_then
        self.display.line(
            f"{name} is back: {kill.back}; {others} steps came from others meanwhile", "yellow"
        )

    def _kill(self, kill: Kill, status: Status, pending: int | None) -> None:
        self.crew.kill(kill.worker)
        kill.killed_s = self.display.elapsed_s
        kill.steps_then = self._next_step()
        status.state = "killed"
        how = f"after {status.done} of {kill.total} batches"
        if pending is not None:
            how += f", with {pending} more published and not committed"
        self.display.line(f"{kill.worker} killed (SIGKILL) {how}", "bold red")

    def _restart_killed(self) -> None:
        for kill in self.kills.values():
            if kill.killed_s is None or kill.restarted:
                continue
            if self.display.elapsed_s - kill.killed_s >= DOWN_S:
                kill.restarted = True
                self.view.workers[kill.worker].state = "starting"
                self.crew.restart(kill.worker)

    def _look(self) -> None:
        """Look at the stream itself now and then: what is shown as committed, is."""
        if self.display.elapsed_s - self.look_s < LOOK_EVERY_S:
            return
        self.look_s = self.display.elapsed_s
        state = self.stream.head()
        self.view.steps, self.view.chunks, self.view.bytes = state.next_step, 0, 0
        for name, producer in state.producers.items():
            index, done = int(name.partition("-")[2]), producer.sequence + 1
            chunks, size = self.sizes[index][done]
            self.view.chunks += chunks
            self.view.bytes += size
            self.view.workers[name].done = max(done, self.view.workers[name].done)
        self.display.update()

    def _next_step(self) -> int:
        return self.stream.head().next_step


def _cumulative(share: tuple[Source, ...]) -> list[tuple[int, int]]:
    """Chunks and bytes of a share's first 0, 1, 2 … batches."""
    lengths = [
        min(CHUNK_BYTES, source.size - offset) for source in share for offset in offsets(source)
    ]
    found, at = [(0, 0)], 0
    for count in batch_chunks(share):
        chunks, size = found[-1]
        found.append((chunks + count, size + sum(lengths[at : at + count])))
        at += count
    return found
