"""Where points of a plot fall on the screen: fit, zoom, pan, and turn with three axes."""

from __future__ import annotations

import numpy as np

#: Room between the outermost points and the frame.
_PADDING = 0.06
_ZOOM_RANGE = (1e-2, 1e5)


class PlotView:
    """A camera for ``(n, 2)`` or ``(n, 3)`` points.

    Points are scaled to the unit square (each axis by itself in two dimensions, all alike in three,
    where turning them must not stretch them), turned, zoomed and moved.
    """

    def __init__(self) -> None:
        self.dimensions = 2
        self.zoom = 1.0
        self.offset = np.zeros(2)
        self.rotation = np.eye(3)
        self.low = np.zeros(2)
        self.span = np.ones(2)

    def fit(self, coordinates: np.ndarray) -> None:
        """Show all of the points."""
        self.dimensions = coordinates.shape[1] if coordinates.size else 2
        finite = coordinates[np.isfinite(coordinates).all(axis=1)]
        if len(finite) == 0:
            finite = np.zeros((1, self.dimensions))
        low, high = finite.min(0).astype(float), finite.max(0).astype(float)
        span = np.where(high > low, high - low, 1.0)
        if self.dimensions == 3:
            # The longest diagonal stays inside the frame however the points are turned.
            middle, reach = (low + high) / 2, float(np.linalg.norm(span)) / np.sqrt(2)
            low, span = middle - reach / 2, np.full(3, reach)
        self.low, self.span = low, span
        self.home()

    def home(self) -> None:
        """Back to where everything is seen."""
        self.zoom, self.offset = 1.0, np.zeros(2)
        self.rotation = _tilt(-0.45, 0.6) if self.dimensions == 3 else np.eye(3)

    def project(self, coordinates: np.ndarray, width: float, height: float) -> np.ndarray:
        """Pixels inside the frame, ``(n, 2)`` x and y; with a third column, depth, for 3-D.

        Parameters
        ----------
        coordinates : (n, d) array
            Points.
        width, height : float
            Size of the frame.
        """
        unit = (coordinates - self.low.astype(np.float32)) / self.span.astype(np.float32) - 0.5
        if self.dimensions == 3:
            unit = unit @ self.rotation.T.astype(np.float32)
            side = min(width, height)
            scale = np.array([side, -side], np.float32)
        else:
            scale = np.array([width, -height], np.float32)
        scale = scale * np.float32(self.zoom * (1 - 2 * _PADDING))
        centre = np.array([width / 2, height / 2]) + self.offset
        screen = unit[:, :2] * scale + centre.astype(np.float32)
        return np.column_stack([screen, unit[:, 2]]) if self.dimensions == 3 else screen

    def value_at(self, x: float, y: float, width: float, height: float) -> tuple[float, float]:
        """The data coordinates of a pixel (two dimensions only)."""
        scale = np.array([width, -height]) * self.zoom * (1 - 2 * _PADDING)
        unit = (np.array([x, y]) - np.array([width / 2, height / 2]) - self.offset) / scale + 0.5
        found = unit * self.span[:2] + self.low[:2]
        return float(found[0]), float(found[1])

    def zoom_at(self, factor: float, x: float, y: float, width: float, height: float) -> None:
        """Zoom so that what is under a pixel stays there."""
        zoom = float(np.clip(self.zoom * factor, *_ZOOM_RANGE))
        factor = zoom / self.zoom
        at = np.array([x, y]) - np.array([width / 2, height / 2])
        self.offset = at - factor * (at - self.offset)
        self.zoom = zoom

    def pan(self, dx: float, dy: float) -> None:
        """Move by pixels."""
        self.offset = self.offset + np.array([dx, dy])

    def turn(self, dx: float, dy: float) -> None:
        """Turn by a drag of so many pixels (three dimensions)."""
        if self.dimensions == 3:
            self.rotation = _tilt(0.008 * dy, 0.008 * dx) @ self.rotation


def _tilt(about_x: float, about_y: float) -> np.ndarray:
    """A turn about the screen's vertical axis, then about its horizontal one."""
    cx, sx, cy, sy = np.cos(about_x), np.sin(about_x), np.cos(about_y), np.sin(about_y)
    first = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    second = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return np.asarray(second @ first)
