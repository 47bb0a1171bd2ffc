"""``kill -9`` at random moments: nothing is lost, nothing is doubled, positions are right."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import batchweave as bw
from batchweave.batch import position_from_text
from tests.streams import QUICK, catalog_at, make_stream, tokens

PRODUCERS = 3
ROUNDS = 20
WORK = "import sys; from tests.test_kill import work; work(*sys.argv[1:])"
ROOT = Path(__file__).resolve().parent.parent


def work(warehouse: str, name: str) -> None:
    """A producer process: item after item from its durable position, until it is killed."""
    stream = catalog_at(warehouse).load_stream("demo.tokens")
    with stream.producer(name, QUICK) as producer:
        item = 0 if producer.position is None else producer.position + 1
        print("ready", flush=True)
        while True:
            producer.publish([tokens(item)] * 2, position=item, source=f"{name} {item}")
            item += 1
            time.sleep(0.005)  # so that checking what was published stays quick


def start(warehouse: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(warehouse), name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def killed(tmp_path: Path) -> bw.Stream:
    """A stream after rounds in which a random producer is killed at a random moment."""
    stream = make_stream(tmp_path)
    chance = random.Random(20_26)
    running = {f"p{index}": start(tmp_path, f"p{index}") for index in range(PRODUCERS)}
    try:
        for _ in range(ROUNDS):
            name = chance.choice(sorted(running))
            process = running[name]
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            running[name] = start(tmp_path, name)
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    return stream


@pytest.mark.timeout(600)
def test_killed_producers_lose_and_double_nothing(killed: bw.Stream) -> None:
    for index in range(PRODUCERS):  # whoever comes last takes over where the table stands
        with killed.producer(f"p{index}", QUICK) as producer:
            last = -1 if producer.position is None else producer.position
            producer.publish([tokens(last + 1)] * 2, position=last + 1).step()
    batches = list(killed.batches())
    head = killed.head()
    assert [batch.step for batch in batches] == list(range(head.next_step))
    items = [int(batch.numpy()["tokens"][0, 0]) for batch in killed.read(slice=0)]
    assert len(items) == len(batches) > PRODUCERS * 2
    for name, state in head.producers.items():
        own = [batch for batch in batches if batch.producer == name]
        assert [batch.sequence for batch in own] == list(range(len(own)))
        assert [items[batch.step] for batch in own] == list(range(len(own)))
        assert position_from_text(state.position) == len(own) - 1 == state.sequence
        assert state.step == own[-1].step
    assert sum(state.generation for state in head.producers.values()) > ROUNDS
