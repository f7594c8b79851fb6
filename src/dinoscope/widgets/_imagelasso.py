"""A lasso on the image: a Shapes layer of ours that lives as long as one drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from dinoscope.widgets._circle import GUIDE
from dinoscope.widgets._layers import Source, current_plane, spatial_kwargs
from dinoscope.widgets._results import remove_layer

if TYPE_CHECKING:
    from napari.viewer import Viewer

_NAME = "lasso (draw, then it goes)"


class ImageLasso(QObject):
    """Lets the user draw one polygon; then the layer goes and the user's tool is back."""

    #: Plane and ``(k, 2)`` rows and columns of the polygon in the image.
    drawn = Signal(object, object)
    #: The drawing is over, with or without a polygon.
    ended = Signal()

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Any = None
        self._source: Source | None = None
        self._before: tuple[Any, Any] | None = None

    @property
    def on(self) -> bool:
        return self._layer is not None

    def start(self, source: Source) -> None:
        """Offer the lasso over `source`."""
        from napari.layers import Shapes

        self.stop()
        active = self._viewer.layers.selection.active
        self._before = (active, getattr(active, "mode", None))
        self._source = source
        self._layer = Shapes(
            ndim=source.layer.ndim,
            name=_NAME,
            edge_color="#ffd60a",
            face_color="#ffd60a30",
            edge_width=max(source.image.size("Y"), source.image.size("X")) / 400,
            **spatial_kwargs(source.layer),
        )
        self._layer.metadata[GUIDE] = True
        self._viewer.add_layer(self._layer)
        self._layer.mode = "add_polygon_lasso"
        self._layer.events.data.connect(self._on_data)
        self._viewer.layers.events.removed.connect(self._on_removed)

    def stop(self) -> None:
        """Take the layer away; active layer and tool are as before."""
        layer, self._layer = self._layer, None
        if layer is None:
            return
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        layer.events.data.disconnect(self._on_data)
        was_active = self._viewer.layers.selection.active is layer
        if layer in self._viewer.layers:
            remove_layer(self._viewer, layer)
        before, self._before = self._before, None
        if was_active and before is not None and before[0] in self._viewer.layers:
            self._viewer.layers.selection.active = before[0]
            if before[1] is not None and before[0].mode != before[1]:
                before[0].mode = before[1]
        self.ended.emit()

    def _on_removed(self, event: Any) -> None:
        if event.value is self._layer:
            self.stop()

    def _on_data(self, event: Any) -> None:
        if str(getattr(event, "action", "")) not in ("ActionType.ADDED", "added"):
            return
        # After the layer has finished its own work: it must not go while it is drawing.
        QTimer.singleShot(0, self._take)

    def _take(self) -> None:
        layer, source = self._layer, self._source
        if layer is None or source is None or not len(layer.data):
            return
        corners = np.asarray(layer.data[-1], float)
        axes = source.layer_axes
        yx = corners[:, [axes.index("Y"), axes.index("X")]]
        index = current_plane(self._viewer, source)
        self.stop()
        self.drawn.emit(index, yx)
