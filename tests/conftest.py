"""What every test shares: nothing of the machine's own settings, and Hypothesis without a clock."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

collect_ignore = ["bench"]  # measures, and is not part of the tests

# A developer's cloud credentials or catalog settings must neither be used nor change an outcome,
# and no test may wait for a metadata server that is not there.
for name in [name for name in os.environ if name.startswith(("AWS_", "PYICEBERG_"))]:
    del os.environ[name]
os.environ["AWS_CONFIG_FILE"] = os.devnull
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

# Slow is not wrong: the per-test time limit catches what hangs.
settings.register_profile(
    "batchweave",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("batchweave")

pytest_plugins = ["tests.servers.fixtures"]
