"""What is annotated completely: areas drawn in a Shapes layer, and planes that are ticked.

Outside of them "not annotated" means unknown; inside, what carries no object is background.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer

from dinoscope.widgets._annotator import Annotator
from dinoscope.widgets._annotlayers import AnnotatedImage
from dinoscope.widgets._layers import current_plane
from dinoscope.widgets._results import METADATA, selection_kept

if TYPE_CHECKING:
    from napari.viewer import Viewer

_ROLE = "area"
_SETTLE_MS = 300
_COLOUR = "#ffd60a"
_ELLIPSE_CORNERS = 48


class Areas(QObject):
    """Makes and follows the *annotated area* layers.

    Parameters
    ----------
    annotator : Annotator
        Whose images.
    """

    def __init__(self, viewer: Viewer, annotator: Annotator, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._annotator = annotator
        self._layers: dict[str, Any] = {}
        #: Planes that had an area, to be cleared when it goes.
        self._planes: dict[str, set[tuple[int, ...]]] = {}
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SETTLE_MS)
        self._timer.timeout.connect(self.save)

    def close(self) -> None:
        if self._timer.isActive():
            self._timer.stop()
            self.save()
        for layer in self._layers.values():
            layer.events.data.disconnect(self._on_data)
        self._layers.clear()

    def layer(self, image: AnnotatedImage) -> Any:
        """The layer of an image, if there is one."""
        layer = self._layers.get(image.key)
        return layer if layer is not None and layer in self._viewer.layers else None

    def draw(self, image: AnnotatedImage) -> None:
        """Let the user draw an area."""
        layer = self.layer(image) or self._make(image)
        layer.visible = True
        self._viewer.layers.selection.active = layer
        layer.mode = "add_polygon_lasso"

    def restore(self, image: AnnotatedImage) -> None:
        """Show the areas that the project knows of an image."""
        keeper = self._annotator.keeper
        source = keeper.ids.get(image.key)
        if keeper.project is None or source is None or self.layer(image) is not None:
            return
        shapes = []
        for index in keeper.project.planes(source):
            for polygon in keeper.project.area(source, index):
                shapes.append(_corners(image, index, polygon))
                self._planes.setdefault(image.key, set()).add(index)
        if shapes:
            layer = self._make(image)
            with layer.events.data.blocker():
                layer.add_polygons(shapes)

    def is_complete(self, image: AnnotatedImage) -> bool:
        """Whether the plane in view is ticked."""
        keeper = self._annotator.keeper
        source = keeper.ids.get(image.key)
        if keeper.project is None or source is None:
            return False
        index = current_plane(self._viewer, image.source)
        return bool(keeper.project.complete(source, index))

    def set_complete(self, image: AnnotatedImage, on: bool) -> None:
        """Tick the plane in view, or take the tick away."""
        index = current_plane(self._viewer, image.source)
        self._annotator.keeper.change(
            image.key, lambda project, source: project.set_complete(source, index, on)
        )

    def save(self) -> None:
        """Hand the polygons to the project."""
        for key, image in self._annotator.images.items():
            layer = self.layer(image)
            found = _polygons(image, layer) if layer is not None else {}
            before = self._planes.get(key, set())
            self._planes[key] = set(found)
            for index in before | set(found):
                self._annotator.keeper.change(key, _set_area(index, found.get(index, [])))

    def _make(self, image: AnnotatedImage) -> Any:
        from napari.layers import Shapes

        layer = Shapes(
            ndim=len(image.placement.axes),
            name=f"{image.source.layer.name} · annotated area",
            edge_color=_COLOUR,
            face_color=_COLOUR + "20",
            edge_width=max(image.plane_shape) / 300,
            **image.placement.kwargs,
        )
        layer.metadata[METADATA] = {"annotate": _ROLE, "source_id": image.key}
        with selection_kept(self._viewer):
            self._viewer.add_layer(layer)
        layer.events.data.connect(self._on_data)
        self._layers[image.key] = layer
        return layer

    def _on_data(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            self._timer.start()


def _set_area(index: tuple[int, ...], polygons: list[np.ndarray]) -> Any:
    return lambda project, source: project.set_area(source, index, polygons)


def _polygons(image: AnnotatedImage, layer: Any) -> dict[tuple[int, ...], list[np.ndarray]]:
    """Corners (n, 2) of the shapes of a layer, by plane."""
    axes = image.placement.axes
    found: dict[tuple[int, ...], list[np.ndarray]] = {}
    for corners, kind in zip(layer.data, layer.shape_type, strict=True):
        corners = np.asarray(corners, float)
        if kind in ("line", "path"):
            continue
        at = dict(zip(axes, corners[0], strict=True))
        index = tuple(int(np.rint(at.get(a, 0))) for a in image.source.image.plane_axes)
        yx = corners[:, [axes.index("Y"), axes.index("X")]]
        if kind == "ellipse":
            yx = _ellipse(yx)
        found.setdefault(index, []).append(yx)
    return found


def _ellipse(box: np.ndarray) -> np.ndarray:
    """The ellipse in a box of four corners, as a polygon."""
    middle = box.mean(axis=0)
    first, second = (box[1] - box[0]) / 2, (box[3] - box[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    return np.asarray(middle + np.cos(angle) * first + np.sin(angle) * second)


def _corners(image: AnnotatedImage, index: tuple[int, ...], polygon: np.ndarray) -> np.ndarray:
    at = dict(zip(image.source.image.plane_axes, index, strict=True))
    axes = image.placement.axes
    corners = np.zeros((len(polygon), len(axes)))
    for place, axis in enumerate(axes):
        corners[:, place] = at.get(axis, 0)
    corners[:, axes.index("Y")] = polygon[:, 0]
    corners[:, axes.index("X")] = polygon[:, 1]
    return corners
