"""A producer of the demo: tokenise my files and publish them, from where I left off.

Run as ``python -m batchweave.demo.producer PLAN INDEX``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import batchweave as bw
from batchweave.demo.corpus import Plan, batch_chunks, batches_from, source_of, to_table
from batchweave.demo.worker import Report, end_with_parent, open_stream, report

PENDING_MAX = 8


def settings(batches: int) -> bw.ProducerSettings:
    """Few batches may wait, so that a kill finds the work unfinished and costs little.

    Of a small share fewer still: it is committed in several turns, and a kill falls between two.
    """
    pending = max(2, min(PENDING_MAX, batches // 4))
    return bw.ProducerSettings(freshness_s=0.3, pending_batches_max=pending, upload_threads=2)


def produce(stream: bw.Stream, plan: Plan, index: int, tell: Report) -> None:
    """Publish what is left of a producer's share; return when all of it is committed."""
    batches = len(batch_chunks(plan.shares[index]))
    with stream.producer(f"producer-{index}", settings(batches)) as producer:
        tell(generation=producer.generation, position=producer.position)
        for slices, position in batches_from(plan, index, producer.position):
            receipt = producer.publish(
                [to_table(chunks) for chunks in slices],
                position=position,
                source=[source_of(chunks) for chunks in slices],
            )
            tell(sequence=receipt.sequence, pending=producer.pending)
        producer.flush()


def main() -> None:
    """Run one producer."""
    end_with_parent()
    plan = Plan.from_json(Path(sys.argv[1]).read_text())
    produce(open_stream(), plan, int(sys.argv[2]), report)


if __name__ == "__main__":
    main()
