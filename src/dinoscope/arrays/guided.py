"""Edge-preserving filtering and upsampling, guided by the image that a map belongs to.

Method: He, Sun and Tang, "Guided Image Filtering" (ECCV 2010): within every window the result is a
linear function of the guide, fitted to the input by least squares; so edges of the guide become
edges of the result. The cost does not depend on the window's size.
"""

from __future__ import annotations

import numpy as np

from dinoscope.errors import InputError


def box_mean(values: np.ndarray, radius: tuple[int, int]) -> np.ndarray:
    """Mean over windows of ``2 radius + 1`` pixels a side, fewer at the border.

    Parameters
    ----------
    values : (..., Y, X) array
        Any number of maps.
    radius : tuple of int
        Pixels to each side, along rows and columns.

    Returns
    -------
    (..., Y, X) float32

    Examples
    --------
    >>> box_mean(np.array([[0.0, 3.0, 6.0]]), (0, 1)).tolist()
    [[1.5, 3.0, 4.5]]
    """
    out = np.asarray(values, np.float32)
    for axis, reach in ((-2, radius[0]), (-1, radius[1])):
        out = _line_mean(out, reach, axis)
    return out


def _line_mean(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    from scipy.ndimage import uniform_filter1d

    length = values.shape[axis]
    if reach < 1 or length < 2:
        return values
    reach = min(reach, length - 1)
    summed = uniform_filter1d(values, 2 * reach + 1, axis=axis, mode="constant")
    position = np.arange(length)
    held = np.minimum(position + reach, length - 1) - np.maximum(position - reach, 0) + 1
    factor = ((2 * reach + 1) / held).astype(np.float32)
    shape = [1] * values.ndim
    shape[axis] = length
    summed *= factor.reshape(shape)
    return np.asarray(summed)


def guided_filter(
    guide: np.ndarray, maps: np.ndarray, radius: tuple[int, int], eps: float = 1e-3
) -> np.ndarray:
    """Filter maps so that their edges follow the guide's.

    Parameters
    ----------
    guide : (Y, X) float array
        The image, about [0, 1].
    maps : (K, Y, X) float array
        What is filtered, K maps at once.
    radius : tuple of int
        Window to each side in pixels, along rows and columns.
    eps : float
        Squared contrast of the guide below which it is taken as flat, and maps are only smoothed.

    Returns
    -------
    (K, Y, X) float32

    Raises
    ------
    InputError
        The shapes differ, or `eps` is not above 0.

    Examples
    --------
    >>> step = np.repeat([[0.0, 1.0]], 4, axis=1) * np.ones((8, 1))
    >>> out = guided_filter(step, step[None], (2, 2), 1e-6)
    >>> bool(np.abs(out[0] - step).max() < 1e-3)
    True
    """
    guide = np.asarray(guide, np.float32)
    maps = np.asarray(maps, np.float32)
    if guide.ndim != 2 or maps.ndim != 3 or maps.shape[1:] != guide.shape:
        raise InputError(
            f"guide has shape {guide.shape} and maps {maps.shape}", expected="(Y, X) and (K, Y, X)"
        )
    if not eps > 0:
        raise InputError(f"eps is {eps!r}", expected="a number above 0")
    # Around its own mean: the variance is a small difference of large numbers otherwise.
    guide = guide - guide.mean(dtype=np.float64).astype(np.float32)
    mean_guide = box_mean(guide, radius)
    variance = np.maximum(box_mean(guide * guide, radius) - mean_guide**2, 0)
    out = np.empty_like(maps)
    for k, plane in enumerate(maps):
        centre = plane.mean(dtype=np.float64).astype(np.float32)
        plane = plane - centre
        mean_plane = box_mean(plane, radius)
        slope = (box_mean(guide * plane, radius) - mean_guide * mean_plane) / (variance + eps)
        offset = mean_plane - slope * mean_guide
        out[k] = box_mean(slope, radius) * guide + box_mean(offset, radius) + centre
    return out


def upsample_guided(
    smooth: np.ndarray, guide: np.ndarray, step: tuple[float, float], eps: float = 1e-3
) -> np.ndarray:
    """Sharpen maps that were interpolated from a coarse grid along the edges of the image.

    Parameters
    ----------
    smooth : (K, Y, X) float array
        Maps, already interpolated to the image's pixels.
    guide : (Y, X) uint8 or float array
        The image; uint8 is read as 0 to 255.
    step : tuple of float
        Pixels from one cell of the coarse grid to the next; windows reach so far to each side.
    eps : float
        See :func:`guided_filter`.

    Returns
    -------
    (K, Y, X) float32, within the range of each map.
    """
    pixels = np.asarray(guide)
    pixels = pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels
    radius = (max(1, round(step[0])), max(1, round(step[1])))
    out = guided_filter(pixels, smooth, radius, eps)
    low, high = smooth.min((1, 2), keepdims=True), smooth.max((1, 2), keepdims=True)
    return np.asarray(np.clip(out, low, high), np.float32)
