"""The worker processes: started, listened to, killed, started again, and never left behind."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from batchweave.errors import BatchWeaveError

STOP_S = 10.0
LAST_WORDS = 6


class DemoFailed(BatchWeaveError):
    """The demo could not be run to its end: there is nothing to prove."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a worker told, or that it ended (``code``); ``run`` counts its starts."""

    worker: str
    run: int
    told: dict[str, Any] = field(default_factory=dict)
    code: int | None = None


class Crew:
    """Named worker processes. Use ``with``: none outlives it."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment = {**os.environ, **environment}
        self._folder = folder
        self._events: queue.Queue[Event] = queue.Queue()
        self._commands: dict[str, list[str]] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._runs: dict[str, int] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Start a worker: a module of this package with arguments."""
        self._commands[name] = [sys.executable, "-m", module, *arguments]
        self.restart(name)

    def restart(self, name: str) -> None:
        """Start a worker again, with the command that it had."""
        run = self._runs[name] = self._runs.get(name, -1) + 1
        with open(self._errors(name), "ab") as errors:
            process = subprocess.Popen(
                self._commands[name],
                stdin=subprocess.PIPE,  # its end tells the worker that we are gone
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                text=True,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        self._processes[name] = process
        thread = threading.Thread(
            target=self._listen, args=(name, run, process), name=f"demo-{name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _listen(self, name: str, run: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # the last line of a killed worker may be torn
            self._events.put(Event(name, run, told=told))
        self._events.put(Event(name, run, code=process.wait()))

    def next_event(self, timeout_s: float) -> Event | None:
        """The next event, or None when none came."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def kill(self, name: str) -> None:
        """Kill a worker with SIGKILL: it gets no chance to finish anything. Returns once dead."""
        process = self._processes[name]
        process.kill()
        process.wait()

    def runs(self, name: str) -> int:
        """The number of the worker's running start, from 0."""
        return self._runs[name]

    def last_words(self, name: str) -> str:
        """The end of what a worker wrote to stderr."""
        text = self._errors(name).read_text(errors="replace").strip()
        return "\n".join(text.splitlines()[-LAST_WORDS:]) or "it said nothing"

    def _errors(self, name: str) -> Path:
        return self._folder / f"{name}.stderr"

    def close(self) -> None:
        """Kill what still runs, and wait for it."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
        for process in self._processes.values():
            process.wait(timeout=STOP_S)
            if process.stdin is not None:
                process.stdin.close()
        for thread in self._threads:
            thread.join(timeout=STOP_S)
        for process in self._processes.values():
            if process.stdout is not None:
                process.stdout.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
