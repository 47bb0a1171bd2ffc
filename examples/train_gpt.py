"""Train a small GPT on Python's standard library with PyTorch; kill it, and go on with other ranks.

Needs the extra `torch`. The first run publishes the data; every run resumes from the last
checkpoint, on any number of ranks that divides 4 or is a multiple of it:

    torchrun --nproc-per-node 2 examples/train_gpt.py --folder ./gpt --steps 40
    # interrupt or kill it, then
    torchrun --nproc-per-node 4 examples/train_gpt.py --folder ./gpt --steps 60

`./gpt/log.jsonl` has a line a step: its loss, and the hash of the global batch. Steps that were
trained after the last checkpoint and before the kill are trained again, on the same batches.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn import functional
from torch.utils.data import DataLoader

import batchweave as bw
from batchweave.connectors.torch_dataset import StreamDataset

SLICES, ROWS, WIDTH = 4, 2, 64


def publish(catalog: bw.Catalog, steps: int) -> None:
    """Tokenise the standard library, a token a byte, and publish it as global batches.

    Killed at any point and called again, it goes on from the producer's position.
    """
    try:
        schema = pa.schema([("tokens", pa.list_(pa.int32()))])
        stream = catalog.create_stream("demo.stdlib", schema=schema, mesh=bw.Mesh(dp=SLICES))
    except bw.StreamExists:
        stream = catalog.load_stream("demo.stdlib")
    if stream.head().sealed:
        return
    with stream.producer("tokenizer-0") as producer:
        rows = token_rows(producer.position)
        while (step := (producer.position or {}).get("steps", 0)) < steps:
            taken = [next(rows) for _ in range(SLICES * ROWS)]
            tokens = np.stack([row for _, row in taken])
            producer.publish(
                [{"tokens": tokens[at::SLICES]} for at in range(SLICES)],
                position={"steps": step + 1, "row": taken[-1][0] + 1},
                source={"rows": [taken[0][0], taken[-1][0]]},
            )
            producer.flush()
    stream.seal()


def token_rows(position: dict[str, int] | None) -> Iterator[tuple[int, np.ndarray]]:
    """Rows of WIDTH + 1 tokens with their numbers, from a producer's position on."""
    number, first = 0, (position or {}).get("row", 0)
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        data = np.frombuffer(path.read_bytes(), np.uint8).astype(np.int32)
        for start in range(0, len(data) - WIDTH, WIDTH):
            if number >= first:
                yield number, data[start : start + WIDTH + 1]
            number += 1


class SmallGPT(nn.Module):
    """Two causal transformer layers over bytes."""

    def __init__(self, dim: int = 48) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, dim)
        self.places = nn.Embedding(WIDTH, dim)
        layer = nn.TransformerEncoderLayer(dim, 4, 4 * dim, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits for the token after each."""
        hidden = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layers(hidden, mask=mask, is_causal=True))


class Trained:
    """Model and optimizer, as torch.distributed.checkpoint saves and restores them."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, object]:
        """Both states, with names that fit any number of ranks."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        """The inverse."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )


def train(stream: bw.Stream, folder: Path, steps: int, every: int, workers: int) -> None:
    """Train to a step, from the last checkpoint on."""
    torch.manual_seed(0)
    model = SmallGPT()
    trained = Trained(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    dataset = StreamDataset(stream, start="latest")  # rank and world size: the process group's
    if dataset.next_step:
        saved = folder / f"step-{dataset.next_step}"
        dcp.load({"trained": trained, "data": dataset}, checkpoint_id=saved)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    while dataset.next_step < steps:
        for element in loader:
            tokens = element["tokens"].long()
            loss = train_step(model, trained.optimizer, tokens)
            log(folder, element.step, loss, tokens)
            done = element.step + 1
            if done % every == 0 or done == steps:
                state = {"trained": trained, "data": dataset}
                dcp.save(state, checkpoint_id=folder / f"step-{done}")
                dataset.commit_checkpoint(f"step-{done}")  # the data from here on is kept
            if done == steps:
                break
        else:
            break  # the stream was sealed, and ends before that step
    dataset.close()


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor
) -> torch.Tensor:
    """One step on the global batch: every rank has as many rows, so means are averaged."""
    logits = model(tokens[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()
    optimizer.step()
    total = loss.detach()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def log(folder: Path, step: int, loss: torch.Tensor, tokens: torch.Tensor) -> None:
    """Write what the global batch was, all ranks' rows in order, and how it went."""
    ranks = [torch.empty_like(tokens) for _ in range(dist.get_world_size())]
    dist.all_gather(ranks, tokens)
    if dist.get_rank() == 0:
        batch = hashlib.sha256(torch.cat(ranks).numpy().tobytes()).hexdigest()
        line = {"step": step, "loss": loss.item(), "batch": batch, "ranks": len(ranks)}
        with (folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def main() -> None:
    """Publish what is missing, then train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("./gpt"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--published-steps", type=int, default=200)
    parser.add_argument("--checkpoint-every", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    warehouse = str(options.folder / "warehouse")
    catalog = bw.load_catalog("local", type="object-store", warehouse=warehouse)
    if dist.get_rank() == 0:
        publish(catalog, options.published_steps)
    dist.barrier()
    stream = catalog.load_stream("demo.stdlib")
    train(stream, options.folder, options.steps, options.checkpoint_every, options.workers)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
