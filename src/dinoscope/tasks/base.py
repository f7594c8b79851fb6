"""What every task offers, and the table of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from dinoscope.models.card import HeadSpec

#: Classes of pixels that count for no loss and no score.
IGNORE = 255
#: Semantic truths with fewer known pixels than this share are strokes.
SPARSE = 0.2


class Task(Protocol):
    """One task: the head it needs, the loss it trains with, the maps it is decoded from.

    Dense tasks see raw outputs ``(B, K, Y, X)``; a pooled task sees logits ``(B, K)``.
    """

    name: str
    dense: bool

    def head_spec(self, classes: tuple[str, ...]) -> HeadSpec:
        """The head for these classes (background first for semantic segmentation)."""
        ...

    def targets(self, truth: np.ndarray, log_size: float | None) -> np.ndarray:
        """Truth of one crop, ``(Y, X)``, as the array that `loss` compares with."""
        ...

    def loss(self, raw: Tensor, target: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """Scalar loss of a batch."""
        ...

    def activate(self, raw: Tensor) -> Tensor:
        """Raw outputs to the maps (or probabilities) that are stitched and decoded."""
        ...


def task(name: str) -> Task:
    """The task of that name.

    Raises
    ------
    KeyError
        There is none of that name; callers check names against ``config.TRAINABLE_TASKS``.
    """
    from dinoscope.tasks.classification import Classification
    from dinoscope.tasks.depth import Depth
    from dinoscope.tasks.instance import Instance
    from dinoscope.tasks.semantic import Semantic

    table: dict[str, Task] = {
        t.name: t for t in (Instance(), Semantic(), Depth(), Classification())
    }
    return table[name]
