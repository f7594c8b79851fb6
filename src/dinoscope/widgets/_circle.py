"""A circle as large as a typical object, shown on the image; whoever shows it takes it away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.widgets._layers import Source, current_plane, spatial_kwargs, visible_region
from dinoscope.widgets._results import remove_layer, selection_kept

if TYPE_CHECKING:
    from napari.layers import Shapes
    from napari.viewer import Viewer

_NAME = "object diameter (guide)"
#: Marks the layer as a guide of ours that may always be removed.
GUIDE = "dinoscope_guide"


class DiameterCircle:
    """Shows one circle in the middle of the view; never edits, never stays behind."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._layer: Shapes | None = None

    @property
    def shown(self) -> bool:
        return self._layer is not None and self._layer in self._viewer.layers

    def show(self, source: Source, diameter_px: float) -> None:
        """Draw (or redraw) the circle for `source`, in pixels of the image."""
        from napari.layers import Shapes

        box, kwargs = self._box(source, diameter_px / 2)
        if self.shown and self._layer.ndim == box.shape[1]:
            self._layer.data = [box]
            for name, value in kwargs.items():
                setattr(self._layer, name, value)
            self._layer.edge_width = [_edge_width(diameter_px)]
            return
        self.hide()
        layer = Shapes(
            [box],
            shape_type="ellipse",
            face_color="transparent",
            edge_color="#ffd400",
            edge_width=_edge_width(diameter_px),
            name=_NAME,
            **kwargs,
        )
        layer.editable = False
        layer.metadata[GUIDE] = True
        with selection_kept(self._viewer):
            self._viewer.add_layer(layer)
        self._layer = layer

    def hide(self) -> None:
        """Take the circle away."""
        if self.shown:
            remove_layer(self._viewer, self._layer)
        self._layer = None

    def _box(self, source: Source, radius: float) -> tuple[np.ndarray, dict[str, Any]]:
        """Corners around the middle of the view, and where the layer for them belongs."""
        try:
            y0, x0, y1, x1 = visible_region(self._viewer, source)
        except InputError:
            y0, x0, y1, x1 = 0, 0, source.image.size("Y"), source.image.size("X")
        rows = (y0 + y1) / 2 + radius * np.array([-1, -1, 1, 1])
        columns = (x0 + x1) / 2 + radius * np.array([-1, 1, 1, -1])
        layer, axes = source.layer, source.layer_axes
        if set(axes[-2:]) == {"Y", "X"}:
            # Two-dimensional, so that it is seen on every plane.
            by_letter = {"Y": rows, "X": columns}
            box = np.stack([by_letter[a] for a in axes[-2:]], axis=1)
            return box, spatial_kwargs(layer, keep=range(layer.ndim - 2, layer.ndim))
        at = dict(zip(source.image.plane_axes, current_plane(self._viewer, source), strict=True))
        values = [
            rows if a == "Y" else columns if a == "X" else np.full(4, at.get(a, 0)) for a in axes
        ]
        return np.stack(values, axis=1), spatial_kwargs(layer)


def _edge_width(diameter_px: float) -> float:
    return max(diameter_px / 16, 0.5)
