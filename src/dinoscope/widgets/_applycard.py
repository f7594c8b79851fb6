"""Buttons that take the classifier further: this image, the other ones, a folder; and Save."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QGridLayout, QPushButton, QVBoxLayout, QWidget

from dinoscope.widgets._style import hint_label


class ApplyCard(QWidget):
    """Where the classifier goes."""

    image_clicked = Signal()
    others_clicked = Signal()
    folder_clicked = Signal()
    save_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.image = _button(
            "This image",
            "Classes of every plane of the chosen image, as a layer of results: 0 = background.",
        )
        self.others = _button(
            "All open images", "Classes of every plane of every open image, a layer each."
        )
        self.folder = _button(
            "A folder …",
            "Classes of every image file of a folder, as NAME_semantic.tif: 0 = background.",
        )
        self.save = _button("Save classifier …", "Save what was learned from the strokes.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(
            hint_label("Layers and files made here have 0 = background, 1, 2 … = classes.")
        )
        grid = QGridLayout()
        grid.setSpacing(6)
        for number, button in enumerate((self.image, self.others, self.folder, self.save)):
            grid.addWidget(button, number // 2, number % 2)
        layout.addLayout(grid)
        self.image.clicked.connect(self._on_image)
        self.others.clicked.connect(self._on_others)
        self.folder.clicked.connect(self._on_folder)
        self.save.clicked.connect(self._on_save)

    # -- dialogs, replaced in tests ------------------------------------------------------------

    def ask_folder(self, title: str) -> str:
        """A folder, or an empty text."""
        return QFileDialog.getExistingDirectory(self, title)

    def ask_file(self) -> str:
        """Where to save the classifier, or an empty text."""
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the classifier", "strokes.safetensors", "Classifier (*.safetensors)"
        )
        return path

    def _on_image(self) -> None:
        self.image_clicked.emit()

    def _on_others(self) -> None:
        self.others_clicked.emit()

    def _on_folder(self) -> None:
        self.folder_clicked.emit()

    def _on_save(self) -> None:
        self.save_clicked.emit()


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setObjectName("small")
    button.setToolTip(tip)
    return button
