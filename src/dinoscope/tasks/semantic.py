"""Semantic segmentation: cross-entropy and Dice over classes, background first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dinoscope.models.card import HeadSpec
from dinoscope.tasks.base import IGNORE, SPARSE
from dinoscope.tasks.instance import soft_dice


class Semantic:
    """One map for each class; pixels of class 255 count for nothing."""

    name = "semantic"
    dense = True

    def head_spec(self, classes: tuple[str, ...]) -> HeadSpec:
        return HeadSpec("dense", len(classes), classes)

    def targets(self, truth: np.ndarray, log_size: float | None) -> np.ndarray:
        """(Y, X) classes unchanged, as int64 so that cross-entropy takes them."""
        return truth.astype(np.int64)

    def loss(self, raw: Tensor, target: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """Cross-entropy and half of Dice.

        ``settings["stroke_weights"]`` (K,) is how much each class's pixels count in crops of which
        little is annotated: strokes are of like length for classes of unlike area.
        """
        raw = raw.float()
        known = target != IGNORE
        present = torch.bincount(target.flatten())[:IGNORE].nonzero().flatten().tolist()
        if not present:
            return raw.sum() * 0.0
        counts = known.float()
        if "stroke_weights" in settings:
            weights = torch.as_tensor(settings["stroke_weights"], device=raw.device)
            sparse = counts.mean((1, 2), keepdim=True) < SPARSE
            counts = counts * torch.where(sparse, weights[target * known], 1.0)
        logarithm = raw.log_softmax(1)
        cross = F.nll_loss(logarithm, target, ignore_index=IGNORE, reduction="none")
        cross = (cross * counts).sum() / counts.sum().clamp_min(1e-6)
        probability = logarithm.exp()
        # Dice only over classes present in the batch: an absent class has no overlap to improve.
        dice = sum(soft_dice(probability[:, c] * counts, (target == c) * counts) for c in present)
        return cross + 0.5 * dice / len(present)

    def activate(self, raw: Tensor) -> Tensor:
        return torch.softmax(raw.float(), dim=1)
