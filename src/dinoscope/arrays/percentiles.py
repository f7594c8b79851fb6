"""Percentiles of an image from a sample that does not depend on which part of it is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dinoscope.arrays.axes import Region, chosen_channels, read_plane, sample_indices
from dinoscope.types import ImageInput

if TYPE_CHECKING:
    from dinoscope.arrays.calibrate import Calibration

#: Planes, and pixels per channel over all of them, from which percentiles are taken.
SAMPLE_PLANES = 16
SAMPLE_PIXELS = 2**19
#: A plane of more pixels is sampled from windows instead of being read whole.
WHOLE_PLANE_PIXELS = 2**24
WINDOWS_PER_SIDE = 8
WINDOW_SIDE = 512


def percentile_limits(
    image: ImageInput,
    wanted: tuple[float, float],
    *,
    channels: Sequence[int] | None = None,
    calibration: Calibration | None = None,
) -> np.ndarray:
    """Two percentiles of each channel, over a strided sample of evenly spaced planes.

    NaN and infinities do not count. RGB samples share their limits. Where the two percentiles are
    equal, the least and the largest value take their place.

    Parameters
    ----------
    image : ImageInput
        The whole image.
    wanted : tuple of float
        Low and high percentile, in [0, 100].
    channels : Sequence[int], optional
        Channels in use, as in :func:`dinoscope.arrays.axes.read_plane`.
    calibration : Calibration, optional
        Applied before the percentiles are taken.

    Returns
    -------
    np.ndarray
        ``(C, 2)`` float64; equal numbers where a channel is constant, zeros where it has none.

    Raises
    ------
    InputError
        The image has no pixels, or not these channels.
    """
    count = len(chosen_channels(image, channels))
    values = np.concatenate(list(_samples(image, channels, calibration)), axis=1)
    joint = "S" in image.axes
    if joint:
        values = values.reshape(1, -1)
    found = np.stack([_percentiles(c, wanted) for c in values])
    if not np.all(found[:, 0] < found[:, 1]):
        # A few bright pixels on an even ground are still an image: look at every pixel for them.
        flat = ~(found[:, 0] < found[:, 1])
        found[flat] = _extremes(image, channels, calibration, joint)[flat]
    return np.repeat(found, count, axis=0) if joint else found


def _percentiles(values: np.ndarray, wanted: tuple[float, float]) -> np.ndarray:
    """Low and high of a sample ``(N,)``; zeros where nothing in it is a number."""
    if values.dtype.itemsize < 4:  # bool and float16 have no percentiles of their own
        values = values.astype(np.float32)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return np.zeros(2)
    return np.asarray(np.percentile(values, wanted), dtype=np.float64)


def _extremes(
    image: ImageInput,
    channels: Sequence[int] | None,
    calibration: Calibration | None,
    joint: bool,
) -> np.ndarray:
    """Least and largest number of each channel, ``(C or 1, 2)``, over the sampled planes."""
    lows, highs = [], []
    for pixels in _samples(image, channels, calibration, every=True):
        values = (pixels.reshape(1, -1) if joint else pixels).astype(np.float64)
        lows.append(np.where(np.isfinite(values), values, np.inf).min(axis=1))
        highs.append(np.where(np.isfinite(values), values, -np.inf).max(axis=1))
    pairs = np.stack([np.min(lows, axis=0), np.max(highs, axis=0)], axis=1)
    return np.where(np.isfinite(pairs), pairs, 0.0)


def _samples(
    image: ImageInput,
    channels: Sequence[int] | None,
    calibration: Calibration | None,
    every: bool = False,
) -> Iterator[np.ndarray]:
    """Strided pixels, or every pixel, of evenly spaced planes: ``(C, N)``."""
    indices = sample_indices(image, SAMPLE_PLANES)
    regions = _sample_regions(image.size("Y"), image.size("X"))
    for index in indices:
        budget = max(1, SAMPLE_PIXELS // (len(indices) * len(regions)))
        for region in regions:
            pixels = read_plane(image, index, channels=channels, region=region)
            step = 1 if every else max(1, math.ceil(math.sqrt(pixels[0].size / budget)))
            if calibration is not None:
                pixels = calibration.apply(pixels, region, channels=channels)
            yield pixels[:, ::step, ::step].reshape(len(pixels), -1)


def _sample_regions(height: int, width: int) -> list[Region | None]:
    """The whole plane, or evenly spaced windows of a plane too large to be read whole."""
    if height * width <= WHOLE_PLANE_PIXELS:
        return [None]

    def spans(length: int) -> list[tuple[int, int]]:
        side = min(WINDOW_SIDE, length)
        starts = np.linspace(0, length - side, min(WINDOWS_PER_SIDE, math.ceil(length / side)))
        return [(int(s), int(s) + side) for s in starts]

    return [(y0, x0, y1, x1) for y0, y1 in spans(height) for x0, x1 in spans(width)]
