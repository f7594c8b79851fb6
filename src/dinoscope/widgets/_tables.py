"""Tables in the panel: class scores, and saving tables as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QFileDialog, QTableWidget, QTableWidgetItem, QWidget

from dinoscope.types import Table


def join_tables(tables: Mapping[Any, Table | None]) -> Table:
    """One table of several with the same columns, in the order of their keys."""
    parts = [tables[k] for k in sorted(tables) if tables[k]]
    if not parts:
        return {}
    names = [n for n in parts[0] if all(n in p for p in parts)]
    return {n: np.concatenate([np.atleast_1d(p[n]) for p in parts]) for n in names}


def rows_of(table: Table | None) -> int:
    """Number of rows."""
    return len(next(iter(table.values()))) if table else 0


class TableView(QTableWidget):
    """Shows a table read-only; numbers are rounded for reading, never in what is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setAlternatingRowColors(False)
        self.verticalHeader().hide()
        self.horizontalHeader().setStretchLastSection(True)
        self.table: Table = {}

    def show_table(self, table: Table, *, at_most: int = 500) -> None:
        """Fill in the first `at_most` rows; the probabilities of single classes are only saved."""
        self.table = table
        shown = {
            name: values
            for name, values in table.items()
            if not name.startswith("p_") and not _says_nothing(values)
        }
        count = min(rows_of(table), at_most)
        self.setColumnCount(len(shown))
        self.setHorizontalHeaderLabels([name.replace("_", " ") for name in shown])
        self.setRowCount(count)
        for column, values in enumerate(shown.values()):
            for row in range(count):
                item = QTableWidgetItem(_text(values[row]))
                if np.asarray(values).dtype.kind in "iuf":
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                self.setItem(row, column, item)
        self.resizeColumnsToContents()
        self.horizontalHeader().setStretchLastSection(True)
        height = self.horizontalHeader().sizeHint().height() + 6
        height += sum(self.rowHeight(r) for r in range(min(count, 6)))
        self.setFixedHeight(height + (12 if self.horizontalScrollBar().isVisible() else 2))


def ask_csv_path(parent: QWidget, suggestion: str) -> str:
    """The path the user picks, or an empty text; replaced in tests."""
    path, _ = QFileDialog.getSaveFileName(parent, "Save table", suggestion, "CSV (*.csv)")
    return path


def suggested_name(source_path: str | None, name: str, what: str) -> str:
    """Beside the source's file where it has one."""
    stem = "".join(c if c.isalnum() or c in " -_." else "_" for c in name).strip()
    file = f"{stem}_{what}.csv"
    return str(Path(source_path).parent / file) if source_path else file


def _says_nothing(values: np.ndarray) -> bool:
    """Whether a column is empty in every row (no plane, no object, no pixel size)."""
    return bool(np.isin(np.asarray(values).astype(str), ("", "0", "nan")).all())


def _text(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return "–" if np.isnan(value) else f"{value:.4g}"
    return str(value)
