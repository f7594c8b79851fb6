"""Follows a Labels layer of the user's: what they select or paint there lights up in the plot."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from dinoscope.errors import DinoscopeError
from dinoscope.widgets._layers import current_plane, full_size
from dinoscope.widgets._pointmap import PointMap
from dinoscope.widgets._tokens import label_image

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: While a stroke is painted, its points follow this often.
_THROTTLE_MS = 80
_EVENTS = ("selected_label", "paint", "set_data", "data")


class LabelFollower(QObject):
    """Reads only: the layer is never written."""

    #: Points (of the plot) under the selected label on the plane in view.
    found = Signal(object)
    failed = Signal(str)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Any = None
        self._map: PointMap | None = None
        self._last: tuple[Any, ...] = ()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_THROTTLE_MS)
        self._timer.timeout.connect(self.look)

    def follow(self, layer: Any, points: PointMap | None) -> None:
        """Follow another layer, or none."""
        self.stop()
        if layer is None or points is None:
            return
        self._layer, self._map = layer, points
        self._last = self._signature(self._rows())
        for name in _EVENTS:
            getattr(layer.events, name).connect(self._on_event)

    def stop(self) -> None:
        """Follow nothing."""
        self._timer.stop()
        layer, self._layer = self._layer, None
        if layer is not None:
            for name in _EVENTS:
                getattr(layer.events, name).disconnect(self._on_event)

    def look(self) -> None:
        """Look at the layer now."""
        if self._layer is None or self._layer not in self._viewer.layers:
            return
        rows = self._rows()
        signature = self._signature(rows)
        if signature != self._last:  # a redraw is no change
            self._last = signature
            self.found.emit(rows)

    def _on_event(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            if not self._timer.isActive():
                self._timer.start()

    def _rows(self) -> np.ndarray:
        points, layer = self._map, self._layer
        if points is None or layer is None:
            return np.zeros(0, np.intp)
        label = int(layer.selected_label)
        if points.labels is not None and getattr(points, "layer", None) is layer:
            return np.asarray(points.rows[points.labels == label])
        if label == 0:
            return np.zeros(0, np.intp)
        index = current_plane(self._viewer, points.source)
        try:
            plane = self._plane(index)
        except DinoscopeError as error:
            self.failed.emit(str(error))
            return np.zeros(0, np.intp)
        return points.under(index, plane == label)

    def _plane(self, index: tuple[int, ...]) -> np.ndarray:
        image = label_image(self._layer, self._map.source)
        where = dict(zip(self._map.source.image.plane_axes, index, strict=True))
        key = tuple(slice(None) if a in "YX" else where[a] for a in image.axes)
        plane = np.asarray(full_size(self._layer)[key])
        return plane if image.axes.index("Y") < image.axes.index("X") else plane.T

    def _signature(self, rows: np.ndarray) -> tuple[Any, ...]:
        label = int(self._layer.selected_label) if self._layer is not None else 0
        return label, rows.tobytes()
