"""One prediction: from the request to its layers, and its live controls afterwards. No widgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from dinoscope.config import InstanceOptions, PredictOptions
from dinoscope.errors import DinoscopeError
from dinoscope.types import Progress, Summary, Table
from dinoscope.widgets._client import Controller, JobHandle, LatestWins
from dinoscope.widgets._layers import Source, current_plane, place
from dinoscope.widgets._results import KINDS, ResultSet
from dinoscope.widgets._style import time_text
from dinoscope.widgets._tables import join_tables, rows_of

#: All planes are decoded again when the sliders have rested this long.
_REST_MS = 300


@dataclass(frozen=True)
class RunRequest:
    """What is run, on what, and under which name its results are grouped."""

    source: Source
    model: str
    label: str
    options: PredictOptions
    group: str = ""
    calibration: Mapping[str, np.ndarray | None] = field(default_factory=dict)
    download: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``done``, ``cancelled`` or ``error``, and one line about it."""

    kind: str
    text: str


class PredictRun(QObject):
    """Runs a request in the worker and writes its planes into layers as they arrive."""

    progress = Signal(object)
    ended = Signal(object)
    #: Objects or class scores have changed.
    tables_changed = Signal()
    #: Something the user should know while sliders are moved.
    note = Signal(str)

    def __init__(self, controller: Controller, request: RunRequest) -> None:
        super().__init__(controller)
        self._controller = controller
        self.request = request
        options = request.options
        self.results = ResultSet(
            controller.results,
            request.source,
            place(request.source, plane=options.plane, region=options.region),
            group=request.group,
            tasks=options.tasks,
            about={
                "model": request.label,
                "options": _plain(options),
                "layers": [layer.name for layer in request.source.layers],
            },
        )
        self.summary: Summary | None = None
        self._job: JobHandle | None = None
        self._run_id = ""
        self._why_cancelled = ""
        self._source_changed = False
        self._objects: dict[tuple[int, ...], Table | None] = {}
        self._classes: dict[tuple[int, ...], Table | None] = {}
        self._failure: DinoscopeError | None = None
        self._instance = options.instance
        self._decoder = LatestWins(self._send_redecode, self)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_REST_MS)
        self._rest.timeout.connect(self._decode_rest)
        self._stale: set[tuple[int, ...]] = set()

    # -- course --------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._job is not None and self._job.running

    @property
    def objects(self) -> Table:
        """The table of all objects of all planes."""
        return join_tables(self._objects)

    @property
    def classes(self) -> Table:
        """The table of class scores of all planes."""
        return join_tables(self._classes)

    @property
    def object_count(self) -> int:
        return sum(rows_of(t) for t in self._objects.values())

    def start(self) -> None:
        """Hand the request to the worker; returns at once."""
        request = self.request
        viewer = self._controller.results.viewer
        viewer.layers.events.removed.connect(self._on_layer_removed)
        for layer in request.source.layers:
            layer.events.data.connect(self._on_source_changed)
        payload: dict[str, Any] = {
            "model": request.model,
            "options": dataclasses.replace(request.options, keep_maps=True),
            "allow_download": request.download,
        }
        if any(v is not None for v in request.calibration.values()):
            payload["calibration"] = dict(request.calibration)
        job = self._controller.submit("predict", payload, {"image": request.source.image})
        self._job = job
        job.progress.connect(self._on_progress)
        job.plane.connect(self._on_plane)
        job.done.connect(self._on_done)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)

    def cancel(self, why: str = "") -> None:
        """Stop within a second; `ended` follows."""
        self._why_cancelled = self._why_cancelled or why
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """The panel goes away: stop everything, keep the layers."""
        self._decoder.clear()
        self._rest.stop()
        if self._job is not None and self._job.running:
            self._job.silence()
            self._job.cancel()
            self.results.roll_back()
        self._disconnect()

    # -- events of the job ---------------------------------------------------------------------

    def _on_progress(self, data: Any) -> None:
        self.progress.emit(progress_of(data))

    def _on_plane(self, data: Mapping[str, Any]) -> None:
        if self._failure is not None:
            return
        try:
            self._take(data)
        except DinoscopeError as error:  # the disk is full
            self._failure = error
            self.cancel()

    def _take(self, data: Mapping[str, Any]) -> None:
        index = tuple(int(i) for i in data["index"])
        place_of = dict(zip(self.request.source.image.plane_axes, index, strict=True))
        arrays = data["arrays"]
        # Opaque images first, so that labels come to lie above them.
        for task in sorted(arrays, key=lambda t: KINDS[t].rank):
            self.results.put(task, place_of, arrays[task])
        if data.get("objects") is not None:
            self._objects[index] = data["objects"]
        if data.get("classes") is not None:
            self._classes[index] = data["classes"]

    def _on_done(self, data: Mapping[str, Any]) -> None:
        self._disconnect()
        self.summary = data.get("summary")
        self._run_id = str(data.get("run") or "")
        facts: dict[str, Any] = {}
        if self.summary is not None:
            facts["summary"] = _plain(self.summary)
            self.results.name_classes(self.summary.class_names.get("semantic", ()))
        if self._classes:
            facts["classification"] = {k: v.tolist() for k, v in self.classes.items()}
            self._note_classes(facts["classification"])
        self.results.set_features("instance", self.objects)
        self.results.finish(**facts)
        self.tables_changed.emit()
        self.ended.emit(Outcome("done", self._text()))
        if self._instance != self.request.options.instance:
            self.adjust(self._instance)  # the sliders were moved while it ran

    def _on_failed(self, error: DinoscopeError) -> None:
        self._disconnect()
        partial = self.results.roll_back()
        text = str(error) + (f" Finished planes are kept in {_names(partial)}." if partial else "")
        self.ended.emit(Outcome("error", text))

    def _on_cancelled(self) -> None:
        if self._failure is not None:
            self._on_failed(self._failure)
            return
        self._disconnect()
        partial = self.results.roll_back()
        text = self._why_cancelled or "Cancelled."
        if partial:
            text += f" Finished planes are kept in {_names(partial)}."
        self.ended.emit(Outcome("cancelled", text))

    def _on_layer_removed(self, event: Any) -> None:
        if event.value in self.request.source.layers:
            self.cancel(f"{event.value.name!r} was removed: the run was stopped.")
            return
        if self.results.tasks and not any(self.results.layer(t) for t in self.results.tasks):
            self.cancel("All result layers were removed: the run was stopped.")

    def _on_source_changed(self, event: Any = None) -> None:
        self._source_changed = True

    def _disconnect(self) -> None:
        viewer = self._controller.results.viewer
        viewer.layers.events.removed.disconnect(self._on_layer_removed)
        for layer in self.request.source.layers:
            layer.events.data.disconnect(self._on_source_changed)

    def _note_classes(self, classes: Mapping[str, Any]) -> None:
        """Class scores have no layer of their own; the source's metadata carries them."""
        layer = self.request.source.layer
        own = dict(layer.metadata.get("dinoscope", {}))
        own["classification"] = {"model": self.request.label, **classes}
        layer.metadata["dinoscope"] = own

    def _text(self) -> str:
        summary = self.summary
        parts = []
        if "instance" in self.request.options.tasks:
            count = self.object_count
            parts.append(f"{count} object" + ("" if count == 1 else "s"))
        classes = self.classes
        if rows_of(classes) == 1:
            parts.append(f"{classes['class'][0]} ({100 * classes['probability'][0]:.0f} %)")
        if summary is not None:
            if summary.planes > 1:
                parts.append(f"{summary.planes} planes")
            total = summary.seconds.get("total", sum(summary.seconds.values()))
            parts.append(f"{time_text(total)} on {summary.device.upper()}")
            if summary.diameter_px:
                parts.append(f"objects of about {summary.diameter_px:.0f} px")
        text = "Done: " + ", ".join(parts) + "." if parts else "Done."
        if self._source_changed:
            text += " The image was changed meanwhile: results belong to it as it was at Run."
        for note in summary.notes if summary is not None else ():
            text += f" {note}"
        return text

    # -- live controls -------------------------------------------------------------------------

    @property
    def adjustable(self) -> bool:
        """Whether objects can be changed without the network."""
        return bool(self._run_id) and self.results.layer("instance") is not None

    @property
    def adjusting(self) -> bool:
        return self._decoder.busy or self._rest.isActive()

    def adjust(self, options: InstanceOptions) -> None:
        """Decode the kept maps with other options: the plane in view at once, then the others."""
        self._instance = options
        if not self.adjustable:
            return
        if not self.results.replace_touched("instance"):
            self.note.emit("You have edited the objects: adjusted ones go to a new layer.")
            self._decoder.request((options, None))
            return
        in_view = self._index_in_view()
        if in_view in self._objects:
            self._decoder.request((options, [in_view]))
        self._rest.start()

    def _decode_rest(self) -> None:
        """The sliders rest: all planes, with unique ids and intensities."""
        if self.adjustable:
            self._decoder.request((self._instance, None))

    def _index_in_view(self) -> tuple[int, ...]:
        if self.request.options.plane is not None:
            return tuple(self.request.options.plane)
        return current_plane(self._controller.results.viewer, self.request.source)

    def _send_redecode(self, what: tuple[InstanceOptions, Any]) -> JobHandle:
        options, indices = what
        payload: dict[str, Any] = {"run": self._run_id, "options": options}
        images = {}
        if indices is None:
            images["image"] = self.request.source.image
        else:
            labels = (self._objects.get(indices[0]) or {}).get("label", ())
            payload |= {"indices": indices, "first_id": int(labels[0]) if len(labels) else 1}
        job = self._controller.submit("redecode", payload, images)
        job.plane.connect(self._on_redecoded)
        job.done.connect(self._on_redecode_done)
        job.failed.connect(self._on_redecode_failed)
        return job

    def _on_redecoded(self, data: Mapping[str, Any]) -> None:
        try:
            self._take(data)
        except DinoscopeError as error:
            self.note.emit(str(error))

    def _on_redecode_done(self, data: Any) -> None:
        self.results.set_features("instance", self.objects)
        self.results.annotate(
            "instance", options=_plain(self.request.options) | {"instance": _plain(self._instance)}
        )
        self.tables_changed.emit()

    def _on_redecode_failed(self, error: DinoscopeError) -> None:
        self.note.emit(str(error))


def progress_of(data: Any) -> Progress:
    """The progress in an event's data."""
    if isinstance(data, Progress):
        return data
    names = {f.name for f in dataclasses.fields(Progress)}
    return Progress(**{k: v for k, v in dict(data).items() if k in names})


def _plain(options: Any) -> dict[str, Any]:
    return dataclasses.asdict(options)


def _names(layers: list[str]) -> str:
    return ", ".join(repr(name) for name in layers)
