"""What an evaluation found: figures with intervals, plots, the worst images and objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QPushButton, QVBoxLayout, QWidget

from dinoscope.arrays.faults import CONFUSED, FAULTS, MERGED, SPLIT
from dinoscope.types import Table
from dinoscope.widgets._charts import ChartView
from dinoscope.widgets._style import Fold, hint_label, narrow, set_tone, side_by_side
from dinoscope.widgets._tables import TableView, rows_of

#: Figures in the order of their interest; others follow.
_FIRST = {
    "instance": ("ap50", "ap75", "map", "f1_50", "pq", "seg", "dice", "coco_map"),
    "semantic": ("iou", "dice", "boundary_f1", "accuracy", "iou_foreground"),
    "depth": (
        *("rmse", "mae", "absrel", "delta1", "rmse_fit", "mae_fit"),
        *("rmse_mean", "rmse_focus_fit"),
    ),
    "classification": (
        *("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"),
        *("roc_auc", "average_precision", "ece"),
    ),
}
#: What ranks images from the worst.
_RANK = {"instance": ("ap50", 1), "semantic": ("iou", 1), "depth": ("rmse", -1)}
_ROWS = 200


class EvalResults(QWidget):
    """Shows the data of a finished evaluation job."""

    #: A row was clicked: plane number, row, column (or None), diameter in pixels.
    place_clicked = Signal(object)
    report_clicked = Signal(str)
    said = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._data: Mapping[str, Any] = {}
        self._task = "instance"
        #: What the table of the worst lists, before it was made readable.
        self._places: Table = {}
        self.notes = hint_label("Nothing yet.")
        self.figures = TableView()
        self.figures.setToolTip("In brackets: 95 % interval by bootstrap over images.")
        self.all = TableView()
        self.all.setToolTip("All figures there are.")
        self.all_fold = Fold("All figures", "Every figure that exists.", self.all)
        self.which = narrow(QComboBox())
        self.which.setToolTip("Which plot is shown.")
        self.chart = ChartView()
        self.key = QLabel()
        self.key.setWordWrap(True)
        self.key.setToolTip("Colours of the error layer.")
        self.listed = narrow(QComboBox())
        self.listed.addItem("Worst objects", "objects")
        self.listed.addItem("Worst images", "images")
        self.listed.setToolTip("What the table lists, worst first.")
        self.worst = TableView()
        self.worst.setToolTip("Click a row to go there.")
        self.report = QPushButton("Save report …")
        self.report.setToolTip(
            "Write report.html (one file with everything), JSON and CSV tables into a folder."
        )
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addWidget(self.notes)
        for widget in (self.figures, self.all_fold, self.which, self.chart, self.key):
            rows.addWidget(widget)
        rows.addWidget(self.listed)
        rows.addWidget(self.worst)
        rows.addWidget(side_by_side(self.report, stretch_first=False))
        self.which.currentIndexChanged.connect(self._on_chart)
        self.listed.currentIndexChanged.connect(self._fill_worst)
        self.worst.cellClicked.connect(self._on_row)
        self.report.clicked.connect(self._on_report)
        self.clear()

    @property
    def number(self) -> int | None:
        """Which evaluation is shown, as the worker counts them."""
        return int(self._data["number"]) if self._data else None

    def clear(self) -> None:
        """Forget the last evaluation."""
        self._data = {}
        set_tone(self.notes, "Nothing yet.")
        for widget in self._parts():
            widget.hide()

    def show_outcome(self, task: str, data: Mapping[str, Any]) -> None:
        """Show the data of a ``done`` event."""
        self._data, self._task = data, task
        for widget in self._parts():
            widget.show()
        documents = data["evaluations"]
        notes = list(dict.fromkeys(n for one in documents.values() for n in one["notes"]))
        if data.get("comparison"):
            notes.insert(0, data["comparison"]["verdict"])
        set_tone(self.notes, "\n".join(notes), "warning" if notes else "")
        self.notes.setVisible(bool(notes))
        names = [n for n in _FIRST[task] if any(n in one for one in documents.values())]
        show_whole(self.figures, figure_table(documents, names))
        every = dict.fromkeys(n for one in documents.values() for n in one if _is_figure(one[n]))
        self.all.show_table(figure_table(documents, [n for n in every if n not in names]))
        before = self.which.currentText()
        self.which.blockSignals(True)
        self.which.clear()
        for chart in data["charts"]:
            self.which.addItem(chart["title"])
        self.which.setCurrentIndex(max(0, self.which.findText(before)))
        self.which.blockSignals(False)
        self._on_chart()
        self.key.setText(_key_text(task))
        self.key.setVisible(task in ("instance", "semantic"))
        objects = bool(data["objects"])
        self.listed.setVisible(objects and task != "classification")
        self.listed.blockSignals(True)
        self.listed.setCurrentIndex(0 if objects else 1)
        self.listed.blockSignals(False)
        self._fill_worst()

    def ask_for_folder(self) -> str:
        """The folder the user picks, or an empty text; replaced in tests."""
        return str(QFileDialog.getExistingDirectory(self, "Folder for the report"))

    def _parts(self) -> Sequence[QWidget]:
        return (
            *(self.figures, self.all_fold, self.which, self.chart, self.key),
            *(self.listed, self.worst, self.report),
        )

    def _on_chart(self) -> None:
        charts = self._data.get("charts", ())
        index = self.which.currentIndex()
        self.chart.show_chart(charts[index] if 0 <= index < len(charts) else {})

    def _fill_worst(self) -> None:
        if not self._data:
            return
        if self.listed.currentData() == "objects" and self._data["objects"]:
            self._places = {n: np.asarray(c) for n, c in self._data["objects"].items()}
            table = object_rows(self._places)
        else:
            first = next(iter(self._data["evaluations"].values()))
            table = image_rows(self._task, first["per_image"])
            self._places = table
        several = "plane" in table and len(np.unique(table["plane"])) > 1
        shown = {n: c for n, c in table.items() if n != "plane"} if not several else dict(table)
        self.worst.show_table(shown, at_most=_ROWS)
        self.worst.setVisible(rows_of(table) > 0)

    def _on_row(self, row: int, column: int) -> None:
        table = self._places
        if row >= rows_of(table) or "plane" not in table:
            return
        place: dict[str, Any] = {"plane": int(table["plane"][row])}
        if "x" in table:
            area = float(table["area_px"][row])
            place |= {
                "y": float(table["y"][row]),
                "x": float(table["x"][row]),
                "size": 2 * math.sqrt(max(area, 1.0) / math.pi),
            }
        self.place_clicked.emit(place)

    def _on_report(self) -> None:
        folder = self.ask_for_folder()
        if folder:
            self.report_clicked.emit(folder)


def show_whole(view: TableView, table: Table) -> None:
    """Show a short table without a scroll bar."""
    view.show_table(table)
    rows = sum(view.rowHeight(row) for row in range(view.rowCount()))
    view.setFixedHeight(view.horizontalHeader().sizeHint().height() + rows + 4)


def figure_table(documents: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Figures as rows, one column for each evaluation, intervals in brackets."""
    table: Table = {"figure": np.array(list(names), dtype=object)}
    digits = 3 if len(documents) == 1 else 2  # side by side there is less room
    for number, (title, one) in enumerate(documents.items()):
        cells = []
        for name in names:
            value = one.get(name)
            if value is None:
                cells.append("–")
                continue
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            span = one["intervals"].get(name)
            low, high = (f"{v:.{digits}f}" for v in span) if span else ("", "")
            cells.append(f"{text} [{low}, {high}]" if span else text)
        key = title if len(documents) > 1 else "value"
        table[key if key not in table else f"{key} {number + 1}"] = np.array(cells, dtype=object)
    return table


def object_rows(objects: Table) -> Table:
    """The table of objects for reading."""
    table = dict(objects)
    if "fault" not in table:
        return table
    shown: Table = {"error": table["fault"], "plane": table["plane"]}
    shown |= {"IoU": np.round(table["iou"], 3)}
    shown |= {"truth": table["truth_id"], "predicted": table["pred_id"]}
    shown |= {"area": table["area_px"], "y": table["y"].round(1), "x": table["x"].round(1)}
    return shown


def image_rows(task: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The images or planes, worst first."""
    if task not in _RANK:
        return {}
    figure, sign = _RANK[task]
    ranked = sorted(rows, key=lambda row: sign * float(row.get(figure, 0.0)))[:_ROWS]
    if not ranked:
        return {}
    names = [n for n in ranked[0] if n not in ("image", "plane")][:6]
    several = len({row["image"] for row in ranked}) > 1
    table: Table = {}
    if several:
        table["image"] = np.array([row["image"] for row in ranked], dtype=object)
    table["plane"] = np.array([int(row["plane"]) for row in ranked])
    return table | {n: np.array([row.get(n, math.nan) for row in ranked]) for n in names}


def _is_figure(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _key_text(task: str) -> str:
    """The colours of the error layer of a task."""
    unused = {"instance": (CONFUSED,), "semantic": (MERGED, SPLIT)}.get(task, ())
    return "  ".join(
        f'<span style="color:{colour}">■</span>&nbsp;{name.replace(" ", "&nbsp;")}'
        for code, (name, colour) in FAULTS.items()
        if code not in unused
    )
