"""A producer: publishes global batches in the background, exactly once, in order.

``publish`` checks, takes a copy and returns; threads encode and upload the parts; one thread
commits. What the caller waits for is only room (bounded pending data) and, if it wants, a receipt.

* Every batch is committed in the order it was published, or not at all.
* A failing store is retried for as long as the producer is open; nothing pending is dropped.
  Whoever waits is told: `StoreFull` and `StoreDenied` at once, an outage when its deadline passes.
* A newer opener of the name fences this one: `Fenced`, for good.

A batch goes from the facade (``producer``) into the ``backlog``, which all threads share, to the
threads of ``uploads`` and to the ``committer``; its ``receipt`` says where it landed, and
``notices`` tell the stream's listeners. The facade imports the others, and these the backlog.
"""

from __future__ import annotations

from batchweave.producer.producer import Producer
from batchweave.producer.receipt import Receipt

__all__ = ["Producer", "Receipt"]
