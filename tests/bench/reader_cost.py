"""What a rank fetches from S3 for its slices: bytes and requests, counted by a proxy.

    python tests/bench/reader_cost.py [--batches 6] [--sizes-kib 128 1024] [--slices 8 64]
                                      [--polls 40] [--json out.json]

Bytes are all that the server answered, headers and metadata included, over those of the rank's row
groups: *data* for the data files alone, *all* with the metadata of the whole read. An *idle poll*
is one look of a following reader at a stream where nothing happens.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import batchweave as bw
from tests.servers import seaweed
from tests.servers.proxy import Proxy
from tests.servers.seaweed import S3Server

SCHEMA = pa.schema([("tokens", pa.list_(pa.int32()))])
WIDTH = 4096
BYTES_A_ROW = 4 * WIDTH
GOALS = {128: 1.35, 1024: 1.10}
"""KiB of a slice: amplification at most, with 64 slices a batch."""

REQUESTS_MAX = 2.0
POLL_S = 0.05
POLLS_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Cost:
    """Of reading one rank's slice of every step of a stream."""

    slice_kib: int
    slices: int
    steps: int
    data_amplification: float
    all_amplification: float
    data_requests_a_slice: float
    other_requests: int


def publish(stream: bw.Stream, steps: int, slice_kib: int) -> None:
    """Slices of that many bytes of tokens, not compressed, so that their size is what it says."""
    rows = slice_kib * 1024 // BYTES_A_ROW
    values = np.random.default_rng(slice_kib).integers(0, 50_000, (rows, WIDTH), dtype=np.int32)
    with stream.producer("p", bw.ProducerSettings(compression="none")) as producer:
        for _ in range(steps):
            producer.publish([{"tokens": values}] * stream.mesh.slices)


def slice_bytes(stream: bw.Stream, index: int) -> int:
    """Bytes of one slice's row groups, as the metadata tells them."""
    found = 0
    for batch in stream.batches():
        for part in batch.parts:
            if part.first_slice <= index < part.first_slice + part.slices:
                bounds = [*part.offsets, part.data_end]
                at = index - part.first_slice
                found += bounds[at + 1] - bounds[at]
    return found


def counted(before: Mapping[str, int], after: Mapping[str, int], name: str) -> int:
    return after.get(name, 0) - before.get(name, 0)


def requests(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    return sum(counted(before, after, name) for name in ("GET", "HEAD", "POST", "PUT", "DELETE"))


def reading(stream: bw.Stream, proxy: Proxy, slice_kib: int) -> Cost:
    """Read one slice of every step through the proxy, which nobody else uses."""
    index = stream.mesh.slices // 2
    wanted = slice_bytes(stream, index)
    before = proxy.counts()
    steps = sum(1 for _ in stream.read(slice=index))
    after = proxy.counts()
    data = counted(before, after, "data_requests")
    return Cost(
        slice_kib=slice_kib,
        slices=stream.mesh.slices,
        steps=steps,
        data_amplification=counted(before, after, "data_bytes_out") / wanted,
        all_amplification=counted(before, after, "bytes_out") / wanted,
        data_requests_a_slice=data / steps,
        other_requests=requests(before, after) - data,
    )


def idling(stream: bw.Stream, proxy: Proxy, polls: int) -> tuple[float, float]:
    """Requests and bytes of one idle poll, counted between the first of so many and the last."""
    counts: list[dict[str, int]] = []
    done = threading.Event()
    head = stream.table.head

    def counting(known: Any = None) -> Any:
        if len(counts) <= polls:
            counts.append(proxy.counts())
        if len(counts) > polls:
            done.set()
        return head(known)

    settings = bw.ReaderSettings(poll_interval_s=POLL_S)
    start = stream.head().next_step
    stream.table.head = counting  # type: ignore[method-assign]
    try:
        with stream.read(slice=0, start=start, follow=True, settings=settings):
            assert done.wait(POLLS_TIMEOUT_S), "the reader does not poll"
    finally:
        stream.table.head = head  # type: ignore[method-assign]
    first, last = counts[1], counts[polls]  # the reader's opening is over at its second look
    made = polls - 1
    return requests(first, last) / made, counted(first, last, "bytes_out") / made


def measure(server: S3Server, options: argparse.Namespace) -> dict[str, Any]:
    costs: list[Cost] = []
    with Proxy(server.port) as proxy:
        properties = server.properties(server.bucket(), endpoint=proxy.endpoint)
        catalog = bw.load_catalog("bench", type="object-store", **properties)
        for slice_kib in options.sizes_kib:
            for slices in options.slices:
                name = f"bench.s{slice_kib}x{slices}"
                stream = catalog.create_stream(name, schema=SCHEMA, mesh=bw.Mesh(dp=slices))
                publish(stream, options.batches, slice_kib)
                costs.append(reading(stream, proxy, slice_kib))
                catalog.drop_stream(name)
        busy = catalog.create_stream("bench.busy", schema=SCHEMA, mesh=bw.Mesh(dp=1))
        with busy.producer("p") as producer:
            for _ in range(100):  # a commit each: as many metadata versions as there ever are
                producer.publish([{"tokens": np.zeros((1, 8), np.int32)}]).step()
        idle_requests, idle_bytes = idling(busy, proxy, options.polls)
    return {
        "costs": [asdict(cost) for cost in costs],
        "idle": {"requests_a_poll": idle_requests, "bytes_a_poll": idle_bytes},
    }


def main() -> int:
    """Print the table; exit 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--sizes-kib", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--slices", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--polls", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with seaweed.running() as server:
        results = measure(server, options)
    print("slice KiB  slices  bytes: data    all   requests a slice   other requests   goal")
    missed = False
    for cost in results["costs"]:
        goal = GOALS.get(cost["slice_kib"]) if cost["slices"] == 64 else None
        missed |= goal is not None and cost["data_amplification"] > goal
        missed |= cost["data_requests_a_slice"] > REQUESTS_MAX
        print(
            f"{cost['slice_kib']:9} {cost['slices']:7} {cost['data_amplification']:12.3f} "
            f"{cost['all_amplification']:6.3f} {cost['data_requests_a_slice']:18.2f} "
            f"{cost['other_requests']:16}   {f'<= {goal}' if goal else ''}"
        )
    idle = results["idle"]
    missed |= idle["requests_a_poll"] > 1.0
    print(f"idle poll: {idle['requests_a_poll']:.2f} requests, {idle['bytes_a_poll']:.0f} bytes")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
