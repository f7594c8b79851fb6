"""Which way long objects lie, pixel by pixel, and smoothing along it.

The orientation comes from the structure tensor (Bigün and Granlund 1987, *Optimal orientation
detection of linear symmetry*): gradients are averaged as doubled angles, so that opposite slopes of
a ridge agree. Where they agree over more than an object's width, objects lie side by side, and
smoothing along them fills dents in a ridge without filling the valleys beside it (as in Weickert
1999, *Coherence-enhancing diffusion filtering*, in one step).
"""

from __future__ import annotations

import numpy as np

#: Gradients are averaged over windows of this share of the finest scale that is asked for.
_BLOCK_SHARE = 1 / 3
#: Places along the orientation, in standard deviations, that are averaged with their Gaussian
#: weights.
_PLACES = (-1.6, -0.8, 0.8, 1.6)
#: Pixels that are smoothed together.
_PIXELS = 1 << 18


def across(values: np.ndarray, scale: float) -> np.ndarray:
    """In which direction `values` change most, and how much all around agree on it.

    Parameters
    ----------
    values : (Y, X) float32
        An image without noise that single pixels show.
    scale : float
        Standard deviation, in pixels, of what is taken together.

    Returns
    -------
    (2, Y, X) float32
        Cosine and sine of twice the angle from the X axis, times the coherence: 1 where all
        gradients are parallel, 0 where they have no direction in common, as in a round object.

    Examples
    --------
    >>> stripes = np.tile(np.sin(np.arange(60, dtype=np.float32)), (60, 1))  # along X
    >>> across(stripes, 6.0)[:, 30, 30].round(2).tolist()
    [1.0, 0.0]
    """
    from scipy.ndimage import gaussian_filter

    rows, columns = values.shape
    if min(rows, columns) < 2:
        return np.zeros((2, rows, columns), np.float32)
    slope_y, slope_x = np.gradient(values)
    block = max(1, int(scale * _BLOCK_SHARE))
    xx, yy, xy = (
        gaussian_filter(_blocks(product, block), scale / block, truncate=2.5, mode="nearest")
        for product in (slope_x * slope_x, slope_y * slope_y, slope_x * slope_y)
    )
    energy = np.maximum(xx + yy, np.float32(1e-12))
    return _spread(np.stack([(xx - yy) / energy, 2 * xy / energy]), block, values.shape)


def coherence_around(field: np.ndarray, mask: np.ndarray, scale: float) -> np.ndarray:
    """How much the pixels of `mask` around each pixel agree with their neighbours, (Y, X) float32.

    Parameters
    ----------
    field : (2, Y, X) float32
        What :func:`across` gave.
    mask : (Y, X) bool
        Pixels that count.
    scale : float
        Standard deviation, in pixels, of what is around; 0 where none of the mask is.
    """
    from scipy.ndimage import gaussian_filter

    block = max(1, int(scale * _BLOCK_SHARE))
    inside = mask.astype(np.float32)
    total, share = (
        gaussian_filter(_blocks(values, block), scale / block, truncate=2.5, mode="nearest")
        for values in (np.hypot(field[0], field[1]) * inside, inside)
    )
    mean = np.divide(total, share, out=np.zeros_like(total), where=share > 1e-6)
    return _spread(mean, block, mask.shape)


def _spread(coarse: np.ndarray, block: int, shape: tuple[int, int]) -> np.ndarray:
    """Each value of the last two axes for all pixels of its block."""
    y, x = (np.arange(n) // block for n in shape)
    return np.asarray(coarse[..., y[:, None], x])


def _blocks(values: np.ndarray, side: int) -> np.ndarray:
    """Means over squares of pixels; those at the lower and right edge may be smaller."""
    if side == 1:
        return values
    starts_y, starts_x = (np.arange(0, n, side) for n in values.shape)
    total = np.add.reduceat(np.add.reduceat(values, starts_y, 0), starts_x, 1)
    high, wide = (
        np.diff(np.append(starts, n))
        for starts, n in zip((starts_y, starts_x), values.shape, strict=True)
    )
    return np.asarray(total / (high[:, None] * wide).astype(np.float32))


def smooth_along(values: np.ndarray, field: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Average `values` along the objects, which lie square to the direction of most change.

    Parameters
    ----------
    values : (Y, X) float32
    field : (2, Y, X) float32
        What :func:`across` gave.
    lengths : (Y, X) float32
        Standard deviation for each pixel, in pixels; those below a half are left as they are.

    Returns
    -------
    (Y, X) float32
    """
    from scipy.ndimage import map_coordinates

    smoothed = values.copy()
    flat = smoothed.reshape(-1)
    chosen = np.flatnonzero(lengths >= 0.5)
    weights = np.exp(-0.5 * np.square(_PLACES)).astype(np.float32)
    for first in range(0, chosen.size, _PIXELS):
        part = chosen[first : first + _PIXELS]
        angle = 0.5 * np.arctan2(field[1].ravel()[part], field[0].ravel()[part])
        length = lengths.ravel()[part]
        y, x = np.divmod(part, values.shape[1])
        # Square to the angle of most change.
        step_y, step_x = length * np.cos(angle), -length * np.sin(angle)
        total = values.ravel()[part].copy()
        for place, weight in zip(_PLACES, weights, strict=True):
            points = [y + place * step_y, x + place * step_x]
            total += weight * map_coordinates(values, points, order=1, mode="nearest")
        flat[part] = total / (1 + weights.sum())
    return smoothed
