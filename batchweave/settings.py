"""Settings: small frozen values, validated when made, with the unit in each name.

Imports: standard library, errors.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from batchweave.errors import InvalidSettings

MIB = 1024 * 1024


SECONDS_MAX = 30 * 24 * 3600.0
FRESHNESS_S_MAX = 3600.0


def _check(settings: Any, positive: tuple[str, ...]) -> None:
    """Numbers above zero; whole ones unless they are seconds (``_s``)."""
    for item in fields(settings):
        if item.name not in positive:
            continue
        value = getattr(settings, item.name)
        whole = not item.name.endswith("_s")
        kinds = (int,) if whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not value > 0:
            number = "a whole number" if whole else "a number"
            raise InvalidSettings(
                f"{type(settings).__name__}.{item.name} must be {number} above zero, got {value!r}"
            )
        if not whole and value > SECONDS_MAX:
            raise InvalidSettings(
                f"{type(settings).__name__}.{item.name} is at most {SECONDS_MAX:g}, got {value!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """How a producer encodes, uploads and waits.

    Attributes:
        freshness_s: how long a batch may wait for others to share its commit. Longer means fewer,
            larger commits; throughput does not depend on it.
        pending_bytes_max: bytes that may wait for their commit, as given until they are encoded,
            then encoded; ``publish`` blocks above. They are kept in memory, because a horizon may
            ask to upload them again.
        pending_batches_max: the same in batches, so that tiny batches are bounded too.
        publish_timeout_s: how long ``publish`` waits for room before `PendingLimit`.
        commit_timeout_s: how long ``flush`` and ``Receipt.step`` wait by default.
        upload_threads: parts encoded and uploaded at the same time. Encoding releases the GIL.
        slices_per_file: slices in one Parquet file at most; larger batches get several parts.
        compression: Parquet codec: ``zstd``, ``lz4``, ``snappy`` or ``none``.
        compression_level: the codec's level, or None for its default.
        position_bytes_inline_max: larger positions go to an object of their own.
    """

    freshness_s: float = 0.5
    pending_bytes_max: int = 256 * MIB
    pending_batches_max: int = 256
    publish_timeout_s: float = 300.0
    commit_timeout_s: float = 300.0
    upload_threads: int = 4
    slices_per_file: int = 64
    compression: str = "zstd"
    compression_level: int | None = 1
    position_bytes_inline_max: int = 4096

    def __post_init__(self) -> None:
        _check(
            self,
            (
                "freshness_s",
                "pending_bytes_max",
                "pending_batches_max",
                "publish_timeout_s",
                "commit_timeout_s",
                "upload_threads",
                "slices_per_file",
                "position_bytes_inline_max",
            ),
        )
        if self.freshness_s > FRESHNESS_S_MAX:
            raise InvalidSettings(
                f"freshness_s is at most {FRESHNESS_S_MAX:g} seconds, got {self.freshness_s!r}"
            )
        if self.compression not in ("zstd", "lz4", "snappy", "none"):
            raise InvalidSettings(
                f"compression is one of zstd, lz4, snappy, none, got {self.compression!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderSettings:
    """How a reader fetches ahead and follows.

    Attributes:
        prefetch_batches: steps fetched and decoded ahead of the one handed out.
        fetch_threads: how many at the same time. Fewer than steps ahead, so that no thread waits
            for the caller to come back for more.
        prefetch_bytes_max: file bytes of those steps together; one step is always allowed.
        poll_interval_s: pause between looks for new steps while following.
        store_timeout_s: how long a failing store is retried before the error is raised.
    """

    prefetch_batches: int = 16
    fetch_threads: int = 4
    prefetch_bytes_max: int = 256 * MIB
    poll_interval_s: float = 0.25
    store_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        _check(
            self,
            (
                "prefetch_batches",
                "fetch_threads",
                "prefetch_bytes_max",
                "poll_interval_s",
                "store_timeout_s",
            ),
        )
