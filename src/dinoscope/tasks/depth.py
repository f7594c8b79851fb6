"""Depth: larger = nearer the objective; SigLoss and a multi-scale gradient loss, as DINOv2's depth
heads.

SigLoss is the scale-invariant logarithmic loss of Eigen et al. (2014), arXiv:1406.2283, with the
weights DINOv2 uses; the gradient loss follows MegaDepth (Li & Snavely, 2018, arXiv:1804.00607).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dinoscope.models.card import HeadSpec

BINS = 64


class Depth:
    """One map in the head's unit; NaN marks pixels whose depth is unknown."""

    name = "depth"
    dense = True

    def head_spec(self, classes: tuple[str, ...]) -> HeadSpec:
        return HeadSpec("bins", BINS, (), unit="relative")

    def targets(self, truth: np.ndarray, log_size: float | None) -> np.ndarray:
        return truth.astype(np.float32)

    def loss(self, raw: Tensor, target: Tensor, settings: Mapping[str, Any]) -> Tensor:
        value = raw[:, 0].float()
        known = torch.isfinite(target)
        if not bool(known.any()):
            return raw.sum() * 0.0
        low, high = float(settings.get("low", 0.0)), float(settings.get("high", 1.0))
        if settings.get("depth_loss", "sig") == "mse":
            return F.mse_loss(value[known], target[known]) / (high - low) ** 2
        # The logarithm needs positive depths: measured from a tenth of the range below its bottom.
        offset = 0.1 * (high - low) - low
        log_ratio = torch.where(
            known,
            torch.log((value + offset).clamp_min(1e-3 * (high - low)))
            - torch.log((target.nan_to_num(low) + offset).clamp_min(1e-3 * (high - low))),
            0.0,
        )
        count = known.sum()
        mean = log_ratio.sum() / count
        variance = ((log_ratio - mean).square() * known).sum() / count
        sig = torch.sqrt(variance + 0.15 * mean.square() + 1e-6)
        return sig + 0.5 * _gradient_loss(log_ratio, known)

    def activate(self, raw: Tensor) -> Tensor:
        return raw.float()


def _gradient_loss(residual: Tensor, known: Tensor, scales: int = 4) -> Tensor:
    """Mean absolute difference of neighbouring residuals at strides 1, 2, 4, 8."""
    total = residual.new_zeros(())
    for scale in range(scales):
        r, k = residual[:, :: 2**scale, :: 2**scale], known[:, :: 2**scale, :: 2**scale]
        dy, ky = (r[:, 1:] - r[:, :-1]).abs(), k[:, 1:] & k[:, :-1]
        dx, kx = (r[:, :, 1:] - r[:, :, :-1]).abs(), k[:, :, 1:] & k[:, :, :-1]
        total = total + ((dy * ky).sum() + (dx * kx).sum()) / (ky.sum() + kx.sum()).clamp_min(1)
    return total
