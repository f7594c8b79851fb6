"""What joins the forest: smoothed intensities alone, and a network that was improved on strokes.

A few strokes leave a forest free to ask questions that only happen to fit. Where colour or
brightness alone part what was painted (nuclei, stained cells), Fisher's linear discriminant on a
handful of smoothed intensities generalises far better; where they do not (membranes), it stays out.
Probabilities are joined as a product of experts (Hinton 2002, Neural Computation 14:1771).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: How well painted classes must be told apart before the discriminant has any say, and before it
#: has its whole say: mean recall over classes, 0 being chance, 1 being perfect.
NONE, ALL = 0.85, 0.95
#: The discriminant's whole say, and a network's: the power of their probabilities beside the
#: forest's.
SAY, NETWORK_SAY = 0.6, 1.0
#: Of the covariance, how much is taken for uncorrelated and alike.
SHRINKAGE = 0.1
#: No class is less likely than this, for any expert.
FLOOR = 1e-3
_LEAST = np.float32(np.log(FLOOR))


class Expert(Protocol):
    """Log probabilities of all classes from some of the features; `say` is their power."""

    @property
    def say(self) -> float: ...

    def rows(self, maps: np.ndarray) -> np.ndarray:
        """``(K, n)`` uint8 features to ``(C, n)`` float32 log probabilities, up to a constant."""
        ...


@dataclass(frozen=True)
class Linear:
    """`columns` (k,) of the features, `matrix` (k, C) and `offset` (C,) to log probabilities."""

    columns: np.ndarray
    matrix: np.ndarray
    offset: np.ndarray
    say: float

    def rows(self, maps: np.ndarray) -> np.ndarray:
        found = self.matrix.T @ maps[self.columns].astype(np.float32)
        found += self.offset[:, None]
        return np.asarray(found)

    def weighted(self, frequency: np.ndarray) -> Linear:
        """With classes as frequent as ``(C,)`` says."""
        offset = self.offset + np.log(np.maximum(frequency, 1e-6))
        return Linear(self.columns, self.matrix, offset.astype(np.float32), self.say)


#: Logarithms of 8-bit probabilities.
_LOGS = np.log(np.maximum(np.arange(256) / 255, FLOOR)).astype(np.float32)


@dataclass(frozen=True)
class Network:
    """The maps of the model's own semantic head: `columns` (C,) of the features."""

    columns: np.ndarray
    say: float = NETWORK_SAY

    def rows(self, maps: np.ndarray) -> np.ndarray:
        return np.asarray(_LOGS[maps[self.columns]])


def join(experts: Sequence[Expert], forest: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Probabilities ``(C, n)`` float32 of all together, which sum to 1.

    Parameters
    ----------
    forest : (C, n) float array
        The forest's own probabilities.
    maps : (K, n) uint8
        Features. Classes are rows, so that everything runs along memory.
    """
    total = np.zeros(forest.shape, np.float32)
    for expert in experts:
        own = expert.rows(maps)
        own -= own.max(0)
        np.maximum(own, _LEAST, out=own)
        own *= np.float32(expert.say)
        total += own
    np.exp(total, out=total)
    total *= forest + np.float32(FLOOR)
    total /= total.sum(0)
    return total


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
    right = found.rows(values.T).argmax(0) == classes
    recall = float((np.bincount(classes, right, count) / number).mean())
    skill = (recall - 1 / count) / (1 - 1 / count)
    say = SAY * float(np.clip((skill - NONE) / (ALL - NONE), 0, 1))
    return Linear(found.columns, found.matrix, found.offset, say) if say > 0 else None
