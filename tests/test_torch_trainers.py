"""Lightning and torchtitan train from a stream, and resume after the last batch trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch.distributed.checkpoint.stateful import Stateful
from torch.utils.data import DataLoader

import batchweave as bw
from batchweave.connectors.lightning_callback import StreamCheckpoint
from batchweave.connectors.torchtitan_loader import StreamLoader
from tests.torch_streams import alone, numbered_stream

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric"),
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
]


class Module(lightning.LightningModule):
    """Learns nothing, and remembers what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append(int(batch["tokens"][0, 0]) // 1000)
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    stream: bw.Stream, folder: Path, steps: int, *, resume: Path | None = None
) -> tuple[list[int], Path]:
    dataset = alone(stream)
    checkpoints = lightning.callbacks.ModelCheckpoint(dirpath=folder, every_n_train_steps=3)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StreamCheckpoint(dataset, register="run"), checkpoints],
    )
    module = Module()
    loader: Any = DataLoader(dataset, batch_size=None)
    trainer.fit(module, loader, ckpt_path=None if resume is None else str(resume))
    return module.seen, Path(checkpoints.best_model_path)


def test_lightning_resumes_after_the_last_batch_trained_on(tmp_path: Path) -> None:
    stream = numbered_stream(tmp_path / "warehouse", 12)
    seen, saved = fit(stream, tmp_path / "run", 8)
    assert seen == list(range(8))
    assert saved.name.endswith("step=6.ckpt")
    registered = {one.id: one.next_step for one in stream.checkpoints.list()}
    assert registered == {"run-3": 3, "run-6": 6}
    seen, _ = fit(stream, tmp_path / "run", 10, resume=saved)
    assert seen == [6, 7, 8, 9]


def test_torchtitan_gets_inputs_and_labels_and_a_state_for_all_ranks(tmp_path: Path) -> None:
    stream = numbered_stream(tmp_path, 4)
    loader = StreamLoader(alone(stream))
    assert isinstance(loader, Stateful)
    iterator = iter(loader)
    inputs, labels = next(iterator)
    assert inputs["input"].tolist()[0] == [0, 1]
    assert labels.tolist()[0] == [1, 2]
    assert labels.dtype == torch.int64
    state = loader.state_dict()
    assert state == {"version": 1, "stream": "demo.tokens", "next_step": 1}
    loader.close()
    resumed = StreamLoader(alone(stream))
    resumed.load_state_dict({})
    resumed.load_state_dict(state)
    assert len(list(resumed)) == 3
    with pytest.raises(bw.InvalidInput, match="'name' is list"):
        next(iter(StreamLoader(alone(stream), tokens="name")))
