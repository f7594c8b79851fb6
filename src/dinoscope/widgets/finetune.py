"""The Fine-tune panel: teach a model on layers, watch it learn, use it in Predict."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QListWidget,
    QPushButton,
    QSpinBox,
    QStackedWidget,
)

from dinoscope.config import TRAINABLE_TASKS, TrainOptions
from dinoscope.errors import DinoscopeError, OutputError
from dinoscope.types import Progress
from dinoscope.widgets._choices import TASK_TEXT
from dinoscope.widgets._client import Controller, JobHandle
from dinoscope.widgets._controls import control_for
from dinoscope.widgets._curve import CurveView
from dinoscope.widgets._examples import Example, make_example, training_sources
from dinoscope.widgets._models import ModelPicker
from dinoscope.widgets._panel import Panel
from dinoscope.widgets._run import progress_of
from dinoscope.widgets._runbar import RunBar
from dinoscope.widgets._sources import LayerCombo, SourcePicker
from dinoscope.widgets._style import (
    add_row,
    form,
    hint_label,
    narrow,
    section,
    side_by_side,
    time_text,
)

if TYPE_CHECKING:
    from napari.viewer import Viewer

TARGET_HINT = {
    "instance": "A Labels layer in which each object has its own number; 0 is background.",
    "semantic": "A Labels layer in which each number is a class; 0 is background, 255 is ignored.",
    "depth": "An image layer with the height of each pixel; larger = nearer the objective. For a "
    "z-stack: take its 'in focus' layer as image and its 'height' layer here.",
    "classification": "The class of the whole image. Add images of at least two classes.",
}
TUNE = {
    "heads": ("Heads only", "Fastest: the network stays as it is."),
    "lora-last": ("LoRA, last blocks", "Adapts the end of the network: a laptop is enough."),
    "lora-all": ("LoRA, all blocks", "Adapts the whole network: slower, for unusual images."),
}
_SUFFIX = ".dinoscope"
#: The score that is shown for a task, by the names that the training gives them.
SCORES = ("ap50", "iou", "depth_gain", "f1_macro")


class FinetunePanel(Panel):
    """Train a model on an image layer and its target.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari (by the parameter's name).
    controller : Controller, optional
        The viewer's own when not given.
    """

    def __init__(self, napari_viewer: Viewer, controller: Controller | None = None) -> None:
        super().__init__(napari_viewer, controller)
        self._job: JobHandle | None = None
        self._output = Path()
        self._written: set[Path] = set()
        self._listed: list[Example] = []
        self._step = 0
        self._started = 0.0
        self._build()
        self._connect()
        self._on_task()
        self._suggest_name()

    # -- layout --------------------------------------------------------------------------------

    def _build(self) -> None:
        card, rows = section("What it should learn")
        self.task = narrow(QComboBox())
        for task in TRAINABLE_TASKS:
            self.task.addItem(TASK_TEXT[task][0], task)
            self.task.setItemData(
                self.task.count() - 1, TASK_TEXT[task][1], Qt.ItemDataRole.ToolTipRole
            )
        self.task.setToolTip("The kind of result the model should learn to give.")
        grid = form()
        add_row(grid, "Task", self.task)
        rows.addLayout(grid)
        self.body.addWidget(card)

        card, rows = section("From what")
        self.source = SourcePicker(self.viewer)
        self.labels = LayerCombo(self.viewer, "labels")
        self.depth = LayerCombo(self.viewer, "image", none="choose …")
        self.class_name = QLineEdit()
        self.class_name.setPlaceholderText("for example: healthy")
        self.target = QStackedWidget()
        self.target.setObjectName("bare")
        for widget in (self.labels, self.depth, self.class_name):
            self.target.addWidget(widget)
        self.target.setFixedHeight(self.labels.sizeHint().height())
        self.hint = hint_label()
        self.add = QPushButton("Add to the list")
        self.add.setToolTip("Teach several images: each with its own target.")
        self.drop = QPushButton("Remove")
        self.drop.setToolTip("Take the selected example off the list; no layer is touched.")
        self.examples = QListWidget()
        self.examples.setToolTip(
            "The images that are learned from. When empty: the image and target above."
        )
        self.examples.setMaximumHeight(92)
        self.examples.hide()
        rows.addWidget(self.source)
        grid = form()
        self.target_caption = add_row(grid, "Target", self.target)
        rows.addLayout(grid)
        rows.addWidget(self.hint)
        rows.addWidget(self.examples)
        rows.addWidget(side_by_side(self.add, self.drop, stretch_first=False))
        self.body.addWidget(card)

        card, rows = section("How")
        self.base = ModelPicker(
            self.controller, label="Start from", tooltip="The model that learning starts from."
        )
        self.tune = narrow(QComboBox())
        for kind, (text, tip) in TUNE.items():
            self.tune.addItem(text, kind)
            self.tune.setItemData(self.tune.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.tune.setCurrentIndex(list(TUNE).index("lora-last"))
        self.tune.setToolTip("Which part of the network changes. The original is never altered.")
        self.blocks = QSpinBox()
        self.blocks.setRange(1, 40)
        self.blocks.setValue(4)
        self.blocks.setToolTip("How many of the last blocks get LoRA layers.")
        self.rank = control_for(TrainOptions, "lora_rank", high=64)
        self.minutes = control_for(TrainOptions, "minutes", low=0.1, high=10_000)
        self.minutes.widget.setSpecialValueText("")
        self.minutes.widget.setMinimum(0.1)
        self.minutes.widget.setDecimals(1)
        self.minutes.value = 10.0
        self.device = control_for(TrainOptions, "device")
        rows.addWidget(self.base)
        grid = form()
        add_row(grid, "Change", self.tune, self.blocks)
        add_row(grid, "Rank", self.rank.widget)
        add_row(grid, "Minutes", self.minutes.widget)
        add_row(grid, "Device", self.device.widget)
        rows.addLayout(grid)
        self.body.addWidget(card)

        card, rows = section("Save as")
        self.output = QLineEdit()
        self.output.setToolTip("The file of the new model. It is small: adapter and heads.")
        self.choose = QPushButton("…")
        self.choose.setToolTip("Choose another folder or name.")
        rows.addWidget(side_by_side(self.output, self.choose))
        self.body.addWidget(card)

        card, rows = section("Progress")
        self.curve = CurveView()
        self.numbers = QLabel("")
        self.numbers.setWordWrap(True)
        self.numbers.setToolTip("Loss now, best score on held-out images, speed.")
        rows.addWidget(self.curve)
        rows.addWidget(self.numbers)
        self.body.addWidget(card)
        self.body.addStretch(1)

        self.runbar = RunBar("Start training", "Train in the background; napari stays usable.")
        self.runbar.cost.hide()
        self.runbar.cancel.setToolTip("Stop within a second. No model is written.")
        self.footer.addWidget(self.runbar)

    def _connect(self) -> None:
        self.task.currentIndexChanged.connect(self._on_task)
        self.source.changed.connect(self._suggest_name)
        self.add.clicked.connect(self._on_add)
        self.drop.clicked.connect(self._on_drop)
        self.tune.currentIndexChanged.connect(self._on_tune)
        self.choose.clicked.connect(self._on_choose)
        self.runbar.run_clicked.connect(self.start)
        self.runbar.cancel_clicked.connect(self.cancel)
        self.controller.models_changed.connect(self._suggest_name)

    def on_teardown(self) -> None:
        if self._job is not None and self._job.running:
            self._job.silence()
            self._job.cancel()
            self.runbar.stop("Stopped: the panel was closed.")
        self.source.disconnect_viewer()
        self.labels.disconnect_viewer()
        self.depth.disconnect_viewer()
        self.base.disconnect_controller()
        self.controller.models_changed.disconnect(self._suggest_name)

    # -- what is learned -----------------------------------------------------------------------

    @property
    def task_name(self) -> str:
        return str(self.task.currentData())

    def example(self) -> Example:
        """The image and target that are chosen now.

        Raises
        ------
        DinoscopeError
            They do not fit.
        """
        target: Any = {
            "depth": self.depth.layer,
            "classification": self.class_name.text(),
        }.get(self.task_name, self.labels.layer)
        return make_example(self.source.source(), self.task_name, target)

    def options(self) -> TrainOptions:
        """The options of the training."""
        kind = str(self.tune.currentData())
        return TrainOptions(
            tune=f"{kind}:{self.blocks.value()}" if kind == "lora-last" else kind,
            lora_rank=self.rank.value,
            minutes=self.minutes.value,
            device=self.device.value,
        )

    def output_path(self) -> Path:
        """Where the model goes.

        Raises
        ------
        OutputError
            No name, no such folder, or a file that would be overwritten.
        """
        text = self.output.text().strip()
        if not text:
            raise OutputError("the new model has no name", hint="Type one under Save as.")
        path = Path(text).expanduser()
        if path.suffix != _SUFFIX:
            path = path.with_name(path.name + _SUFFIX)
        if path.exists() and path not in self._written:
            raise OutputError(
                f"{str(path)!r} exists", hint="Choose another name; nothing is overwritten."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the folder {str(path.parent)!r} cannot be made ({error.strerror})",
                hint="Choose another folder.",
            ) from error
        if not os.access(path.parent, os.W_OK):
            raise OutputError(
                f"the folder {str(path.parent)!r} cannot be written to",
                hint="Choose another folder.",
            )
        return path

    # -- course --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start training in the worker."""
        if self._job is not None and self._job.running:
            return
        try:
            examples = self._listed or [self.example()]
            sources, images = training_sources(examples)
            options = self.options()
            self._output = self.output_path()
        except DinoscopeError as error:
            self._complain(str(error))
            return
        self.curve.clear()
        self.numbers.setText("")
        self._step = 0
        self._started = time.monotonic()
        payload = {
            "sources": sources,
            "options": options,
            "base": self.base.model,
            "output": str(self._output),
            "allow_download": self.base.download_allowed,
        }
        self.runbar.start(f"Training {self._output.stem}")
        job = self.controller.submit("train", payload, images)
        self._job = job
        self.runbar.say(self.controller.waiting_text(job) or f"Training {self._output.stem}")
        job.progress.connect(self._on_progress)
        job.done.connect(self._on_done)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)

    def cancel(self) -> None:
        """Stop within a second."""
        if self._job is not None and self._job.running:
            self.runbar.cancelling()
            self._job.cancel()

    def _on_progress(self, data: Any) -> None:
        progress = progress_of(data)
        self._plot(progress)
        self.runbar.show_progress(progress)

    def _plot(self, progress: Progress) -> None:
        values = dict(progress.values)
        if not values:
            return
        step = re.fullmatch(r"step (\d+)", progress.message)
        self._step = int(step.group(1)) if step else self._step
        if "loss" in values:
            self.curve.add_loss(self._step, float(values["loss"]))
        for when in ("before_", "val_"):
            # The score of the task where there is one task, the mean of all else.
            names = [n for n in (*SCORES, "score") if when + n in values]
            if names:
                name = names[0] if len(names) < 3 else "score"
                self.curve.add_score(self._step, float(values[when + name]), name)
        parts = []
        if self.curve.loss:
            parts.append(f"loss {self.curve.loss[-1][1]:.3g}")
        if self.curve.score:
            best = max(v for _, v in self.curve.score)
            parts.append(f"{self.curve.score_name} {self.curve.score[-1][1]:.3g} (best {best:.3g})")
        if values.get("images_per_s"):
            parts.append(f"{values['images_per_s']:.1f} images/s")
        self.numbers.setText(" · ".join(parts))

    def _on_done(self, data: dict[str, Any]) -> None:
        from napari.utils.notifications import show_info

        path = Path(str(data.get("output") or self._output))
        self._written.add(path)
        took = time_text(time.monotonic() - self._started)
        text = f"Done in {took}: {path.name} is ready and chosen in Predict."
        self.runbar.stop(text)
        show_info(text)
        self.controller.choose_model(str(path))
        self._suggest_name()

    def _on_failed(self, error: DinoscopeError) -> None:
        self.runbar.stop(str(error), "error")
        self._complain(str(error))

    def _on_cancelled(self) -> None:
        self.runbar.stop("Cancelled: no model was written.")

    # -- following the user --------------------------------------------------------------------

    def _on_task(self) -> None:
        task = self.task_name
        page = {"depth": self.depth, "classification": self.class_name}.get(task, self.labels)
        self.target.setCurrentWidget(page)
        self.target_caption.setText(
            {"depth": "Depth", "classification": "Class"}.get(task, "Labels")
        )
        for widget in (self.target, page, self.target_caption):
            widget.setToolTip(TARGET_HINT[task])
        self.hint.setText(TARGET_HINT[task])
        self._on_tune()

    def _on_tune(self) -> None:
        kind = self.tune.currentData()
        if self.tune.currentIndex() < 0:
            return
        self.blocks.setVisible(kind == "lora-last")
        self.rank.widget.setEnabled(kind != "heads")

    def _on_add(self) -> None:
        try:
            example = self.example()
        except DinoscopeError as error:
            self._complain(str(error))
            return
        self._listed.append(example)
        self.examples.addItem(example.text)
        self.examples.show()
        self.runbar.say(f"{len(self._listed)} examples in the list.")

    def _on_drop(self) -> None:
        row = self.examples.currentRow()
        if 0 <= row < len(self._listed):
            del self._listed[row]
            self.examples.takeItem(row)
        self.examples.setVisible(bool(self._listed))

    def _suggest_name(self) -> None:
        """A free name after the image; a name the user typed stays."""
        if self.output.isModified():
            return
        layer = self.source.layer
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in layer.name) if layer else ""
        stem = stem.strip("_") or "my"
        folder = self.controller.models_folder
        number = 1
        while (path := folder / f"{stem}-model{number if number > 1 else ''}{_SUFFIX}").exists():
            number += 1
        self.output.setText(str(path))
        self.output.setCursorPosition(len(str(path)))

    def ask_for_output(self, suggestion: str) -> str:
        """The path the user picks, or an empty text; replaced in tests."""
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the model as", suggestion, f"Models (*{_SUFFIX})"
        )
        return path

    def _on_choose(self) -> None:
        path = self.ask_for_output(self.output.text())
        if path:
            self.output.setText(path)
            self.output.setModified(True)
