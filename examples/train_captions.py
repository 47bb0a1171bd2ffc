"""Train on images with captions: bytes in the stream, decoded by the training side's workers.

Needs the extra `torch`, and `pip install pillow`. The images are PNG files that PyTorch's own
dependencies bring (pictures of plots in SymPy and NetworkX); a caption is the picture's name.

    python examples/train_captions.py --folder ./captions --steps 12
    python examples/train_captions.py --folder ./captions --steps 24   # goes on

A row that cannot be decoded is left out (`on_error="skip"`), and the state says which it was.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

import batchweave as bw
from batchweave.connectors.torch_dataset import StreamDataset

SLICES, ROWS, SIDE, LETTERS = 2, 4, 32, 40
SCHEMA = pa.schema([("image", pa.binary()), ("caption", pa.string())])


def pictures() -> Iterator[tuple[str, bytes]]:
    """Captions and PNG files, the same ones over and over."""
    folders = [
        Path(spec.origin).parent
        for name in ("networkx", "sympy")
        if (spec := importlib.util.find_spec(name)) is not None and spec.origin
    ]
    paths = sorted(path for folder in folders for path in folder.rglob("*.png"))
    while paths:
        for path in paths:
            yield path.stem.removeprefix("test_").replace("_", " "), path.read_bytes()
    raise SystemExit("no pictures found: install networkx or sympy")


def publish(catalog: bw.Catalog, steps: int) -> bw.Stream:
    """Publish the pictures as they are, from where an earlier call ended. Nothing is decoded."""
    try:
        stream = catalog.create_stream("demo.captions", schema=SCHEMA, mesh=bw.Mesh(dp=SLICES))
    except bw.StreamExists:
        stream = catalog.load_stream("demo.captions")
    if stream.head().sealed:
        return stream
    with stream.producer("crawler-0") as producer:
        first = producer.position or 0
        source = itertools.islice(pictures(), first * SLICES * ROWS, None)
        for step in range(first, steps):
            slices = []
            for _ in range(SLICES):
                captions, images = zip(*[next(source) for _ in range(ROWS)], strict=True)
                slices.append({"image": list(images), "caption": list(captions)})
            producer.publish(slices, position=step + 1)
    stream.seal()
    print(f"published {steps} steps of {SLICES * ROWS} pictures")
    return stream


def decoded(row: dict[str, Any]) -> dict[str, Any]:
    """One row: the PNG as a small tensor, the caption as letters. Runs in a worker process."""
    picture = Image.open(io.BytesIO(row["image"])).convert("RGB").resize((SIDE, SIDE))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    letters = torch.zeros(LETTERS, dtype=torch.long)
    text = row["caption"].encode()[:LETTERS]
    letters[: len(text)] = torch.tensor(list(text))
    return {"pixels": pixels, "letters": letters, "caption": row["caption"]}


class Matcher(nn.Module):
    """Embeds pictures and captions so that those that belong together are close."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(dim)
        )
        self.letters = nn.EmbeddingBag(256, dim)

    def forward(self, pixels: torch.Tensor, letters: torch.Tensor) -> torch.Tensor:
        """How well each picture goes with each caption."""
        pictures = functional.normalize(self.picture(pixels), dim=1)
        captions = functional.normalize(self.letters(letters), dim=1)
        return 5 * pictures @ captions.T


def train(stream: bw.Stream, folder: Path, steps: int, workers: int) -> None:
    """Train to a step, from the last checkpoint on."""
    torch.manual_seed(0)
    model = Matcher()
    dataset = StreamDataset(stream, transform=decoded, on_error="skip")
    saved = folder / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        dataset.load_state_dict(state["data"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    for element in loader:
        if element.step >= steps:
            break
        scores = model(element["pixels"], element["letters"])
        names = element["caption"]
        same = torch.tensor([[float(one == other) for other in names] for one in names])
        loss = functional.cross_entropy(scores, same / same.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {element.step}: loss {loss.item():.4f}, {len(names)} pictures")
        torch.save({"model": model.state_dict(), "data": dataset.state_dict()}, saved)
    print(f"trained to step {steps}; {dataset.stats().skipped_rows} rows were left out")


def main() -> None:
    """Publish what is missing, then train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("./captions"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warehouse = str(options.folder / "warehouse")
    catalog = bw.load_catalog("local", type="object-store", warehouse=warehouse)
    train(publish(catalog, 24), options.folder, options.steps, options.workers)


if __name__ == "__main__":
    main()
