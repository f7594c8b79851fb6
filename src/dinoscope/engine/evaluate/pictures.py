"""Small pictures of the worst images: the image in grey, its errors in colour, outlines on top."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.faults import FAULTS

#: Side of a picture, in pixels of the image; of larger images the worst part is shown.
SIDE_PX = 256
_OPACITY = 0.5
#: Width of the steps in which the worst part is looked for.
_BLOCK = 32


@dataclass(frozen=True)
class Picture:
    """A (Y, X, 3) uint8 picture of the part of an image that begins at `origin` (row, column)."""

    image: str
    plane: int
    figure: float
    origin: tuple[int, int]
    pixels: np.ndarray


class Gallery:
    """Keeps pictures of the worst images while they pass by.

    Parameters
    ----------
    size : int
        How many.
    more_is_better : bool
        Whether a low figure is a bad one.
    """

    def __init__(self, size: int, *, more_is_better: bool) -> None:
        self._size = size
        self._sign = -1.0 if more_is_better else 1.0
        self._heap: list[tuple[float, int, Picture]] = []
        self._order = itertools.count(step=-1)

    def offer(self, figure: float, make: Callable[[], Picture]) -> None:
        """Make the picture, unless there are enough that are worse."""
        if self._size == 0 or not np.isfinite(figure):
            return
        badness = self._sign * figure
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, (badness, next(self._order), make()))
        elif badness > self._heap[0][0]:
            heapq.heapreplace(self._heap, (badness, next(self._order), make()))

    def pictures(self) -> list[Picture]:
        """Worst first."""
        return [picture for *_, picture in sorted(self._heap, key=lambda e: (-e[0], -e[1]))]


def fault_picture(
    codes: np.ndarray, image: np.ndarray | None, truth: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Draw fault codes over the image.

    Parameters
    ----------
    codes : (Y, X) uint8
        Codes of :data:`dinoscope.arrays.faults.FAULTS`.
    image : (C, Y, X) array, optional
        Drawn in grey below; black when not given.
    truth : (Y, X) integer array, optional
        Its outlines are drawn in white.

    Returns
    -------
    pixels : (y, x, 3) uint8
        At most `SIDE_PX` wide: the part with most errors.
    origin : (row, column)
        Where that part begins.
    """
    window, origin = _worst_window((codes > 1).astype(np.float64))
    part = codes[window]
    rgb = _grey(image, window) if image is not None else np.zeros((*part.shape, 3))
    colours = np.zeros((max(FAULTS) + 1, 3))
    for code, (_, colour) in FAULTS.items():
        colours[code] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    shown = part > 0
    rgb[shown] = (1 - _OPACITY) * rgb[shown] + _OPACITY * colours[part[shown]]
    if truth is not None:
        rgb[_outlines(truth[window])] = 255
    return rgb.round().astype(np.uint8), origin


def depth_picture(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Signed errors of depth: red where it is too high, blue where it is too low, grey unknown."""
    error = np.asarray(predicted, np.float64) - truth
    known = np.isfinite(error)
    window, origin = _worst_window(np.where(known, np.abs(error), 0))
    scale = float(np.percentile(np.abs(error[known]), 98)) if known.any() else 1.0
    share = np.clip(np.nan_to_num(error[window]) / (scale or 1.0), -1, 1)[..., None]
    red, blue = np.array([178.0, 24.0, 43.0]), np.array([33.0, 102.0, 172.0])
    rgb = 247 + np.abs(share) * (np.where(share > 0, red, blue) - 247)
    rgb[~known[window]] = 128
    return rgb.round().astype(np.uint8), origin


def _worst_window(weight: np.ndarray) -> tuple[tuple[slice, slice], tuple[int, int]]:
    """The part of at most `SIDE_PX` with the largest sum."""
    height, width = weight.shape
    if height <= SIDE_PX and width <= SIDE_PX:
        return (slice(0, height), slice(0, width)), (0, 0)
    total = np.pad(weight.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tall, wide = min(height, SIDE_PX), min(width, SIDE_PX)
    rows = np.unique(np.append(np.arange(0, height - tall + 1, _BLOCK), height - tall))
    columns = np.unique(np.append(np.arange(0, width - wide + 1, _BLOCK), width - wide))
    a, b = rows[:, None], columns[None]
    sums = total[a + tall, b + wide] - total[a, b + wide] - total[a + tall, b] + total[a, b]
    i, j = np.unravel_index(int(sums.argmax()), sums.shape)
    y, x = int(rows[i]), int(columns[j])
    return (slice(y, y + tall), slice(x, x + wide)), (y, x)


def _grey(image: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    plane = np.asarray(image, np.float64).mean(axis=0)[window]
    finite = plane[np.isfinite(plane)]
    low, high = np.percentile(finite, [1, 99.5]) if finite.size else (0.0, 1.0)
    scaled = np.clip((np.nan_to_num(plane, nan=low) - low) / ((high - low) or 1.0), 0, 1)
    return np.repeat(255 * scaled[..., None], 3, axis=2)


def _outlines(ids: np.ndarray) -> np.ndarray:
    """The outermost pixels of each object."""
    edge = np.zeros(ids.shape, bool)
    down, right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge & (ids > 0)
