"""Points to pixels with NumPy: thousands of discs in a few milliseconds, without OpenGL.

A plot that is drawn this way works wherever Qt does (a second OpenGL context beside napari's canvas
is what some drivers cannot do), and its picture is the same on every machine.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

#: Room around the picture, so that discs at its edge need no clipping.
_MARGIN = 16


@lru_cache(maxsize=64)
def disc(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (dy, dx) of the pixels inside a disc, and of those on its rim, each ``(k, 2)``.

    Examples
    --------
    >>> inside, rim = disc(1.0)
    >>> inside.tolist(), len(rim)
    ([[0, 0]], 8)
    """
    reach = int(np.ceil(radius + 0.5))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.hypot(dy, dx)
    core = distance <= radius - 0.5
    rim = (distance > radius - 0.5) & (distance <= radius + 0.5)
    offsets = np.stack([dy, dx], axis=-1)
    return offsets[core], offsets[rim]


def pack(colours: np.ndarray) -> np.ndarray:
    """``(n, 3)`` uint8 colours as opaque ``0xAARRGGBB`` numbers, ``(n,)`` uint32."""
    wide = np.asarray(colours, np.uint32).reshape(-1, 3)
    return np.asarray((255 << 24) | (wide[:, 0] << 16) | (wide[:, 1] << 8) | wide[:, 2], np.uint32)


class Raster:
    """A picture ``(height, width)`` of opaque ``0xAARRGGBB`` pixels that discs are put into."""

    def __init__(self, height: int, width: int, background: int) -> None:
        self.height, self.width = height, width
        self._pixels = np.full(
            (height + 2 * _MARGIN, width + 2 * _MARGIN), background, dtype=np.uint32
        )

    @property
    def picture(self) -> np.ndarray:
        """``(height, width)`` uint32, contiguous."""
        inside = self._pixels[_MARGIN : _MARGIN + self.height, _MARGIN : _MARGIN + self.width]
        return np.ascontiguousarray(inside)

    def put(self, x: np.ndarray, y: np.ndarray, colours: np.ndarray, radius: float) -> None:
        """Draw a disc at each point; a later one lies over an earlier one.

        Parameters
        ----------
        x, y : (n,) arrays
            Pixels; points outside of the picture are left out.
        colours : (n,) uint32
            From :func:`pack`.
        radius : float
            In pixels, at most 12.
        """
        radius = min(float(radius), _MARGIN - 4.0)
        x, y = np.rint(x), np.rint(y)
        near = (x > -_MARGIN / 2) & (x < self.width + _MARGIN / 2)
        near &= (y > -_MARGIN / 2) & (y < self.height + _MARGIN / 2)
        if not near.any():
            return
        colours = np.asarray(colours)[near]
        stride = self._pixels.shape[1]
        base = (y[near].astype(np.int32) + _MARGIN) * stride + x[near].astype(np.int32) + _MARGIN
        flat = self._pixels.reshape(-1)
        core, rim = disc(radius)
        # The rim of a disc is half its colour and half what lies below: an even edge.
        at = _spread(base, rim, stride)
        flat[at] = _mean(flat[at], np.repeat(colours, len(rim)))
        flat[_spread(base, core, stride)] = np.repeat(colours, len(core))


def _spread(base: np.ndarray, offsets: np.ndarray, stride: int) -> np.ndarray:
    """Flat positions of all pixels of all discs, one disc after the other."""
    steps = (offsets[:, 0] * stride + offsets[:, 1]).astype(np.int32)
    return np.asarray((base[:, None] + steps[None, :]).reshape(-1))


def _mean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The mean of packed colours, all four bytes at once."""
    return np.asarray(
        (((first ^ second) & np.uint32(0xFEFEFEFE)) >> np.uint32(1)) + (first & second)
    )


def inside_polygon(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Which points lie inside a polygon (even-odd rule), ``(n,)`` bool.

    Parameters
    ----------
    points : (n, 2) array
        Any coordinates.
    corners : (k, 2) array
        The polygon in the same coordinates; closed by itself.

    Examples
    --------
    >>> inside_polygon(np.array([[1, 1], [3, 1]]), np.array([[0, 0], [2, 0], [2, 2], [0, 2]]))
    array([ True, False])
    """
    points, corners = np.asarray(points, float), np.asarray(corners, float)
    inside = np.zeros(len(points), bool)
    if len(corners) < 3:
        return inside
    near = np.flatnonzero(((points >= corners.min(0)) & (points <= corners.max(0))).all(axis=1))
    u, v = points[near, 0], points[near, 1]
    found = np.zeros(len(near), bool)
    for (u0, v0), (u1, v1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if v0 == v1:
            continue
        crosses = (v0 > v) != (v1 > v)
        found ^= crosses & (u < (u1 - u0) * (v - v0) / (v1 - v0) + u0)
    inside[near] = found
    return inside
