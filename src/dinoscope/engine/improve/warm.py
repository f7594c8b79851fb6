"""New heads begin from what the frozen network tells them of annotated pixels.

A step through the whole decoder takes a second on two cores, and most steps of a short round would
go into a head that began with random weights. Here crops run through the frozen network once; the
head then learns from thousands of single pixels a step, in milliseconds. Only afterwards is the
decoder trained with it (linear probing first, Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinoscope.engine.batches import Batch, BatchSource
from dinoscope.engine.dataset import Source
from dinoscope.engine.improve.training import Setting
from dinoscope.models.heads import DenseHead
from dinoscope.models.model import Model
from dinoscope.tasks.base import IGNORE
from dinoscope.tasks.semantic import pixel_counts, weighted_loss
from dinoscope.types import Progress

#: Crops that are looked at, and cells (two by two pixels) of each that are kept at most.
CROPS, CELLS = 64, 1500
#: Steps of the head alone, cells in each, its peak rate.
STEPS, BATCH, RATE = 1500, 2048, 3e-3
#: At most this share of the time goes into it, half of that into looking at crops.
SHARE = 0.15


class Cells:
    """Annotated cells of the joined maps with their surroundings, gathered crop by crop."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._inputs: list[Tensor] = []
        self._truths: list[Tensor] = []
        self._counts: list[Tensor] = []

    def add(self, joined: Tensor, truth: Tensor, counts: Tensor) -> None:
        """Joined maps ``(B, C, y, x)`` with truth and counts ``(B, 2y, 2x)`` of their pixels."""
        truths, weights = _by_cell(truth), _by_cell(counts)
        around = F.pad(joined, (1, 1, 1, 1))
        for row, known in enumerate((truths != IGNORE).any(-1)):
            y, x = known.nonzero(as_tuple=True)
            chosen = torch.randperm(len(y), generator=self._random)[:CELLS]
            y, x = y[chosen], x[chosen]
            near = [around[row, :, y + dy, x + dx] for dy in range(3) for dx in range(3)]
            self._inputs.append(torch.stack(near, -1).transpose(0, 1))
            self._truths.append(truths[row, y, x])
            own = weights[row, y, x]  # each crop counts the same, however much of it is known
            self._counts.append(own / own.sum().clamp_min(1e-6))

    def whole(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs ``(N, C, 9)``, truths and counts ``(N, 4)``."""
        if not self._inputs:
            return torch.empty(0), torch.empty(0), torch.empty(0)
        return torch.cat(self._inputs), torch.cat(self._truths), torch.cat(self._counts)


def _by_cell(maps: Tensor) -> Tensor:
    """``(B, 2y, 2x)`` to ``(B, y, x, 4)``, in the order of a pixel shuffle."""
    b, height, width = maps.shape
    cells = maps.reshape(b, height // 2, 2, width // 2, 2)
    return cells.permute(0, 1, 3, 2, 4).reshape(b, height // 2, width // 2, 4)


def warm_head(
    model: Model, sources: Sequence[Source], setting: Setting, seconds: float | None
) -> Generator[Progress, None, float]:
    """Train the semantic head alone, in place, on frozen maps of crops from `sources`.

    `seconds` is the time that the whole training has; a share of it is used at most. Returns how
    much that was.
    """
    clock = setting.clock
    begun = clock()
    most = math.inf if seconds is None else SHARE * seconds
    options = setting.options
    # Where steps are counted instead of time: as many as take about that share of it.
    count = STEPS if options.steps is None else min(STEPS, 8 * options.steps)
    source = BatchSource(sources, setting.plan, options.batch_size, options.seed + 1)
    cells = Cells(options.seed)
    batches = max(1, min(CROPS // options.batch_size, count // 8))
    for number in range(batches):
        if number and clock() - begun > most / 2:
            break
        _look(model, source[number], setting, cells)
        yield Progress("prepare", number, batches, message="new classes: looking at crops")
    inputs, truths, counts = cells.whole()
    if len(inputs) == 0:
        return clock() - begun
    looked = clock()
    head = model.heads["semantic"]
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.05)
    random = torch.Generator().manual_seed(options.seed)
    for step in range(count):
        share = max(step / count, (clock() - looked) / (most / 2))
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / 50 + 0.02) * 0.5 * (1 + math.cos(math.pi * share))
        chosen = torch.randint(len(inputs), (BATCH,), generator=random)
        own = (t[chosen].to(setting.device) for t in (inputs, truths, counts))
        head_step(head, optimizer, *own)
        if step % 50 == 0:
            message = f"new classes: step {step} of the head alone"
            yield Progress("prepare", step, count, message=message)
    return clock() - begun


def _look(model: Model, batch: Batch, setting: Setting, cells: Cells) -> None:
    rows, truth = batch.truths.get("semantic", (torch.empty(0, dtype=torch.long), None))
    if truth is None or model.decoder is None:
        return
    pixels = batch.pixels[rows].to(setting.device).contiguous(memory_format=torch.channels_last)
    kind = torch.device(setting.device).type
    half = setting.autocast is not None
    with torch.no_grad(), torch.autocast(kind, setting.autocast, enabled=half):
        joined = model.decoder(model.encode(pixels), pixels)
    counts = pixel_counts(truth, setting.loss_settings.get("semantic", {}))
    cells.add(joined.to("cpu", torch.bfloat16 if half else torch.float32), truth, counts)


def head_step(
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    near: Tensor,
    truths: Tensor,
    counts: Tensor,
) -> None:
    """One step of the head alone, on cells as `Cells.whole` gives them."""
    raw = head_of_cells(head, near.float())
    loss = weighted_loss(raw, truths[None], counts[None])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def head_of_cells(head: nn.Module, near: Tensor) -> Tensor:
    """Surroundings ``(N, C, 9)`` of cells to raw outputs ``(1, K, N, 4)`` of their pixels."""
    if not isinstance(head, DenseHead):
        raise TypeError(f"{type(head).__name__} has no maps at full resolution")
    mixed = F.relu(F.linear(near.flatten(1), head.mix.weight.flatten(1), head.mix.bias))
    raw = F.linear(mixed, head.out.weight.flatten(1), head.out.bias)
    maps: Tensor = raw.unflatten(1, (-1, 4)).transpose(0, 1)
    return maps[None]
