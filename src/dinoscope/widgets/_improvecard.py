"""Improve with LoRA: the plan, live curves, pause, what came of it, and the rounds so far."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QVBoxLayout, QWidget

from dinoscope.config import TrainOptions
from dinoscope.types import Progress
from dinoscope.widgets._controls import control_for
from dinoscope.widgets._curve import CurveView
from dinoscope.widgets._improve import Improver, main_score, plan_text, score_text, tune_text
from dinoscope.widgets._style import (
    add_row,
    blocked,
    form,
    hint_label,
    narrow,
    set_tone,
    side_by_side,
)

_NO_PLAN = (
    "Trains the model itself on what you annotated, in the background. "
    "The old model stays in use until the new one is better."
)


class ImproveCard(QWidget):
    """Shows an :class:`Improver`."""

    minutes_changed = Signal(float)

    def __init__(self, improver: Improver) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._improver = improver
        self._step = 0
        self.plan = hint_label(_NO_PLAN)
        self.plan.setToolTip(
            "What is trained follows what this machine can do in the time, and what is annotated."
        )
        self.minutes = control_for(TrainOptions, "minutes", low=0.1, high=10_000)
        self.minutes.widget.setSpecialValueText("")
        self.minutes.widget.setMinimum(0.1)
        self.minutes.widget.setDecimals(1)
        self.minutes.value = improver.minutes
        self.minutes.widget.setToolTip("How long to train. You can paint meanwhile.")
        self.pause = QPushButton("Pause")
        self.pause.setObjectName("small")
        self.pause.setCheckable(True)
        self.pause.setToolTip("Let the training rest, for example to paint in peace; then go on.")
        self.pause.setEnabled(False)
        self.curve = CurveView()
        self.curve.hide()
        self.numbers = QLabel("")
        self.numbers.setWordWrap(True)
        self.numbers.setToolTip("Loss now, best score on annotations kept apart.")
        self.numbers.hide()
        self.result = hint_label()
        self.result.hide()
        self.use_new = QPushButton("Use new")
        self.use_new.setToolTip("Go on with the model of the last round.")
        self.keep_old = QPushButton("Keep old")
        self.keep_old.setToolTip("Go on with the model from before the last round.")
        self.choice = side_by_side(self.keep_old, self.use_new, stretch_first=False)
        self.choice.hide()
        self.rounds = narrow(QComboBox())
        self.rounds.setToolTip(
            "Every round of this project. Choosing one puts its model in use; nothing is deleted."
        )
        self.rounds_row = form()
        self.rounds_caption = add_row(self.rounds_row, "Rounds", self.rounds)
        grid = form()
        add_row(grid, "Minutes", side_by_side(self.minutes.widget, self.pause))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.plan)
        layout.addLayout(grid)
        layout.addWidget(self.curve)
        layout.addWidget(self.numbers)
        layout.addWidget(self.result)
        layout.addWidget(self.choice)
        layout.addLayout(self.rounds_row)
        self._show_rounds_row(False)
        self.minutes.changed.connect(self._on_minutes)
        self.pause.toggled.connect(improver.pause)
        self.use_new.clicked.connect(self._on_use_new)
        self.keep_old.clicked.connect(self._on_keep_old)
        self.rounds.activated.connect(self._on_round)
        improver.planned.connect(self._on_plan)
        improver.planning.connect(self._on_planning)
        improver.started.connect(self._on_started)
        improver.progress.connect(self._on_progress)
        improver.paused_changed.connect(self._on_paused)
        improver.done.connect(self._on_done)
        improver.ended.connect(self._on_ended)
        improver.rounds.connect(self._on_rounds)

    # -- the round that runs -------------------------------------------------------------------

    def _on_plan(self, plan: Mapping[str, Any] | None) -> None:
        set_tone(self.plan, *(plan_text(plan) if plan else (_NO_PLAN, "")))

    def _on_planning(self) -> None:
        if self.plan.text() == _NO_PLAN:
            self.plan.setText("Finding out what this computer can train in that time …")

    def _on_started(self) -> None:
        self._step = 0
        self.curve.clear()
        self.curve.show()
        self.numbers.setText("")
        self.numbers.show()
        self.result.hide()
        self.choice.hide()
        self.pause.setEnabled(True)

    def _on_progress(self, progress: Progress) -> None:
        values = dict(progress.values)
        step = re.search(r"step (\d+)", progress.message)
        self._step = int(step.group(1)) if step else self._step + bool(values)
        if "loss" in values:
            self.curve.add_loss(self._step, float(values["loss"]))
        scores = {k.removeprefix("val_"): v for k, v in values.items() if k.startswith("val_")}
        if not scores:
            scores = {
                k.removeprefix("before_"): v for k, v in values.items() if k.startswith("before_")
            }
        if scores:
            name = main_score(scores)
            self.curve.add_score(self._step, float(scores[name]), score_text(name))
        parts = []
        if self.curve.loss:
            parts.append(f"loss {self.curve.loss[-1][1]:.3g}")
        if self.curve.score:
            first, best = self.curve.score[0][1], max(v for _, v in self.curve.score)
            parts.append(f"{self.curve.score_name} {first:.3f} at first, best {best:.3f}")
        if parts:
            self.numbers.setText(" · ".join(parts))

    def _on_paused(self, paused: bool) -> None:
        with blocked(self.pause):
            self.pause.setChecked(paused)
        self.pause.setText("Go on" if paused else "Pause")

    def _on_done(self, data: Mapping[str, Any]) -> None:
        lines = [scores_text(data)]
        lines += [str(note) for note in data.get("notes") or ()]
        self.result.setText("\n".join(line for line in lines if line))
        self.result.show()  # the choice follows with the rounds, which it needs

    def _on_ended(self, outcome: Any) -> None:
        self.pause.setEnabled(False)
        with blocked(self.pause):
            self.pause.setChecked(False)
        self.pause.setText("Pause")
        if not self.curve.loss and not self.curve.score:
            self.curve.hide()
            self.numbers.hide()

    def _show_choice(self, kept: str) -> None:
        self.choice.show()
        self.keep_old.setEnabled(kept == "new")
        self.use_new.setEnabled(kept != "new")

    # -- rounds --------------------------------------------------------------------------------

    def _on_rounds(self, rounds: Any, current: int) -> None:
        finished = [one for one in rounds if one.state == "done"]
        with blocked(self.rounds):
            self.rounds.clear()
            self.rounds.addItem("0 · the model it began with", 0)
            for one in finished:
                name = main_score(one.after)
                score = f" · {one.after[name]:.3f}" if name else ""
                self.rounds.addItem(f"{one.number} · {tune_text(one.tune)}{score}", one.number)
            row = self.rounds.findData(current)
            self.rounds.setCurrentIndex(max(row, 0))
        self._show_rounds_row(bool(finished))
        if finished:
            last = finished[-1]
            self._show_choice("new" if current == last.number else "old")

    def _show_rounds_row(self, on: bool) -> None:
        self.rounds.setVisible(on)
        self.rounds_caption.setVisible(on)

    def _on_round(self, row: int) -> None:
        self._improver.use_round(int(self.rounds.itemData(row)))

    def _on_use_new(self) -> None:
        done = [one.number for one in self._improver.known if one.state == "done"]
        if done:
            self._improver.use_round(done[-1])

    def _on_keep_old(self) -> None:
        done = [one.number for one in self._improver.known if one.state == "done"]
        self._improver.use_round(done[-2] if len(done) > 1 else 0)

    def _on_minutes(self) -> None:
        self._improver.minutes = float(self.minutes.value)
        self._improver.plan_soon()


def scores_text(data: Mapping[str, Any]) -> str:
    """Before and after, on annotations that were kept apart, one line for each score."""
    before, after = dict(data.get("before") or {}), dict(data.get("after") or {})
    lines = []
    for name, value in after.items():
        if name in before:
            lines.append(f"{score_text(name)}: {before[name]:.3f} → {value:.3f}")
        else:
            lines.append(f"{score_text(name)}: {value:.3f}")
    if not lines:
        return ""
    return "On annotations kept apart: " + ", ".join(lines[:4]) + "."
