"""From preview to objects: split, corrected by hand, and told apart by clicked examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from dinoscope.errors import DinoscopeError, InputError
from dinoscope.types import Table
from dinoscope.widgets._annotator import Annotator
from dinoscope.widgets._annotlayers import AnnotatedImage
from dinoscope.widgets._correct import Corrections
from dinoscope.widgets._keeper import OBJECTS
from dinoscope.widgets._layers import current_plane
from dinoscope.widgets._strokefollow import StrokeFollower, snapshot
from dinoscope.widgets._tables import join_tables, rows_of

if TYPE_CHECKING:
    from napari.viewer import Viewer

Index = tuple[int, ...]


class Objects(QObject):
    """Objects of the images that are annotated.

    Parameters
    ----------
    annotator : Annotator
        Has images, session and keeper.
    """

    said = Signal(str, str)
    #: Objects or their classes changed: the table of the plane in view.
    table_changed = Signal(object)
    tool_changed = Signal(str)

    def __init__(self, viewer: Viewer, annotator: Annotator, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._annotator = annotator
        self._followers: dict[str, StrokeFollower] = {}
        self.corrections = Corrections(viewer, self)
        self.corrections.example.connect(self._on_example)
        self.corrections.tool_changed.connect(self.tool_changed)
        self.corrections.said.connect(self.said)
        self.corrections.changed.connect(self._on_corrected)
        #: Clicked examples: class code by id, for each plane.
        self.examples: dict[tuple[str, Index], dict[int, int]] = {}
        self.classes: dict[tuple[str, Index], dict[int, int]] = {}
        self.tables: dict[tuple[str, Index], Table] = {}
        self._plain: dict[tuple[str, Index], np.ndarray] = {}
        self._confirm: tuple[str, Index] | None = None

    def close(self) -> None:
        """The panel goes away."""
        self.corrections.stop()
        for follower in self._followers.values():
            follower.flush()
            follower.stop()

    def follow(self, image: AnnotatedImage) -> None:
        """Follow the objects of an image; make their layer where the project has some."""
        keeper = self._annotator.keeper
        known = keeper.objects.planes(image.key)
        if known and image.layer("objects") is None:
            layer = self._layer(image)
            for _, index in known:
                strokes = keeper.objects.strokes(image.key, index)
                plane = np.zeros(image.plane_shape, np.uint32)
                plane.reshape(-1)[strokes.flat] = strokes.codes
                image.write("objects", index, None, plane, shown=False)
                self._recall(image, index)
            layer.refresh()

    def _recall(self, image: AnnotatedImage, index: Index) -> None:
        keeper = self._annotator.keeper
        source = keeper.ids.get(image.key)
        if keeper.project is not None and source is not None:
            given = dict(keeper.project.objects(source, index).classes)
            if given:
                self.examples[image.key, index] = given

    def _layer(self, image: AnnotatedImage) -> Any:
        layer = image.layer("objects")
        if layer is None:
            layer = image.make("objects", self._annotator.classes)
            follower = self._followers.get(image.key)
            if follower is None:
                follower = self._followers[image.key] = StrokeFollower(self._viewer, image, self)
                follower.touched.connect(self._on_touched)
            follower.follow(layer)
        return layer

    def _on_touched(self, image: AnnotatedImage, index: Index) -> None:
        if image.layer("objects") is None:
            return
        try:
            plane = snapshot(image, index, "objects")
        except DinoscopeError as error:
            self.said.emit(str(error), "error")
            return
        self._annotator.keeper.look(image.key, index, plane, OBJECTS)

    # -- from the preview ----------------------------------------------------------------------

    def split(self, method: str, min_size_px: int) -> None:
        """Find the objects of the plane in view.

        Raises
        ------
        InputError
            There is no preview yet.
        """
        image = self._need_image()
        index = current_plane(self._viewer, image.source)
        place = (image.key, index)
        if image.preview is None or not image.plane("preview", index).any():
            raise InputError(
                "there is no preview of this plane", expected="strokes of at least two classes"
            )
        if self._corrected(image, index) and self._confirm != place:
            self._confirm = place
            self.said.emit(
                "You corrected objects here. Press again to replace them (undo: Ctrl+Z).", "warning"
            )
            return
        self._confirm = None
        labels = np.array(image.plane("preview", index))

        def send() -> None:
            payload = {
                "session": self._annotator.session.session,
                "source": image.key,
                "index": index,
                "labels": labels,
                "method": method,
                "min_size_px": min_size_px,
            }
            images = {"image": image.source.image}
            job = self._annotator.controller.submit("annotate_objects", payload, images)
            job.done.connect(lambda data: self._on_split(image, index, data))
            job.failed.connect(self._on_failed)

        self.said.emit("Finding the objects …", "")
        self._annotator.session.when_open(send)

    def _on_split(self, image: AnnotatedImage, index: Index, data: Mapping[str, Any]) -> None:
        if image.key not in self._annotator.images:
            return
        instances = np.asarray(data["instances"], np.uint32)
        layer = self._layer(image)
        before = image.plane("objects", index)
        if before.any():  # undoable: there was something
            self.corrections.put(image, index, instances)
        else:
            image.write("objects", index, None, instances)
        self._plain[image.key, index] = instances
        self._annotator.keeper.change(
            image.key, lambda project, source: project.add_found(source, index, instances)
        )
        classes = {int(k): int(v) for k, v in dict(data.get("classes") or {}).items()}
        self._take(image, index, classes, data.get("table") or {})
        self._on_touched(image, index)
        layer.visible = True
        self.said.emit(
            f"{len(np.unique(instances)) - 1:,} objects. Improve learns from those you correct, "
            "or from all of a complete plane.",
            "",
        )

    def _corrected(self, image: AnnotatedImage, index: Index) -> bool:
        if image.layer("objects") is None:
            return False
        plane = image.plane("objects", index)
        ours = self._plain.get((image.key, index))
        return bool(plane.any()) and (ours is None or not np.array_equal(plane, ours))

    # -- classes -------------------------------------------------------------------------------

    def _on_example(self, image: AnnotatedImage, index: Index, number: int) -> None:
        """An object was clicked: it is of the class that is chosen."""
        code = self._annotator.classes.code(self._annotator.row)
        given = self.examples.setdefault((image.key, index), {})
        given[number] = code
        keeper = self._annotator.keeper
        keeper.change(
            image.key, lambda project, source: project.set_object_classes(source, index, given)
        )
        name = self._annotator.classes[self._annotator.row].name
        self.said.emit(f"Object {number} is an example of {name!r}.", "")
        codes = {c for one in self.examples.values() for c in one.values()}
        if len(codes) < 2:
            self._take(image, index, dict(given), self.tables.get((image.key, index), {}))
            self.said.emit(f"{name!r}: {number}. Now choose another class and click it.", "")
            return
        self.classify(image, index)

    def classify(self, image: AnnotatedImage, index: Index) -> None:
        """Give every object of a plane a class, after the examples on all planes."""
        annotator = self._annotator
        planes = []
        for key, at in {(image.key, index), *self.examples}:
            of = annotator.images.get(key)
            if of is None or of.layer("objects") is None:
                continue
            instances = np.array(of.plane("objects", at))
            there = set(np.unique(instances).tolist())
            given = {n: c for n, c in self.examples.get((key, at), {}).items() if n in there}
            planes.append({"source": key, "index": at, "instances": instances, "examples": given})
        images = {key: one.source.image for key, one in annotator.images.items()}

        def send() -> None:
            payload = {"session": annotator.session.session, "planes": planes}
            job = annotator.controller.submit("annotate_object_classes", payload, images)
            job.done.connect(self._on_classified)
            job.failed.connect(self._on_failed)

        annotator.session.when_open(send)

    def _on_classified(self, data: Mapping[str, Any]) -> None:
        for answer in data["planes"]:
            image = self._annotator.images.get(str(answer["source"]))
            if image is None or image.layer("objects") is None:
                continue
            index = tuple(int(i) for i in answer["index"])
            classes = {int(k): int(v) for k, v in dict(answer["classes"]).items()}
            self._take(image, index, classes, answer.get("table") or {})

    def _take(
        self, image: AnnotatedImage, index: Index, classes: dict[int, int], table: Table
    ) -> None:
        """Show classes and table of a plane."""
        self.classes[image.key, index] = classes
        names = self._annotator.classes
        if table:
            table = dict(table)
            labels = np.asarray(table["label"])
            words = []
            for label in labels:
                row = names.row(classes.get(int(label), 0))
                words.append(names[row].name if row is not None else "")
            if any(words):
                table["class"] = np.array(words, dtype=object)
            self.tables[image.key, index] = table
            layer = image.layer("objects")
            if layer is not None:
                columns = {k: v for k, v in table.items() if k != "label"}
                layer.features = {"index": labels, **columns}
        if classes and self.examples.get((image.key, index)):
            image.make("object classes", names)
            plane = image.plane("objects", index)
            codes = np.zeros(int(plane.max()) + 1, np.uint8)
            for number, code in classes.items():
                if number < len(codes):
                    codes[number] = code
            image.write("object classes", index, None, codes[plane])
        self.show_plane()

    def whole_table(self) -> Table:
        """The objects of all planes, with the image and the plane of each."""
        tables: dict[Any, Table] = {}
        for (key, index), table in self.tables.items():
            image = self._annotator.images.get(key)
            if image is None or not rows_of(table):
                continue
            count = rows_of(table)
            head: Table = {"image": np.full(count, image.source.image.name, dtype=object)}
            for axis, number in zip(image.source.image.plane_axes, index, strict=True):
                head[axis.lower()] = np.full(count, number)
            tables[key, index] = {**head, **table}
        return join_tables(tables)

    # -- following -----------------------------------------------------------------------------

    def use(self, tool: str) -> None:
        """Take up a tool of correction; an empty name puts it away.

        Raises
        ------
        InputError
            There is no image to correct.
        """
        if not tool:
            self.corrections.stop()
            return
        image = self._need_image()
        self._layer(image)
        self.corrections.start(tool, image)

    def show_plane(self) -> None:
        """The sliders moved: show that plane's table."""
        image = self._annotator.current
        if image is not None:
            index = current_plane(self._viewer, image.source)
            self.table_changed.emit(self.tables.get((image.key, index), {}))

    def _on_corrected(self, image: AnnotatedImage, index: Index) -> None:
        if self.examples.get((image.key, index)):
            self.classify(image, index)

    def _on_failed(self, error: DinoscopeError) -> None:
        self.said.emit(str(error), "error")

    def _need_image(self) -> AnnotatedImage:
        image = self._annotator.current
        if image is None:
            raise InputError("no image is annotated yet", hint="Press Start annotating first.")
        return image
