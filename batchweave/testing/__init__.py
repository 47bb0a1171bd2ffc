"""Tests for streams and for adapters of one's own: a conformance suite, and checks to call.

``check_stream`` asserts what holds of every stream; ``fingerprint`` tells whether another engine
reads the same rows. `CatalogConformance` is a class of tests that a catalog of any table format has
to pass, `IcebergConformance` and `DeltaConformance` the same with all that is known of those
formats filled in. Needs pytest.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "batchweave.testing.delta",
    "batchweave.testing.iceberg",
    "batchweave.testing.publishing",
    "batchweave.testing.reading",
    "batchweave.testing.registration",
)

from batchweave.testing.checks import CheckedStream, check_stream  # noqa: E402 - after rewriting
from batchweave.testing.conformance import CatalogConformance  # noqa: E402
from batchweave.testing.delta import DeltaConformance  # noqa: E402
from batchweave.testing.faults import Fault, Faults, FaultyObjects, interrupted  # noqa: E402
from batchweave.testing.fingerprints import (  # noqa: E402
    Fingerprint,
    fingerprint,
    fingerprint_of_rows,
)
from batchweave.testing.iceberg import IcebergConformance  # noqa: E402

__all__ = [
    "CatalogConformance",
    "CheckedStream",
    "DeltaConformance",
    "Fault",
    "Faults",
    "FaultyObjects",
    "Fingerprint",
    "IcebergConformance",
    "check_stream",
    "fingerprint",
    "fingerprint_of_rows",
    "interrupted",
]
