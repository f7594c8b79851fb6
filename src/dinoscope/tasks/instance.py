"""Instance segmentation: foreground, centredness, boundary distance and local object size.

Objects are grown from seeds by watershed (see `arrays.decode`), the scheme that micro-sam's
automatic segmentation made popular; the fourth map tells how large objects are, so that an image
can be brought to the scale the model was trained at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dinoscope.arrays.targets import instance_targets
from dinoscope.models.card import HeadSpec

#: Raw size outputs are log2(diameter / training diameter), kept within this.
MAX_LOG_SIZE = 3.0


class Instance:
    """Four maps: three in [0, 1] that become objects, and the logarithm of the local object
    size."""

    name = "instance"
    dense = True

    def head_spec(self, classes: tuple[str, ...]) -> HeadSpec:
        return HeadSpec("dense", 4, classes)

    def targets(self, truth: np.ndarray, log_size: float | None) -> np.ndarray:
        """(Y, X) ids to (5, Y, X): the three maps, the size, and where a pixel counts.

        Negative ids mark pixels whose truth is unknown.
        """
        maps = np.empty((5, *truth.shape), np.float32)
        maps[:3] = instance_targets(truth)
        maps[3] = np.nan if log_size is None else np.clip(log_size, -MAX_LOG_SIZE, MAX_LOG_SIZE)
        maps[4] = truth >= 0
        return maps

    def loss(self, raw: Tensor, target: Tensor, settings: Mapping[str, Any]) -> Tensor:
        raw = raw.float()
        foreground, shape, size, known = target[:, 0], target[:, 1:3], target[:, 3], target[:, 4]
        count = known.sum().clamp_min(1.0)
        cross = F.binary_cross_entropy_with_logits(raw[:, 0], foreground, reduction="none")
        dice = soft_dice(torch.sigmoid(raw[:, 0]) * known, foreground * known)
        # Both distances matter inside objects; a quarter of the weight keeps the background at
        # zero.
        weight = (known * (0.25 + 0.75 * foreground)).unsqueeze(1)
        distance = (torch.sigmoid(raw[:, 1:3]) - shape).square() * weight
        total = (
            (cross * known).sum() / count
            + 0.5 * dice
            + 4.0 * distance.sum() / weight.sum().clamp_min(1)
        )
        inside = (foreground > 0) & (known > 0) & torch.isfinite(size)
        if bool(inside.any()):
            total = total + F.smooth_l1_loss(raw[:, 3][inside], size[inside], beta=0.5)
        return total

    def activate(self, raw: Tensor) -> Tensor:
        """(B, 4, Y, X): three maps in [0, 1] and log2 of the relative size."""
        return torch.cat(
            [torch.sigmoid(raw[:, :3]), raw[:, 3:4].clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE)], 1
        )


def soft_dice(probability: Tensor, truth: Tensor, counts: Tensor | None = None) -> Tensor:
    """1 - Dice overlap of maps ``(B, ...)``, averaged over the batch; empty against empty is 0.

    `counts` is how much each place counts, 1 where not given.
    """
    axes = tuple(range(1, truth.ndim))
    both = probability * truth
    total = probability + truth
    if counts is not None:
        both, total = both * counts, total * counts
    return 1 - ((2 * both.sum(axes) + 1) / (total.sum(axes) + 1)).mean()
