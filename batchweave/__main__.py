"""``python -m batchweave`` is the command line."""

from __future__ import annotations

from batchweave.cli import main

if __name__ == "__main__":
    main(prog_name="batchweave")
