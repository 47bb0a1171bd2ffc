"""Runs a command for as long as whoever started it lives, however that ends.

    python -m tests.servers.guard <folder to remove> <user or -> <command> [argument ...]

Standard input is a pipe whose other end its owner holds: the end of the pipe is the end of the
command, also where the owner was killed. Ctrl-C goes to the owner only. The user is a name that
root hands its rights to, for servers that refuse to run as root; ``-`` stays what it is.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading


def main() -> int:
    folder, user, *command = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stays = user == "-"
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        user=None if stays else user,
        extra_groups=None if stays else [],
    )

    def wait_for_owner() -> None:
        sys.stdin.buffer.read()
        process.kill()  # what it keeps goes with its folder: nothing to end in good order

    threading.Thread(target=wait_for_owner, daemon=True).start()
    code = process.wait()
    shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
