"""Height map from a z-stack: shape from focus, run in the worker, shown as image layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QPushButton, QVBoxLayout, QWidget

from dinoscope.errors import DinoscopeError
from dinoscope.widgets._client import Controller, JobHandle
from dinoscope.widgets._layers import Source, place
from dinoscope.widgets._results import ResultSet
from dinoscope.widgets._run import Outcome, progress_of
from dinoscope.widgets._style import add_row, form, hint_label, set_tone

#: Fewer planes than this have no sharpest one between two others.
LEAST_PLANES = 3
_LAYER_OF = {"all_in_focus": "focus", "confidence": "confidence", "height": "height"}


class HeightBox(QWidget):
    """What is known of a stack, the distance of its planes, and the button that starts a run."""

    run_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.about = hint_label()
        self.run = QPushButton("Make height map")
        self.run.setToolTip(
            "Find the sharpest plane at each pixel: a height map, its confidence,\n"
            "and an image that is in focus everywhere."
        )
        self.step = QDoubleSpinBox()
        self.step.setRange(0.0, 10_000.0)
        self.step.setDecimals(3)
        self.step.setSuffix(" µm")
        self.step.setSpecialValueText("from the layer")
        self.step.setKeyboardTracking(False)
        self.step.setToolTip("Distance between two planes of the stack.")
        grid = form()
        add_row(grid, "Z step", self.step)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addWidget(self.about)
        rows.addLayout(grid)
        rows.addWidget(self.run)
        self.run.clicked.connect(self.run_clicked)

    def offer(self, source: Source) -> bool:
        """Describe the stack; whether it has planes enough."""
        planes = source.image.size("Z")
        step = source.image.pixel_size_um.get("Z")
        unit = f"{step:.4g} µm apart" if step else "spacing unknown: heights count in planes"
        set_tone(self.about, f"{planes} planes, {unit}.")
        return planes >= LEAST_PLANES

    def payload(self) -> dict[str, Any]:
        """The settings of a job."""
        return {"step_um": self.step.value()} if self.step.value() > 0 else {}


class HeightRun(QObject):
    """Asks for a height map and writes it, its confidence and the sharp image into layers."""

    progress = Signal(object)
    ended = Signal(object)

    def __init__(self, controller: Controller, source: Source, payload: Mapping[str, Any]) -> None:
        super().__init__(controller)
        self._controller = controller
        self.source = source
        self._payload = dict(payload)
        self.results = ResultSet(
            controller.results,
            source,
            place(source, collapse="Z"),
            about={"model": "shape from focus", "options": dict(payload)},
        )
        self._axes = source.image.plane_axes.replace("Z", "")
        self._job: JobHandle | None = None
        self._failure: DinoscopeError | None = None
        self._why = ""
        self._sure: list[float] = []

    @property
    def running(self) -> bool:
        return self._job is not None and self._job.running

    def start(self) -> None:
        """Hand it to the worker; returns at once."""
        viewer = self._controller.results.viewer
        viewer.layers.events.removed.connect(self._on_layer_removed)
        job = self._controller.submit("heightmap", self._payload, {"image": self.source.image})
        self._job = job
        job.progress.connect(self._on_progress)
        job.plane.connect(self._on_plane)
        job.done.connect(self._on_done)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)

    def cancel(self, why: str = "") -> None:
        self._why = self._why or why
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """The panel goes away."""
        if self.running:
            self._job.silence()
            self._job.cancel()
            self.results.roll_back()
        self._disconnect()

    def _on_progress(self, data: Any) -> None:
        self.progress.emit(progress_of(data))

    def _on_plane(self, data: Mapping[str, Any]) -> None:
        index = dict(zip(self._axes, map(int, data.get("index", ())), strict=False))
        arrays = dict(data["arrays"])
        mask = arrays.get("mask")
        if mask is not None:
            self._sure.append(float(np.mean(mask)))
            # Where nothing is in focus there is no height: not a number, shown as a gap.
            arrays["height"] = np.where(mask, arrays["height"], np.nan).astype(np.float32)
        try:
            for name, task in _LAYER_OF.items():
                if name in arrays:
                    self.results.put(task, index, np.asarray(arrays[name], np.float32))
        except DinoscopeError as error:
            self._failure = error
            self.cancel()

    def _on_done(self, data: Mapping[str, Any]) -> None:
        self._disconnect()
        unit = str(data.get("unit") or "")
        self.results.finish(unit=unit)
        text = f"Done: height map in {unit}." if unit else "Done: height map."
        if self._sure:
            text += f" In focus: {100 * np.mean(self._sure):.0f} % of the area."
        self.ended.emit(Outcome("done", text))

    def _on_failed(self, error: DinoscopeError) -> None:
        self._disconnect()
        self.results.roll_back()
        self.ended.emit(Outcome("error", str(error)))

    def _on_cancelled(self) -> None:
        if self._failure is not None:
            self._on_failed(self._failure)
            return
        self._disconnect()
        self.results.roll_back()
        self.ended.emit(Outcome("cancelled", self._why or "Cancelled."))

    def _on_layer_removed(self, event: Any) -> None:
        if event.value in self.source.layers:
            self.cancel(f"{event.value.name!r} was removed: the run was stopped.")

    def _disconnect(self) -> None:
        viewer = self._controller.results.viewer
        viewer.layers.events.removed.disconnect(self._on_layer_removed)
