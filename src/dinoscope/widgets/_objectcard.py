"""Objects: split the preview, correct by hand, classes by examples, table and CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from dinoscope.arrays.tables import write_table
from dinoscope.errors import DinoscopeError
from dinoscope.widgets._correct import TOOLS
from dinoscope.widgets._objects import Objects
from dinoscope.widgets._style import add_row, blocked, form, narrow, side_by_side
from dinoscope.widgets._tables import TableView, ask_csv_path, rows_of

METHODS = {
    "watershed": ("at their necks (watershed)", "Touching objects part where they are narrow."),
    "instance": ("as the model sees them", "The model's own instance head finds the objects."),
}


class ObjectCard(QWidget):
    """Buttons over :class:`Objects`."""

    failed = Signal(str)
    said = Signal(str)
    area_clicked = Signal()
    complete_toggled = Signal(bool)

    def __init__(self, objects: Objects) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._objects = objects
        self.method = narrow(QComboBox())
        for name, (text, tip) in METHODS.items():
            self.method.addItem(text, name)
            self.method.setToolTip(tip)
        self.method.setToolTip("How objects of one class that touch are told apart.")
        self.min_size = QSpinBox()
        self.min_size.setRange(0, 1_000_000)
        self.min_size.setValue(20)
        self.min_size.setSuffix(" px")
        self.min_size.setToolTip("Smaller objects are dropped.")
        self.split = QPushButton("Split into objects")
        self.split.setToolTip("Make objects of the preview of this plane, in a layer of their own.")
        self.tools: dict[str, QPushButton] = {}
        row = QHBoxLayout()
        row.setSpacing(0)
        for name, (text, tip) in TOOLS.items():
            button = QPushButton(text)
            button.setObjectName("segment")
            button.setCheckable(True)
            button.setToolTip(tip + "\nCtrl+Z takes it back. Press again to put the tool away.")
            button.clicked.connect(self._on_tool)
            self.tools[name] = button
            row.addWidget(button, 1)
        self.table = TableView()
        self.table.setToolTip("Objects of the plane in view, in µm where the pixel size is known.")
        self.table.hide()
        self.csv = QPushButton("Save table …")
        self.csv.setObjectName("small")
        self.csv.setToolTip("Save the table of all planes looked at as CSV.")
        self.csv.hide()
        self.area = QPushButton("Annotated area")
        self.area.setObjectName("small")
        self.area.setToolTip(
            "Draw around a part in which you corrected every object: there, what is no object is\n"
            "background for Improve. Outside it is unknown."
        )
        self.complete = QCheckBox("This plane is complete")
        self.complete.setToolTip("Every object of this plane is there: all else is background.")
        grid = form()
        add_row(grid, "Apart", self.method)
        add_row(grid, "At least", self.min_size)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(grid)
        layout.addWidget(self.split)
        layout.addLayout(row)
        layout.addWidget(side_by_side(self.complete, self.area))
        layout.addWidget(self.table)
        layout.addWidget(self.csv)
        self.split.clicked.connect(self._on_split)
        self.csv.clicked.connect(self._on_csv)
        self.area.clicked.connect(self._on_area)
        self.complete.clicked.connect(self._on_complete)
        objects.tool_changed.connect(self._on_tool_changed)
        objects.table_changed.connect(self._on_table)

    def ask_csv(self) -> str:
        """Where to save, or an empty text; replaced in tests."""
        return ask_csv_path(self, "objects.csv")

    def show_complete(self, on: bool) -> None:
        """The tick of the plane in view."""
        with blocked(self.complete):
            self.complete.setChecked(on)

    def _on_split(self) -> None:
        try:
            self._objects.split(str(self.method.currentData()), self.min_size.value())
        except DinoscopeError as error:
            self.failed.emit(str(error))

    def _on_tool(self) -> None:
        sender = self.sender()
        tool = next(name for name, button in self.tools.items() if button is sender)
        try:
            self._objects.use(tool if self.tools[tool].isChecked() else "")
        except DinoscopeError as error:
            self.tools[tool].setChecked(False)
            self.failed.emit(str(error))

    def _on_tool_changed(self, tool: str) -> None:
        for name, button in self.tools.items():
            button.setChecked(name == tool)

    def _on_table(self, table: Any) -> None:
        shown = rows_of(table) > 0
        if shown:
            self.table.show_table(table)
        self.table.setVisible(shown)
        self.csv.setVisible(shown)

    def _on_csv(self) -> None:
        path = self.ask_csv()
        if not path:
            return
        table = self._objects.whole_table()
        try:
            write_table(Path(path), table)
        except DinoscopeError as error:
            self.failed.emit(str(error))
        else:
            self.said.emit(f"Saved {rows_of(table):,} rows to {path}.")

    def _on_area(self) -> None:
        self.area_clicked.emit()

    def _on_complete(self, on: bool) -> None:
        self.complete_toggled.emit(on)
