"""Buttons in a row of which one is down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtWidgets import QButtonGroup, QHBoxLayout, QPushButton, QWidget


class Segments(QWidget):
    """A choice of few things, all of them in sight.

    Parameters
    ----------
    entries : mapping
        Key to text and tooltip; the first one is down.
    """

    def __init__(self, entries: Mapping[str, tuple[str, str]]) -> None:
        super().__init__()
        self.setObjectName("bare")
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(1)
        self.group = QButtonGroup(self)
        self.buttons: dict[str, QPushButton] = {}
        for key, (text, tip) in entries.items():
            button = QPushButton(text)
            button.setObjectName("segment")
            button.setCheckable(True)
            button.setToolTip(tip)
            self.group.addButton(button)
            self.buttons[key] = button
            line.addWidget(button, 1)
        next(iter(self.buttons.values())).setChecked(True)

    @property
    def picked(self) -> str:
        """The key of the button that is down."""
        return next(key for key, button in self.buttons.items() if button.isChecked())

    def pick(self, key: Any) -> None:
        """Press a button, if it can be pressed."""
        if key in self.buttons and self.buttons[key].isEnabled():
            self.buttons[key].setChecked(True)
