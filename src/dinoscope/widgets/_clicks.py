"""Clicks and the pointer on the image, for tools of ours, without taking the user's tool away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from dinoscope.widgets._layers import Source, world_to_layer

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: A press that moves further than this (canvas pixels) is a drag.
_CLICK_PX = 5.0
#: Modes of a layer in which a click edits or selects nothing.
_IDLE_MODES = {"pan_zoom"}


def locate(
    viewer: Viewer, source: Source, position: Any
) -> tuple[tuple[int, ...], float, float] | None:
    """Plane, row and column of a world position in an image; ``None`` beside it."""
    if source.layer not in viewer.layers:
        return None
    at = dict(zip(source.layer_axes, world_to_layer(viewer, source.layer, position), strict=True))
    y, x = float(at["Y"]), float(at["X"])
    image = source.image
    if not (-0.5 <= y < image.size("Y") - 0.5 and -0.5 <= x < image.size("X") - 0.5):
        return None
    index = tuple(int(np.round(at[a])) for a in image.plane_axes)
    if any(not 0 <= i < image.size(a) for i, a in zip(index, image.plane_axes, strict=True)):
        return None
    return index, y, x


class ImageClicks(QObject):
    """Tells of clicks on the canvas while it is on; a drag still moves the view.

    A drawing tool would paint under every click, so the active layer's tool is put to pan & zoom
    meanwhile and comes back afterwards. If the user takes up a tool, clicks are theirs.
    """

    #: World position, mouse button (1 left, 2 right), names of the modifier keys.
    clicked = Signal(object, int, object)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._on = False
        self._paused: tuple[Any, Any] | None = None

    @property
    def on(self) -> bool:
        return self._on

    def start(self) -> None:
        """Listen."""
        if self._on:
            return
        self._on = True
        active = self._viewer.layers.selection.active
        mode = str(getattr(active, "mode", "pan_zoom"))
        if active is not None and mode not in _IDLE_MODES:
            self._paused = (active, mode)
            active.mode = "pan_zoom"
        self._viewer.mouse_drag_callbacks.append(self._on_drag)

    def stop(self) -> None:
        """Listen no more; the user's tool comes back."""
        if not self._on:
            return
        self._on = False
        if self._on_drag in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._on_drag)
        paused, self._paused = self._paused, None
        if paused is not None:
            layer, mode = paused
            # Only where the user has chosen nothing else meanwhile.
            if layer in self._viewer.layers and str(layer.mode) in _IDLE_MODES:
                layer.mode = mode

    def _on_drag(self, viewer: Any, event: Any) -> Iterator[None]:
        active = self._viewer.layers.selection.active
        if active is not None and str(getattr(active, "mode", "pan_zoom")) not in _IDLE_MODES:
            return
        position = tuple(event.position)
        start = np.asarray(event.pos, float)
        button, modifiers = int(event.button or 1), tuple(str(m) for m in event.modifiers)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.asarray(event.pos, float) - start).max() <= _CLICK_PX:
            self.clicked.emit(position, button, modifiers)


def how_of_keys(modifiers: Any) -> str:
    """How a click goes into a selection: Shift adds, Alt takes away."""
    keys = {str(m).lower() for m in modifiers}
    if "shift" in keys:
        return "add"
    return "remove" if "alt" in keys else "new"
