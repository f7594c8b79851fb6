"""Correcting objects on their Labels layer: merge, split, delete, draw; and clicking examples.

Every change goes through the layer's own editing, so that Ctrl+Z takes it back.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from dinoscope.widgets._annotlayers import AnnotatedImage
from dinoscope.widgets._clicks import ImageClicks, locate
from dinoscope.widgets._layers import current_plane

if TYPE_CHECKING:
    from napari.viewer import Viewer

Index = tuple[int, ...]
TOOLS = {
    "merge": ("Merge", "Click an object, then others that belong to it. Right click: begin anew."),
    "split": ("Split", "Draw a line across an object: its parts become objects of their own."),
    "delete": ("Delete", "Click objects that are none."),
    "draw": ("Draw", "Paint a missing object; each stroke apart from others is a new one."),
    "example": ("Class", "Click objects that are good examples of the class chosen above."),
}
#: Tools that use napari's brush; the others are clicks.
_BRUSHES = ("split", "draw")
_CUT_PX = 2
_SMALLEST_PART = 5


class Corrections(QObject):
    """The tool that is taken up, if one is."""

    #: Image, plane index and id of an object that was clicked.
    example = Signal(object, object, int)
    #: Objects of this image and plane were changed by a tool.
    changed = Signal(object, object)
    tool_changed = Signal(str)
    said = Signal(str, str)

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.tool = ""
        self.image: AnnotatedImage | None = None
        self._first = 0
        self._before: np.ndarray | None = None
        self._layer: Any = None
        self._busy = False
        self._clicks = ImageClicks(viewer, self)
        self._clicks.clicked.connect(self._on_click)

    def start(self, tool: str, image: AnnotatedImage) -> None:
        """Take up a tool."""
        self.stop()
        layer = image.layer("objects")
        self.tool, self.image, self._layer, self._first = tool, image, layer, 0
        self._viewer.layers.selection.active = layer
        layer.visible = True
        if tool in _BRUSHES:
            layer.mode = "paint"
            layer.preserve_labels = tool == "draw"
            if tool == "split":
                layer.selected_label, layer.brush_size = 0, _CUT_PX
            else:
                self._next_label()
            self._remember()
            layer.events.paint.connect(self._on_paint)
        else:
            layer.mode = "pan_zoom"
            self._clicks.start()
        self.tool_changed.emit(tool)
        self.said.emit(TOOLS[tool][1], "")

    def stop(self) -> None:
        """Put the tool away."""
        if not self.tool:
            return
        tool, self.tool = self.tool, ""
        self._clicks.stop()
        layer, self._layer = self._layer, None
        if layer is not None:
            if tool in _BRUSHES:
                layer.events.paint.disconnect(self._on_paint)
                layer.preserve_labels = False
            if layer in self._viewer.layers:
                layer.mode = "pan_zoom"
        self.tool_changed.emit("")

    def put(self, image: AnnotatedImage, index: Index, plane: np.ndarray) -> None:
        """Replace the objects of a plane, undoably."""
        before = image.plane("objects", index)
        changed = np.flatnonzero(before != plane)
        self._edit(image, index, changed, plane.reshape(-1)[changed])

    # -- clicks --------------------------------------------------------------------------------

    def _on_click(self, position: Any, button: int, modifiers: Any) -> None:
        image = self.image
        if image is None or image.layer("objects") is None:
            return
        place = locate(self._viewer, image.source, position)
        if place is None:
            return
        index, y, x = place
        plane = image.plane("objects", index)
        number = int(plane[int(np.round(y)), int(np.round(x))])
        if button != 1:
            self._first = 0
            self.said.emit(TOOLS[self.tool][1], "")
            return
        if number == 0:
            return
        if self.tool == "example":
            self.example.emit(image, index, number)
        elif self.tool == "delete":
            where = np.flatnonzero(plane == number)
            self._edit(image, index, where, 0)
            self.changed.emit(image, index)
        elif self.tool == "merge":
            self._merge(image, index, plane, number)

    def _merge(self, image: AnnotatedImage, index: Index, plane: np.ndarray, number: int) -> None:
        if self._first in (0, number):
            self._first = number
            self.said.emit(f"Object {number}: now click what belongs to it.", "")
            return
        where = np.flatnonzero(plane == number)
        self._edit(image, index, where, self._first)
        self.said.emit(f"{number} belongs to {self._first} now.", "")
        self.changed.emit(image, index)

    # -- brush ---------------------------------------------------------------------------------

    def _on_paint(self, event: Any = None) -> None:
        # An edit by code tells before it is made: look when it is.
        if not self._busy:
            QTimer.singleShot(0, self._painted)

    def _painted(self) -> None:
        if self.image is None or self._layer is None or self._layer not in self._viewer.layers:
            return
        with contextlib.suppress(RuntimeError):
            index = current_plane(self._viewer, self.image.source)
            if self.tool == "split" and self._before is not None:
                self._cut(self.image, index, self._before)
            elif self.tool == "draw":
                self._next_label()
            self._remember()
            self.changed.emit(self.image, index)

    def _cut(self, image: AnnotatedImage, index: Index, before: np.ndarray) -> None:
        """Give the parts of every object that was cut through ids of their own."""
        from scipy.ndimage import find_objects, label

        plane = np.array(image.plane("objects", index))
        if before.shape != plane.shape:
            return
        cut = np.unique(before[(before != plane) & (before > 0)])
        boxes = find_objects(before.astype(np.int64))
        following = int(max(plane.max(), before.max())) + 1
        made = 0
        for number in cut:
            box = boxes[int(number) - 1]
            parts, _ = label(plane[box] == number)
            sizes = np.bincount(parts.ravel())[1:]
            whole = [i + 1 for i in np.argsort(-sizes) if sizes[i] >= _SMALLEST_PART]
            if len(whole) < 2:
                continue
            # The line itself goes to the parts beside it: an object has no moat.
            line = (before[box] == number) & (plane[box] == 0)
            owner = _nearest(parts, whole, line)
            for part in whole:
                value = int(number) if part == whole[0] else following
                plane[box][(parts == part) | (owner == part)] = value
                following += part != whole[0]
            made += len(whole) - 1
        if made:
            self.put(image, index, plane)
        self.said.emit(f"{made} cut." if made else "The line has to go right across.", "")

    def _remember(self) -> None:
        if self.image is not None:
            index = current_plane(self._viewer, self.image.source)
            self._before = np.array(self.image.plane("objects", index))

    def _next_label(self) -> None:
        if self.image is not None and self._layer is not None:
            index = current_plane(self._viewer, self.image.source)
            self._layer.selected_label = int(self.image.plane("objects", index).max()) + 1

    def _edit(self, image: AnnotatedImage, index: Index, flat: np.ndarray, values: Any) -> None:
        self._busy = True
        try:
            image.edit("objects", index, flat, values)
        finally:
            self._busy = False


def _nearest(parts: np.ndarray, whole: list[int], line: np.ndarray) -> np.ndarray:
    """For each pixel of `line` the part that is nearest to it; 0 elsewhere."""
    from scipy.ndimage import distance_transform_edt

    owner = np.zeros(parts.shape, parts.dtype)
    if line.any():
        at = distance_transform_edt(
            ~np.isin(parts, whole), return_distances=False, return_indices=True
        )
        owner[line] = parts[tuple(axis[line] for axis in at)]
    return owner
