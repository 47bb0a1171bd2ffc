"""A server in a process of its own, which ends with its standard input, or when it is stopped."""

from __future__ import annotations

import subprocess
from pathlib import Path

LOG_LINES = 60


class ServerProcess:
    """What all servers of the tests have: a log, and an end."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def log(self) -> str:
        """The end of the server's log."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-LOG_LINES:])

    def stop(self) -> None:
        """Stop the server and remove its data."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
