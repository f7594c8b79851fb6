"""Resample planes between image pixels and model pixels, windows included.

A window of a plane gives the same values as that window cut from the resampled whole plane, because
every output pixel has its own fixed place and triangle filter in the whole input.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dinoscope.arrays.axes import Region

#: Scales this close to 1 are left alone: resampling would only blur.
SAME_SCALE = 0.03


def scaled_shape(shape: tuple[int, int], zoom: float) -> tuple[int, int]:
    """Shape ``(Y, X)`` of a plane at `zoom`; unchanged where the zoom is as good as 1.

    Examples
    --------
    >>> scaled_shape((100, 200), 0.5), scaled_shape((100, 200), 1.01)
    ((50, 100), (100, 200))
    """
    if abs(zoom - 1) <= SAME_SCALE:
        return shape
    return max(1, round(shape[0] * zoom)), max(1, round(shape[1] * zoom))


def needed_window(shape: tuple[int, int], new_shape: tuple[int, int], window: Region) -> Region:
    """The input pixels that `window` of the output depends on.

    Parameters
    ----------
    shape, new_shape : tuple[int, int]
        ``(Y, X)`` of the whole input and the whole output.
    window : Region
        ``(y0, x0, y1, x1)`` in output pixels.
    """
    spans = []
    for axis in (0, 1):
        step = shape[axis] / new_shape[axis]
        reach = max(1.0, step)
        low = int(np.floor((window[axis] + 0.5) * step - 0.5 - reach))
        high = int(np.ceil((window[axis + 2] - 0.5) * step - 0.5 + reach)) + 1
        spans.append((max(0, low), min(shape[axis], high)))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def resample(
    maps: np.ndarray,
    new_shape: tuple[int, int],
    *,
    shape: tuple[int, int] | None = None,
    origin: tuple[int, int] = (0, 0),
    window: Region | None = None,
) -> np.ndarray:
    """Linear interpolation, averaging over the covered pixels where the output is smaller.

    Parameters
    ----------
    maps : (K, Y, X) array
        The whole input, or a part of it that begins at `origin`.
    new_shape : tuple[int, int]
        ``(Y, X)`` of the whole output.
    shape : tuple[int, int], optional
        ``(Y, X)`` of the whole input; that of `maps` when not given.
    origin : tuple[int, int]
        Row and column of the whole input where `maps` begins.
    window : Region, optional
        ``(y0, x0, y1, x1)`` of the output to compute; all of it when not given.

    Returns
    -------
    (K, y1 - y0, x1 - x0) float32
    """
    full = shape or (maps.shape[1], maps.shape[2])
    target = window or (0, 0, *new_shape)
    if full == tuple(new_shape):
        y0, x0, y1, x1 = target
        part = maps[:, y0 - origin[0] : y1 - origin[0], x0 - origin[1] : x1 - origin[1]]
        return np.asarray(part, np.float32)
    rows = _weights(full[0], new_shape[0], target[0], target[2], origin[0], maps.shape[1])
    columns = _weights(full[1], new_shape[1], target[1], target[3], origin[1], maps.shape[2])
    out = np.empty((len(maps), target[2] - target[0], target[3] - target[1]), np.float32)
    for k, plane in enumerate(maps):
        tall = rows @ np.ascontiguousarray(plane, np.float32)
        out[k] = (columns @ np.ascontiguousarray(tall.T)).T
    return out


def _weights(length: int, new_length: int, start: int, stop: int, origin: int, held: int) -> Any:
    """Sparse ``(stop - start, held)`` matrix of triangle-filter weights along one axis."""
    from scipy.sparse import csr_matrix

    step = length / new_length
    reach = max(1.0, step)
    centre = (np.arange(start, stop) + 0.5) * step - 0.5
    taps = 2 * int(np.ceil(reach)) + 1
    first = np.floor(centre).astype(np.int64) - taps // 2
    columns = first[:, None] + np.arange(taps + 1)
    weights = np.clip(1 - np.abs(columns - centre[:, None]) / reach, 0, None)
    columns = np.clip(columns, 0, length - 1)  # the edge pixel stands for what lies beyond
    weights /= weights.sum(1, keepdims=True)
    rows = np.repeat(np.arange(stop - start), taps + 1)
    keep = weights.ravel() > 0
    inside = np.clip(columns.ravel()[keep] - origin, 0, held - 1)
    return csr_matrix(
        (weights.ravel()[keep].astype(np.float32), (rows[keep], inside)), shape=(stop - start, held)
    )
