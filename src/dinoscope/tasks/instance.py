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
#: How much more the pixels count along which two objects touch: they are few, and one that is
#: missed can join the two. U-Net's weights of narrow gaps (Ronneberger et al. 2015) do the same.
CONTACT_WEIGHT = 2.0
#: They are nearer to their object's rim than this share of its half width…
_NEAR_RIM = 0.4
#: …and so much of what is this many pixels around them belongs to objects.
_AROUND_PX, _MOSTLY = 9, 0.85


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
        touching = contact_lines(foreground, shape[:, 1])
        weight = known * (0.25 + 0.75 * foreground) * (1 + CONTACT_WEIGHT * touching)
        weight = weight.unsqueeze(1)
        # By absolute error what is in doubt becomes the likelier of two, not their mean, which
        # would be a valley half as deep.
        distance = F.smooth_l1_loss(torch.sigmoid(raw[:, 1:3]), shape, reduction="none", beta=0.1)
        distance = distance * weight
        total = (
            (cross * known).sum() / count
            + 0.5 * dice
            + 1.5 * distance.sum() / weight.sum().clamp_min(1)
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


def contact_lines(foreground: Tensor, boundary: Tensor, near: float = _NEAR_RIM) -> Tensor:
    """1 along the lines where objects touch, else 0, of maps ``(B, Y, X)``.

    `boundary` is the distance to an object's rim over its largest; up to `near` of it belongs to
    the line.
    """
    around = F.avg_pool2d(
        foreground[:, None], _AROUND_PX, stride=1, padding=_AROUND_PX // 2, count_include_pad=False
    )[:, 0]
    between = (foreground > 0) & (boundary < near) & (around >= _MOSTLY)
    return between.to(foreground.dtype)


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
