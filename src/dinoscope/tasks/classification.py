"""Classification of images and objects: cross-entropy on pooled tokens and pixel features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dinoscope.models.card import HeadSpec


class Classification:
    """One vector of logits for each image or object."""

    name = "classification"
    dense = False

    def head_spec(self, classes: tuple[str, ...]) -> HeadSpec:
        return HeadSpec("pooled-detail", len(classes), classes)

    def targets(self, truth: np.ndarray, log_size: float | None) -> np.ndarray:
        """The class number, as int64."""
        return np.asarray(truth, np.int64)

    def loss(self, raw: Tensor, target: Tensor, settings: Mapping[str, Any]) -> Tensor:
        weights = settings.get("class_weights")
        return F.cross_entropy(
            raw.float(),
            target,
            weight=None if weights is None else torch.as_tensor(weights, device=raw.device),
            label_smoothing=float(settings.get("label_smoothing", 0.05)),
        )

    def activate(self, raw: Tensor) -> Tensor:
        return torch.softmax(raw.float(), dim=1)
