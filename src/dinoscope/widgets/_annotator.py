"""The fast loop: strokes on the user's layers become a classifier, and its preview a layer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QApplication

from dinoscope.errors import DinoscopeError
from dinoscope.widgets._annotlayers import ROLES, AnnotatedImage
from dinoscope.widgets._annotsession import AnnotSession, Wish
from dinoscope.widgets._classlist import ClassList
from dinoscope.widgets._client import Controller
from dinoscope.widgets._jump import jump_to
from dinoscope.widgets._keeper import Keeper
from dinoscope.widgets._layers import Source, current_plane, show_plane, visible_region
from dinoscope.widgets._regions import pieces, wants_overview
from dinoscope.widgets._strokefollow import StrokeFollower, snapshot

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: Another plane is previewed when the slider has rested so long.
_SLIDER_MS = 120
_NEXT_SIZE_PX = 60.0


class Annotator(QObject):
    """What the panel drives; it knows layers and strokes, but no buttons.

    Parameters
    ----------
    viewer : napari.Viewer
        Where the layers are.
    controller : Controller
        Has the worker.
    """

    said = Signal(str, str)
    busy = Signal(str)
    #: What the newest fit says of itself.
    fitted = Signal(object)
    #: Strokes were added or erased.
    strokes_changed = Signal()
    #: A layer of an image went: the image, the role (empty = the image itself).
    layer_gone = Signal(object, str)
    #: Events of the keeper: project opened, saved, failed …
    told = Signal(str, object)

    def __init__(self, viewer: Viewer, controller: Controller, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.controller = controller
        self.classes = ClassList()
        self.images: dict[str, AnnotatedImage] = {}
        self._followers: dict[str, StrokeFollower] = {}
        self.current: AnnotatedImage | None = None
        self.keeper = Keeper(self._tell)
        self.session = AnnotSession(controller, self.keeper.book, self)
        self.session.names = lambda: tuple(c.name for c in self.classes)
        self.row = 1
        self.brush = 8
        self.opacity = 0.4
        self.show_preview = True
        self.want: tuple[str, ...] = ("labels",)
        self._generation = 0
        #: Counts changes of strokes.
        self.version = 0
        self._fresh: dict[Any, Any] = {}
        #: Planes that have a preview, by image.
        self.previewed: set[tuple[str, tuple[int, ...]]] = set()
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_SLIDER_MS)
        self._rest.timeout.connect(self.refresh)
        self.told.connect(self._on_told)
        self.session.arrived.connect(self._on_arrived)
        self.session.fitted.connect(self._on_fitted)
        self.session.completed.connect(self._on_completed)
        self.session.failed.connect(self._on_failed)
        self.session.opened.connect(self._on_opened)
        self.session.busy.connect(self.busy)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.current_step.connect(self._on_slider)

    def close(self) -> None:
        """Stop everything; the layers stay, what is unsaved is written."""
        self._rest.stop()
        for follower in self._followers.values():
            follower.flush()
            follower.stop()
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._viewer.dims.events.current_step.disconnect(self._on_slider)
        self.session.close()
        self.keeper.close()

    def _tell(self, event: str, data: Mapping[str, Any]) -> None:
        # From the keeper's thread, perhaps after the panel is gone.
        with contextlib.suppress(RuntimeError):
            self.told.emit(event, data)

    # -- images --------------------------------------------------------------------------------

    def image_of(self, source: Source) -> AnnotatedImage | None:
        """The annotated image of a source, if it is one."""
        return self.images.get(str(source.layer.unique_id))

    def start(self, source: Source, *, activate: bool = True) -> AnnotatedImage:
        """Make an image ready to be painted on, with the strokes that are known of it."""
        image = self.image_of(source)
        if image is None:
            image = AnnotatedImage(self._viewer, source)
            self.images[image.key] = image
            self._followers[image.key] = follower = StrokeFollower(self._viewer, image, self)
            follower.touched.connect(self._on_touched)
            path = source.layer.source.path if len(source.layers) == 1 else None
            self.keeper.know(image.key, source.image, path)
        if image.scribbles is None:
            layer = image.make("scribbles", self.classes)
            self.paint_strokes(image)
            # What an earlier panel left there counts too.
            self._followers[image.key].look_at_all()
            for number in range(1, 10):
                layer.bind_key(str(number), self._key_for(number - 1), overwrite=True)
            self._followers[image.key].follow(layer)
        if activate:
            self.activate(image)
        return image

    def clear(self) -> None:
        """Take all our layers off; nothing is annotated any more, what was saved stays saved."""
        self.flush()
        images, self.images = self.images, {}
        for key, image in images.items():
            self._followers.pop(key).stop()
            image.remove()
            self.session.forget_source(key)
        self.current = None
        self._fresh.clear()
        self.previewed.clear()
        self.session.restart()

    def take_classes(self, classes: Any) -> None:
        """The classes of a project."""
        self.classes.replace(classes)
        self.new_codes()
        self.row = min(1, len(self.classes) - 1)
        self.told.emit("classes", {})

    def paint_strokes(self, image: AnnotatedImage) -> None:
        """Bring the strokes that are known of an image into its scribble layer."""
        follower = self._followers[image.key]
        for _, index in self.keeper.book.planes(image.key):
            strokes = self.keeper.book.strokes(image.key, index)
            image.put_strokes(index, strokes.flat, strokes.codes)
            follower.painted.add(index)
        image.scribbles.refresh()

    def activate(self, image: AnnotatedImage, *, tool: bool = True) -> None:
        """Paint on this image from now on."""
        self.current = image
        layer = image.scribbles
        if layer is not None and tool:
            self._viewer.layers.selection.active = layer
            layer.mode = "paint"
        self.choose(self.row)
        self.set_brush(self.brush)
        self._prepare()
        self.refresh()

    def choose(self, row: int) -> None:
        """Paint the class in a row of the list."""
        if row >= len(self.classes):
            return
        self.row = row
        for image in self.images.values():
            if image.scribbles is not None:
                image.scribbles.selected_label = self.classes.code(row)

    def set_brush(self, size: int) -> None:
        """Diameter of the brush in pixels."""
        self.brush = size
        for image in self.images.values():
            if image.scribbles is not None and image.scribbles.brush_size != size:
                image.scribbles.brush_size = size

    def set_opacity(self, opacity: float) -> None:
        """Of all previews."""
        self.opacity = opacity
        for image in self.images.values():
            if image.preview is not None:
                image.preview.opacity = opacity

    def show(self, *, preview: bool, want: tuple[str, ...]) -> None:
        """Which of our layers are seen."""
        self.show_preview, self.want = preview, want
        for image in self.images.values():
            for role, on in (("preview", preview), ("uncertainty", "uncertainty" in want)):
                layer = image.layer(role)
                if layer is not None:
                    layer.visible = on
        self.refresh()

    def _key_for(self, row: int) -> Any:
        def choose(layer: Any) -> None:
            self.choose(row)
            self.told.emit("chosen", {"row": row})

        return choose

    # -- strokes -------------------------------------------------------------------------------

    def _on_touched(self, image: AnnotatedImage, index: tuple[int, ...]) -> None:
        self.look(image, index)

    def look(self, image: AnnotatedImage, index: tuple[int, ...]) -> None:
        """Let the keeper find out what changed on a plane."""
        if image.scribbles is None:
            return
        try:
            self.keeper.look(image.key, index, snapshot(image, index))
        except DinoscopeError as error:
            self.said.emit(str(error), "error")

    def flush(self) -> None:
        """Hand over strokes that wait for their turn."""
        for follower in self._followers.values():
            follower.flush()

    def painted(self) -> list[tuple[AnnotatedImage, tuple[int, ...]]]:
        """The planes that were ever painted on, of images whose scribbles are there."""
        return [
            (image, index)
            for key, image in self.images.items()
            if image.scribbles is not None
            for index in sorted(self._followers[key].painted)
        ]

    def new_codes(self) -> None:
        """Codes mean other classes from now on: what is under way is out of date."""
        self._generation += 1
        self._fresh.clear()

    def _on_told(self, event: str, data: Any) -> None:
        if event == "changed":
            self.version += 1
            self.strokes_changed.emit()
            image = self.images.get(data["key"])
            if image is not None:
                self._followers[image.key].painted.add(data["index"])
                self._ask(image, self._followers[image.key].index())
        elif event == "recoded":
            self.version += 1
            self.strokes_changed.emit()
            self.refresh()

    # -- previews ------------------------------------------------------------------------------

    @property
    def classes_painted(self) -> int:
        """How many classes have strokes."""
        return int(np.count_nonzero(self.keeper.book.counts()[1:]))

    def is_fresh(self) -> bool:
        """Whether the preview of what is in view is that of the newest strokes."""
        if self.current is None or not self.session.idle:
            return False
        place = self.current.key, current_plane(self._viewer, self.current.source)
        waiting = any(follower.waiting for follower in self._followers.values())
        return not waiting and self._fresh.get(place) == self.state

    @property
    def state(self) -> tuple[Any, ...]:
        """What a preview depends on."""
        return (self.version, self._generation, self.want, self.session.model)

    def refresh(self) -> None:
        """Bring the preview of what is in view up to date."""
        if self.current is not None:
            index = current_plane(self._viewer, self.current.source)
            self._ask(self.current, index)
            self._prepare()

    def _ask(self, image: AnnotatedImage, index: tuple[int, ...]) -> None:
        seen_at_all = self.show_preview or "uncertainty" in self.want
        if image.source.layer not in self._viewer.layers or not seen_at_all:
            return
        state = self.state
        if self._fresh.get((image.key, index)) == state:
            return
        if self.classes_painted < 2:
            self.session.drop()
            self._clear_preview(image, index)
            return
        try:
            seen = visible_region(self._viewer, image.source)
        except DinoscopeError:
            seen = None
        self.session.ask(
            Wish(
                image.key,
                index,
                image.source.image,
                pieces(image.plane_shape, seen),
                self.want,
                wants_overview(image.plane_shape, seen),
                bool(QApplication.mouseButtons() & Qt.MouseButton.LeftButton),
                self._generation,
                state,
                time.monotonic(),
            )
        )

    def _prepare(self) -> None:
        if self.current is not None and self.session.model:
            index = current_plane(self._viewer, self.current.source)
            self.session.prepare(self.current.key, index, self.current.source.image)

    def _clear_preview(self, image: AnnotatedImage, index: tuple[int, ...]) -> None:
        for role in ("preview", "uncertainty"):
            if image.layer(role) is not None and (image.key, index) in self.previewed:
                image.write(role, index, None, np.zeros(image.plane_shape, np.uint8))
        self.previewed.discard((image.key, index))

    def _on_arrived(self, wish: Wish, data: Mapping[str, Any]) -> None:
        image = self.images.get(str(data.get("source", wish.key)))
        if image is None or wish.generation != self._generation or image.scribbles is None:
            return
        index = tuple(int(i) for i in data["index"])
        region = data.get("region")
        shown = index == current_plane(self._viewer, image.source)
        for name, role in (("labels", "preview"), ("uncertainty", "uncertainty")):
            values = data.get(name)
            if values is None:
                continue
            if image.layer(role) is None:
                layer = image.make(role, self.classes)
                layer.visible = self.show_preview if role == "preview" else True
                if role == "preview":
                    layer.opacity = self.opacity
            values = np.asarray(values, np.uint8)
            step = int(data.get("step", 1))
            if step > 1:  # an overview: each value stands for a square of pixels
                rows, columns = image.plane_shape
                values = values.repeat(step, 0)[:rows].repeat(step, 1)[:, :columns]
            image.write(role, index, region, values, shown=shown)
        self.previewed.add((image.key, index))

    def _on_fitted(self, wish: Wish, data: Mapping[str, Any]) -> None:
        if wish.generation == self._generation:
            self.fitted.emit(data)

    def _on_completed(self, wish: Wish) -> None:
        self._fresh[wish.key, wish.index] = wish.state

    def _on_opened(self, data: Mapping[str, Any]) -> None:
        """A new worker has to see the planes again that have strokes."""
        for key, index in self.keeper.book.planes():
            image = self.images.get(key)
            if image is not None:
                self.session.prepare(key, index, image.source.image)

    def _on_failed(self, error: DinoscopeError) -> None:
        self.said.emit(str(error), "error")

    # -- following the user --------------------------------------------------------------------

    def _on_slider(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            if self.images:
                self._rest.start()

    def _on_removed(self, event: Any) -> None:
        with contextlib.suppress(RuntimeError):
            self._removed(event.value)

    def _removed(self, layer: Any) -> None:
        for image in list(self.images.values()):
            if layer is image.source.layer:
                self._followers.pop(image.key).stop()
                del self.images[image.key]
                self.session.forget_source(image.key)
                if self.current is image:
                    self.current = None
                self.layer_gone.emit(image, "")
            role = image.role_of(layer)
            if role == ROLES[0]:
                self._followers[image.key].stop()
            elif role:
                self.previewed = {p for p in self.previewed if p[0] != image.key}
                self._fresh.clear()
            if role:
                self.layer_gone.emit(image, role)

    def go_to(self, image: AnnotatedImage, index: tuple[int, ...], y: float, x: float) -> None:
        """Show a place of an image, and make it the one that is painted on."""
        show_plane(self._viewer, image.source, index)
        at = dict(zip(image.source.image.plane_axes, index, strict=True)) | {"Y": y, "X": x}
        position = [at.get(axis, 0) for axis in image.source.layer_axes]
        jump_to(self._viewer, image.source.layer, position, _NEXT_SIZE_PX)
        if image is not self.current:
            self.activate(image)

    def next_place(self) -> None:
        """Jump to where a stroke teaches most."""
        if self.classes_painted < 2:
            self.said.emit("Paint two classes first: then there is something to be unsure of.", "")
            return
        self.session.when_open(self._send_next)

    def _send_next(self) -> None:
        sources: dict[str, list[tuple[int, ...]]] = {}
        for key, image in self.images.items():
            shape = image.source.image.plane_shape
            sources[key] = [tuple(int(i) for i in index) for index in np.ndindex(shape)]
        payload = {"session": self.session.session, "sources": sources}
        job = self.controller.submit("annotate_next", payload)
        job.done.connect(self._on_next)
        job.failed.connect(self._on_failed)

    def _on_next(self, data: Mapping[str, Any]) -> None:
        image = self.images.get(str(data.get("source")))
        if image is None:
            self.said.emit("Nothing left that the classifier is unsure of here.", "")
            return
        index = tuple(int(i) for i in data["index"])
        self.go_to(image, index, float(data["y"]), float(data["x"]))
        self.said.emit("Here the classifier is least sure: paint what it really is.", "")
