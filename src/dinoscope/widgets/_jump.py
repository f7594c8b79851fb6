"""Move the view to a place in a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

#: An object takes at least this share of the shorter side of the view.
_SHARE = 0.12
#: Of a canvas whose size is not known yet.
_CANVAS_PX = 500.0


def jump_to(viewer: Viewer, layer: Layer, position: Sequence[float], size_px: float = 0.0) -> None:
    """Show `position` in the middle of the view, with sliders and, if need be, the zoom.

    Parameters
    ----------
    position : sequence of float
        In data coordinates of `layer`, one number for each of its dimensions.
    size_px : float
        Diameter, in pixels of the layer, of what is to be seen; the view is only ever zoomed in.
    """
    world = np.asarray(layer.data_to_world(np.asarray(position, float)), float)
    common = viewer.layers.units
    if common is not None:
        world = np.array(
            [
                float((w * own).to(shared).magnitude)
                for w, own, shared in zip(world, layer.units, common[-layer.ndim :], strict=True)
            ]
        )
    lead = viewer.dims.ndim - layer.ndim
    viewer.dims.set_point(range(lead, viewer.dims.ndim), world.tolist())
    shown = [axis - lead for axis in viewer.dims.displayed if axis >= lead]
    camera = viewer.scene.camera
    centre = [world[axis] for axis in shown]
    camera.center = (*camera.center[: 3 - len(centre)], *centre)
    if size_px > 0 and len(shown) == 2:
        axis = shown[-1]
        step = np.zeros(layer.ndim)
        step[axis] = 1
        moved = np.asarray(layer.data_to_world(np.asarray(position, float) + step), float)
        start = np.asarray(layer.data_to_world(np.asarray(position, float)), float)
        length = float(np.linalg.norm(moved - start)) * size_px
        if common is not None:
            length *= float((1.0 * layer.units[axis]).to(common[-layer.ndim :][axis]).magnitude)
        if length > 0:
            camera.zoom = max(camera.zoom, _SHARE * _CANVAS_PX / length)
