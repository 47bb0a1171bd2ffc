"""The shell of ``sql``: queries over several lines, with a history that is kept."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from batchweave.cli.output import complain, note, say
from batchweave.cli.query_output import FORMS
from batchweave.cli.sql import run
from batchweave.errors import BatchWeaveError

HISTORY_LINES = 2000
ROWS_SHOWN = 100
_SECRET = re.compile(r"secret|password|token_?key|key_id|credential", re.IGNORECASE)
HELP = """.views             what can be asked, and what each view holds
.format [FORM]     how results are shown: {forms}
.help              this
.quit              end; so does Ctrl-D
A query ends with ';' and may take several lines. Ctrl-C leaves it."""


class Shell:
    """Reads queries from the terminal until it is left."""

    def __init__(self, session: Any, form: str) -> None:
        self._session = session
        self._form = form

    def run(self) -> None:
        """Ask, answer, and tell mistakes without ending."""
        readline = _line_editing()
        state = self._session
        note(
            f"{state.stream.name} at version {state.head.version}, "
            f"{state.stop:,} steps. .views tells what can be asked, .quit ends."
        )
        while True:
            try:
                text = self._statement()
                if readline is not None:
                    _remember(readline, text)
                if text in (".quit", ".exit"):
                    return
                self._answer(text)
            except EOFError:
                say("")
                return
            except KeyboardInterrupt:
                self._session.interrupt()
                say("")

    def _statement(self) -> str:
        """A command, or what comes up to a ';'."""
        text = ""
        while True:
            line = input("sql> " if not text else " ...> ")
            if not text and line.strip().startswith("."):
                return line.strip()
            text = f"{text}\n{line}" if text else line
            if text.rstrip().endswith(";"):
                return text.strip()
            if not text.strip():
                text = ""

    def _answer(self, text: str) -> None:
        try:
            if text.startswith("."):
                self._command(text)
            else:
                run(self._session, text, self._form, table_rows_max=ROWS_SHOWN)
        except BatchWeaveError as error:
            complain(str(error), [])
        except RuntimeError as error:  # what DuckDB makes of Ctrl-C
            if "interrupt" not in str(error).lower():
                raise
            self._session.interrupt()
            note("interrupted")

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        if name == ".views":
            from batchweave.sql.views import described

            width = max(map(len, described()))
            for view, what in described().items():
                say(f"{view:<{width}}  {what}")
        elif name == ".format" and rest in (*FORMS[:3], ""):
            self._form = rest or self._form
            note(f"results are shown as {self._form}")
        elif name == ".help":
            say(HELP.format(forms=", ".join(FORMS[:3])))
        else:
            complain(f"there is no command {text!r}: .help tells what there is", [])


def _history() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "batchweave" / "sql_history"


def _line_editing() -> Any:
    """The module for it, with what was asked before; None where Python has none."""
    try:
        import readline
    except ImportError:
        return None
    readline.set_auto_history(False)
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError):  # the first time, or a home that cannot be read
        readline.read_history_file(_history())
    return readline


def _remember(readline: Any, text: str) -> None:
    """Keep a statement, unless it may hold a secret."""
    if _SECRET.search(text):
        return
    readline.add_history(" ".join(text.split("\n")))
    path = _history()
    with contextlib.suppress(OSError):  # a full disk ends no session
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        readline.write_history_file(path)
