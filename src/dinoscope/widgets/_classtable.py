"""The table of classes: colour, name, painted pixels; add, rename, recolour, move, remove."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from dinoscope.errors import DinoscopeError
from dinoscope.widgets._classlist import ClassList, no_change
from dinoscope.widgets._style import blocked, side_by_side

_KEY, _COLOUR, _NAME, _COUNT = range(4)
_KEYS = 9
_ROWS_SHOWN = 6
_SWATCH_PX = 14


class ClassTable(QWidget):
    """Shows a :class:`ClassList`; the selected row is the class that is painted.

    Parameters
    ----------
    classes : ClassList
        Changed here, and told about by `changed`.
    """

    #: The class in this row is to be painted.
    chosen = Signal(int)
    #: Names, colours or order changed: ``(256,)`` uint8 table from old codes to new ones.
    changed = Signal(object)
    failed = Signal(str)

    def __init__(self, classes: ClassList) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.classes = classes
        self._counts = np.zeros(256, np.int64)
        self.table = QTableWidget(0, 4)
        self.table.setHorizontalHeaderLabels(["key", "", "class", "painted"])
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(_NAME, QHeaderView.ResizeMode.Stretch)
        header.setSectionsClickable(False)
        self.table.verticalHeader().hide()
        self.table.setShowGrid(False)
        self.table.setIconSize(QSize(_SWATCH_PX, _SWATCH_PX))
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked
            | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.table.setToolTip(
            "Select the class to paint (keys 1–9 in the image).\n"
            "Double click: a name to rename it, a colour to change it."
        )
        self.add = _small("+", "Add a class.")
        self.drop = _small("−", "Remove the class; what was painted with it is not annotated then.")
        self.up = _small("▲", "Move the class up: it gets the key before.")
        self.down = _small("▼", "Move the class down: it gets the next key.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.table)
        layout.addWidget(side_by_side(self.add, self.drop, self.up, self.down, stretch_first=False))
        self.table.itemSelectionChanged.connect(self._on_selection)
        self.table.itemChanged.connect(self._on_item)
        self.table.cellDoubleClicked.connect(self._on_double_click)
        self.add.clicked.connect(self._on_add)
        self.drop.clicked.connect(self._on_drop)
        self.up.clicked.connect(self._on_up)
        self.down.clicked.connect(self._on_down)
        self.refresh()
        self.choose(1)

    @property
    def row(self) -> int:
        """The class that is painted."""
        return max(0, self.table.currentRow())

    def choose(self, row: int) -> None:
        """Select a class; nothing happens where there is no such row."""
        if 0 <= row < len(self.classes):
            self.table.selectRow(row)
            self._enable()

    def refresh(self) -> None:
        """Show the classes as they are now."""
        row = self.row
        with blocked(self.table):
            self.table.setRowCount(len(self.classes))
            for number, one in enumerate(self.classes):
                key = str(number + 1) if number < _KEYS else ""
                self.table.setItem(number, _KEY, _fixed(key, Qt.AlignmentFlag.AlignCenter))
                colour = _fixed("")
                colour.setIcon(_swatch(one.colour))
                colour.setToolTip(f"{one.colour}: double click to change it.")
                self.table.setItem(number, _COLOUR, colour)
                name = QTableWidgetItem(one.name)
                name.setToolTip("Double click to rename.")
                self.table.setItem(number, _NAME, name)
            self.table.selectRow(min(row, len(self.classes) - 1))
        self.show_counts(self._counts)
        rows = min(len(self.classes), _ROWS_SHOWN)
        header = self.table.horizontalHeader()
        height = max(header.sizeHint().height(), header.height()) + 2 * self.table.frameWidth() + 2
        self.table.setFixedHeight(height + rows * self.table.rowHeight(0))
        self.table.setVerticalScrollBarPolicy(
            Qt.ScrollBarPolicy.ScrollBarAsNeeded
            if len(self.classes) > rows
            else Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        )
        self._enable()

    def show_counts(self, counts: np.ndarray) -> None:
        """Painted pixels by code, ``(256,)``."""
        self._counts = counts
        with blocked(self.table):
            for row in range(len(self.classes)):
                count = int(counts[self.classes.code(row)])
                item = _fixed(_count_text(count), Qt.AlignmentFlag.AlignRight)
                item.setToolTip(f"{count:,} painted pixels, over all images and planes.")
                self.table.setItem(row, _COUNT, item)

    def ask_colour(self, colour: str) -> str:
        """The colour the user picks, or an empty text; replaced in tests."""
        picked = QColorDialog.getColor(QColor(colour), self, "Colour of the class")
        return picked.name() if picked.isValid() else ""

    def _on_selection(self) -> None:
        self._enable()
        if self.table.currentRow() >= 0:
            self.chosen.emit(self.row)

    def _on_item(self, item: QTableWidgetItem) -> None:
        if item.column() == _NAME:
            row, name = item.row(), item.text()
            self._try(lambda: self.classes.rename(row, name), row)

    def _on_double_click(self, row: int, column: int) -> None:
        if column in (_KEY, _COLOUR):
            colour = self.ask_colour(self.classes[row].colour)
            if colour:
                self._try(lambda: self.classes.recolour(row, colour), row)

    def _on_add(self) -> None:
        self._try(self.classes.add, len(self.classes))
        self.table.editItem(self.table.item(self.row, _NAME))

    def _on_drop(self) -> None:
        row = self.row
        self._try(lambda: self.classes.remove(row), row)

    def _on_up(self) -> None:
        self._move(-1)

    def _on_down(self) -> None:
        self._move(+1)

    def _move(self, by: int) -> None:
        row = self.row
        self._try(lambda: self.classes.move(row, row + by), row + by)

    def _try(self, act: Any, row: int) -> None:
        """Change the classes; a change that is refused leaves all as it was."""
        try:
            table = act()
        except DinoscopeError as error:
            self.refresh()
            self.failed.emit(str(error))
            return
        if not isinstance(table, np.ndarray):
            table = no_change()
        counts = np.zeros_like(self._counts)
        np.add.at(counts, table, self._counts)
        counts[0] = 0
        self._counts = counts
        self.refresh()
        self.choose(min(max(row, 0), len(self.classes) - 1))
        self.changed.emit(table)
        self.chosen.emit(self.row)

    def _enable(self) -> None:
        row = self.row
        self.drop.setEnabled(row > 0 and len(self.classes) > 2)
        self.up.setEnabled(row > 1)
        self.down.setEnabled(0 < row < len(self.classes) - 1)


def _small(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setObjectName("small")
    button.setFixedWidth(30)
    button.setToolTip(tip)
    return button


def _fixed(text: str, align: Any = Qt.AlignmentFlag.AlignLeft) -> QTableWidgetItem:
    item = QTableWidgetItem(text)
    item.setFlags(Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled)
    item.setTextAlignment(align | Qt.AlignmentFlag.AlignVCenter)
    return item


def _swatch(colour: str) -> QIcon:
    picture = QPixmap(_SWATCH_PX, _SWATCH_PX)
    picture.fill(QColor(colour))
    return QIcon(picture)


def _count_text(count: int) -> str:
    if count < 10_000:
        return f"{count:,}" if count else "–"
    return f"{count / 1000:,.0f} k" if count < 1_000_000 else f"{count / 1e6:.1f} M"
