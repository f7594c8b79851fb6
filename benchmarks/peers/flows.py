"""Flows to the centre of each object, followed by every pixel.

Method: Stringer et al., "Cellpose" (2021), doi:10.1038/s41592-020-01018-x. Written anew, for 2-D
and training crops: heat spreads from the centre within the object, the flow is the direction of
its gradient; pixels are moved along the predicted flow, and those that meet are one object.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.distance import without_specks

CHANNELS = 3
#: At most this many rounds of heat: it gets a pixel further in each.
ROUNDS = 120
STEPS = 200
#: Objects whose own flow differs more than this from the predicted one are dropped.
FLOW_ERROR = 0.4


def flow_field(ids: np.ndarray) -> np.ndarray:
    """(2, Y, X) float32 unit vectors (y, x) towards each object's centre, 0 outside."""
    field = np.zeros((2, *ids.shape), np.float32)
    padded = np.pad(ids, 1)
    place = np.flatnonzero(padded.ravel() > 0)
    if place.size == 0:
        return field
    flat = padded.ravel()
    names, group = np.unique(flat[place], return_inverse=True)
    number = np.full(flat.size, place.size)
    number[place] = np.arange(place.size)
    width = padded.shape[1]
    steps = [dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    near = np.stack(
        [np.where(flat[place + s] == flat[place], number[place + s], place.size) for s in steps]
    )
    y, x = np.divmod(place, width)
    size = np.bincount(group)
    away = np.hypot(
        y - (np.bincount(group, y) / size)[group], x - (np.bincount(group, x) / size)[group]
    )
    order = np.lexsort((away, group))
    centres = order[np.searchsorted(group[order], np.arange(len(names)))]
    heat = np.zeros(place.size + 1, np.float64)
    for _ in range(min(ROUNDS, int(8 * away.max()) + 4)):
        heat[centres] += 1
        heat[:-1] = heat[near].mean(0)
    heat = np.log1p(heat)
    slope = np.stack([heat[near[7]] - heat[near[1]], heat[near[5]] - heat[near[3]]])
    slope /= np.maximum(np.hypot(*slope), 1e-300)  # far from the centre heat is next to nothing
    field[:, y - 1, x - 1] = slope
    return field


def targets(ids: np.ndarray) -> np.ndarray:
    """(3, Y, X): foreground, flow along y, flow along x."""
    return np.concatenate([(ids > 0)[None].astype(np.float32), flow_field(ids)])


def loss(raw: Tensor, target: Tensor) -> Tensor:
    """As in Cellpose: cross-entropy, and half the squared error of flows times five."""
    cross = F.binary_cross_entropy_with_logits(raw[:, 0], target[:, 0])
    return cross + 0.5 * F.mse_loss(raw[:, 1:], 5 * target[:, 1:])


def decode(raw: np.ndarray) -> np.ndarray:
    """Raw maps (3, Y, X) to ids."""
    from scipy.ndimage import gaussian_filter, maximum_filter
    from skimage.segmentation import watershed

    inside = raw[0] > 0
    shape = inside.shape
    y, x = np.nonzero(inside)
    if y.size == 0:
        return np.zeros(shape, int)
    ends = _follow(raw[1:] / 5 * inside, y, x)
    count = np.zeros(shape)
    np.add.at(count, (ends[0], ends[1]), 1)
    smooth = gaussian_filter(count, 1.0)
    top = (smooth == maximum_filter(smooth, 5)) & (smooth > 1)
    seeds = np.zeros(shape, int)
    seeds[top] = np.arange(1, int(top.sum()) + 1)
    sinks = watershed(-smooth, seeds, mask=smooth > 0.05)
    ids = np.zeros(shape, int)
    ids[y, x] = sinks[ends[0], ends[1]]
    return without_specks(_plausible(ids, raw[1:] / 5))


def _follow(field: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Where each pixel is after `STEPS` steps along the field, (2, n) whole pixels."""
    high = torch.tensor(field.shape[1:], dtype=torch.float32).flip(0)
    flow = torch.from_numpy(np.ascontiguousarray(field[::-1], dtype=np.float32))[None]
    flow = flow * (2 / high)[None, :, None, None]
    place = (torch.from_numpy(np.stack([x, y], 1)).float() + 0.5) * 2 / high - 1
    place = place[None, None]
    for _ in range(STEPS):
        step = F.grid_sample(flow, place, align_corners=False, padding_mode="border")
        place = (place + step.permute(0, 2, 3, 1)).clamp(-1, 1)
    found = ((place[0, 0] + 1) * high / 2 - 0.5).round().long().numpy()
    limits = np.array(field.shape[1:])[:, None] - 1
    return np.clip(found.T[::-1], 0, limits)


def _plausible(ids: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Without objects whose shape contradicts the flow that made them."""
    error = ((flow_field(ids) - predicted) ** 2).sum(0)
    size = np.maximum(np.bincount(ids.ravel()), 1)
    mean = np.bincount(ids.ravel(), error.ravel()) / size / 2
    return np.where(mean[ids] <= FLOW_ERROR, ids, 0)
