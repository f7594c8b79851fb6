"""Where the annotations are saved: name, state, New, Open, Save as, images to be found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QPushButton, QVBoxLayout, QWidget

from dinoscope.widgets._projectlink import SUFFIX, ProjectLink, with_suffix
from dinoscope.widgets._style import hint_label, set_tone, side_by_side


class ProjectCard(QWidget):
    """One line about the project, and three buttons."""

    failed = Signal(str)

    def __init__(self, link: ProjectLink) -> None:
        super().__init__()
        self.setObjectName("bare")
        self._link = link
        self.about = hint_label()
        self.new = QPushButton("New …")
        self.new.setToolTip("Begin an empty project. The one before stays as it is.")
        self.open = QPushButton("Open …")
        self.open.setToolTip(
            "Open a project (a folder NAME.dinoproject): images, strokes, classes and rounds."
        )
        self.save = QPushButton("Save as …")
        self.save.setToolTip(
            "Go on in a copy of the project under a name of yours. Saving itself is automatic:\n"
            "each stroke is on the disk within two seconds."
        )
        self.find = QPushButton("Find the image …")
        self.find.setToolTip("Say where an image of the project is now.")
        for button in (self.new, self.open, self.save, self.find):
            button.setObjectName("small")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.about)
        layout.addWidget(side_by_side(self.new, self.open, self.save, stretch_first=False))
        layout.addWidget(self.find)
        self.new.clicked.connect(self._on_new)
        self.open.clicked.connect(self._on_open)
        self.save.clicked.connect(self._on_save)
        self.find.clicked.connect(self._on_find)
        link.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Say how things are."""
        link = self._link
        project = link.project
        self.find.setVisible(bool(link.missing))
        if project is None:
            set_tone(self.about, "Saved by itself from the first stroke on.")
            return
        self.about.setToolTip(str(project.folder))
        if link.reading_only:
            text = (
                f"{project.name}: to be looked at only. {link.reading_only} Save as makes a copy."
            )
            set_tone(self.about, text, "warning")
            return
        text = f"{project.name} · saved"
        if link.is_draft:
            text += " with your models until you choose a place"
        if link.missing:
            text += f" · not found: {link.missing[0].name}"
        set_tone(self.about, text + ".", "warning" if link.missing else "")

    # -- dialogs, replaced in tests ------------------------------------------------------------

    def ask_new(self, title: str) -> str:
        """A name for a project, or an empty text."""
        path, _ = QFileDialog.getSaveFileName(
            self, title, f"annotations{SUFFIX}", f"Project (*{SUFFIX})"
        )
        return path

    def ask_folder(self) -> str:
        """A project's folder, or an empty text."""
        return QFileDialog.getExistingDirectory(self, f"Open a project (NAME{SUFFIX})")

    def ask_image(self, name: str) -> str:
        """Where an image is now, or an empty text."""
        path, _ = QFileDialog.getOpenFileName(self, f"Where is {name}?")
        return path

    # -- buttons -------------------------------------------------------------------------------

    def _on_new(self) -> None:
        path = self.ask_new("New project")
        if path and self._is_free(path):
            self._link.create(Path(path))

    def _on_open(self) -> None:
        path = self.ask_folder()
        if path:
            self._link.open(Path(path))

    def _on_save(self) -> None:
        path = self.ask_new("Save the project as")
        if path and self._is_free(path):
            self._link.save_as(Path(path))

    def _on_find(self) -> None:
        reference: Any = self._link.missing[0]
        path = self.ask_image(reference.name)
        if path:
            self._link.relocate(reference.id, Path(path))

    def _is_free(self, path: str) -> bool:
        wanted = with_suffix(Path(path))
        if wanted.exists():
            self.failed.emit(f"{wanted} exists: choose another name, nothing is overwritten.")
            return False
        return True
