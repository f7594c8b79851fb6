"""Star-convex polygons: at every second pixel, how far the object reaches in 32 directions.

Method: Schmidt et al., "Cell Detection with Star-Convex Polygons" (2018), arXiv:1806.03535. Written
anew and small: a polygon is dropped where polygons that were surer cover too much of it, which is
their suppression with the union of those instead of one at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.distance import without_specks
from dinoscope.arrays.targets import instance_targets

RAYS = 32
CHANNELS = 1 + RAYS
GRID = 2
#: The net counts in these, so that its first answers are of the size of an object.
UNIT_PX = 10.0
LONGEST = 120
SURE = 0.4
#: The training images choose among these in the end, as StarDist's own tuning does.
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)
OVERLAP = 0.4
_ANGLES = 2 * np.pi * np.arange(RAYS) / RAYS


def targets(ids: np.ndarray) -> np.ndarray:
    """(1 + RAYS, Y, X): distance to the rim over its largest, and lengths of the rays (px); filled
    on the grid only, which is all that `loss` reads."""
    found = np.zeros((CHANNELS, *ids.shape), np.float32)
    found[0] = instance_targets(ids)[2]
    y, x = np.nonzero(ids[::GRID, ::GRID])
    y, x = y * GRID, x * GRID
    own = np.tile(ids[y, x], RAYS)
    place = np.pad(ids, LONGEST).ravel()  # no ray can leave the padded plane
    wide = ids.shape[1] + 2 * LONGEST
    start_y = np.tile(y + LONGEST, RAYS).astype(np.float32) + np.float32(0.5)
    start_x = np.tile(x + LONGEST, RAYS).astype(np.float32) + np.float32(0.5)
    down = np.repeat(np.sin(_ANGLES), len(y)).astype(np.float32)
    right = np.repeat(np.cos(_ANGLES), len(y)).astype(np.float32)
    length = np.full(own.size, LONGEST, np.float32)
    alive = np.arange(own.size)
    for step in range(1, LONGEST):
        at = (start_y + step * down).astype(np.int64) * wide + (start_x + step * right).astype(
            np.int64
        )
        same = place[at] == own
        if not same.all():
            length[alive[~same]] = step - 0.5
            own, start_y, start_x = own[same], start_y[same], start_x[same]
            down, right, alive = down[same], right[same], alive[same]
        if alive.size == 0:
            break
    found[1:, y, x] = length.reshape(RAYS, -1)
    return found


def loss(raw: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the object probability; absolute error of the rays, weighted by it."""
    raw, target = raw[..., ::GRID, ::GRID], target[..., ::GRID, ::GRID]
    sure = target[:, :1]
    cross = F.binary_cross_entropy_with_logits(raw[:, :1], sure)
    error = (F.softplus(raw[:, 1:]) - target[:, 1:] / UNIT_PX).abs() * sure
    return cross + error.mean(1).sum() / sure.sum().clamp_min(1)


def decode(raw: np.ndarray, threshold: float = SURE) -> np.ndarray:
    """Raw maps (1 + RAYS, Y, X) to ids, the surest polygons first."""
    from skimage.draw import polygon

    shape = raw.shape[1:]
    ids = np.zeros(shape, int)
    part = raw[:, ::GRID, ::GRID]
    sure = 1 / (1 + np.exp(-part[0]))
    y, x = np.nonzero(sure > threshold)
    order = np.argsort(-sure[y, x])
    length = UNIT_PX * F.softplus(torch.from_numpy(np.ascontiguousarray(part[1:, y, x]))).numpy()
    number = 0
    for i in order:
        cy, cx = y[i] * GRID, x[i] * GRID
        if ids[cy, cx]:
            continue
        rows, columns = polygon(
            cy + length[:, i] * np.sin(_ANGLES), cx + length[:, i] * np.cos(_ANGLES), shape
        )
        free = ids[rows, columns] == 0
        if rows.size == 0 or free.mean() < 1 - OVERLAP:
            continue
        number += 1
        ids[rows[free], columns[free]] = number
    return without_specks(ids)
