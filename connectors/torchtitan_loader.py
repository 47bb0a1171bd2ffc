"""torchtitan: a `StreamDataset` as its ``BaseDataLoader``.

Where torchtitan is installed, the loader is one of its own kind; without it, the same class stands
by itself, with the protocol of `torch.distributed.checkpoint.stateful.Stateful`.
Imports: standard library, torch, torch_dataset, torchtitan if it is there.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from batchweave.connectors.torch_dataset import StreamDataset
from batchweave.errors import InvalidInput

_Base: Any
try:
    _Base = importlib.import_module("torchtitan.components.dataloader").BaseDataLoader
except ModuleNotFoundError:
    _Base = object


class StreamLoader(_Base):  # type: ignore[misc]  # found when imported
    """Inputs and labels for torchtitan's trainer, with a state that fits every world size.

    Yields ``({"input": tokens[:, :-1]}, tokens[:, 1:])``, other tensors of the element beside the
    input. A stream that has the labels in a column of their own is read with ``labels=`` that
    column, and both as they are.

    Unlike torchtitan's own loader, the state is not kept by rank: it is the same on all, and loads
    on any number. `close` ends threads and worker processes.

    Args:
        dataset: reads the stream. Give it the trainer's device mesh.
        tokens, labels: the columns.
        options: for the ``DataLoader``: ``num_workers``, ``pin_memory``, ``prefetch_factor`` …

    Raises:
        InvalidInput: the stream has no such column.
    """

    def __init__(
        self,
        dataset: StreamDataset,
        *,
        tokens: str = "tokens",
        labels: str | None = None,
        **options: Any,
    ) -> None:
        self._dataset = dataset
        self._tokens = tokens
        self._labels = labels
        self._loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, **options)

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        for element in self._loader:
            yield self._pair(element)

    def _pair(self, element: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        rest = {
            name: value
            for name, value in element.items()
            if name not in (self._tokens, self._labels) and isinstance(value, torch.Tensor)
        }
        tokens = self._column(element, self._tokens)
        if self._labels is not None:
            return {"input": tokens, **rest}, self._column(element, self._labels)
        return {"input": tokens[:, :-1], **rest}, tokens[:, 1:]

    def _column(self, element: Mapping[str, Any], name: str) -> torch.Tensor:
        value = element.get(name)
        if not isinstance(value, torch.Tensor):
            raise InvalidInput(
                f"torchtitan trains on a column of token rows of one length; {name!r} is "
                f"{'missing' if value is None else type(value).__name__} among {list(element)}"
            )
        return value.long()

    def state_dict(self) -> dict[str, Any]:
        """The dataset's state."""
        return self._dataset.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from the dataset's state; an empty one, torchtitan's first, changes nothing."""
        if state_dict:
            self._dataset.load_state_dict(state_dict)

    def close(self) -> None:
        """End what reads."""
        self._dataset.close()
