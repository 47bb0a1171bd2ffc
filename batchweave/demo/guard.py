"""Runs a command for as long as whoever started it lives, however that ends.

    python -m batchweave.demo.guard <command> [argument ...]

Standard input is a pipe whose other end its owner holds: the end of the pipe is the end of the
command, also where the owner was killed. Ctrl-C goes to the owner only.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading


def main() -> int:
    """Run the command line's command; return its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def wait_for_owner() -> None:
        sys.stdin.buffer.read()
        process.kill()  # what it keeps is thrown away: nothing to end in good order

    threading.Thread(target=wait_for_owner, name="guard", daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
