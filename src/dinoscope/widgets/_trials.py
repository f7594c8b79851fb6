"""Several models on the same view, side by side: which one fits this image?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from dinoscope.config import TASKS
from dinoscope.widgets._client import Controller
from dinoscope.widgets._layers import (
    Source,
    data_to_physical,
    full_size,
    guess_axes,
    layer_is_rgb,
    place,
)
from dinoscope.widgets._models import possible_tasks, short_name
from dinoscope.widgets._results import Results
from dinoscope.widgets._run import Outcome, PredictRun, RunRequest
from dinoscope.widgets._store import ResultStore
from dinoscope.widgets._style import hint_label, time_text

#: Space between two models' results, as a share of their width.
GAP = 0.05


class TrialRunner(QObject):
    """Runs a request with one model after the other; results of each form a group of layers."""

    progress = Signal(object)
    #: A model has ended: its label, its run, its outcome.
    model_ended = Signal(str, object, object)
    ended = Signal(object)

    def __init__(
        self, controller: Controller, request: RunRequest, models: Sequence[dict[str, Any]]
    ) -> None:
        super().__init__(controller)
        self._controller = controller
        self._request = request
        self._waiting = list(models)
        self._run: PredictRun | None = None
        self._label = ""
        self._cancelled = ""
        self._total = len(self._waiting)
        self._good = 0

    @property
    def running(self) -> bool:
        return self._run is not None and self._run.running

    @property
    def source(self) -> Source:
        return self._request.source

    def start(self) -> None:
        self._next()

    def cancel(self, why: str = "") -> None:
        self._cancelled = why or "Cancelled."
        self._waiting = []
        if self._run is not None:
            self._run.cancel(why)

    def close(self) -> None:
        self._waiting = []
        if self._run is not None:
            self._run.close()

    def _next(self) -> None:
        if not self._waiting:
            if self._cancelled:
                self.ended.emit(Outcome("cancelled", self._cancelled))
            else:
                text = f"Tried {self._good} of {self._total} models; click a row to see one."
                self.ended.emit(Outcome("done" if self._good else "error", text))
            return
        entry = self._waiting.pop(0)
        self._label = short_name(str(entry["name"]))
        offered = possible_tasks(entry)
        tasks = tuple(t for t in self._request.options.tasks if t in offered)
        options = dataclasses.replace(self._request.options, tasks=tasks)
        request = dataclasses.replace(
            self._request,
            model=str(entry["name"]),
            label=self._label,
            group=self._label,
            options=options,
        )
        self._controller.results.remove(
            str(self._request.source.layer.unique_id), group=self._label
        )
        show_view(self._controller.results, request)
        self._run = PredictRun(self._controller, request)
        self._run.progress.connect(self._on_progress)
        self._run.ended.connect(self._on_ended)
        self._run.start()

    def _on_progress(self, progress: Any) -> None:
        message = f"{self._label}: {progress.message or progress.step}"
        self.progress.emit(dataclasses.replace(progress, message=message))

    def _on_ended(self, outcome: Outcome) -> None:
        self._good += outcome.kind == "done"
        self.model_ended.emit(self._label, self._run, outcome)
        self._next()


def show_view(results: Results, request: RunRequest) -> None:
    """A copy of what is in view, to lie below the model's results."""
    from napari.layers import Image

    source, options = request.source, request.options
    layer = source.layer
    placement = place(source, plane=options.plane, region=options.region)
    places = dict(zip(source.image.plane_axes, options.plane or (), strict=False))
    y0, x0, y1, x1 = options.region or (0, 0, source.image.size("Y"), source.image.size("X"))
    key = tuple(
        slice(y0, y1) if a == "Y" else slice(x0, x1) if a == "X" else places.get(a, 0)
        for a in source.layer_axes
    )
    pixels = np.asarray(full_size(layer)[key])
    rgb = layer_is_rgb(layer)
    store = ResultStore(
        placement.shape + (pixels.shape[-1:] if rgb else ()), pixels.dtype, planar=3 if rgb else 2
    )
    everything = (slice(None),) * len(store.shape)
    store.write(everything, pixels.reshape(store.shape))
    style: dict[str, Any] = {"rgb": True}
    if not rgb:
        style = {
            "rgb": False,
            "colormap": layer.colormap,
            "contrast_limits": layer.contrast_limits,
            "gamma": layer.gamma,
        }
    name = f"{layer.name} · view [{request.group}]"
    view = Image(store.array, name=name, multiscale=False, **style, **placement.kwargs)
    results.add(view, layer, "view", request.group).store = store


class TrialPanel(QWidget):
    """Choose candidates, try them, compare, keep one."""

    try_clicked = Signal()
    use_clicked = Signal(str)

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._controller = controller
        self._source_id = ""
        self._entries: list[dict[str, Any]] = []
        self._hidden: dict[Any, bool] = {}
        self._moved: dict[Any, np.ndarray] = {}
        self._camera: tuple[Any, float] | None = None

        self.candidates = QListWidget()
        self.candidates.setToolTip("Models to compare: those that can do a ticked task.")
        self.try_button = QPushButton("Try models on this view")
        self.try_button.setToolTip(
            "Run the ticked models over the visible region and compare their results."
        )
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["Model", "Objects", "Time"])
        self.table.setToolTip("Click a row to see the results of that model alone.")
        self.table.verticalHeader().hide()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.ResizeToContents)
        self.beside = QPushButton("Side by side")
        self.beside.setCheckable(True)
        self.beside.setToolTip("Show the results of all models next to each other.")
        self.use = QPushButton("Use")
        self.use.setToolTip("Choose the model of the selected row for Run.")
        self.clear = QPushButton("Clear")
        self.clear.setToolTip("Remove the compared layers; those you edited stay.")
        self.note = hint_label()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.candidates)
        layout.addWidget(self.try_button)
        layout.addWidget(self.table)
        line = QHBoxLayout()
        line.setSpacing(6)
        for button in (self.beside, self.use, self.clear):
            line.addWidget(button, 1)
        layout.addLayout(line)
        layout.addWidget(self.note)
        self._results_shown(False)

        self.try_button.clicked.connect(self._on_try)
        self.table.itemSelectionChanged.connect(self._on_row)
        self.beside.toggled.connect(self._on_side_by_side)
        self.use.clicked.connect(self._on_use)
        self.clear.clicked.connect(self.forget)

    # -- candidates ----------------------------------------------------------------------------

    def offer(self, tasks: Sequence[str]) -> None:
        """List the models that are on this computer and do one of `tasks`."""
        ticked = {m["name"] for m in self.chosen()} if self.candidates.count() else None
        self._entries = [
            m
            for m in self._controller.models
            if m.get("available", True)
            and not m.get("note")
            and set(tasks) & possible_tasks(m) & set(TASKS)
        ]
        self.candidates.clear()
        for entry in self._entries:
            item = QListWidgetItem(short_name(str(entry["name"])))
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            on = ticked is None or entry["name"] in ticked or len(self._entries) <= 3
            item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
            self.candidates.addItem(item)
        rows = min(max(len(self._entries), 1), 4)
        self.candidates.setFixedHeight(rows * max(self.candidates.sizeHintForRow(0), 18) + 8)
        self.candidates.setVisible(bool(self._entries))
        self.try_button.setEnabled(bool(self._entries))

    def chosen(self) -> list[dict[str, Any]]:
        """The ticked candidates."""
        return [
            entry
            for row, entry in enumerate(self._entries)
            if self.candidates.item(row).checkState() == Qt.CheckState.Checked
        ]

    # -- results -------------------------------------------------------------------------------

    def begin(self, source: Source) -> None:
        """A comparison on `source` starts."""
        self.forget()
        self._source_id = str(source.layer.unique_id)
        self._results_shown(True)

    def add(self, label: str, run: PredictRun, outcome: Outcome) -> None:
        """One model has ended."""
        row = self.table.rowCount()
        self.table.insertRow(row)
        count = str(run.object_count) if "instance" in run.request.options.tasks else "–"
        seconds = sum(run.summary.seconds.values()) if run.summary else None
        if run.summary and "total" in run.summary.seconds:
            seconds = run.summary.seconds["total"]
        texts = (label, count, time_text(seconds) or outcome.kind)
        for column, text in enumerate(texts):
            item = QTableWidgetItem(text)
            item.setToolTip(outcome.text)
            self.table.setItem(row, column, item)
        height = self.table.horizontalHeader().height() + 4
        height += sum(self.table.rowHeight(r) for r in range(min(row + 1, 6)))
        self.table.setFixedHeight(height)
        self.table.selectRow(row)

    def finish(self) -> None:
        """All models have ended: show them side by side."""
        if self.table.rowCount() > 1:
            self.beside.setChecked(True)

    def forget(self) -> None:
        """Remove the compared layers and bring the view back."""
        self.beside.setChecked(False)
        groups = [self.table.item(r, 0).text() for r in range(self.table.rowCount())]
        kept = []
        for group in groups:
            kept += self._controller.results.remove(self._source_id, group=group)[1]
        self.table.setRowCount(0)
        self._results_shown(False)
        self.note.setText(f"Kept, because you edited them: {', '.join(kept)}." if kept else "")
        self.note.setVisible(bool(kept))

    def _results_shown(self, shown: bool) -> None:
        for widget in (self.table, self.beside, self.use, self.clear):
            widget.setVisible(shown)
        self.note.setVisible(False)

    def _selected(self) -> str:
        rows = self.table.selectionModel().selectedRows()
        return self.table.item(rows[0].row(), 0).text() if rows else ""

    def _group_layers(self) -> list[tuple[str, Any]]:
        return [(r.group, r.layer) for r in self._controller.results.of(self._source_id) if r.group]

    def _on_try(self) -> None:
        self.try_clicked.emit()

    def _on_row(self) -> None:
        if self.beside.isChecked():
            return
        label = self._selected()
        for group, layer in self._group_layers():
            layer.visible = group == label

    def _on_side_by_side(self, on: bool) -> None:
        """Each model's layers move beside those of the one before; the others are hidden.

        napari's grid would give the image and each other layer of the user's a cell of its own.
        """
        viewer = self._controller.results.viewer
        camera = viewer.scene.camera
        own = self._group_layers()
        if on and own:
            self._hidden = {
                layer: layer.visible
                for layer in viewer.layers
                if all(layer is not mine for _, mine in own)
            }
            self._camera = (camera.center, camera.zoom)
            for layer in self._hidden:
                layer.visible = False
            column = {group: n for n, group in enumerate(dict.fromkeys(g for g, _ in own))}
            for group, layer in own:
                self._moved[layer] = np.array(layer.translate)
                layer.translate = self._moved[layer] + column[group] * _one_beside(layer)
                layer.visible = True
            viewer.fit_to_view()
        elif not on and self._camera is not None:
            for layer, translate in self._moved.items():
                layer.translate = translate
            for layer, visible in self._hidden.items():
                if layer in viewer.layers:
                    layer.visible = visible
            camera.center, camera.zoom = self._camera
            self._hidden, self._moved, self._camera = {}, {}, None
            self._on_row()

    def _on_use(self) -> None:
        label = self._selected()
        for entry in self._entries:
            if short_name(str(entry["name"])) == label:
                self.use_clicked.emit(str(entry["name"]))


def _one_beside(layer: Any) -> np.ndarray:
    """How far a layer has to be moved to lie beside itself, along its own columns."""
    axes = guess_axes(layer)
    step = np.zeros(layer.ndim)
    step[axes.index("X")] = layer.data.shape[axes.index("X")] * (1 + GAP)
    return np.asarray(data_to_physical(layer).linear_matrix @ step)
