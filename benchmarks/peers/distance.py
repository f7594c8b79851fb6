"""Foreground and boundary distance, then a seeded watershed: the plain recipe."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from dinoscope.arrays.targets import instance_targets

CHANNELS = 2
#: A summit of the distance map is a seed if it rises this much over the pass to a higher one.
RISE = 0.08
LEAST_PX = 12


def targets(ids: np.ndarray) -> np.ndarray:
    """(2, Y, X): foreground; distance to the object's rim over its largest."""
    return instance_targets(ids)[[0, 2]]


def loss(raw: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the foreground, squared error of the distance, mostly inside objects."""
    inside = target[:, 0]
    weight = 0.25 + 0.75 * inside
    distance = (raw[:, 1].sigmoid() - target[:, 1]).square() * weight
    cross = F.binary_cross_entropy_with_logits(raw[:, 0], inside)
    return cross + 4 * distance.sum() / weight.sum()


def decode(raw: np.ndarray) -> np.ndarray:
    """Raw maps (2, Y, X) to ids."""
    from scipy.ndimage import gaussian_filter, label
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    inside = raw[0] > 0
    height = gaussian_filter(1 / (1 + np.exp(-raw[1])), 1.0)
    seeds, _ = label(h_maxima(height, RISE) * inside, np.ones((3, 3)))
    return without_specks(watershed(-height, seeds, mask=inside))


def without_specks(ids: np.ndarray) -> np.ndarray:
    """Ids without objects of a few pixels, numbered anew."""
    keep = np.bincount(ids.ravel()) >= LEAST_PX
    keep[0] = False
    return np.asarray((np.cumsum(keep) * keep)[ids])
