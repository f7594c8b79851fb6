"""Learning from images without labels: what a confident teacher says must survive a hard view.

A mean teacher (Tarvainen & Valpola 2017, arXiv:1703.01780) looks at crops as they are; where it is
confident, its maps are the truth for the student, which sees the same crops with their intensity
changed strongly (FixMatch: Sohn et al. 2020, arXiv:2001.07685). Half of the strong views are mixed
from two crops along a rectangle, maps likewise (French et al. 2020, arXiv:1906.01916).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dinoscope.config import UnlabelledOptions
from dinoscope.engine.unlabelled import Teacher, Views, ramp
from dinoscope.errors import InputError
from dinoscope.models.model import Model
from dinoscope.tasks.base import IGNORE, task

#: Tasks whose maps tell how confident they are.
TASKS = ("semantic", "instance")
#: Share of the strong views that are mixed from two crops.
MIXED = 0.5


class Consistency:
    """An additional loss of `engine.fit.fit`: pseudo-maps of a teacher on crops without labels.

    Parameters
    ----------
    views : Views
        Where the crops come from.
    tasks : Sequence[str]
        Those trained; at least one of `TASKS`.
    options : UnlabelledOptions
        Threshold, weight, ramp-up, decay of the teacher.
    frozen_backbone : bool
        Heads only: no gradients through the backbone.

    Raises
    ------
    InputError
        None of the tasks has confident maps.
    """

    name = "consistency"

    def __init__(
        self,
        views: Views,
        tasks: Sequence[str],
        options: UnlabelledOptions,
        *,
        device: str = "cpu",
        autocast: torch.dtype | None = None,
        frozen_backbone: bool = False,
    ) -> None:
        self.tasks = tuple(t for t in tasks if t in TASKS)
        if not self.tasks:
            raise InputError(
                f"consistency was asked for with {', '.join(tasks)}",
                expected="semantic or instance among the tasks",
                hint="The method distill works with any task.",
            )
        self.views = views
        self.options = options
        self.device = torch.device(device)
        self.autocast = autocast
        self.frozen_backbone = frozen_backbone
        self.teacher = Teacher(options.teacher_decay)

    def __call__(self, model: Model, step: int, share_done: float) -> Tensor | None:
        """The weighted loss of one batch; None while its weight is next to nothing."""
        self.teacher.begin({n: p for n, p in model.named_parameters() if p.requires_grad})
        weight = self.options.weight * ramp(share_done, self.options.ramp_up)
        if weight < 0.01 * self.options.weight or weight == 0:
            return None
        weak, strong = (v.to(self.device) for v in self.views(step))
        targets = self.pseudo_maps(model, weak)
        strong, targets = mixed(strong, targets, np.random.default_rng([self.views.seed, step, 1]))
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            with torch.set_grad_enabled(not self.frozen_backbone):
                features = model.encode(strong)
            raw = model.decode_dense(features, strong, self.tasks)
        losses = [
            confident_share(name, targets[name]) * task(name).loss(raw[name], targets[name], {})
            for name in self.tasks
        ]
        return weight * torch.stack(losses).mean()

    @torch.no_grad()
    def pseudo_maps(self, model: Model, pixels: Tensor) -> dict[str, Tensor]:
        """The teacher's maps in the form of a truth, unknown where it is not confident."""
        maps = _Maps(model, self.tasks)
        tensors = {f"model.{n}": t for n, t in self.teacher.tensors.items()}
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            raw = torch.func.functional_call(maps, tensors, (pixels,))
        return {
            name: pseudo_truth(name, task(name).activate(raw[name]), self.options.threshold)
            for name in self.tasks
        }

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Let the teacher follow."""
        self.teacher.update(dict(parameters))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return dict(self.teacher.state())

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.teacher.load(dict(state))


class _Maps(nn.Module):
    """Pixels to raw maps, so that other tensors can take the place of the model's own."""

    def __init__(self, model: Model, tasks: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.tasks = tasks

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return self.model.decode_dense(self.model.encode(pixels), pixels, self.tasks)


def pseudo_truth(name: str, maps: Tensor, threshold: float) -> Tensor:
    """Activated maps ``(B, K, Y, X)`` as the task's target.

    ``semantic``: (B, Y, X) int64 classes, 255 where no class reaches `threshold`. ``instance``:
    (B, 5, Y, X), foreground decided at one half, the last map 1 where its probability or that of
    the background reaches `threshold`; object sizes stay unknown.
    """
    if name == "semantic":
        confidence, classes = maps.max(1)
        return classes.masked_fill(confidence < threshold, IGNORE)
    foreground = maps[:, :1]
    sure = (foreground >= threshold) | (foreground <= 1 - threshold)
    unknown = torch.full_like(foreground, float("nan"))
    inside = (foreground >= 0.5).to(maps.dtype)
    return torch.cat([inside, maps[:, 1:3] * inside, unknown, sure.to(maps.dtype)], 1)


def confident_share(name: str, target: Tensor) -> Tensor:
    """Share of pixels that count, in [0, 1]: few sure pixels must not speak for all."""
    known = target != IGNORE if name == "semantic" else target[:, 4] > 0
    return known.float().mean()


def mixed(
    pixels: Tensor, targets: Mapping[str, Tensor], rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A rectangle of the next crop pasted into some of the crops, and of its maps likewise.

    `pixels` (B, 3, Y, X); `targets` end in (Y, X). The rectangle covers half of the crop.
    """
    count, _, height, width = pixels.shape
    if count < 2:
        return pixels, dict(targets)
    inside = np.zeros((count, height, width), bool)
    for row in range(count):
        if rng.random() >= MIXED:
            continue
        tall = float(rng.uniform(0.5, 1.0))
        h, w = round(tall * height), round(0.5 / tall * width)
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        inside[row, y : y + h, x : x + w] = True
    mask = torch.from_numpy(inside).to(pixels.device)
    out = torch.where(mask[:, None], pixels.roll(1, 0), pixels)
    maps = {}
    for name, target in targets.items():
        where = mask if target.ndim == 3 else mask[:, None]
        maps[name] = torch.where(where, target.roll(1, 0), target)
    return out, maps
