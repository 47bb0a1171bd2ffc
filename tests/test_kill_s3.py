"""``kill -9`` on S3 behind a network that loses answers: nothing is lost, nothing is doubled."""

from __future__ import annotations

import pytest

from tests.bench.exactly_once import run
from tests.servers.seaweed import S3Server

KILLS = 12
PRODUCERS = 3


@pytest.mark.timeout(240)
def test_killed_producers_on_a_lossy_network_lose_and_double_nothing(s3: S3Server) -> None:
    report = run(s3, KILLS, PRODUCERS, drop=0.05, seed=20_26)
    assert report.violations == []
    assert report.kills == KILLS
    assert report.batches > KILLS
    assert report.dropped > 0
    assert report.generations > PRODUCERS
