"""A program that ends, or is interrupted, without closing anything does end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.streams import QUICK, make_stream, publish_numbers

ROOT = Path(__file__).resolve().parent.parent
OPEN = "import sys; from tests.streams import *; s = catalog_at(sys.argv[1])\n"
FOLLOW = OPEN + "r = s.load_stream('demo.tokens').read(slice=0, follow=True); next(r)\n"
PUBLISH = OPEN + "p = s.load_stream('demo.tokens').producer('q'); publish_numbers(p, 0, 3)\n"
OUTAGE = (
    "from batchweave.objects import ObstoreObjects\n"
    "from batchweave.errors import StoreUnavailable\n"
    + OPEN
    + "p = s.load_stream('demo.tokens').producer('q')\n"
    "def down(*_): raise StoreUnavailable('down')\n"
    "ObstoreObjects.create = down\n"
    "publish_numbers(p, 0, 3)\n"
)
THREAD = (
    "import threading\n"
    "def rest():\n"
    "    try: print(list(r))\n"
    "    except Exception as error: print(type(error).__name__)\n"
    "threading.Thread(target=rest).start()\n"
)
WAIT = "print('waiting', flush=True)\nnext(r)\n"


def start(program: str, warehouse: Path) -> subprocess.Popen[str]:
    stream = make_stream(warehouse)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 1)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(warehouse)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("program", [FOLLOW, PUBLISH, OUTAGE], ids=["reader", "producer", "outage"])
def test_a_program_ends_although_nothing_was_closed(tmp_path: Path, program: str) -> None:
    process = start(program, tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def test_ctrl_c_ends_a_reader_that_waits_for_the_next_step(tmp_path: Path) -> None:
    process = start(FOLLOW + WAIT, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(1.0)  # until it does wait
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_a_thread_that_reads_while_the_program_ends_is_told(tmp_path: Path) -> None:
    process = start(FOLLOW + THREAD, tmp_path)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert out == "StreamError\n"
