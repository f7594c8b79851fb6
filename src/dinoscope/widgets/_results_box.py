"""What a run found, in words and tables, and the buttons to save or remove it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from dinoscope.errors import OutputError
from dinoscope.types import Table
from dinoscope.widgets._run import PredictRun
from dinoscope.widgets._style import hint_label, set_tone
from dinoscope.widgets._tables import TableView, ask_csv_path, rows_of, suggested_name


class ResultsBox(QWidget):
    """The results of one `PredictRun`."""

    remove_clicked = Signal()
    said = Signal(str)
    failed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._run: PredictRun | None = None
        self.line = hint_label("Nothing yet.")
        self.classes = TableView()
        self.classes.setToolTip("Class of each image or plane, with probabilities.")
        self.save_objects = QPushButton("Save CSV")
        self.save_objects.setToolTip(
            "Save the table of all objects as CSV: areas, positions, intensities."
        )
        self.save_classes = QPushButton("Save classes")
        self.save_classes.setToolTip("Save the class scores as CSV.")
        self.remove = QPushButton("Remove these results")
        self.remove.setToolTip(
            "Remove the result layers of this image. Those you have edited or renamed stay."
        )
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addWidget(self.line)
        rows.addWidget(self.classes)
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        for button in (self.save_objects, self.save_classes, self.remove):
            buttons.addWidget(button, 1)
        rows.addLayout(buttons)
        self.save_objects.clicked.connect(self._on_save_objects)
        self.save_classes.clicked.connect(self._on_save_classes)
        self.remove.clicked.connect(self.remove_clicked)
        self.show_run(None)

    def show_run(self, run: PredictRun | None) -> None:
        """Show the newest state of `run`; None where nothing has run yet."""
        self._run = run
        objects = rows_of(run.objects) if run is not None else 0
        classes = run.classes if run is not None else {}
        self.save_objects.setEnabled(objects > 0)
        self.save_objects.setVisible(objects > 0 or not classes)
        self.save_classes.setVisible(bool(classes))
        self.classes.setVisible(bool(classes))
        if classes:
            self.classes.show_table(classes)
        if run is None:
            set_tone(self.line, "Nothing yet.")
            return
        parts = [run.request.source.layer.name]
        if "instance" in run.request.options.tasks:
            parts.append(f"{objects} objects")
        set_tone(self.line, " · ".join(parts))

    def ask_csv(self, what: str) -> str:
        """Where to save a table; replaced in tests."""
        if self._run is None:
            return ""
        layer = self._run.request.source.layer
        return ask_csv_path(self, suggested_name(layer.source.path, layer.name, what))

    def _on_save_objects(self) -> None:
        if self._run is not None:
            self._save(self._run.objects, "objects")

    def _on_save_classes(self) -> None:
        if self._run is not None:
            self._save(self._run.classes, "classes")

    def _save(self, table: Table, what: str) -> None:
        from dinoscope.arrays.tables import write_table

        path = self.ask_csv(what)
        if not path:
            return
        try:
            write_table(Path(path), table)
        except OutputError as error:
            self.failed.emit(str(error))
            return
        self.said.emit(f"Saved {rows_of(table)} rows to {path}.")


def removal_text(removed: Sequence[str], kept: Sequence[str]) -> str:
    """What *Remove these results* did, in a sentence or two."""
    count = f"{len(removed)} result" + ("" if len(removed) == 1 else "s")
    text = f"Removed {count}." if removed or not kept else "Nothing was removed."
    if kept:
        names = ", ".join(repr(name) for name in kept)
        text += f" Kept, because you changed them: {names}."
    return text
