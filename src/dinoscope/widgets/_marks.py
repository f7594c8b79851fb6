"""The clicks of a similarity search as small marks on the image; ours, and always removable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.widgets._circle import GUIDE
from dinoscope.widgets._layers import spatial_kwargs
from dinoscope.widgets._results import remove_layer, selection_kept

if TYPE_CHECKING:
    from napari.viewer import Viewer

LIKE, UNLIKE = "#2ee66b", "#ff4d4d"


class ClickMarks:
    """A Points layer for each image with clicks."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._layers: dict[int, Any] = {}

    def show(self, clicks: Sequence[Any]) -> None:
        """Mark these clicks and no others."""
        by_layer: dict[int, list[Any]] = {}
        for click in clicks:
            by_layer.setdefault(id(click.one.source.layer), []).append(click)
        for key in list(self._layers):
            if key not in by_layer:
                self._drop(key)
        for key, group in by_layer.items():
            self._mark(key, group)

    def remove(self) -> None:
        """Take all marks away."""
        for key in list(self._layers):
            self._drop(key)

    def _drop(self, key: int) -> None:
        layer = self._layers.pop(key)
        if layer in self._viewer.layers:
            remove_layer(self._viewer, layer)

    def _mark(self, key: int, clicks: Sequence[Any]) -> None:
        from napari.layers import Points

        source = clicks[0].one.source
        axes = source.layer_axes
        where = np.zeros((len(clicks), len(axes)))
        for row, click in enumerate(clicks):
            at = dict(zip(source.image.plane_axes, click.index, strict=True))
            at |= {"Y": click.y, "X": click.x}
            where[row] = [at.get(axis, 0) for axis in axes]
        colours = [LIKE if click.positive else UNLIKE for click in clicks]
        layer = self._layers.get(key)
        if layer is None or layer not in self._viewer.layers:
            size = max(source.image.size("Y"), source.image.size("X")) / 60
            layer = self._layers[key] = Points(
                where,
                name=f"{source.layer.name} · clicks",
                size=max(size, 3.0),
                symbol="disc",
                face_color=colours,
                border_color="white",
                border_width=0.15,
                **spatial_kwargs(source.layer),
            )
            layer.editable = False
            layer.metadata[GUIDE] = True
            with selection_kept(self._viewer):
                self._viewer.add_layer(layer)
            return
        layer.data = where
        layer.face_color = colours
        layer.refresh()
