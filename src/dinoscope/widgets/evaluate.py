"""The Evaluate panel: how good is a prediction, and where is it wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QStackedWidget

from dinoscope.config import TRAINABLE_TASKS, EvaluateOptions
from dinoscope.errors import DinoscopeError
from dinoscope.widgets._choices import TASK_TEXT
from dinoscope.widgets._client import Controller
from dinoscope.widgets._controls import control_for
from dinoscope.widgets._evalform import FoldersForm, LayersForm
from dinoscope.widgets._evalresults import EvalResults
from dinoscope.widgets._evalrun import EvaluateRequest, EvaluateRun
from dinoscope.widgets._jump import jump_to
from dinoscope.widgets._layers import guess_axes
from dinoscope.widgets._panel import Panel
from dinoscope.widgets._run import Outcome
from dinoscope.widgets._runbar import RunBar
from dinoscope.widgets._style import Fold, add_row, form, narrow, section

if TYPE_CHECKING:
    from napari.viewer import Viewer


class EvaluatePanel(Panel):
    """Score predictions against the truth.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari (by the parameter's name).
    controller : Controller, optional
        The viewer's own when not given.
    """

    def __init__(self, napari_viewer: Viewer, controller: Controller | None = None) -> None:
        super().__init__(napari_viewer, controller)
        self._run: EvaluateRun | None = None
        self._shown: EvaluateRequest | None = None
        self._build()
        self._connect()
        self._on_task()

    # -- layout --------------------------------------------------------------------------------

    def _build(self) -> None:
        card, rows = section("What is scored")
        self.task = narrow(QComboBox())
        for task in TRAINABLE_TASKS:
            self.task.addItem(TASK_TEXT[task][0], task)
            tip = Qt.ItemDataRole.ToolTipRole
            self.task.setItemData(self.task.count() - 1, TASK_TEXT[task][1], tip)
        self.task.setToolTip("The kind of result that is scored.")
        self.origin = narrow(QComboBox())
        self.origin.addItem("layers", "layers")
        self.origin.addItem("folders, or a model on a folder", "folders")
        self.origin.setToolTip("Where prediction and truth are.")
        grid = form()
        add_row(grid, "Task", self.task)
        add_row(grid, "From", self.origin)
        rows.addLayout(grid)
        self.layers = LayersForm(self.viewer)
        self.folders = FoldersForm(self.controller)
        self.pages = QStackedWidget()
        self.pages.setObjectName("bare")
        self.pages.addWidget(self.layers)
        self.pages.addWidget(self.folders)
        rows.addWidget(self.pages)
        self.threshold = control_for(EvaluateOptions, "fault_threshold")
        self.tolerance = control_for(EvaluateOptions, "boundary_tolerance_px", high=100)
        more = form()
        add_row(more, "Found from IoU", self.threshold.widget)
        add_row(more, "Outlines within", self.tolerance.widget)
        self.more = Fold("More options", "How errors are told.", _holder(more))
        rows.addWidget(self.more)
        self.body.addWidget(card)

        card, rows = section("How good it is")
        self.results = EvalResults()
        rows.addWidget(self.results)
        self.body.addWidget(card)
        self.body.addStretch(1)

        self.runbar = RunBar("Evaluate", "Score the prediction; its errors become a layer.")
        self.runbar.cost.hide()
        self.footer.addWidget(self.runbar)

    def _connect(self) -> None:
        self.task.currentIndexChanged.connect(self._on_task)
        self.origin.currentIndexChanged.connect(self._on_origin)
        self.results.place_clicked.connect(self._on_place)
        self.results.report_clicked.connect(self._on_report)
        self.runbar.run_clicked.connect(self.run)
        self.runbar.cancel_clicked.connect(self.cancel)

    def on_teardown(self) -> None:
        if self._run is not None:
            self._run.close()
        if self.runbar.busy:
            self.runbar.stop("Stopped: the panel was closed.")
        self.layers.disconnect_viewer()
        self.folders.disconnect_controller()

    # -- course --------------------------------------------------------------------------------

    @property
    def task_name(self) -> str:
        return str(self.task.currentData())

    def options(self) -> EvaluateOptions:
        """The options that are set."""
        return EvaluateOptions(
            fault_threshold=self.threshold.value, boundary_tolerance_px=self.tolerance.value
        )

    def request(self) -> EvaluateRequest:
        """What Evaluate would do now.

        Raises
        ------
        DinoscopeError
            Something is missing, or does not fit.
        """
        if self.origin.currentData() == "layers":
            return self.layers.request(self.options())
        return self.folders.request(self.task_name, self.options())

    def run(self) -> None:
        """Start; everything else happens in events."""
        if self._run is not None and self._run.running:
            return
        try:
            request = self.request()
        except DinoscopeError as error:
            self._complain(str(error))
            return
        run = EvaluateRun(self.controller, request)
        self._run = run
        run.progress.connect(self.runbar.show_progress)
        run.done.connect(self._on_done)
        run.ended.connect(self._on_ended)
        self.runbar.start(request.title)
        run.start()
        waiting = self.controller.waiting_text()
        if waiting:
            self.runbar.say(waiting)

    def cancel(self) -> None:
        """Stop within a second."""
        if self._run is not None and self._run.running:
            self.runbar.cancelling()
            self._run.cancel()

    def _on_done(self, data: Mapping[str, Any]) -> None:
        if self._run is not None:
            self._shown = self._run.request
            self.results.show_outcome(self._shown.task, data)

    def _on_ended(self, outcome: Outcome) -> None:
        from napari.utils.notifications import show_error

        self.layers.refresh()
        self.runbar.stop(outcome.text, "error" if outcome.kind == "error" else "")
        if outcome.kind == "error":
            show_error(outcome.text)

    # -- what the user looks at ----------------------------------------------------------------

    def _on_task(self) -> None:
        self.layers.offer(self.task_name)
        self.tolerance.widget.setEnabled(self.task_name == "semantic")
        self.threshold.widget.setEnabled(self.task_name in ("instance", "classification"))
        self._on_origin()

    def _on_origin(self) -> None:
        page = self.layers if self.origin.currentData() == "layers" else self.folders
        self.pages.setCurrentWidget(page)
        # A stack is as high as its highest page unless the others are told to take no room.
        for index in range(self.pages.count()):
            shown = self.pages.widget(index)
            shown.setVisible(shown is page)
        self.pages.setFixedHeight(page.sizeHint().height())

    def _on_place(self, place: Mapping[str, Any]) -> None:
        """Go to an object or plane of the truth."""
        request = self._shown
        truth = request.layers.get("truth") if request is not None else None
        if request is None or truth is None:
            self.runbar.say("These images are files: open them to look at this place.")
            return
        shown = next((x for x in request.layers.values() if x in self.viewer.layers), None)
        if shown is None:
            self.runbar.say("The layers of this evaluation are closed.", "warning")
            return
        image = request.images["truth"]
        lengths = image.plane_shape
        index = np.unravel_index(place["plane"], lengths) if lengths else ()
        at = dict(zip(image.plane_axes, map(int, index), strict=True))
        at |= {"Y": place.get("y", image.size("Y") / 2), "X": place.get("x", image.size("X") / 2)}
        axes = guess_axes(truth)
        position = [
            at.get(letter, 0) + start for letter, start in zip(axes, request.origin, strict=True)
        ]
        jump_to(self.viewer, truth, position, float(place.get("size", 0.0)))

    def _on_report(self, folder: str) -> None:
        job = self.controller.submit(
            "evaluate_report", {"number": self.results.number, "folder": folder}
        )
        self.runbar.say("Writing the report …")
        job.done.connect(self._on_written)
        job.failed.connect(self._on_not_written)

    def _on_written(self, data: Mapping[str, Any]) -> None:
        path = Path(str(data["files"]["html"]))
        self.runbar.say(f"Report written: {path}")
        self.show_file(path)

    def _on_not_written(self, error: DinoscopeError) -> None:
        self._complain(str(error))

    def show_file(self, path: Path) -> None:
        """Open the report in the browser; replaced in tests."""
        from qtpy.QtCore import QUrl
        from qtpy.QtGui import QDesktopServices

        QDesktopServices.openUrl(QUrl.fromLocalFile(str(path)))


def _holder(layout: Any) -> Any:
    from qtpy.QtWidgets import QWidget

    holder = QWidget()
    holder.setObjectName("bare")
    holder.setLayout(layout)
    return holder
