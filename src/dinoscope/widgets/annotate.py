"""The Annotate panel: paint a few strokes, see the whole image labelled, correct, improve."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton, QSlider

from dinoscope.errors import DinoscopeError
from dinoscope.widgets._annotator import Annotator
from dinoscope.widgets._annotruns import LongRuns
from dinoscope.widgets._applycard import ApplyCard
from dinoscope.widgets._areas import Areas
from dinoscope.widgets._classlist import no_change
from dinoscope.widgets._classtable import ClassTable
from dinoscope.widgets._client import Controller
from dinoscope.widgets._handover import take_strokes
from dinoscope.widgets._improve import Improver
from dinoscope.widgets._improvecard import ImproveCard
from dinoscope.widgets._models import ModelPicker
from dinoscope.widgets._objectcard import ObjectCard
from dinoscope.widgets._objects import Objects
from dinoscope.widgets._panel import Panel
from dinoscope.widgets._previewcard import PreviewCard
from dinoscope.widgets._projectcard import ProjectCard
from dinoscope.widgets._projectlink import ProjectLink
from dinoscope.widgets._recode import Recoder
from dinoscope.widgets._runbar import RunBar
from dinoscope.widgets._sources import SourcePicker
from dinoscope.widgets._style import Fold, add_row, blocked, form, section, side_by_side

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from dinoscope.widgets._annotlayers import AnnotatedImage

START = "Start annotating"
#: Keys in the image, wherever no tool of the active layer has them.
NEXT_KEY, PREVIEW_KEY = "N", "T"
_BRUSH = (1, 100)


class AnnotatePanel(Panel):
    """Annotate an image layer.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari (by the parameter's name).
    controller : Controller, optional
        The viewer's own when not given.
    """

    def __init__(self, napari_viewer: Viewer, controller: Controller | None = None) -> None:
        super().__init__(napari_viewer, controller)
        self.annotator = Annotator(self.viewer, self.controller, self)
        self.recoder = Recoder(self.annotator)
        self.link = ProjectLink(self.viewer, self.annotator, self)
        self.objects = Objects(self.viewer, self.annotator, self)
        self.areas = Areas(self.viewer, self.annotator, self)
        self.improver = Improver(self.annotator, self)
        self._hinting = False
        #: napari has two ways to open a panel; the strokes belong to the first one only.
        self.is_second = len(self.controller.panels(AnnotatePanel)) > 1
        self._build()
        self._connect()
        self._on_source()
        if self.is_second:
            self.scroll.setEnabled(False)
            self.runbar.setEnabled(False)
            self.runbar.say("Annotate is open already in this window: go on there.", "warning")

    # -- layout --------------------------------------------------------------------------------

    def _build(self) -> None:
        card, rows = section("Project")
        self.project = ProjectCard(self.link)
        rows.addWidget(self.project)
        self.body.addWidget(card)

        card, rows = section("Image")
        self.source = SourcePicker(self.viewer)
        self.model = ModelPicker(
            self.controller,
            tooltip="Whose eyes the classifier sees with. Its own heads are not needed.",
        )
        rows.addWidget(self.source)
        rows.addWidget(self.model)
        self.body.addWidget(card)

        self.paint_card, rows = section(
            "Classes", "Paint a few strokes of each class, background too: not all of an object."
        )
        self.classes = ClassTable(self.annotator.classes)
        self.brush = QSlider(Qt.Orientation.Horizontal)
        self.brush.setRange(*_BRUSH)
        self.brush.setValue(self.annotator.brush)
        self.brush.setToolTip("Diameter of the brush in pixels (keys [ and ] in the image).")
        self.undo = QPushButton("Undo")
        self.undo.setToolTip(
            "Take back the last stroke, or the removal of a class (Ctrl+Z in the image)."
        )
        self.redo = QPushButton("Redo")
        self.redo.setToolTip("Paint again what was taken back (Ctrl+Shift+Z in the image).")
        for button in (self.undo, self.redo):
            button.setObjectName("small")
        rows.addWidget(self.classes)
        grid = form()
        add_row(grid, "Brush", side_by_side(self.brush, self.undo, self.redo))
        rows.addLayout(grid)
        self.body.addWidget(self.paint_card)

        self.preview_card, rows = section("Preview")
        self.preview = PreviewCard()
        rows.addWidget(self.preview)
        self.body.addWidget(self.preview_card)

        self.improve_card, rows = section(
            "Improve with LoRA", "Train the model itself on what you annotated, in the background."
        )
        self.improve = ImproveCard(self.improver)
        rows.addWidget(self.improve)
        self.body.addWidget(self.improve_card)

        self.objects_card, rows = section("")
        self.objects_part = ObjectCard(self.objects)
        self.objects_fold = Fold(
            "Objects",
            "Split the preview into objects, correct and classify them.",
            self.objects_part,
        )
        rows.addWidget(self.objects_fold)
        self.body.addWidget(self.objects_card)

        self.apply_card, rows = section("")
        self.apply = ApplyCard()
        self.apply_fold = Fold(
            "Apply and save",
            "Take the classifier to the whole stack, other images, a folder.",
            self.apply,
        )
        rows.addWidget(self.apply_fold)
        self.body.addWidget(self.apply_card)
        self.body.addStretch(1)

        self.runbar = RunBar(START, "")
        self.runbar.cost.hide()
        self.footer.addWidget(self.runbar)
        self.runs = LongRuns(
            self.viewer, self.annotator, self.improver, self.apply, self.runbar, self
        )

    def _connect(self) -> None:
        self.source.changed.connect(self._on_source)
        self.model.changed.connect(self._on_model)
        self.classes.chosen.connect(self.annotator.choose)
        self.classes.changed.connect(self._on_classes)
        self.classes.failed.connect(self._complain)
        self.brush.valueChanged.connect(self.annotator.set_brush)
        self.undo.clicked.connect(self._on_undo)
        self.redo.clicked.connect(self._on_redo)
        self.preview.changed.connect(self._on_preview)
        self.preview.opacity_changed.connect(self.annotator.set_opacity)
        self.preview.next_clicked.connect(self.annotator.next_place)
        self.runbar.run_clicked.connect(self.run)
        self.annotator.said.connect(self.runbar.say)
        self.annotator.busy.connect(self.preview.show_busy)
        self.annotator.fitted.connect(self.preview.show_trust)
        self.annotator.strokes_changed.connect(self._on_strokes)
        self.annotator.layer_gone.connect(self._on_layer_gone)
        self.annotator.told.connect(self._on_told)
        for part in (self.link, self.objects):
            part.said.connect(self.runbar.say)
        self.objects_part.said.connect(self.runbar.say)
        for part in (self.objects_part, self.runs):
            part.failed.connect(self._complain)
        self.objects_part.area_clicked.connect(self._on_area)
        self.objects_part.complete_toggled.connect(self._on_complete)
        self.runs.busy_changed.connect(self._offer)
        self.improver.rounds.connect(self._on_rounds)
        self.controller.strokes_offered.connect(self._on_strokes_offered)
        self.improver.model_changed.connect(self.model.choose)
        self.viewer.dims.events.current_step.connect(self._on_slider)
        self.link.ready.connect(self._on_ready)
        self.project.failed.connect(self._complain)
        self.controller.model_chosen.connect(self.model.choose)
        if not self.is_second:
            self.viewer.bind_key(NEXT_KEY, self._on_next_key, overwrite=True)
            self.viewer.bind_key(PREVIEW_KEY, self._on_preview_key, overwrite=True)

    def on_teardown(self) -> None:
        self.viewer.dims.events.current_step.disconnect(self._on_slider)
        self.controller.strokes_offered.disconnect(self._on_strokes_offered)
        self.link.close()
        for part in (self.objects, self.areas, self.runs, self.improver, self.annotator):
            part.close()
        for key in () if self.is_second else (NEXT_KEY, PREVIEW_KEY):
            with contextlib.suppress(KeyError, ValueError):
                self.viewer.bind_key(key, None, overwrite=True)
        if self.runbar.busy:
            self.runbar.stop("Stopped: the panel was closed.")
        self.source.disconnect_viewer()
        self.model.disconnect_controller()
        self.controller.model_chosen.disconnect(self.model.choose)

    # -- annotating ----------------------------------------------------------------------------

    @property
    def image(self) -> AnnotatedImage | None:
        """The annotated image that is chosen, if painting on it has begun."""
        try:
            return self.annotator.image_of(self.source.source())
        except DinoscopeError:
            return None

    @property
    def begun(self) -> bool:
        """Whether the chosen image can be painted on."""
        return self.image is not None and self.image.scribbles is not None

    def run(self) -> None:
        """What the button at the foot says."""
        if self.begun:
            self.runs.improve()
        else:
            self.start()

    def start(self) -> None:
        """Make the chosen image ready to be painted on."""
        if not self.annotator.images and self.link.reopen_last():
            return
        try:
            source = self.source.source()
            self._use_model()
            self.annotator.start(source)
        except DinoscopeError as error:
            self._complain(str(error))
            return
        self._hinting = True
        self.runbar.say("Paint a few strokes of each class: keys 1–9 choose the class.")
        self._follow_layer()
        self._offer()

    def _use_model(self) -> None:
        self.annotator.session.use_model(self.model.model, download=self.model.download_allowed)

    def _offer(self, *_: Any) -> None:
        """Show what makes sense for the chosen image."""
        begun = self.begun
        for card in (self.paint_card, self.preview_card):
            card.setEnabled(begun)
        for card in (self.objects_card, self.apply_card, self.improve_card):
            card.setVisible(begun)
        text, tip = START, "Make a scribble layer above the image, and paint on it."
        if begun and self.improver.interrupted:
            text, tip = "Go on improving", "Go on with the round that was interrupted."
        elif begun:
            text, tip = "Improve with LoRA", "Train on what you annotated; painting goes on."
        self.runbar.run.setText(text)
        self.runbar.run.setToolTip(tip)
        self.runbar.cancel.setVisible(begun)
        ready = self.source.layer is not None and not self.runs.busy
        self.runbar.run.setEnabled(ready and (not begun or self.annotator.classes_painted > 1))

    def _on_source(self) -> None:
        image = self.image
        if image is not None and image is not self.annotator.current:
            self.annotator.activate(image)
            self._follow_layer()
        self._offer()

    def _on_model(self) -> None:
        if self.annotator.images:
            self._use_model()
            self.annotator.refresh()

    def _on_classes(self, table: Any) -> None:
        removed = self.recoder.removed
        self.recoder.change(table)
        if self.recoder.removed not in (None, removed):
            name = self.recoder.removed.one.name
            self.runbar.say(f"Removed {name!r} and what was painted with it. Undo brings it back.")

    def _on_undo(self) -> None:
        name = self.recoder.undo()
        if name:
            self.classes.refresh()
            self.runbar.say(f"{name!r} is back.")
        elif self.image is not None and self.image.scribbles is not None:
            self.image.scribbles.undo()

    def _on_redo(self) -> None:
        if self.image is not None and self.image.scribbles is not None:
            self.image.scribbles.redo()

    # -- following -----------------------------------------------------------------------------

    def _on_preview(self) -> None:
        self.annotator.show(preview=self.preview.preview.isChecked(), want=self.preview.want)

    def _on_next_key(self, viewer: Any = None) -> None:
        self.annotator.next_place()

    def _on_preview_key(self, viewer: Any = None) -> None:
        self.preview.preview.toggle()

    def _on_strokes(self) -> None:
        self.classes.show_counts(self.annotator.keeper.book.counts())
        self._offer()
        if self.annotator.classes_painted > 1 and self._hinting:
            self._hinting = False
            self.runbar.say("")
        elif self.annotator.classes_painted == 1:
            self._hinting = True
            self.runbar.say("Now paint another class (background counts): then the preview begins.")

    def _on_layer_gone(self, image: AnnotatedImage, role: str) -> None:
        if role == "preview" and self.preview.preview.isChecked():
            with blocked(self.preview.preview):
                self.preview.preview.setChecked(False)
            self.annotator.show_preview = False
        elif role == "uncertainty":
            self.preview.uncertainty.setChecked(False)
        elif role == "scribbles":
            self.runbar.say("The scribbles were removed. Start annotating brings them back.")
        self._offer()

    def _on_told(self, event: str, data: Any) -> None:
        if event == "chosen":
            self.classes.choose(data["row"])
        elif event == "classes":
            self.recoder.adopt()
            self.classes.refresh()
            self.classes.choose(self.annotator.row)
        elif event == "failed":
            self._complain(str(data["error"]))

    def _on_ready(self) -> None:
        """A project is in the viewer: go on with its first image."""
        images = list(self.annotator.images.values())
        if images:
            self._use_model()
            self.source.combo.layer = images[0].source.layer
            self.annotator.activate(images[0])
            self._follow_layer()
        for image in images:
            self.objects.follow(image)
            self.areas.restore(image)
        self._on_strokes()
        self._on_slider()

    def _on_strokes_offered(self, offered: Any) -> None:
        """A lasso of the Features panel: its classes become strokes."""
        if self.is_second:
            return
        names, planes = offered
        try:
            self._use_model()
            count = take_strokes(self.annotator, names, planes)
        except DinoscopeError as error:
            self._complain(str(error))
            return
        if self.annotator.current is not None:
            self.source.combo.layer = self.annotator.current.source.layer
        self.recoder.change(no_change())
        self.classes.refresh()
        self._follow_layer()
        self._offer()
        self.runbar.say(f"{count:,} pixels of {', '.join(names)} from the plot. Undo: Ctrl+Z.")

    def _on_area(self) -> None:
        if self.annotator.current is not None:
            self.areas.draw(self.annotator.current)
            self.runbar.say("Draw around the part in which every object is there.")

    def _on_complete(self, on: bool) -> None:
        if self.annotator.current is not None:
            self.areas.set_complete(self.annotator.current, on)

    def _on_slider(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            if self.annotator.current is not None:
                self.objects_part.show_complete(self.areas.is_complete(self.annotator.current))
                self.objects.show_plane()

    def _on_rounds(self, rounds: Any, current: int) -> None:
        self._offer()
        if self.improver.interrupted:
            self.runbar.say("The last round of improvement was interrupted: go on with it below.")

    def _follow_layer(self) -> None:
        """Keep brush and class in step with napari's own controls."""
        image = self.annotator.current
        if image is None or image.scribbles is None:
            return
        events = image.scribbles.events
        events.brush_size.connect(self._on_brush_size)
        events.selected_label.connect(self._on_selected_label)

    def _on_brush_size(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError, AttributeError):
            size = int(self.annotator.current.scribbles.brush_size)
            self.annotator.brush = size
            with blocked(self.brush):
                self.brush.setValue(size)

    def _on_selected_label(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError, AttributeError):
            row = self.annotator.classes.row(int(self.annotator.current.scribbles.selected_label))
            if row is not None and row != self.classes.row:
                self.classes.choose(row)

    def _complain(self, text: str) -> None:
        from napari.utils.notifications import show_warning

        self.runbar.say(text, "error")
        show_warning(text)
