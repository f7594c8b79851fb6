"""What smoothed intensities alone tell: a linear discriminant that joins the forest.

A few strokes leave a forest free to ask questions that only happen to fit. Where colour or
brightness alone part what was painted (nuclei, stained cells), Fisher's linear discriminant on a
handful of smoothed intensities generalises far better; where they do not (membranes), it stays out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: How well painted classes must be told apart before the discriminant has any say, and before it
#: has its whole say: mean recall over classes, 0 being chance, 1 being perfect.
NONE, ALL = 0.85, 0.95
#: Its whole say: the power of its probabilities beside the forest's.
SAY = 0.6
#: Of the covariance, how much is taken for uncorrelated and alike.
SHRINKAGE = 0.1
#: No class is less likely than this, for either.
FLOOR = 1e-3


@dataclass(frozen=True)
class Linear:
    """`columns` (k,) of the features, `matrix` (k, C) and `offset` (C,) to log probabilities;
    `say` is the power of these beside the forest's."""

    columns: np.ndarray
    matrix: np.ndarray
    offset: np.ndarray
    say: float

    def logits(self, values: np.ndarray) -> np.ndarray:
        """``(n, K)`` features to ``(n, C)`` float32, the likeliest class's being 0."""
        found = values[:, self.columns].astype(np.float32) @ self.matrix + self.offset
        found -= found.max(1, keepdims=True)
        return np.asarray(found)

    def joined(self, probabilities: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The forest's ``(n, C)`` with these: a product of experts, scaled to sum to 1."""
        own = np.maximum(self.logits(values), np.float32(np.log(FLOOR)))
        own *= np.float32(self.say)
        np.exp(own, out=own)
        own *= probabilities + np.float32(FLOOR)
        own /= own.sum(1, keepdims=True)
        return np.asarray(own)

    def weighted(self, frequency: np.ndarray) -> Linear:
        """With classes as frequent as ``(C,)`` says."""
        offset = self.offset + np.log(np.maximum(frequency, 1e-6))
        return Linear(self.columns, self.matrix, offset.astype(np.float32), self.say)


def fit_linear(
    values: np.ndarray, classes: np.ndarray, count: int, columns: np.ndarray
) -> Linear | None:
    """A discriminant of annotated pixels; ``None`` where it has nothing to say.

    Parameters
    ----------
    values : (n, K) uint8
        Features of annotated pixels.
    classes : (n,) integer
        0 to ``count - 1``, each at least once.
    columns : (k,) integer array
        Which features are smoothed intensities.
    """
    if count < 2 or len(columns) == 0:
        return None
    own = values[:, columns].astype(np.float64)
    number = np.bincount(classes, minlength=count)
    means = np.stack([own[classes == c].mean(0) for c in range(count)])
    rest = own - means[classes]
    scatter = rest.T @ rest / max(1, len(own) - count)
    spread = np.diag(scatter) + 1.0  # a level of the 8 bits
    scatter = (1 - SHRINKAGE) * scatter + SHRINKAGE * np.diag(spread)
    scatter += (SHRINKAGE * spread.mean()) * np.eye(len(spread))
    matrix = np.linalg.solve(scatter, means.T)
    offset = -0.5 * np.einsum("ck,kc->c", means, matrix)
    found = Linear(columns, matrix.astype(np.float32), offset.astype(np.float32), SAY)
    right = found.logits(values).argmax(1) == classes
    recall = float((np.bincount(classes, right, count) / number).mean())
    skill = (recall - 1 / count) / (1 - 1 / count)
    say = SAY * float(np.clip((skill - NONE) / (ALL - NONE), 0, 1))
    return Linear(found.columns, found.matrix, found.offset, say) if say > 0 else None
