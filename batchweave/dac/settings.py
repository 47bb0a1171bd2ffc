"""What a user may set of the controller. Imports: standard library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DacSettings:
    """What a user may set.

    freshness_s: how old a batch may be when its commit lands, as long as the table has room.
        1 s: a training step seldom needs less, and each commit costs requests and metadata.
    pending_batches_max, pending_bytes_max: the producer's own limits.  From three quarters of
        either on, the freshness target is not waited for.  64 batches and 256 MiB are small
        next to a preprocessing worker's memory.
    window_first_s: the commit window assumed in a table without any measurement.  0.1 s lies
        between a local store and S3 Standard; it is replaced by the first attempt's duration.
    """

    freshness_s: float = 1.0
    pending_batches_max: int = 64
    pending_bytes_max: int = 256 * 1024 * 1024
    window_first_s: float = 0.1

    def __post_init__(self) -> None:
        checks = (
            ("freshness_s", self.freshness_s, 0.0, 3600.0),
            ("pending_batches_max", self.pending_batches_max, 1, 1_000_000),
            ("pending_bytes_max", self.pending_bytes_max, 1, 1 << 50),
            ("window_first_s", self.window_first_s, 0.0001, 60.0),
        )
        for name, value, least, most in checks:
            if not least <= value <= most:
                raise ValueError(f"{name} must be between {least} and {most}: {value}")
