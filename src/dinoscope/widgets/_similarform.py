"""The form of the similarity search: clicks, threshold, labels."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider

from dinoscope.config import SimilarityOptions
from dinoscope.widgets._featureforms import DETAIL, Choice
from dinoscope.widgets._similarity import SimilarityTool
from dinoscope.widgets._style import add_row, blocked, form, hint_label, set_tone

_HOW = (
    "Click in the image on what you look for. Alt+click or a right click says: not this. "
    "Dragging still moves the view."
)


class SimilarForm(QWidget):
    """Controls of a :class:`~dinoscope.widgets._similarity.SimilarityTool`."""

    stop_clicked = Signal()

    def __init__(self, tool: SimilarityTool) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._tool = tool
        #: The user moved the slider: suggestions no longer move it.
        self._chosen = False
        self.about = hint_label(_HOW)
        # As fine as the image in any case: the labels have to fit it.
        detail = {key: text for key, text in DETAIL.items() if key != "patch"}
        self.detail = Choice(detail, "How patches become pixels.")
        self.detail.key = "linear"
        self.centred = QCheckBox("More contrast")
        self.centred.setToolTip("Leave out what all patches have in common.")
        self.with_labels = QCheckBox("Labels above")
        self.with_labels.setToolTip("Label what is at least this alike.")
        self.with_labels.setChecked(True)
        self.slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(-1.0, 1.0)
        self.slider.setDecimals(2)
        self.slider.setSingleStep(0.01)
        self.slider.setValue(0.6)
        self.slider.setToolTip("Threshold; suggested until you move it.")
        self.undo = QPushButton("Undo click")
        self.clear = QPushButton("Clear")
        self.stop = QPushButton("Stop clicking")
        self.keep = QPushButton("Keep labels")
        for button, tip in (
            (self.undo, "Take the last click back."),
            (self.clear, "Take all clicks back; heat map and labels go."),
            (self.stop, "Clicks on the image are yours again; the layers stay."),
            (self.keep, "A copy of the labels as a layer of your own."),
        ):
            button.setObjectName("small")
            button.setToolTip(tip)
        grid = form()
        add_row(grid, "Detail", self.detail, self.centred)
        holder = QWidget()
        holder.setObjectName("bare")
        line = QHBoxLayout(holder)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(6)
        line.addWidget(self.with_labels)
        line.addWidget(self.slider, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.about)
        layout.addLayout(grid)
        layout.addWidget(holder)
        for pair in ((self.undo, self.clear), (self.stop, self.keep)):
            row = QHBoxLayout()
            row.setSpacing(4)
            for button in pair:
                row.addWidget(button, 1)
            layout.addLayout(row)

        self.detail.chosen.connect(self._on_options)
        self.centred.toggled.connect(self._on_options)
        self.with_labels.toggled.connect(self._on_threshold)
        self.slider.valueChanged.connect(self._on_slider)
        self.undo.clicked.connect(tool.undo)
        self.clear.clicked.connect(self._on_clear)
        self.stop.clicked.connect(self._on_stop)
        self.keep.clicked.connect(self._on_keep)
        tool.changed.connect(self.refresh)
        tool.suggested.connect(self._on_suggested)
        self._on_options()
        self._on_threshold()
        self.refresh()

    def refresh(self) -> None:
        """Follow the tool."""
        clicks = self._tool.clicks
        yes = sum(click.positive for click in clicks)
        if clicks:
            text = f"{yes} like this" + (f", {len(clicks) - yes} not" if len(clicks) > yes else "")
            text += f" · scores {self._tool.low:.2f} to {self._tool.high:.2f}"
            set_tone(self.about, text)
        else:
            set_tone(self.about, _HOW if self._tool.on else "Press Start, then click in the image.")
        self.stop.setEnabled(self._tool.on)
        for button in (self.undo, self.clear, self.keep):
            button.setEnabled(bool(clicks))

    def _on_options(self, *_: object) -> None:
        self._tool.options = SimilarityOptions(
            upsample=self.detail.key,
            centred=self.centred.isChecked(),
        )
        self._tool.ask()

    def _on_threshold(self, *_: object) -> None:
        on = self.with_labels.isChecked()
        self.slider.setEnabled(on)
        self._tool.set_threshold(float(self.slider.value()) if on else None)

    def _on_slider(self, value: float) -> None:
        self._chosen = True
        self._on_threshold()

    def _on_suggested(self, value: float) -> None:
        if not self._chosen:
            with blocked(self.slider):
                self.slider.setValue(value)
            self._on_threshold()

    def _on_clear(self) -> None:
        self._chosen = False
        self._tool.clear()

    def _on_stop(self) -> None:
        self.stop_clicked.emit()

    def _on_keep(self) -> None:
        self._tool.keep()
