"""The parts of the Predict panel in which a run is described: tasks, scope, scale, more options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from dinoscope.config import TASKS, InstanceOptions, PredictOptions
from dinoscope.widgets._controls import Control, control_for, values_of
from dinoscope.widgets._layers import full_size, layer_is_rgb
from dinoscope.widgets._segments import Segments
from dinoscope.widgets._sources import LayerCombo
from dinoscope.widgets._style import add_row, blocked, form

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

TASK_TEXT = {
    "instance": ("Instances", "Each object gets its own number: count and measure."),
    "semantic": ("Classes", "Each pixel gets a class."),
    "depth": ("Depth", "Height of the surface; larger = nearer the objective."),
    "classification": ("Image class", "One class for the whole image, with probabilities."),
    "pca": ("PCA colours", "What the network sees: patch tokens as colours. Needs no training."),
}
SCOPES = {
    "slice": ("This slice", "The plane that the sliders show."),
    "stack": ("Whole stack", "All planes: every z, every time point."),
    "region": ("Visible region", "Only what is in view, on the plane that the sliders show."),
}


class TaskPicker(QWidget):
    """Tick boxes for the tasks; those the model has no head for are grey and say why."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._wanted = {"instance"}
        self._own: set[str] = set()
        self.boxes: dict[str, QCheckBox] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(10)
        grid.setVerticalSpacing(4)
        for i, task in enumerate(TASKS):
            text, tip = TASK_TEXT[task]
            box = QCheckBox(text)
            box.setToolTip(tip)
            box.setChecked(task in self._wanted)
            box.toggled.connect(self._on_toggle)
            self.boxes[task] = box
            grid.addWidget(box, i // 3, i % 3)
        grid.setColumnStretch(2, 1)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is ticked and possible."""
        return tuple(t for t, b in self.boxes.items() if b.isEnabled() and b.isChecked())

    @property
    def wanted(self) -> list[str]:
        return sorted(self._wanted)

    @wanted.setter
    def wanted(self, tasks: Sequence[str]) -> None:
        self._wanted = set(tasks) & set(TASKS)
        self._tick()

    def offer(
        self,
        model: str,
        tasks: Sequence[str],
        others: dict[str, list[str]],
        own: Sequence[str] = (),
    ) -> None:
        """Enable what `model` can do; `others` names for each task the models that can.

        Of `own`, what a classifier was trained for where another model finds objects for it,
        something is ticked: whoever chooses it wants classes.
        """
        self._own = set(own)
        for task, box in self.boxes.items():
            possible = task in tasks
            box.setEnabled(possible)
            tip = TASK_TEXT[task][1]
            if not possible:
                names = ", ".join(others.get(task, ())) or "none so far; train one in Fine-tune"
                tip = f"{model} has no head for this.\nModels that have one: {names}."
            box.setToolTip(tip)
        self._tick()

    def _tick(self) -> None:
        able = [t for t, b in self.boxes.items() if b.isEnabled()]
        chosen = self._wanted & set(able) or set(able[:1])
        if not chosen & self._own:
            chosen |= self._own & set(able)
        for task, box in self.boxes.items():
            with blocked(box):
                box.setChecked(task in chosen)

    def _on_toggle(self, on: bool) -> None:
        for task, box in self.boxes.items():
            if box.isEnabled():
                (self._wanted.add if box.isChecked() else self._wanted.discard)(task)
        self.changed.emit()


class ScopePicker(Segments):
    """Slice, stack or what is in view: three buttons of which one is down."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__(SCOPES)
        self.group.buttonClicked.connect(self._on_click)

    @property
    def scope(self) -> str:
        return self.picked

    @scope.setter
    def scope(self, scope: str) -> None:
        self.pick(scope)

    def offer(self, planes: int) -> None:
        """A single plane is no stack."""
        stack = self.buttons["stack"]
        stack.setEnabled(planes > 1)
        stack.setToolTip(f"All {planes} planes." if planes > 1 else "This image is a single plane.")
        self.buttons["slice"].setText("This slice" if planes > 1 else "Whole image")
        if planes <= 1 and self.scope == "stack":
            self.buttons["slice"].setChecked(True)

    def _on_click(self, button: Any) -> None:
        self.changed.emit()


class DiameterRow(QWidget):
    """Typical object diameter: automatic, or a number; with a circle to compare with the image."""

    changed = Signal()
    estimate_clicked = Signal()
    circle_toggled = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.control = control_for(PredictOptions, "diameter_px")
        self.estimate = QPushButton("Estimate")
        self.estimate.setToolTip("Let the model measure the objects on this image.")
        self.circle = QPushButton("Circle")
        self.circle.setCheckable(True)
        self.circle.setToolTip("Show a circle of this diameter on the image, to compare.")
        for button in (self.estimate, self.circle):
            button.setObjectName("small")
        self.control.widget.setSuffix("")  # the unit stands in the row's label: room is short
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        line.addWidget(self.control.widget, 1)
        line.addWidget(self.estimate)
        line.addWidget(self.circle)
        self.control.changed.connect(self.changed)
        self.estimate.clicked.connect(self._on_estimate)
        self.circle.toggled.connect(self.circle_toggled)

    @property
    def diameter_px(self) -> float | None:
        return self.control.value

    @diameter_px.setter
    def diameter_px(self, value: float | None) -> None:
        self.control.value = value

    def _on_estimate(self) -> None:
        self.estimate_clicked.emit()


class MoreOptions(QWidget):
    """Device, channels, pixel size, preprocessing, dark and flat image."""

    changed = Signal()

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.controls: dict[str, Control] = {
            "device": control_for(PredictOptions, "device"),
            "channels": control_for(PredictOptions, "channels"),
            "pixel_size_um": control_for(PredictOptions, "pixel_size_um"),
            "denoise": control_for(PredictOptions, "denoise", label="Denoise"),
            "local_contrast": control_for(PredictOptions, "local_contrast", label="Local contrast"),
        }
        size = self.controls["pixel_size_um"].widget
        size.setSpecialValueText("from the layer")
        size.setSuffix(" µm")
        self.controls["channels"].widget.setPlaceholderText("all, or for example 0, 2")
        self.dark = LayerCombo(viewer, "image", none="none", accept=_is_flat)
        self.flat = LayerCombo(viewer, "image", none="none", accept=_is_flat)
        grid = form()
        grid.setContentsMargins(0, 4, 0, 0)
        add_row(grid, "Device", self.controls["device"].widget)
        add_row(grid, "Channels", self.controls["channels"].widget)
        add_row(grid, "Pixel size", size)
        ticks = QWidget()
        ticks.setObjectName("bare")
        line = QHBoxLayout(ticks)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(12)
        for name in ("denoise", "local_contrast"):
            line.addWidget(self.controls[name].widget)
        line.addStretch(1)
        add_row(grid, "Prepare", ticks, tooltip="What is done to each plane first.")
        dark_tip = "An image taken without light: subtracted first."
        flat_tip = "An image of an empty, evenly lit field: divided out."
        self.dark.setToolTip(dark_tip)
        self.flat.setToolTip(flat_tip)
        add_row(grid, "Dark image", self.dark, tooltip=dark_tip)
        add_row(grid, "Flat image", self.flat, tooltip=flat_tip)
        QVBoxLayout(self).addLayout(grid)
        self.layout().setContentsMargins(0, 0, 0, 0)
        for control in self.controls.values():
            control.changed.connect(self.changed)
        for combo in (self.dark, self.flat):
            combo.layer_changed.connect(self.changed)

    def values(self) -> dict[str, Any]:
        """Options by name."""
        return values_of(self.controls)

    def calibration(self) -> dict[str, np.ndarray | None]:
        """Dark and flat image; read now."""
        return {
            name: None if combo.layer is None else np.asarray(full_size(combo.layer))
            for name, combo in (("dark", self.dark), ("flat", self.flat))
        }

    def restore(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name in self.controls:
                with blocked(self.controls[name]):
                    self.controls[name].value = value

    def disconnect_viewer(self) -> None:
        self.dark.disconnect_viewer()
        self.flat.disconnect_viewer()


class AdjustControls(QWidget):
    """Threshold, minimum size, border, holes: they act on kept maps, without the network."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.controls: dict[str, Control] = {
            "threshold": control_for(InstanceOptions, "threshold"),
            "min_size_px": control_for(InstanceOptions, "min_size_px", high=100_000),
            "min_size_share": control_for(InstanceOptions, "min_size_share"),
            "remove_border": control_for(
                InstanceOptions, "remove_border", label="Drop objects at the border"
            ),
            "fill_holes": control_for(InstanceOptions, "fill_holes", label="Fill holes"),
        }
        grid = form()
        add_row(grid, "Threshold", self.controls["threshold"].widget)
        add_row(grid, "Smallest", self.controls["min_size_px"].widget)
        add_row(grid, "Min. share", self.controls["min_size_share"].widget)
        line = QHBoxLayout()
        line.setSpacing(12)
        for name in ("remove_border", "fill_holes"):
            line.addWidget(self.controls[name].widget)
        line.addStretch(1)
        grid.addLayout(line, grid.rowCount(), 0, 1, 2, Qt.AlignmentFlag.AlignLeft)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)
        for control in self.controls.values():
            control.changed.connect(self.changed)

    @property
    def options(self) -> InstanceOptions:
        return InstanceOptions(**values_of(self.controls))

    def restore(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name in self.controls:
                with blocked(self.controls[name]):
                    self.controls[name].value = value


def _is_flat(layer: Layer) -> bool:
    """Whether a layer can be a dark or flat image: one plane, perhaps with channels."""
    return layer.ndim <= 3 and not layer_is_rgb(layer) and not getattr(layer, "multiscale", False)
