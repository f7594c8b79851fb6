"""Choosing what is scored: layers, or folders and models."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QLineEdit, QPushButton, QVBoxLayout, QWidget

from dinoscope.config import EvaluateOptions, PredictOptions
from dinoscope.errors import InputError
from dinoscope.widgets._client import Controller
from dinoscope.widgets._evalrun import EvaluateRequest, layers_request
from dinoscope.widgets._models import ModelPicker
from dinoscope.widgets._results import METADATA, is_result
from dinoscope.widgets._sources import LayerCombo
from dinoscope.widgets._style import add_row, form, hint_label, narrow, set_tone, side_by_side

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

_HINT = {
    "instance": "Labels in which each object has its own number, in both.",
    "semantic": "Labels in which each number is a class, in both; 255 in the truth is not scored.",
    "depth": "Image layers of heights; NaN in the truth is not scored.",
    "classification": "Labels of objects whose features have a column 'class', in both.",
}


class LayersForm(QWidget):
    """Prediction, truth, a second prediction and the image, as layers."""

    changed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._viewer = viewer
        self.hint = hint_label()
        self.labels = _Choice(viewer, "labels image")
        self.depths = _Choice(viewer, "image")
        self.image = LayerCombo(viewer, "image", none="none", accept=_not_a_result)
        self.image.setToolTip(
            "The image itself: shown in the report, and for depth a baseline of sharpness."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for choice in (self.labels, self.depths):
            layout.addWidget(choice)
            choice.changed.connect(self._on_change)
        grid = form()
        add_row(grid, "Image", self.image)
        layout.addLayout(grid)
        layout.addWidget(self.hint)
        self.offer("instance")

    def offer(self, task: str) -> None:
        """Show the layers that hold results of `task`."""
        self.labels.setVisible(task != "depth")
        self.depths.setVisible(task == "depth")
        set_tone(self.hint, _HINT[task])
        self._task = task

    @property
    def choice(self) -> _Choice:
        """The layers of the task."""
        return self.depths if self._task == "depth" else self.labels

    def request(self, options: EvaluateOptions) -> EvaluateRequest:
        """What to ask the worker.

        Raises
        ------
        InputError
            A layer is missing, or they do not fit.
        """
        choice = self.choice
        layers = {
            "truth": choice.truth.layer,
            "prediction": choice.prediction.layer,
            "other": choice.other.layer,
            "image": self.image.layer,
        }
        request = layers_request(self._task, layers)
        unit = _unit(choice.prediction.layer)
        if unit and not options.depth_unit:
            options = dataclasses.replace(options, depth_unit=unit)
        request.payload["options"] = options
        return request

    def refresh(self) -> None:
        """Leave out error layers, which are known as such when a run has ended."""
        for combo in (*self.labels.combos, *self.depths.combos, self.image):
            combo.refresh()

    def disconnect_viewer(self) -> None:
        for choice in (self.labels, self.depths):
            choice.disconnect_viewer()
        self.image.disconnect_viewer()

    def _on_change(self) -> None:
        self.changed.emit()


class _Choice(QWidget):
    """Prediction, truth and second prediction out of the layers of one kind."""

    changed = Signal()

    def __init__(self, viewer: Viewer, kind: str) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.prediction = LayerCombo(viewer, kind, accept=_not_an_error)
        self.truth = LayerCombo(viewer, kind, accept=_not_an_error)
        self.other = LayerCombo(viewer, kind, none="none", accept=_not_an_error)
        self.prediction.setToolTip("What is scored.")
        self.truth.setToolTip("What is right.")
        self.other.setToolTip("Another prediction of the same truth, to compare with.")
        grid = form()
        for title, combo in (
            ("Prediction", self.prediction),
            ("Truth", self.truth),
            ("Compare", self.other),
        ):
            add_row(grid, title, combo)
            combo.layer_changed.connect(self._on_change)
        self._viewer = viewer
        self._by_hand = False
        for combo in (self.prediction, self.truth):
            combo.activated.connect(self._on_chosen)
        viewer.layers.events.inserted.connect(self._on_change)
        self.combos = (self.prediction, self.truth, self.other)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)
        self._part()

    def choose(self, prediction: Layer, truth: Layer, other: Layer | None = None) -> None:
        """Choose layers as the user does; they stay chosen while they exist."""
        self._by_hand = True
        self.prediction.layer, self.truth.layer, self.other.layer = prediction, truth, other

    def disconnect_viewer(self) -> None:
        for combo in self.combos:
            combo.disconnect_viewer()
        self._viewer.layers.events.inserted.disconnect(self._on_change)

    def _on_chosen(self, index: int) -> None:
        self._by_hand = True

    def _on_change(self, event: Any = None) -> None:
        with contextlib.suppress(RuntimeError):  # the widget is gone, its slot is not yet
            self._part()
            self.changed.emit()

    def _part(self) -> None:
        """Where both are one layer, choose another: a result for the prediction.

        Until the user has chosen, images give way to labels: they are offered for those who keep
        labels as images.
        """
        labels = [x for x in self.prediction.layers if x._type_string == "labels"]
        if labels and not self._by_hand:
            for combo in (self.prediction, self.truth):
                if combo.layer is not None and combo.layer not in labels:
                    combo.layer = labels[0]
        same = self.prediction.layer
        if same is None or same is not self.truth.layer:
            return
        others = [layer for layer in labels or self.prediction.layers if layer is not same]
        if not others:
            return
        if _sounds_true(same) and not is_result(same):
            made = [layer for layer in others if is_result(layer)]
            self.prediction.layer = (made or others)[0]
        else:
            true = [layer for layer in others if _sounds_true(layer)]
            self.truth.layer = true[0] if true else others[-1]


class FoldersForm(QWidget):
    """Folders of truth and predictions, or a model that is run on a folder of images."""

    changed = Signal()

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.truth = PathEdit("Folder of label images, or a CSV file image,class.")
        self.images = PathEdit("Folder of the images, named as their truth.")
        self.what = narrow(QComboBox())
        self.what.addItem("predictions in a folder", "folder")
        self.what.addItem("a model, run now", "model")
        self.what.setToolTip("Score results that are there, or run a model on the images.")
        self.predictions = PathEdit("Folder that predict wrote, or its CSV file.")
        self.model = ModelPicker(controller, tooltip="The model that is scored.")
        self.other = PathEdit("Other predictions (a folder), or another model (name or file).")
        self.other.text.setPlaceholderText("nothing")
        grid = form()
        add_row(grid, "Truth", self.truth)
        add_row(grid, "Images", self.images)
        add_row(grid, "Score", self.what)
        self._caption = add_row(grid, "Results", self.predictions)
        grid_below = form()
        add_row(grid_below, "Compare", self.other)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)
        layout.addWidget(self.model)
        layout.addLayout(grid_below)
        self.what.currentIndexChanged.connect(self._on_what)
        self._on_what()

    def request(self, task: str, options: EvaluateOptions) -> EvaluateRequest:
        """What to ask the worker.

        Raises
        ------
        InputError
            A folder is missing.
        """
        models = self.what.currentData() == "model"
        prediction = self.model.model if models else self.predictions.path("Results")
        files: dict[str, Any] = {
            "truth": self.truth.path("Truth"),
            "prediction": prediction,
            "models": models,
        }
        if models or self.images.text.text().strip():
            files["images"] = self.images.path("Images")
        if self.other.text.text().strip():
            files["other"] = (
                self.other.text.text().strip() if models else self.other.path("Compare")
            )
        payload = {
            "task": task,
            "files": files,
            "options": options,
            "predict": PredictOptions(tasks=(task,)),
            "allow_download": models and self.model.download_allowed,
        }
        kind = "evaluate_models" if models else "evaluate"
        title = f"{Path(str(prediction)).name} against {Path(files['truth']).name}"
        return EvaluateRequest(task, payload, kind=kind, title=title)

    def disconnect_controller(self) -> None:
        self.model.disconnect_controller()

    def _on_what(self) -> None:
        models = self.what.currentData() == "model"
        self.model.setVisible(models)
        self.predictions.setVisible(not models)
        self._caption.setVisible(not models)
        self.changed.emit()


class PathEdit(QWidget):
    """A path that is typed or chosen."""

    def __init__(self, tip: str) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.setToolTip(tip)
        self.text = QLineEdit()
        self.text.setToolTip(tip)
        self.browse = QPushButton("…")
        self.browse.setToolTip("Choose a folder.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(side_by_side(self.text, self.browse))
        self.browse.clicked.connect(self._on_browse)

    def path(self, name: str) -> str:
        """The path.

        Raises
        ------
        InputError
            There is none, or nothing is there.
        """
        text = self.text.text().strip()
        if not text:
            raise InputError(f"{name} is empty", expected="a folder")
        if not Path(text).expanduser().exists():
            raise InputError(f"{name}: {text!r} does not exist", expected="a folder")
        return str(Path(text).expanduser())

    def ask_for_folder(self) -> str:
        """The folder the user picks, or an empty text; replaced in tests."""
        return str(QFileDialog.getExistingDirectory(self, "Choose a folder", self.text.text()))

    def _on_browse(self) -> None:
        chosen = self.ask_for_folder()
        if chosen:
            self.text.setText(chosen)


def _sounds_true(layer: Layer) -> bool:
    """Whether a layer is called as people call what is right."""
    return re.search(r"truth|annot|manual|reference|\bgt\b", layer.name, re.IGNORECASE) is not None


def _not_an_error(layer: Layer) -> bool:
    made = layer.metadata.get(METADATA)
    return not (isinstance(made, dict) and "evaluated" in made) and not getattr(layer, "rgb", False)


def _not_a_result(layer: Layer) -> bool:
    return not is_result(layer)


def _unit(layer: Layer | None) -> str:
    made = layer.metadata.get(METADATA) if layer is not None else None
    unit = str(made.get("unit") or made.get("depth_unit") or "") if isinstance(made, dict) else ""
    return "" if unit == "relative" else unit
