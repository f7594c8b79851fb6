"""Which way long objects lie, and smoothing along it.

The orientation comes from the structure tensor (Bigün and Granlund 1987, *Optimal orientation
detection of linear symmetry*): gradients are averaged as doubled angles, so that opposite slopes of
a ridge agree. Where they agree over more than an object's width, objects lie side by side, and
smoothing along them fills dents in a ridge without filling the valleys beside it (as in Weickert
1999, *Coherence-enhancing diffusion filtering*, in one step).

What is averaged over many pixels is kept for blocks of them, so that a large plane takes little
memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Averages are kept for blocks of this share of their scale.
_BLOCK_SHARE = 1 / 3
#: Places along the orientation, in standard deviations, that are averaged with their Gaussian
#: weights.
_PLACES = (-1.6, -0.8, 0.8, 1.6)
#: Rows, about, and pixels that are looked at together.
_ROWS, _PIXELS = 128, 1 << 18
#: Lengths below this many pixels smooth nothing.
_LEAST_PX = 0.5


@dataclass(frozen=True)
class Across:
    """The direction in which a plane changes most, square to long objects.

    `blocks` (2, y, x) float32 holds, for squares of `side` pixels, cosine and sine of twice the
    angle from the X axis, times the coherence: 1 where all gradients around are parallel, 0 where
    they have no direction in common, as in a round object.
    """

    blocks: np.ndarray
    side: int

    @property
    def coherence(self) -> np.ndarray:
        """Of each block, (y, x) float32."""
        return np.asarray(np.hypot(self.blocks[0], self.blocks[1]))

    def at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """``(2, …)`` at pixels."""
        return np.asarray(self.blocks[:, y // self.side, x // self.side])

    def times(self, share: np.ndarray) -> Across:
        """The same with another coherence, by a factor for each block."""
        return Across(self.blocks * share, self.side)


def across(values: np.ndarray, scale: float) -> Across:
    """In which direction `values` change most, and how much all around agree on it.

    Parameters
    ----------
    values : (Y, X) float32
        An image without noise that single pixels show.
    scale : float
        Standard deviation, in pixels, of what is taken together.

    Examples
    --------
    >>> stripes = np.tile(np.sin(np.arange(60, dtype=np.float32)), (60, 1))  # along X
    >>> across(stripes, 6.0).at(np.array(30), np.array(30)).round(2).tolist()
    [1.0, 0.0]
    """
    rows = values.shape[0]
    side = max(1, int(scale * _BLOCK_SHARE))
    step = max(1, _ROWS // side) * side
    parts: list[list[np.ndarray]] = [[], [], []]
    for y in range(0, rows, step):
        first = max(0, y - 1)
        part = values[first : y + step + 1]
        inner = slice(y - first, min(y + step, rows) - first)
        slope_y, slope_x = (_slope(part, axis)[inner] for axis in (0, 1))
        products = (slope_x * slope_x, slope_y * slope_y, slope_x * slope_y)
        for found, product in zip(parts, products, strict=True):
            found.append(_blocks(product, side))
    empty = np.zeros((0, values.shape[1]), np.float32)
    xx, yy, xy = (_blurred(np.concatenate(p or [empty]), scale / side) for p in parts)
    energy = np.maximum(xx + yy, np.float32(1e-12))
    return Across(np.stack([(xx - yy) / energy, 2 * xy / energy]), side)


def coherence_around(field: Across, mask: np.ndarray, scale: float) -> np.ndarray:
    """How much the pixels of `mask` around agree with their neighbours.

    Parameters
    ----------
    field : Across
    mask : (Y, X) bool
        Pixels that count.
    scale : float
        Standard deviation, in pixels, of what is around.

    Returns
    -------
    (y, x) float32
        Mean coherence for each block of `field`; 0 where none of the mask is near.
    """
    share = _blocks(mask, field.side)
    total = _blurred(field.coherence * share, scale / field.side)
    weight = _blurred(share, scale / field.side)
    return np.asarray(
        np.divide(total, weight, out=np.zeros_like(total), where=weight > np.float32(1e-6))
    )


def smooth_along(
    values: np.ndarray, field: Across, lengths: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Average `values` along the objects, which lie square to the direction of most change.

    Parameters
    ----------
    values : (Y, X) float32
    field : Across
    lengths : (y, x) float32
        Standard deviation in pixels for each block of `field`; those below a half smooth nothing.
    mask : (Y, X) bool
        Pixels that are smoothed.

    Returns
    -------
    (Y, X) float32
    """
    if not (lengths >= _LEAST_PX).any():
        return values
    from scipy.ndimage import map_coordinates

    smoothed = values.copy()
    flat = smoothed.reshape(-1)
    rows, columns = values.shape
    weights = np.exp(-0.5 * np.square(_PLACES)).astype(np.float32)
    step = max(1, _PIXELS // columns)
    for first in range(0, rows, step):
        part = np.flatnonzero(mask[first : first + step]) + first * columns
        y, x = np.divmod(part, columns)
        length = lengths[y // field.side, x // field.side]
        long = length >= _LEAST_PX
        part, y, x, length = part[long], y[long], x[long], length[long]
        cosine, sine = field.at(y, x)
        angle = 0.5 * np.arctan2(sine, cosine)
        # Square to the angle of most change.
        step_y, step_x = length * np.cos(angle), -length * np.sin(angle)
        total = values.ravel()[part]
        for place, weight in zip(_PLACES, weights, strict=True):
            points = [y + place * step_y, x + place * step_x]
            total += weight * map_coordinates(values, points, order=1, mode="nearest")
        flat[part] = total / (1 + weights.sum())
    return smoothed


def _slope(values: np.ndarray, axis: int) -> np.ndarray:
    """Central differences; 0 along an axis of one pixel."""
    if values.shape[axis] < 2:
        return np.zeros_like(values)
    return np.asarray(np.gradient(values, axis=axis))


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian of any width on a coarser grid that still shows it, spread back to this one."""
    from scipy.ndimage import gaussian_filter

    side = max(1, int(sigma * _BLOCK_SHARE))
    coarse = _blocks(values, side)
    coarse = gaussian_filter(coarse, sigma / side, truncate=2.5, mode="nearest")
    y, x = (np.arange(n) // side for n in values.shape)
    return np.asarray(coarse[y[:, None], x])


def _blocks(values: np.ndarray, side: int) -> np.ndarray:
    """Means over squares of pixels, float32; those at the lower and right edge may be smaller."""
    starts_y, starts_x = (np.arange(0, n, side) for n in values.shape)
    if side == 1 or not values.size:
        return values[:: max(1, side), :: max(1, side)].astype(np.float32)
    total = np.add.reduceat(values, starts_y, 0, dtype=np.float32)
    total = np.add.reduceat(total, starts_x, 1)
    high, wide = (
        np.diff(np.append(starts, n))
        for starts, n in zip((starts_y, starts_x), values.shape, strict=True)
    )
    return np.asarray(total / (high[:, None] * wide).astype(np.float32))
