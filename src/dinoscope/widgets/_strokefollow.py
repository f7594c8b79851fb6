"""Follows the scribbles of an image: strokes, fills, erasing, undo and redo, on every plane."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from dinoscope.errors import InputError
from dinoscope.widgets._annotlayers import DTYPES, AnnotatedImage
from dinoscope.widgets._layers import current_plane

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: While a stroke is drawn the preview follows this often; when it ends, at once.
THROTTLE_MS = 80
#: Undo and tools that edit in depth change planes that are not in view: looked at in the idle time.
_OTHERS_MS = 250
_IN_DEPTH = 3


class StrokeFollower(QObject):
    """Tells which planes of a scribble layer may have changed; it does not look at pixels.

    `paint` comes at the end of a stroke, `labels_update` while it is drawn. Undo and redo say
    ``set_data`` only, as do other slices, so that a redraw that was no stroke costs one look.
    """

    #: The image, and an index along its plane axes.
    touched = Signal(object, object)

    def __init__(self, viewer: Viewer, image: AnnotatedImage, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.image = image
        self._layer: Any = None
        self._pending: set[tuple[int, ...]] = set()
        self._last: tuple[int, ...] | None = None
        self._others: list[tuple[int, ...]] = []
        #: Planes that were ever painted on: the only ones that undo can change.
        self.painted: set[tuple[int, ...]] = set()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._tell)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._tell_another)

    def follow(self, layer: Any) -> None:
        """Follow a layer (a new one after the old one was removed)."""
        self.stop()
        self._layer = layer
        events = layer.events
        events.labels_update.connect(self._on_drawing)
        events.paint.connect(self._on_stroke)
        events.set_data.connect(self._on_redraw)
        events.data.connect(self._on_data)

    def stop(self) -> None:
        """Follow nothing."""
        self._timer.stop()
        self._later.stop()
        layer, self._layer = self._layer, None
        if layer is not None:
            events = layer.events
            events.labels_update.disconnect(self._on_drawing)
            events.paint.disconnect(self._on_stroke)
            events.set_data.disconnect(self._on_redraw)
            events.data.disconnect(self._on_data)

    def index(self) -> tuple[int, ...]:
        """The plane in view."""
        return current_plane(self._viewer, self.image.source)

    @property
    def waiting(self) -> bool:
        """Whether something was touched that was not told yet."""
        return self._timer.isActive()

    def look_at_all(self) -> None:
        """Tell of every plane, one after the other."""
        self._look_at(np.ndindex(self.image.source.image.plane_shape))

    def flush(self) -> None:
        """Tell now what waits."""
        if self._timer.isActive():
            self._timer.stop()
            self._tell()

    def _on_drawing(self, event: Any = None) -> None:
        self._soon(THROTTLE_MS)

    def _on_stroke(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            index = self.index()
            self._pending.add(index)
            self.painted.add(index)
            if int(getattr(self._layer, "n_edit_dimensions", 2)) >= _IN_DEPTH:
                self.look_at_all()
            self._soon(0)

    def _on_redraw(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            index = self.index()
            if index == self._last:
                self._look_at(self.painted - {index})
            self._last = index
            self._pending.add(index)
            self._soon(THROTTLE_MS // 2)

    def _on_data(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            self.look_at_all()

    def _soon(self, wait_ms: int) -> None:
        with contextlib.suppress(RuntimeError):
            left = self._timer.remainingTime() if self._timer.isActive() else -1
            if left < 0 or left > wait_ms:
                self._timer.start(wait_ms)

    def _look_at(self, planes: Any) -> None:
        new = [tuple(int(i) for i in index) for index in planes]
        self._others += [index for index in new if index not in self._others]
        if self._others and not self._later.isActive():
            self._later.start(_OTHERS_MS)

    def _tell(self) -> None:
        pending, self._pending = self._pending | {self.index()}, set()
        for index in sorted(pending):
            self.touched.emit(self.image, index)

    def _tell_another(self) -> None:
        """One plane at a time: the window stays free between them."""
        if self._layer is None or not self._others:
            return
        self.touched.emit(self.image, self._others.pop())
        if self._others:
            self._later.start(0)


def snapshot(image: AnnotatedImage, index: tuple[int, ...], role: str = "scribbles") -> np.ndarray:
    """A copy of a plane of a layer, for the keeper.

    Raises
    ------
    InputError
        The layer was given data of another shape.
    """
    layer = image.layer(role)
    if tuple(layer.data.shape) != image.placement.shape:
        raise InputError(
            f"{layer.name!r} now has shape {tuple(layer.data.shape)}",
            expected=f"{image.placement.shape}, as its image",
            hint="Remove the layer and press Start annotating: your strokes come back.",
        )
    return np.array(image.plane(role, index), dtype=DTYPES[role], order="C")
