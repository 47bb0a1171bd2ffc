"""What one sees of a running demo: a live picture on a terminal, calm lines elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from batchweave.clock import SystemClock

LINE_EVERY_S = 2.0

STYLES = {
    "starting": "dim",
    "working": "green",
    "killed": "bold red",
    "back": "yellow",
    "done": "bold green",
}


@dataclass
class Status:
    """One worker: what it does (a key of `STYLES`), how far it is, and a word about it."""

    total: int
    state: str = "starting"
    done: int = 0
    said: str = ""


@dataclass
class View:
    """Everything that is shown."""

    steps_total: int
    steps: int = 0
    chunks: int = 0
    bytes: int = 0
    workers: dict[str, Status] = field(default_factory=dict)


class Display:
    """Shows a `View`. Use ``with``; `line` leaves a line standing."""

    def __init__(self, console: Console, view: View) -> None:
        self._console = console
        self._view = view
        self._clock = SystemClock()
        self._began_s = self._clock.monotonic_s()
        self._line_s = self._began_s
        self._line_steps = 0
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("committed", total=view.steps_total, unit="steps")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock.monotonic_s() - self._began_s

    def line(self, text: str, style: str = "") -> None:
        """A line that stays, with the time."""
        self._console.print(Text(f"{self.elapsed_s:6.1f} s  {text}", style=style))

    def update(self) -> None:
        """Show the view as it is now."""
        view = self._view
        if self._live is not None:
            self._bar.update(self._task, completed=view.steps, unit=f"steps  {self._amount()}")
            self._live.update(Group(self._bar, self._workers()))
        elif view.steps > self._line_steps and self._is_time():
            self._line_steps = view.steps
            ranks = [one.done for name, one in view.workers.items() if name.startswith("rank")]
            read = f"; ranks have read {min(ranks)} to {max(ranks)}" if ranks else ""
            self.line(f"{view.steps} of {view.steps_total} steps, {self._amount()}{read}")

    def _is_time(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s - self._line_s < LINE_EVERY_S:
            return False
        self._line_s = now_s
        return True

    def begin_proof(self, reads: int) -> None:
        """The workers are done: from now on the bar shows slices read again."""
        self._view.workers.clear()
        self._bar.reset(self._task, total=reads, description="proving  ", unit="slices read again")
        if self._live is not None:
            self._live.update(self._bar)
        else:
            self.line("reading everything again to prove it")

    def advance_proof(self) -> None:
        """One more slice was read again."""
        self._bar.advance(self._task)

    def _amount(self) -> str:
        return f"{self._view.chunks:,} chunks, {self._view.bytes / 1e6:.1f} MB"

    def _workers(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, one in self._view.workers.items():
            bar = int(20 * one.done / max(1, one.total))
            table.add_row(
                Text(f"  {name}"),
                Text("━" * bar + "╌" * (20 - bar), style=STYLES[one.state]),
                Text(f"{one.done}/{one.total}"),
                Text(one.state, style=STYLES[one.state]),
                Text(one.said, style="dim"),
            )
        return table

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(
                self._bar, console=self._console, refresh_per_second=8, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
