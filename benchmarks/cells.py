"""Classifiers of single cells: what the embedded adapters are trained with, on any device.

A classifier begins with its pixel branch alone, which learns fast (:func:`pretrain`); then LoRA in
all blocks and the whole head are trained together (:func:`adapter`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import autocast
from benchmarks.train_embedded import ABSOLUTE, CLASS_PX, SingleCells
from dinoscope.models.adapter import AdapterConfig, add_lora
from dinoscope.models.backbone import FeatureMap
from dinoscope.models.checkpoint import load_model
from dinoscope.models.device import import_torch
from dinoscope.models.heads import pool_tokens
from dinoscope.models.model import Model
from dinoscope.tasks.base import task

torch = import_torch()
F = torch.nn.functional


@dataclass(frozen=True)
class CellSettings:
    """How a classifier is trained; `average` is the share that averaged weights keep a step."""

    seconds: float
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    drop_path: float = 0.1
    average: float = 0.998
    rank: int = 8


class Cells:
    """Single cells of one set, brought to one side, with their classes numbered from 0.

    `offset` is where the set's classes begin among those of all sets.
    """

    def __init__(self, cells: SingleCells, name: str, device: str) -> None:
        self.folder = name
        self.names = [c.split(": ")[1] for c in cells.classes if c.startswith(f"{name}: ")]
        self.offset = cells.classes.index(f"{name}: {self.names[0]}")
        images = next(s.images for s in cells.training if s.name == name)
        held = cells.validation[name]
        self.pixels = _stacked([i.pixels for i in images], device)
        self.truth = self._numbers(images).to(device)
        self.held = _stacked([i.pixels for i in held], device)
        self.held_truth = self._numbers(held).numpy()

    def _numbers(self, images: Sequence[Any]) -> torch.Tensor:
        return torch.tensor([int(i.targets["classification"]) - self.offset for i in images])

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cells turned, mirrored, shifted and varied; half of the draws give each class its
        turn."""
        from benchmarks.atlas import varied

        device = self.truth.device
        classes = self.truth.unique()
        wanted = classes[torch.randint(len(classes), (count,), device=device)]
        weight = (wanted[:, None] == self.truth[None]).float()
        weight[: count // 2] = 1.0
        picked = torch.multinomial(weight, 1)[:, 0]
        pixels = self.pixels[picked]
        angle = torch.rand(count, device=device) * 6.2832
        flip = (torch.rand(count, device=device) < 0.5).float() * 2 - 1
        size = 2 ** ((torch.rand(count, device=device) - 0.5) * 0.12)
        shift = (torch.rand(count, 2, device=device) - 0.5) * 0.16
        shown = turned(pixels, angle, flip, size, shift)
        absolute = self.folder in ABSOLUTE
        return varied(shown, absolute=absolute, grey=0.4, invert=0.0), self.truth[picked]


def turned(
    maps: torch.Tensor,
    angle: torch.Tensor,
    flip: torch.Tensor,
    size: torch.Tensor,
    shift: torch.Tensor,
) -> torch.Tensor:
    """``(B, C, Y, X)`` turned by radians, mirrored where `flip` is -1, with `size` times as much of
    the picture in view, shifted by ``(B, 2)`` halves of its side; what lies outside is mirrored."""
    cos, sin = angle.cos() * size, angle.sin() * size
    theta = torch.stack([torch.stack([cos * flip, -sin], 1), torch.stack([sin * flip, cos], 1)], 1)
    theta = torch.cat([theta, shift[..., None]], 2)
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="reflection", align_corners=False)


def _stacked(pixels: Sequence[np.ndarray], device: str) -> torch.Tensor:
    shown = [
        F.interpolate(
            torch.from_numpy(np.ascontiguousarray(p)).float()[None],
            size=(CLASS_PX, CLASS_PX),
            mode="bilinear",
            align_corners=False,
        )
        for p in pixels
    ]
    return torch.cat(shown).to(device)


def mixed(
    pixels: torch.Tensor, truth: torch.Tensor, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half of a batch mixed in pairs (mixup, Zhang et al. 2018), and smoothed soft truths."""
    soft = F.one_hot(truth, classes).float() * 0.9 + 0.1 / classes
    count = len(pixels)
    share = torch.distributions.Beta(0.4, 0.4).sample((count,)).to(pixels.device)
    share = torch.where(torch.rand(count, device=pixels.device) < 0.5, share, 1.0)
    other = torch.randperm(count, device=pixels.device)
    picture = share.view(-1, 1, 1, 1)
    return (
        pixels * picture + pixels[other] * (1 - picture),
        soft * share.view(-1, 1) + soft[other] * (1 - share).view(-1, 1),
    )


def drop_paths(model: Model, rate: float) -> None:
    """Stochastic depth (Huang et al. 2016) in every block, rising to `rate`."""
    from timm.layers import DropPath

    blocks = model.backbone.vit.blocks
    for index, block in enumerate(blocks):
        share = rate * index / max(1, len(blocks) - 1)
        block.drop_path1 = block.drop_path2 = DropPath(share) if rate else torch.nn.Identity()


def rate(done: float, warmup: float) -> float:
    """Warm-up, then cosine, of the largest learning rate."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + np.cos(np.pi * min(1.0, (done - warmup) / (1 - warmup)))) + 1e-3


def logits_of(model: Model, pixels: torch.Tensor) -> torch.Tensor:
    """Class logits of whole crops."""
    features = model.pooled_features(model.backbone(pixels), pixels)
    return model.decode_pooled(pool_tokens(features))


def scores(logits: Callable[[torch.Tensor], torch.Tensor], cells: Cells) -> dict[str, Any]:
    """Accuracy, macro-F1 and the F1 of each class on the held cells."""
    from sklearn.metrics import f1_score

    with torch.no_grad():
        guess = torch.cat([logits(part) for part in cells.held.split(64)]).argmax(1).cpu().numpy()
    truth, classes = cells.held_truth, np.arange(len(cells.names))
    each = f1_score(truth, guess, average=None, labels=classes, zero_division=0)
    return {
        "accuracy": round(float(np.mean(guess == truth)), 4),
        "f1_macro": round(float(each.mean()), 4),
        "f1": {n: round(float(v), 2) for n, v in zip(cells.names, each, strict=True)},
    }


def optimise(
    logits: Callable[[torch.Tensor], torch.Tensor],
    parameters: Sequence[torch.nn.Parameter],
    cells: Cells,
    settings: CellSettings,
) -> int:
    """Train `parameters` for a time and leave their average; the number of steps."""
    device = cells.pixels.device.type
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    averaged = [p.detach().clone() for p in parameters]
    begun, step = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < settings.seconds:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(elapsed / settings.seconds, 0.08)
        pixels, soft = mixed(*cells.batch(settings.batch), len(cells.names))
        with autocast(device):
            loss = F.cross_entropy(logits(pixels).float(), soft)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        share = min(settings.average, (1 + step) / (10 + step))
        for kept, parameter in zip(averaged, parameters, strict=True):
            kept.lerp_(parameter.detach(), 1 - share)
    with torch.no_grad():
        for parameter, kept in zip(parameters, averaged, strict=True):
            parameter.copy_(kept)
    return step


def pretrain(model: Model, cells: Cells, settings: CellSettings) -> int:
    """Train the pixel branch of the classification head alone: tokens are zero meanwhile."""
    head, backbone = model.heads["classification"], model.backbone
    head.train()

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        side = pixels.shape[-1] // backbone.patch
        tokens = pixels.new_zeros(len(pixels), model.token_dim, side, side)
        cls_token = pixels.new_zeros(len(pixels), backbone.embed_dim)
        features = head.extend(FeatureMap(tokens, cls_token, backbone.embed_dim), pixels)
        return head(pool_tokens(features))

    steps = optimise(logits, list(head.parameters()), cells, settings)
    head.eval()
    print(f"pixels alone: {steps} steps, {scores(logits, cells)}", flush=True)
    return steps


def classifier(base: str | Path, cells: Cells, joint: Model | None = None) -> Model:
    """The model in `base` with nothing but a new classification head, which begins as that part of
    a `joint` one where there is one."""
    model = load_model(base, device="cpu")
    model.add_head("classification", task("classification").head_spec(tuple(cells.names)))
    model.keep_heads(["classification"])
    head = model.heads["classification"]
    if joint is None:
        forget_tokens(model)
    else:
        rows = slice(cells.offset, cells.offset + len(cells.names))
        state = joint.heads["classification"].state_dict()
        head.load_state_dict({n: t[rows] if n.startswith("out.") else t for n, t in state.items()})
    return model.to(cells.pixels.device)


@torch.no_grad()
def forget_tokens(model: Model) -> None:
    """Let the head begin with its pixel branch: what tokens say is learned later, from nothing."""
    out = model.heads["classification"].out
    out.weight[:, -(model.token_dim + 2 * model.backbone.embed_dim) :] = 0.0


def adapt(model: Model, cells: Cells, settings: CellSettings) -> int:
    """LoRA in all blocks, trained together with the head."""
    model.backbone.requires_grad_(False)
    add_lora(model, AdapterConfig(rank=settings.rank, blocks="all", dropout=0.1))
    model.to(cells.pixels.device).train()
    drop_paths(model, settings.drop_path)
    parameters = [p for p in model.parameters() if p.requires_grad]
    steps = optimise(lambda pixels: logits_of(model, pixels), parameters, cells, settings)
    drop_paths(model, 0.0)
    model.eval()
    found = scores(lambda pixels: logits_of(model, pixels), cells)
    print(f"with LoRA: {steps} steps, {found}", flush=True)
    return steps


@torch.no_grad()
def calibrate(model: Model, cells: Cells) -> float:
    """Temperature that makes the held cells likeliest (Guo et al. 2017), put into the head's last
    layer: mixed and smoothed truths leave probabilities too even."""
    logits = torch.cat([logits_of(model, part).float() for part in cells.held.split(64)]).cpu()
    truth = torch.from_numpy(cells.held_truth)
    tried = np.exp(np.linspace(np.log(0.2), np.log(3), 60))
    losses = [float(F.cross_entropy(logits / t, truth)) for t in tried]
    best = float(tried[int(np.argmin(losses))])
    out = model.heads["classification"].out
    out.weight /= best
    out.bias /= best
    return best


def describe(
    model: Model,
    every: SingleCells,
    cells: Cells,
    name: str,
    description: str,
    data: str,
) -> None:
    """The card of a classifier: how its images are normalised and scaled, and its scores."""
    found = scores(lambda pixels: logits_of(model, pixels), cells)
    model.card = model.card.replace(
        name=name,
        scores={n: v for n, v in found.items() if n != "f1"},
        normalization=every.normalizations[cells.folder].to_json(),
        diameter_px=None,
        zoom=every.plans[cells.folder].zoom,
        pixel_size_um=None,
        tile=(CLASS_PX, CLASS_PX + 28),
        description=description,
        data=(data,),
        licence="BSD-3-Clause",
    )
