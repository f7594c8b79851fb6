"""The object diameter beside the image: measured by the model, shown as a circle."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from qtpy.QtCore import QObject, Signal

from dinoscope.errors import DinoscopeError
from dinoscope.widgets._choices import DiameterRow
from dinoscope.widgets._circle import DiameterCircle
from dinoscope.widgets._client import Controller
from dinoscope.widgets._run import RunRequest
from dinoscope.widgets._sources import SourcePicker

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Asks(Protocol):
    """The panel that the guide belongs to."""

    controller: Controller
    source: SourcePicker

    def request(self) -> RunRequest: ...


class DiameterGuide(QObject):
    """Serves the *Estimate* and *Circle* buttons of a `DiameterRow`."""

    said = Signal(str)
    failed = Signal(str)

    def __init__(self, viewer: Viewer, row: DiameterRow, panel: Asks) -> None:
        super().__init__(row)
        self.circle = DiameterCircle(viewer)
        self._row = row
        self._panel = panel
        row.estimate_clicked.connect(self._on_estimate)
        row.circle_toggled.connect(self._on_circle)

    def off(self) -> None:
        """Take the circle off the image."""
        self._row.circle.setChecked(False)
        self.circle.hide()

    def follow(self) -> None:
        """Draw the circle again where it is shown: the diameter or the image has changed."""
        if self.circle.shown and self._row.diameter_px:
            with contextlib.suppress(DinoscopeError):
                self.circle.show(self._panel.source.source(), self._row.diameter_px)

    def _on_estimate(self) -> None:
        try:
            request = self._panel.request()
        except DinoscopeError as error:
            self.failed.emit(str(error))
            return
        self._row.estimate.setEnabled(False)
        self.said.emit("Measuring the objects …")
        payload = {"model": request.model, "options": request.options}
        job = self._panel.controller.submit("diameter", payload, {"image": request.source.image})
        job.done.connect(self._on_measured)
        job.failed.connect(self._on_failed)

    def _on_measured(self, data: dict[str, Any]) -> None:
        self._row.estimate.setEnabled(True)
        value = data.get("diameter_px")
        if value is None:
            self.said.emit("No objects were seen to measure; the diameter stays as it is.")
            return
        self._row.diameter_px = round(float(value), 1)
        self._row.circle.setChecked(True)
        self.said.emit(f"Objects are about {value:.0f} px across.")

    def _on_failed(self, error: DinoscopeError) -> None:
        self._row.estimate.setEnabled(True)
        self.failed.emit(str(error))

    def _on_circle(self, on: bool) -> None:
        if not on:
            self.circle.hide()
            return
        try:
            source = self._panel.source.source()
        except DinoscopeError as error:
            self.failed.emit(str(error))
            self.off()
            return
        if self._row.diameter_px is None:
            # Nothing to draw yet: a size that can be seen and changed.
            size = min(source.image.size("Y"), source.image.size("X"))
            self._row.diameter_px = float(max(4, round(size / 12)))
        self.circle.show(source, self._row.diameter_px)
