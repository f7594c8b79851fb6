"""The user's hand on napari's canvas: real mouse and keyboard events of Qt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication


class Hand:
    """The user's hand on the canvas.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose canvas.
    layer : Layer
        Whose pixels positions are given in.
    """

    def __init__(self, viewer: Any, layer: Any) -> None:
        self._viewer, self._layer = viewer, layer
        self.canvas = viewer.window._qt_viewer.canvas.native

    def at(self, *place: float) -> QPoint:
        """Where a pixel of the layer, ``(…, Y, X)``, is on the canvas."""
        world = np.asarray(self._layer.data_to_world(place))[-2:]
        camera = self._viewer.scene.camera
        off = (world - np.asarray(camera.center[-2:])) * camera.zoom
        ratio = self.canvas.devicePixelRatioF()
        height, width = self.canvas.height(), self.canvas.width()
        return QPoint(round(width / 2 + off[1] / ratio), round(height / 2 + off[0] / ratio))

    def stroke(self, corners: Sequence[tuple[float, ...]], *, steps: int = 8) -> list[float]:
        """Press, move along the corners, release; returns seconds from each move to its repaint."""
        seconds = []
        QTest.mouseMove(self.canvas, self.at(*corners[0]))
        QApplication.processEvents()
        QTest.mousePress(self.canvas, Qt.MouseButton.LeftButton, pos=self.at(*corners[0]))
        for start, stop in pairwise(corners):
            for part in np.linspace(0, 1, steps):
                point = self.at(*(np.asarray(start) * (1 - part) + np.asarray(stop) * part))
                clock = time.perf_counter()
                QTest.mouseMove(self.canvas, point)
                QApplication.processEvents()
                seconds.append(time.perf_counter() - clock)
        QTest.mouseRelease(self.canvas, Qt.MouseButton.LeftButton, pos=self.at(*corners[-1]))
        return seconds

    def key(self, key: Any, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        """Press a key over the canvas."""
        QTest.keyClick(self.canvas, key, modifier)
        QApplication.processEvents()
