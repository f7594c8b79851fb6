"""Teach a backbone's tokens to describe cells whose classes nobody told.

    python -m benchmarks.pretrain_cells --data DATA --minutes 45 --output runs/described.dinoscope

From the pooled tokens a linear layer has to give each cell's descriptors
(:mod:`benchmarks.descriptors`): its form, the brightness of its rings, its textures. So the tokens
learn what tells kinds of cells apart, and no label is read. Only the images of the training split
are shown. A CSV beside the model has the share of the descriptors' variance that is told.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np

from benchmarks.cells import rate, turned
from benchmarks.descriptors import PATCH_MAPS, Form, form_of, mask_of, measure, patch_maps
from benchmarks.probe import raise_layer_scale
from benchmarks.settings import autocast, write_table
from benchmarks.train_embedded import ABSOLUTE, CLASS_PX, SingleCells, fresh, single_cells
from dinoscope.arrays.resample import resample
from dinoscope.engine.attention import AttentionCap
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.models.device import import_torch, set_threads
from dinoscope.models.heads import pool_tokens
from dinoscope.models.model import Model

torch = import_torch()
F = torch.nn.functional

BATCH = 48
HEAD_RATE, WEIGHT_DECAY, WARMUP = 2e-3, 0.05, 0.04
#: Weight of what each token is asked, beside what all of them together are.
PATCH_WEIGHT = 0.5
#: Channel by whose light a set's cells are outlined; the mean of all where not named.
OUTLINED_BY = {"cellcycle_ifc": 1}
#: Standardised descriptors are kept within this.
FARTHEST = 4.0
EVERY = 100


class Unlabelled:
    """Cells of one set with their forms, varied a batch at a time."""

    def __init__(self, cells: SingleCells, name: str, seed: int) -> None:
        self.name, self.absolute = name, name in ABSOLUTE
        self.generator = torch.Generator().manual_seed(seed)
        pictures, forms = [], []
        for image in next(s.images for s in cells.training if s.name == name):
            pixels = image.pixels.astype(np.float32)
            channel = OUTLINED_BY.get(name)
            mask = mask_of(pixels.mean(0) if channel is None else pixels[channel])
            if mask is not None:
                form = form_of(mask)
                pictures.append(resample(pixels, (CLASS_PX, CLASS_PX)))
                depth = resample(form.depth[None], (CLASS_PX, CLASS_PX))[0]
                forms.append(Form(depth, form.numbers))
        self.pixels = torch.from_numpy(np.stack(pictures)).half()
        self.depth = torch.from_numpy(np.stack([f.depth for f in forms])).half()
        self.numbers = torch.from_numpy(np.stack([f.numbers for f in forms]))
        many = torch.cat([self.draw(BATCH)[2] for _ in range(20)])
        self.middle, self.spread = many.mean(0), many.std(0) + 1e-4

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cells turned, scaled, shifted and lit differently ``(B, 3, Y, X)``, their depths and
        descriptors."""
        picked = torch.randint(len(self.pixels), (count,), generator=self.generator)
        pixels, depth, scale = self._turned(picked)
        light = 0.1 if self.absolute else 0.4
        pixels = pixels * torch.exp(light * self._even(count, 3, 1, 1))
        pixels = pixels + 0.25 * light * self._even(count, 3, 1, 1)
        numbers = self.numbers[picked].clone()
        numbers[:, -1] *= scale
        descriptors = measure(pixels, depth, numbers)
        if float(self._even(1)) > 0.4:  # out of focus
            pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="reflect"), 3, 1)
        noise = torch.randn(pixels.shape, generator=self.generator)
        return pixels + 0.02 * noise * (1 + self._even(count, 1, 1, 1)), depth, descriptors

    def standard(self, descriptors: torch.Tensor) -> torch.Tensor:
        """With mean 0 and spread 1 over the set."""
        return ((descriptors - self.middle) / self.spread).clamp(-FARTHEST, FARTHEST)

    def _turned(self, picked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        count = len(picked)
        angle = math.pi * self._even(count)
        scale = torch.exp(0.15 * self._even(count))
        flip = torch.sign(self._even(count))
        both = torch.cat([self.pixels[picked], self.depth[picked][:, None]], 1).float()
        both = turned(both, angle, flip, 1 / scale, 0.1 * self._even(count, 2))
        return both[:, :3], both[:, 3], scale

    def _even(self, *shape: int) -> torch.Tensor:
        """Uniform in [-1, 1)."""
        return 2 * torch.rand(shape, generator=self.generator) - 1


@torch.no_grad()
def initialise(model: Model) -> None:
    """A start that small data sets suit better: positions as waves, attention that begins by
    looking at like tokens nearby ("mimetic", Trockman and Kolter 2023, arXiv:2305.09828), blocks
    open."""
    vit = model.backbone.vit
    side, dim = vit.patch_embed.grid_size[0], vit.pos_embed.shape[-1]
    pitch = 10_000 ** (-torch.arange(dim // 4) / (dim // 4))
    down, across = (
        place.flatten()[:, None] * pitch
        for place in torch.meshgrid(*[torch.arange(side).float()] * 2, indexing="ij")
    )
    vit.pos_embed.copy_(0.3 * torch.cat([down.sin(), down.cos(), across.sin(), across.cos()], 1))
    for block in vit.blocks:
        attention, own = block.attn, dim // block.attn.num_heads
        queries, keys = [], []
        for _ in range(attention.num_heads):
            left, size, right = _halves(0.7, 0.7, dim)
            queries.append((left * size).T[:own])
            keys.append((right * size).T[:own])
        left, size, right = _halves(0.4, -0.4, dim)
        attention.qkv.weight.copy_(torch.cat([*queries, *keys, (left * size).T]))
        attention.qkv.bias.zero_()
        attention.proj.weight.copy_(right * size)
        attention.proj.bias.zero_()
    raise_layer_scale(model, 1.0)


def _halves(noise: float, same: float, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular vectors of noise plus a multiple of the identity, and roots of its values."""
    product = noise * torch.randn(dim, dim) / math.sqrt(dim) + same * torch.eye(dim)
    left, size, right = torch.linalg.svd(product)
    return left, size.sqrt(), right.T


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="model whose backbone is gone on from")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    set_threads(options.threads)
    torch.manual_seed(options.seed)
    cells = single_cells(options.data, set())
    sets = [Unlabelled(cells, s.name, options.seed) for s in cells.training]
    if options.start:
        model = load_model(options.start, device="cpu")
    else:
        model = fresh(options.seed)
        initialise(model)
    rows = train(model, sets, 60 * options.minutes, options.learning_rate, options.output)
    print("done", *rows[-1:])


def train(
    model: Model, sets: list[Unlabelled], seconds: float, learning_rate: float, output: Path
) -> list[dict[str, float]]:
    """Train the backbone for a time; the log."""
    model.backbone.train()
    dim, last = model.token_dim + model.backbone.embed_dim, model.backbone.embed_dim
    heads = [
        torch.nn.Sequential(torch.nn.LayerNorm(dim), torch.nn.Linear(dim, len(s.middle)))
        for s in sets
    ]
    pointer = torch.nn.Conv2d(last, PATCH_MAPS, 1)
    named = dict(model.backbone.named_parameters())
    parameters = list(named.values())
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "scale": learning_rate},
            {"params": [p for h in (*heads, pointer) for p in h.parameters()], "scale": HEAD_RATE},
        ],
        weight_decay=WEIGHT_DECAY,
    )
    cap = AttentionCap(model.backbone.vit)
    rows: list[dict[str, float]] = []
    told: list[list[float]] = [[] for _ in sets]
    begun, step = time.perf_counter(), 0
    while (share := (time.perf_counter() - begun) / seconds) < 1:
        cap(model, step, share)
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * rate(share, WARMUP)
        number = step % len(sets)
        pixels, depth, found = sets[number].draw(BATCH)
        truth = sets[number].standard(found)
        with autocast():
            features = model.encode(pixels)
        guess = heads[number](pool_tokens(features))
        maps = pointer(features.last.float())
        loss = F.smooth_l1_loss(guess, truth, beta=0.5) + PATCH_WEIGHT * F.smooth_l1_loss(
            maps, patch_maps(pixels, depth, model.backbone.patch)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        cap.after_step(named)
        missed = float(((guess.detach() - truth) ** 2).mean() / truth.var(0).mean())
        told[number].append(1 - missed)
        step += 1
        if step % EVERY == 0:
            rows.append(_row((time.perf_counter() - begun) / 60, step, sets, told))
            told = [[] for _ in sets]
            print(rows[-1], flush=True)
            if len(rows) % 5 == 0:
                write(model, output, rows)
    if all(told):
        rows.append(_row((time.perf_counter() - begun) / 60, step, sets, told))
    cap.close()
    model.eval()
    write(model, output, rows)
    return rows


def _row(
    minutes: float, step: int, sets: list[Unlabelled], told: list[list[float]]
) -> dict[str, float]:
    means = {f"told_{s.name}": float(np.mean(t)) for s, t in zip(sets, told, strict=True)}
    return {"minutes": round(minutes, 2), "step": step, **means}


def write(model: Model, output: Path, rows: list[dict[str, float]]) -> None:
    """The model as it is now, and the log."""
    output.parent.mkdir(parents=True, exist_ok=True)
    model.card = model.card.replace(name=output.stem, data=("unlabelled cells of the two sets",))
    save_model(model, output, include_backbone=True)
    write_table(output.with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
