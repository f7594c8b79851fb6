"""The foot of a panel: the cost of a run, Run, Cancel, progress with the time left, the outcome."""

from __future__ import annotations

import time
from typing import Any

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from dinoscope.types import Progress
from dinoscope.widgets._style import hint_label, set_tone, time_text

_TICK_MS = 150
_SCALE = 1000


class RunBar(QWidget):
    """Buttons, bar and lines; it knows nothing about what is run.

    The bar in napari's activity dock is created, updated and closed here, in the window's thread.
    """

    run_clicked = Signal()
    cancel_clicked = Signal()

    def __init__(self, run_text: str, run_tip: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dock_bar: Any = None
        self._last: Progress | None = None
        self._started = 0.0
        self._in_tick = False

        self.cost = hint_label()
        self.cost.setToolTip("What the next run will cost on this computer, measured, not guessed.")
        self.run = QPushButton(run_text)
        self.run.setObjectName("primary")
        self.run.setToolTip(run_tip)
        self.run.setCursor(Qt.CursorShape.PointingHandCursor)
        self.cancel = QPushButton("Cancel")
        self.cancel.setToolTip("Stop within a second. Nothing of yours is changed.")
        self.cancel.setEnabled(False)
        self.bar = QProgressBar()
        self.bar.setRange(0, _SCALE)
        self.bar.setTextVisible(True)
        self.bar.setFormat("")
        self.bar.hide()
        self.status = hint_label()

        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        buttons.addWidget(self.run, 1)
        buttons.addWidget(self.cancel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.cost)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)

        self.run.clicked.connect(self._on_run)
        self.cancel.clicked.connect(self._on_cancel)
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK_MS)
        self._timer.timeout.connect(self._tick)

    @property
    def busy(self) -> bool:
        return self._timer.isActive()

    def start(self, what: str) -> None:
        """A run has begun."""
        from napari.utils import cancelable_progress

        self._started = time.monotonic()
        self._last = Progress(what, 0, 0)
        self.run.setEnabled(False)
        self.cancel.setEnabled(True)
        self.bar.setRange(0, 0)
        self.bar.setFormat("")
        self.bar.show()
        set_tone(self.status, what)
        self._dock_bar = cancelable_progress(total=_SCALE, desc=what)
        self._timer.start()

    def show_progress(self, progress: Progress) -> None:
        """How far it has come; shown at the next tick."""
        self._last = progress
        if progress.total:
            self.bar.setRange(0, _SCALE)
            self.bar.setValue(_permille(progress))
        set_tone(self.status, self._text(progress))

    def cancelling(self) -> None:
        """Cancel was asked for; the run is not over yet."""
        self.cancel.setEnabled(False)
        set_tone(self.status, "Stopping …")

    def stop(self, text: str, tone: str = "") -> None:
        """The run is over."""
        self._timer.stop()
        self._last = None
        bar, self._dock_bar = self._dock_bar, None
        if bar is not None:
            bar.close()
        self.bar.hide()
        self.run.setEnabled(True)
        self.cancel.setEnabled(False)
        set_tone(self.status, text, tone)

    def say(self, text: str, tone: str = "") -> None:
        """The line below the buttons."""
        set_tone(self.status, text, tone)

    def _text(self, progress: Progress) -> str:
        parts = [progress.message or progress.step]
        if 1 < progress.total < _SCALE:  # a larger total is a share of time, not a count
            parts.append(f"{progress.done} of {progress.total}")
        if progress.seconds_left is not None:
            parts.append(f"about {time_text(progress.seconds_left)} left")
        return " · ".join(p for p in parts if p)

    def _on_run(self) -> None:
        self.run_clicked.emit()

    def _on_cancel(self) -> None:
        self.cancel_clicked.emit()

    def _tick(self) -> None:
        # Updating napari's bar processes events, so this may be entered again.
        bar, last = self._dock_bar, self._last
        if self._in_tick or bar is None or last is None:
            return
        if bar.is_canceled:
            bar.is_canceled = False
            self.cancel_clicked.emit()
            return
        self._in_tick = True
        try:
            ahead = _permille(last) - bar.n
            if ahead > 0:
                bar.update(ahead)
        finally:
            self._in_tick = False


def _permille(progress: Progress) -> int:
    return round(_SCALE * min(progress.done / progress.total, 1.0)) if progress.total else 0
