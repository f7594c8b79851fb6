"""Training from kept tokens: the frozen lower part of the network is not computed again and again.

Where only the heads or the last blocks are trained, everything below gives the same tokens each
time the same crop is seen. So crops are drawn and augmented once, their tokens at the first trained
block are kept (bfloat16), and most steps begin there. Augmentation stays honest: what is reused are
several augmented variants of each image, and a share of the steps draws new crops, which take the
place of the oldest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dinoscope.config import TrainOptions, parse_tune
from dinoscope.engine.batches import Batch
from dinoscope.models.backbone import Backbone
from dinoscope.models.model import Model

#: Variants of each image that are kept, where memory allows.
VARIANTS = 12
#: Fewest crops that are kept before any is reused, in batches.
LEAST_BATCHES = 4
#: One step in so many draws new crops once enough are kept.
REFRESH_EVERY = 8


@dataclass(frozen=True)
class LowerTokens:
    """Where the forward pass of a batch goes on: before block `start`.

    `tokens` (B, N, D) are that block's input; `kept` the raw tokens of the chosen layers below.
    """

    start: int
    grid: tuple[int, int]
    tokens: Tensor
    kept: tuple[Tensor, ...]

    def to(self, device: torch.device) -> LowerTokens:
        return replace(
            self,
            tokens=self.tokens.to(device),
            kept=tuple(t.to(device) for t in self.kept),
        )


@torch.no_grad()
def lower_tokens(backbone: Backbone, pixels: Tensor, start: int) -> LowerTokens:
    """Run the blocks below `start` (all of them where it is their number).

    Parameters
    ----------
    pixels : (B, 3, Y, X) float
        Sides multiples of the patch.
    """
    grid = (pixels.shape[-2] // backbone.patch, pixels.shape[-1] // backbone.patch)
    tokens = backbone.embed(pixels)
    kept = []
    for index in range(start):
        tokens = backbone.vit.blocks[index](tokens)
        if index in backbone.layers:
            kept.append(tokens)
    return LowerTokens(start, grid, tokens, tuple(kept))


@dataclass
class _Crop:
    """One kept crop; `tokens` and `kept` have no batch axis."""

    name: str
    pixels: Tensor
    truths: dict[str, Tensor]
    tokens: Tensor
    kept: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        tensors = (self.pixels, self.tokens, *self.kept, *self.truths.values())
        return sum(t.numel() * t.element_size() for t in tensors)


class TokenPool:
    """Turns a stream of batches into one that mostly repeats kept crops with their tokens.

    Parameters
    ----------
    backbone : Backbone
        Blocks below `start` must be frozen.
    start : int
        First block that is trained; the number of blocks where only heads are.
    images : int
        Training images, of which `VARIANTS` crops each are kept.
    budget_mb : float
        Most memory for kept crops.
    autocast : torch.dtype, optional
        Precision of the lower blocks; tokens are kept in bfloat16 where it is given.
    """

    def __init__(
        self,
        backbone: Backbone,
        start: int,
        *,
        images: int,
        budget_mb: float,
        seed: int,
        device: str = "cpu",
        autocast: torch.dtype | None = None,
    ) -> None:
        self.backbone = backbone
        self.start = start
        self.budget = budget_mb * 1e6
        self.wanted = VARIANTS * max(1, images)
        self.seed = seed
        self.device = torch.device(device)
        self.autocast = autocast
        self.crops: list[_Crop] = []
        self.fresh_steps = 0
        self.reused_steps = 0
        self._oldest = 0

    def stream(self, batches: Iterator[Batch], step: int) -> Iterator[Batch]:
        """Batches with `tokens`, without end; steps count from `step`."""
        while True:
            rng = np.random.default_rng([self.seed, step, 77])
            size = len(self.crops)
            if size == 0 or not self._enough or step % REFRESH_EVERY == 0:
                batch = self._fresh(next(batches), step)
                self.fresh_steps += 1
            else:
                chosen = rng.choice(size, min(self._batch_size, size), replace=False)
                batch = self._assemble([self.crops[int(i)] for i in chosen], step)
                self.reused_steps += 1
            yield batch
            step += 1

    def note(self) -> str:
        """What was reused, in a sentence for the report."""
        if not self.reused_steps:
            return ""
        total = self.fresh_steps + self.reused_steps
        return (
            f"Tokens of the frozen blocks were kept: {self.fresh_steps} of {total} steps drew new "
            f"augmented crops, the others reused those of a pool of {len(self.crops)}."
        )

    @property
    def _enough(self) -> bool:
        least = LEAST_BATCHES * self._batch_size
        return len(self.crops) >= max(least, self.wanted) or self._full

    _batch_size = 1
    _full = False

    def _fresh(self, batch: Batch, step: int) -> Batch:
        pixels = batch.pixels.to(self.device)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            lower = lower_tokens(self.backbone, pixels, self.start)
        dtype = torch.bfloat16 if self.autocast is not None else torch.float32
        tokens = lower.tokens.to("cpu", dtype)
        kept = tuple(t.to("cpu", dtype) for t in lower.kept)
        self._batch_size = max(self._batch_size, len(batch.names))
        for row, name in enumerate(batch.names):
            truths = {
                task: truth[(rows == row).nonzero()[0, 0]]
                for task, (rows, truth) in batch.truths.items()
                if bool((rows == row).any())
            }
            # Clones: a view would keep the whole batch alive.
            crop = _Crop(
                name,
                batch.pixels[row].half(),
                {t: v.clone() for t, v in truths.items()},
                tokens[row].clone(),
                tuple(t[row].clone() for t in kept),
            )
            self._keep(crop)
        return replace(batch, step=step, tokens=replace(lower, tokens=tokens, kept=kept))

    def _keep(self, crop: _Crop) -> None:
        if len(self.crops) >= max(self.wanted, LEAST_BATCHES * self._batch_size) or self._full:
            self._oldest %= len(self.crops)
            self.crops[self._oldest] = crop
            self._oldest += 1
            return
        self.crops.append(crop)
        self._full = crop.nbytes * (len(self.crops) + 1) > self.budget

    def _assemble(self, crops: list[_Crop], step: int) -> Batch:
        tasks = dict.fromkeys(t for c in crops for t in c.truths)
        truths = {}
        for task in tasks:
            rows = [i for i, c in enumerate(crops) if task in c.truths]
            truths[task] = (
                torch.tensor(rows),
                torch.stack([crops[i].truths[task] for i in rows]),
            )
        grid = (
            crops[0].pixels.shape[-2] // self.backbone.patch,
            crops[0].pixels.shape[-1] // self.backbone.patch,
        )
        count = len(crops[0].kept)
        lower = LowerTokens(
            self.start,
            grid,
            torch.stack([c.tokens for c in crops]),
            tuple(torch.stack([c.kept[k] for c in crops]) for k in range(count)),
        )
        pixels = torch.stack([c.pixels for c in crops]).float()
        return Batch(step, pixels, truths, tuple(c.name for c in crops), lower)


def token_pool(
    model: Model,
    options: TrainOptions,
    images: int,
    *,
    device: str,
    autocast: torch.dtype | None,
) -> TokenPool | None:
    """A pool where blocks below the first trained one are frozen; none where all are trained."""
    kind, blocks = parse_tune(options.tune)
    depth = len(model.backbone.vit.blocks)
    if kind == "heads" or options.lora_on == "heads":
        start = depth
    elif kind == "lora-last":
        start = depth - min(depth, blocks or 0)
    else:
        start = 0
    if start == 0 or options.token_cache_mb <= 0:
        return None
    return TokenPool(
        model.backbone,
        start,
        images=images,
        budget_mb=options.token_cache_mb,
        seed=options.seed,
        device=device,
        autocast=autocast,
    )
