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
        return weighted_loss(raw, target, pixel_counts(target, settings))

    def activate(self, raw: Tensor) -> Tensor:
        return torch.softmax(raw.float(), dim=1)


def pixel_counts(target: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """How much each pixel ``(B, Y, X)`` counts: 0 where it is unknown, 1 or its class's weight.

    In a batch of both, crops of which little is annotated count as much as those that are known
    throughout, which have a hundred times the pixels.
    """
    known = target != IGNORE
    counts = known.float()
    sparse = counts.mean((1, 2)) < SPARSE
    if "stroke_weights" in settings:
        weights = torch.as_tensor(settings["stroke_weights"], device=target.device)
        counts = counts * torch.where(sparse[:, None, None], weights[target * known], 1.0)
    few, many = counts[sparse].sum(), counts[~sparse].sum()
    if few > 0 and many > 0:
        equal = (many / (~sparse).sum()) / (few / sparse.sum())
        counts = counts * torch.where(sparse, equal, 1.0)[:, None, None]
    return counts


def weighted_loss(raw: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy and half of Dice of raw outputs ``(B, K, Y, X)``.

    Parameters
    ----------
    target, counts : (B, Y, X) tensors
        Classes, and how much each pixel counts.
    """
    raw = raw.float()
    present = torch.bincount(target.flatten())[:IGNORE].nonzero().flatten().tolist()
    if not present:
        return raw.sum() * 0.0
    logarithm = raw.log_softmax(1)
    cross = F.nll_loss(logarithm, target, ignore_index=IGNORE, reduction="none")
    cross = (cross * counts).sum() / counts.sum().clamp_min(1e-6)
    probability = logarithm.exp()
    # Dice only over classes present in the batch: an absent class has no overlap to improve.
    dice = sum(soft_dice(probability[:, c], (target == c).float(), counts) for c in present)
    return cross + 0.5 * dice / len(present)
