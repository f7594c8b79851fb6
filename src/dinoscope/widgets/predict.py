"""The Predict panel: choose an image, a model and tasks, press Run, get layers."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from dinoscope.config import PredictOptions
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.widgets._choices import (
    AdjustControls,
    DiameterRow,
    MoreOptions,
    ScopePicker,
    TaskPicker,
)
from dinoscope.widgets._client import Controller, JobHandle, LatestWins
from dinoscope.widgets._diameter import DiameterGuide
from dinoscope.widgets._height import HeightBox, HeightRun
from dinoscope.widgets._layers import current_plane, visible_region
from dinoscope.widgets._models import MODEL_SUFFIXES, ModelPicker
from dinoscope.widgets._panel import Panel
from dinoscope.widgets._results_box import ResultsBox, removal_text
from dinoscope.widgets._run import Outcome, PredictRun, RunRequest
from dinoscope.widgets._runbar import RunBar
from dinoscope.widgets._sources import SourcePicker
from dinoscope.widgets._style import (
    Fold,
    add_row,
    form,
    hint_label,
    memory_text,
    section,
    set_tone,
    time_text,
)
from dinoscope.widgets._trials import TrialPanel, TrialRunner

if TYPE_CHECKING:
    from napari.viewer import Viewer

_COST_MS = 250
#: Bytes of a pixel of each result, for the memory that the layers themselves take.
_RESULT_BYTES = {"instance": 4, "semantic": 1, "depth": 4, "pca": 12, "classification": 0}


class PredictPanel(Panel):
    """Run a model over a layer.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari (by the parameter's name).
    controller : Controller, optional
        The viewer's own when not given.
    """

    def __init__(self, napari_viewer: Viewer, controller: Controller | None = None) -> None:
        super().__init__(napari_viewer, controller)
        self.setAcceptDrops(True)
        self._runner: PredictRun | TrialRunner | HeightRun | None = None
        #: The newest run of each source, whose objects the sliders change.
        self._runs: dict[str, PredictRun] = {}
        self._before: PredictRun | None = None
        self._source_key = ""
        self._build()
        self._connect()
        self._on_source()
        self._on_model()

    # -- layout --------------------------------------------------------------------------------

    def _build(self) -> None:
        card, rows = section("Image")
        self.source = SourcePicker(self.viewer)
        rows.addWidget(self.source)
        self.body.addWidget(card)

        card, rows = section("Model")
        self.model = ModelPicker(self.controller)
        self.nvidia = hint_label()
        self.nvidia.hide()
        rows.addWidget(self.model)
        rows.addWidget(self.nvidia)
        self.body.addWidget(card)

        card, rows = section("What to do")
        self.tasks = TaskPicker()
        self.scope = ScopePicker()
        self.diameter = DiameterRow()
        self.guide = DiameterGuide(self.viewer, self.diameter, self)
        grid = form()
        rows.addWidget(self.tasks)
        rows.addSpacing(2)
        rows.addWidget(self.scope)
        add_row(grid, "Diameter px", self.diameter, tooltip=self.diameter.control.widget.toolTip())
        rows.addLayout(grid)
        self.more = MoreOptions(self.viewer)
        self.more_fold = Fold(
            "More options", "Device, channels, preprocessing, dark and flat image.", self.more
        )
        rows.addWidget(self.more_fold)
        self.body.addWidget(card)

        self.objects_card, rows = section(
            "Objects", "Change these at any time: the objects follow at once, without the network."
        )
        self.adjust = AdjustControls()
        rows.addWidget(self.adjust)
        self.body.addWidget(self.objects_card)

        card, rows = section("Results")
        self.results = ResultsBox()
        rows.addWidget(self.results)
        self.body.addWidget(card)

        card, rows = section("")
        self.trials = TrialPanel(self.controller)
        self.trials_fold = Fold(
            "Compare models", "Try several models on what is in view.", self.trials
        )
        rows.addWidget(self.trials_fold)
        self.body.addWidget(card)

        self.height_card, rows = section(
            "Height map from the z-stack", "Shape from focus: no model is needed."
        )
        self.height = HeightBox()
        rows.addWidget(self.height)
        self.body.addWidget(self.height_card)
        self.body.addStretch(1)

        self.runbar = RunBar("Run", "Run the model; the results become layers above the image.")
        self.footer.addWidget(self.runbar)

    def _connect(self) -> None:
        self._cost = LatestWins(self._send_estimate, self, interval_ms=_COST_MS, settle=True)
        self.source.changed.connect(self._on_source)
        self.model.changed.connect(self._on_model)
        for part in (self.tasks, self.scope, self.diameter, self.more):
            part.changed.connect(self._on_choice)
        self.adjust.changed.connect(self._on_adjust)
        self.guide.said.connect(self.runbar.say)
        self.guide.failed.connect(self._complain)
        self.results.said.connect(self.runbar.say)
        self.results.failed.connect(self._complain)
        self.results.remove_clicked.connect(self._on_remove)
        self.trials.try_clicked.connect(self._on_try)
        self.trials.use_clicked.connect(self.model.choose)
        self.height.run_clicked.connect(self._on_height)
        self.runbar.run_clicked.connect(self.run)
        self.runbar.cancel_clicked.connect(self.cancel)
        self.controller.model_chosen.connect(self.model.choose)
        if self.controller.newest_model:
            self.model.choose(self.controller.newest_model)
        self.controller.models_changed.connect(self._on_device)
        self.controller.state_changed.connect(self._on_state)
        self._view_timer = QTimer(self)
        self._view_timer.setSingleShot(True)
        self._view_timer.setInterval(_COST_MS)
        self._view_timer.timeout.connect(self._on_view_rested)
        camera = self.viewer.scene.camera.events
        for event in (camera.zoom, camera.center):
            event.connect(self._on_view)
        self._on_device()

    def on_teardown(self) -> None:
        self._cost.clear()
        self._view_timer.stop()
        self.guide.circle.hide()
        with contextlib.suppress(RuntimeError):
            self.trials.forget()
        if self._runner is not None:
            self._runner.close()
        for run in self._runs.values():
            run.close()
        if self.runbar.busy:
            self.runbar.stop("Stopped: the panel was closed.")
        camera = self.viewer.scene.camera.events
        for event in (camera.zoom, camera.center):
            event.disconnect(self._on_view)
        self.source.disconnect_viewer()
        self.more.disconnect_viewer()
        self.model.disconnect_controller()
        self.controller.model_chosen.disconnect(self.model.choose)
        self.controller.models_changed.disconnect(self._on_device)
        self.controller.state_changed.disconnect(self._on_state)

    # -- what a run is -------------------------------------------------------------------------

    def request(self, scope: str = "", *, pixels: bool = True) -> RunRequest:
        """What Run would do now; with the pixels of dark and flat image where they are needed.

        Raises
        ------
        DinoscopeError
            Something is missing or contradicts itself.
        """
        source = self.source.source()
        scope = scope or self.scope.scope
        tasks = self.tasks.tasks
        if not tasks:
            raise InputError("no task is ticked", hint="Tick at least one under What to do.")
        plane = region = None
        if scope != "stack" and source.image.plane_shape:
            plane = current_plane(self.viewer, source)
        if scope == "region":
            region = visible_region(self.viewer, source)
        options = PredictOptions(
            tasks=tasks,
            plane=plane,
            region=region,
            diameter_px=self.diameter.diameter_px,
            instance=self.adjust.options,
            keep_maps=True,
            **self.more.values(),
        )
        return RunRequest(
            source,
            self.model.model,
            self.model.label,
            options,
            # Read only for a run: an estimate must not wait for pixels.
            calibration=self.more.calibration() if pixels else {},
            download=self.model.download_allowed,
        )

    def run(self) -> None:
        """Start; everything else happens in events."""
        if self._runner is not None and self._runner.running:
            return
        self.trials.beside.setChecked(False)
        try:
            request = self.request()
        except DinoscopeError as error:
            self._complain(str(error))
            return
        self._before = self.last_run
        if self._before is not None:
            self._before.close()
        run = PredictRun(self.controller, request)
        run.tables_changed.connect(self._on_tables)
        run.note.connect(self._on_note)
        self._runs[request.source.key] = run
        self._begin(run, f"{request.source.layer.name}: {self.model.label}")

    @property
    def last_run(self) -> PredictRun | None:
        """The newest run of the image that is chosen now."""
        return self._runs.get(self._source_key)

    def cancel(self) -> None:
        """Stop within a second."""
        if self._runner is not None and self._runner.running:
            self.runbar.cancelling()
            self._runner.cancel()

    def _begin(self, run: PredictRun | TrialRunner | HeightRun, what: str) -> None:
        self._runner = run
        run.progress.connect(self.runbar.show_progress)
        run.ended.connect(self._on_ended)
        self.circle_off()
        self._set_busy(True)
        self.runbar.start(what)
        run.start()
        waiting = self.controller.waiting_text()
        if waiting:
            self.runbar.say(waiting)

    def _on_ended(self, outcome: Outcome) -> None:
        from napari.utils.notifications import show_error, show_info

        if isinstance(self._runner, TrialRunner):
            self.trials.finish()
        if isinstance(self._runner, PredictRun) and outcome.kind != "done" and self._before:
            # Its results are back, and can be changed again.
            self._runs[self._before.request.source.key] = self._before
        self._set_busy(False)
        self._on_tables()
        self.runbar.stop(outcome.text, "error" if outcome.kind == "error" else "")
        if outcome.kind == "error":
            show_error(outcome.text)
        elif outcome.kind == "done":
            show_info(outcome.text)
        self._ask_cost()

    def _set_busy(self, busy: bool) -> None:
        self.height.run.setEnabled(not busy)
        self.trials.try_button.setEnabled(not busy)
        self.diameter.estimate.setEnabled(not busy)

    # -- other actions -------------------------------------------------------------------------

    def _on_try(self) -> None:
        models = self.trials.chosen()
        self.trials.beside.setChecked(False)
        try:
            if not models:
                raise InputError("no model is ticked", hint="Tick the models to compare.")
            request = self.request("region")
        except DinoscopeError as error:
            self._complain(str(error))
            return
        self.trials.begin(request.source)
        runner = TrialRunner(self.controller, request, models)
        runner.model_ended.connect(self.trials.add)
        self._begin(runner, "Comparing models")

    def _on_height(self) -> None:
        try:
            source = self.source.source()
            payload = self.height.payload()
            channels = self.more.values()["channels"]
            if channels is not None:
                payload["channels"] = channels
        except DinoscopeError as error:
            self._complain(str(error))
            return
        self._begin(HeightRun(self.controller, source, payload), f"{source.layer.name}: height map")

    def circle_off(self) -> None:
        """Take the guide circle off the image."""
        self.guide.off()

    def hideEvent(self, event: Any) -> None:
        if self._alive_now():
            self.circle_off()
        super().hideEvent(event)

    def _on_remove(self) -> None:
        layer = self.source.layer
        if layer is not None:
            removed, kept = self.controller.results.remove(str(layer.unique_id))
            self.runbar.say(removal_text(removed, kept))
            self._on_tables()

    def _on_tables(self) -> None:
        self.results.show_run(self.last_run)

    # -- following the user --------------------------------------------------------------------

    def _on_source(self) -> None:
        self.circle_off()
        try:
            source = self.source.source()
        except DinoscopeError:
            self.height_card.hide()
            self.runbar.cost.setText("")
            self.runbar.run.setEnabled(self.source.layer is not None and not self.runbar.busy)
            return
        self.runbar.run.setEnabled(not self.runbar.busy)
        self.scope.offer(math.prod(source.image.plane_shape))
        if source.key != self._source_key:
            self._source_key = source.key
            self._restore(self.controller.settings.get(source.key, {}))
            self._on_tables()
        self.height_card.setVisible(self.height.offer(source))
        self._on_choice()

    def _on_model(self) -> None:
        others = {task: self.model.models_for(task) for task in self.tasks.boxes}
        self.tasks.offer(self.model.label, self.model.tasks, others, self.model.own_tasks)
        self.trials.offer(self.tasks.tasks)
        self._on_choice()

    def _on_choice(self) -> None:
        self._remember()
        self.guide.follow()
        self.trials.offer(self.tasks.tasks)
        self.objects_card.setVisible("instance" in self.tasks.tasks)
        self._ask_cost()

    def _on_adjust(self) -> None:
        self._remember()
        if self.last_run is not None:
            self.last_run.adjust(self.adjust.options)

    def _on_note(self, text: str) -> None:
        self.runbar.say(text)

    def _on_device(self) -> None:
        note = str(self.controller.device.get("note") or "")
        set_tone(self.nvidia, note, "warning")
        self.nvidia.setVisible(bool(note))
        self._ask_cost()

    def _on_state(self, state: str) -> None:
        if state == "starting" and not self.runbar.cost.text():
            self.runbar.cost.setText("Starting in the background …")

    def _on_view(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):
            if self.scope.scope == "region":
                self._view_timer.start()

    def _on_view_rested(self) -> None:
        self._ask_cost()

    # -- cost ----------------------------------------------------------------------------------

    def _ask_cost(self) -> None:
        if self._alive_now() and self.controller.models:
            self._cost.request(None)

    def _send_estimate(self, what: Any) -> JobHandle | None:
        try:
            request = self.request(pixels=False)
        except DinoscopeError:
            self.runbar.cost.setText("")
            return None
        if not self.model.entry.get("available", True):
            self.runbar.cost.setText("")
            return None
        last = self.last_run.summary if self.last_run is not None else None
        payload = {
            "model": request.model,
            "options": request.options,
            "diameter_px": last.diameter_px if last is not None else None,
        }
        job = self.controller.submit("estimate", payload, {"image": request.source.image})
        job.done.connect(self._on_cost)
        job.failed.connect(self._on_no_cost)
        return job

    def _on_cost(self, data: dict[str, Any]) -> None:
        device = str(self.controller.device.get("name") or self.controller.device.get("device", ""))
        about = "At least" if data.get("at_least") else "About"
        parts = [f"{about} {time_text(data.get('seconds'))}"]
        if data.get("memory_mb"):
            parts.append(memory_text(data["memory_mb"]))
        if device:
            parts.append(f"on {device}")
        text = " · ".join(parts)
        if data.get("note"):
            text += f"\n{data['note']}"
        set_tone(self.runbar.cost, text)

    def _on_no_cost(self, error: DinoscopeError) -> None:
        set_tone(self.runbar.cost, str(error), "warning")

    # -- settings ------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All choices, as they are remembered for a source."""
        try:
            more = self.more.values()
        except DinoscopeError:
            more = {}
        return {
            "source": self.source.state(),
            "model": self.model.model,
            "tasks": self.tasks.wanted,
            "scope": self.scope.scope,
            "diameter_px": self.diameter.diameter_px,
            "more": more,
            "adjust": {n: c.value for n, c in self.adjust.controls.items()},
        }

    def _remember(self) -> None:
        if self._source_key:
            self.controller.settings[self._source_key] = self.state()

    def _restore(self, state: dict[str, Any]) -> None:
        if not state:
            return
        key, self._source_key = self._source_key, ""  # nothing is remembered meanwhile
        self.source.restore(state["source"])
        self.model.choose(state["model"])
        self.tasks.wanted = state["tasks"]
        self.scope.scope = state["scope"]
        self.diameter.diameter_px = state["diameter_px"]
        self.more.restore(state["more"])
        self.adjust.restore(state["adjust"])
        self._source_key = key

    # -- files dropped on the panel ------------------------------------------------------------

    def dragEnterEvent(self, event: Any) -> None:
        if _model_paths(event):
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        for path in _model_paths(event):
            self.controller.choose_model(path)
        event.acceptProposedAction()


def _model_paths(event: Any) -> list[str]:
    return [
        url.toLocalFile()
        for url in event.mimeData().urls()
        if url.toLocalFile().endswith(MODEL_SUFFIXES)
    ]
