"""Batches by number: the same seed and step give the same batch, so a run can go on where it
stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dinoscope.engine.augment import Augmentation, make_crop
from dinoscope.engine.dataset import Source, TrainingImage

if TYPE_CHECKING:
    from dinoscope.engine.cached import LowerTokens


@dataclass(frozen=True)
class CropPlan:
    """How crops are cut: side in model pixels, scale, and what is varied.

    `diameter_px` brings objects to that diameter; without it (or for images without objects)
    `zoom` does.
    """

    crop_px: int
    diameter_px: float | None
    zoom: float = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def zoom_of(self, image: TrainingImage) -> float:
        """Model pixels per image pixel."""
        if self.diameter_px and image.diameter_px:
            return self.diameter_px / image.diameter_px
        return self.zoom


@dataclass(frozen=True)
class Batch:
    """`pixels` (B, 3, Y, X); for each task the rows of the batch that have a truth, and those
    truths; `tokens` where the lower part of the network was run before (see `engine.cached`)."""

    step: int
    pixels: Tensor
    truths: dict[str, tuple[Tensor, Tensor]]
    names: tuple[str, ...]
    tokens: LowerTokens | None = None

    @classmethod
    def gather(
        cls,
        step: int,
        crops: Sequence[tuple[np.ndarray, dict[str, np.ndarray]]],
        names: Sequence[str],
    ) -> Batch:
        """Crops of one size, as `make_crop` gives them, with the names of their images."""
        return cls(
            step,
            torch.from_numpy(np.stack([pixels for pixels, _ in crops])),
            _gather([targets for _, targets in crops]),
            tuple(names),
        )


class BatchSource(Dataset[Batch]):
    """The batch of step `i`, drawn from sources by their weights."""

    def __init__(
        self, sources: Sequence[Source], plan: CropPlan, batch_size: int, seed: int
    ) -> None:
        self.sources = list(sources)
        self.plan = plan
        self.batch_size = batch_size
        self.seed = seed
        weights = np.array([s.weight for s in sources], float)
        self.shares = weights / weights.sum()

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        chosen = rng.choice(len(self.sources), self.batch_size, p=self.shares)
        images = [self.sources[int(i)].draw(rng) for i in chosen]
        crops = [
            make_crop(
                image,
                rng,
                self.plan.crop_px,
                self.plan.zoom_of(image),
                self.plan.augmentation,
                self.plan.diameter_px,
            )
            for image in images
        ]
        return Batch.gather(step, crops, [image.name for image in images])


def _gather(targets: Sequence[dict[str, np.ndarray]]) -> dict[str, tuple[Tensor, Tensor]]:
    tasks = dict.fromkeys(name for t in targets for name in t)
    gathered = {}
    for name in tasks:
        rows = [i for i, t in enumerate(targets) if name in t]
        gathered[name] = (
            torch.tensor(rows),
            torch.from_numpy(np.stack([targets[i][name] for i in rows])),
        )
    return gathered


def _single_thread(_: int) -> None:
    torch.set_num_threads(1)


def batch_stream(source: BatchSource, start: int, workers: int) -> Iterator[Batch]:
    """Batches from step `start` on, without end; `workers` processes prepare them ahead."""
    options: dict[str, Any] = {}
    if workers:
        options = {"prefetch_factor": 4, "worker_init_fn": _single_thread}
    loader: DataLoader[Batch] = DataLoader(
        source,
        batch_size=None,
        sampler=range(start, 2**31),
        num_workers=workers,
        **options,
    )
    return iter(loader)
