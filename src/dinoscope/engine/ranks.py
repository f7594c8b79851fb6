"""Several devices, one training: what the processes that ``accelerate launch`` starts agree on.

Each process sees batches of its own; gradients are averaged, so that all hold the same weights.
The first one validates and writes; what it decides holds for all. One process alone needs nothing
of this, and `accelerate` is not even imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dinoscope.engine.batches import BatchSource


class Ranks:
    """The processes of one training.

    `count` of them; this one is number `rank`. Made from the environment that ``accelerate launch``
    (or ``torchrun``) sets.
    """

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self._accelerator: Any = None
        self.rank = 0
        if self.count > 1:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
            self.rank = int(self._accelerator.process_index)

    @property
    def first(self) -> bool:
        """Whether this process validates, writes and reports."""
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """Where this process computes (``cuda`` is the card that is its own by then); None where
        the caller chooses."""
        return None if self._accelerator is None else str(self._accelerator.device.type)

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over all processes; a missing one counts as zero."""
        if self._accelerator is None:
            return
        members = list(parameters)
        for parameter in members:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in members if p.grad is not None]
        flat = torch.cat([g.reshape(-1).float() for g in gradients])
        mean = self._accelerator.reduce(flat, reduction="mean")
        for gradient, part in zip(
            gradients, mean.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def same(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self._accelerator is None:
            return value
        from accelerate.utils import broadcast

        tensor = torch.tensor([value], dtype=torch.float64, device=self._accelerator.device)
        return float(broadcast(tensor, from_process=0)[0])

    def spread(self, parameters: Iterable[Tensor]) -> None:
        """Give all processes the first one's tensors, in place."""
        if self._accelerator is None:
            return
        from accelerate.utils import broadcast

        for tensor in parameters:
            tensor.data.copy_(broadcast(tensor.data.clone(), from_process=0))

    def wait(self) -> None:
        """Until all processes are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


class OwnBatches(BatchSource):
    """Every `count`-th batch of a source, beginning with number `rank`."""

    def __init__(self, source: BatchSource, ranks: Ranks) -> None:
        super().__init__(source.sources, source.plan, source.batch_size, source.seed)
        self._source = source
        self._ranks = ranks

    def __getitem__(self, step: int) -> Any:
        return self._source[step * self._ranks.count + self._ranks.rank]


def own(batches: BatchSource, ranks: Ranks) -> BatchSource:
    """The batches of this process."""
    return batches if ranks.count == 1 else OwnBatches(batches, ranks)
