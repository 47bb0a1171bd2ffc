"""Lightning: a callback that keeps a `StreamDataset`'s state in the trainer's checkpoints.

Lightning takes batches one ahead of the one that is trained on, so the callback counts those that
were. Needs ``pytorch_lightning`` or ``lightning``.
Imports: standard library, torch_dataset, Lightning.
"""

from __future__ import annotations

import importlib
from typing import Any

from batchweave.connectors.torch_dataset import StreamDataset


def _callback() -> Any:
    """Lightning's base class, under either of the names that it is installed as."""
    for name in ("lightning.pytorch.callbacks", "pytorch_lightning.callbacks"):
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise ModuleNotFoundError(
        "batchweave.connectors.lightning_callback needs Lightning: pip install pytorch-lightning",
        name="pytorch_lightning",
    )


class StreamCheckpoint(_callback()):  # type: ignore[misc]  # found when imported
    """Saves and restores where a training run is in its stream, exactly.

    Give the trainer this callback and a ``DataLoader(dataset, batch_size=None)`` over the same
    dataset. A resumed run (``fit(ckpt_path=…)``) goes on after the last batch that the restored
    model was trained on.

    With ``register``, each checkpoint that Lightning saves during training is also registered in
    the stream, as ``<register>-<global step>``, before the next batch: the data that it still needs
    is then kept by retention. All ranks take part. Leave it out where checkpoints are written in
    the background, and call `StreamDataset.commit_checkpoint` when one is durable.
    """

    def __init__(self, dataset: StreamDataset, *, register: str | None = None) -> None:
        self._dataset = dataset
        self._register = register
        self._trained: int | None = None
        self._saved: tuple[int, int] | None = None

    @property
    def next_step(self) -> int:
        """The first step that the model was not trained on."""
        return self._dataset.next_step if self._trained is None else self._trained

    def state_dict(self) -> dict[str, Any]:
        return self._dataset.state_at(self.next_step)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._dataset.load_state_dict(state_dict)
        self._trained = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._trained = self._dataset.iteration_start

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self._commit()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._trained = self.next_step + 1

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._commit()
        # What was taken ahead and not trained on comes again in the next epoch.
        if self._trained is not None and self._trained != self._dataset.next_step:
            self._dataset.seek(self._trained)
        self._trained = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._commit()
        self._dataset.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._dataset.close()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._saved = (int(trainer.global_step), self.next_step)

    def _commit(self) -> None:
        """Register what was saved since; by now Lightning has written it."""
        saved, self._saved = self._saved, None
        if saved is not None and self._register is not None:
            global_step, next_step = saved
            self._dataset.commit_checkpoint(f"{self._register}-{global_step}", next_step=next_step)
