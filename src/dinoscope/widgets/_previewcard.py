"""What is shown of the classifier: preview, uncertainty, how far it can be trusted, where to go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QPushButton, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider

from dinoscope.widgets._style import add_row, form, hint_label, set_tone, side_by_side

#: Expected calibration error below which probabilities can be taken at their word, and above which
#: they cannot.
_GOOD_ECE, _BAD_ECE = 0.05, 0.12


class PreviewCard(QWidget):
    """Ticks, opacity, the line about accuracy, and *Next place*."""

    changed = Signal()
    opacity_changed = Signal(float)
    next_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.preview = QCheckBox("Preview")
        self.preview.setChecked(True)
        self.preview.setToolTip("Show what the classifier makes of the image (key T in the image).")
        self.uncertainty = QCheckBox("Uncertainty")
        self.uncertainty.setToolTip(
            "Show where the classifier hesitates: bright = it cannot tell the classes apart."
        )
        self.opacity = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 1)
        self.opacity.setDecimals(2)
        self.opacity.setSingleStep(0.05)
        self.opacity.setValue(0.4)
        self.opacity.setToolTip("How strongly the preview covers the image.")
        self.trust = hint_label()
        self.trust.setToolTip(
            "Measured on strokes that the classifier was not taught with.\n"
            "Calibration error: by how much its stated confidence misses its real accuracy."
        )
        self.next = QPushButton("Next place")
        self.next.setToolTip(
            "Jump to the place, on any plane looked at so far, where a stroke teaches most "
            "(key N in the image)."
        )
        grid = form()
        add_row(grid, "Opacity", self.opacity)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        ticks = side_by_side(self.preview, self.uncertainty, stretch_first=False)
        layout.addWidget(side_by_side(ticks, self.next))
        layout.addLayout(grid)
        layout.addWidget(self.trust)
        self.preview.toggled.connect(self._on_toggle)
        self.uncertainty.toggled.connect(self._on_toggle)
        self.opacity.valueChanged.connect(self._on_opacity)
        self.next.clicked.connect(self._on_next)
        self._trust = ("", "")
        self._known = False
        self.show_trust({})

    @property
    def want(self) -> tuple[str, ...]:
        """What a preview is asked for."""
        return ("labels", "uncertainty") if self.uncertainty.isChecked() else ("labels",)

    def show_trust(self, data: Mapping[str, Any]) -> None:
        """How far the newest classifier can be trusted."""
        self._trust = trust_text(data.get("accuracy_heldout"), data.get("ece"))
        self._known = bool(data)
        set_tone(self.trust, *self._trust)

    def show_busy(self, text: str) -> None:
        """What goes on before the first preview; later ones are too quick to be read about."""
        if not self._known:
            set_tone(self.trust, *((text, "") if text else self._trust))

    def _on_toggle(self, on: bool) -> None:
        self.changed.emit()

    def _on_opacity(self, value: float) -> None:
        self.opacity_changed.emit(float(value))

    def _on_next(self) -> None:
        self.next_clicked.emit()


def trust_text(accuracy: float | None, ece: float | None) -> tuple[str, str]:
    """Accuracy and calibration error in plain words, and the tone of the line.

    Examples
    --------
    >>> trust_text(0.931, None)[0]
    'Right on 93 % of the strokes it was not taught with.'
    >>> trust_text(None, None)[1]
    ''
    """
    if accuracy is None and ece is None:
        return "Paint a few strokes more: then its accuracy can be measured.", ""
    parts = []
    if accuracy is not None:
        parts.append(
            f"Right on {accuracy:.0%} of the strokes it was not taught with.".replace("%", " %")
        )
    tone = ""
    if ece is not None:
        points = f"off by {100 * ece:.0f} points"
        if ece <= _GOOD_ECE:
            parts.append(f"Its confidence can be trusted ({points}).")
        elif ece <= _BAD_ECE:
            parts.append(f"Its confidence is roughly right ({points}).")
        else:
            parts.append(f"Do not trust its confidence yet ({points}): add strokes where it errs.")
            tone = "warning"
    return " ".join(parts), tone
