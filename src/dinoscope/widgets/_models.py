"""Choosing a model: a list from the worker, a file, or a file dropped on the panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QPushButton, QVBoxLayout, QWidget

from dinoscope.config import TASKS
from dinoscope.widgets._client import Controller
from dinoscope.widgets._style import add_row, blocked, form, hint_label, narrow, set_tone

#: Files that hold a model or a backbone.
MODEL_SUFFIXES = (".dinoscope", ".pth", ".safetensors")
DEFAULT_MODEL = "embedded"


class ModelPicker(QWidget):
    """A combo of models with a line about the chosen one.

    Parameters
    ----------
    controller : Controller
        Has the list of models.
    with_default : bool
        Choose the embedded model first.
    """

    changed = Signal()

    def __init__(self, controller: Controller, *, label: str = "Model", tooltip: str = "") -> None:
        super().__init__()
        self.setObjectName("bare")
        self._controller = controller
        self._wanted = DEFAULT_MODEL
        self._entries: list[dict[str, Any]] = []
        self._downloads: set[str] = set()

        self.combo = narrow(QComboBox())
        self.combo.setToolTip(
            tooltip or "The model to run. Drop a .dinoscope file on the panel to add it."
        )
        self.browse = QPushButton("…")
        self.browse.setToolTip("Choose a .dinoscope model, or a DINOv2 checkpoint (.pth).")
        self.about = hint_label()
        self.download = QPushButton("Download weights")
        self.download.setToolTip(
            "Fetch the weights once from the Hugging Face hub; afterwards no network is needed."
        )
        self.download.hide()

        grid = form()
        add_row(grid, label, self.combo, self.browse, tooltip=self.combo.toolTip())
        grid.addWidget(self.about, grid.rowCount(), 0, 1, 2)
        grid.addWidget(self.download, grid.rowCount(), 1, Qt.AlignmentFlag.AlignLeft)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)

        self.combo.currentIndexChanged.connect(self._on_index)
        self.browse.clicked.connect(self._on_browse)
        self.download.clicked.connect(self._on_download)
        controller.models_changed.connect(self._refresh)
        self._refresh()

    def disconnect_controller(self) -> None:
        self._controller.models_changed.disconnect(self._refresh)

    @property
    def model(self) -> str:
        """What to hand to the worker: a name, or the path of a file."""
        entry = self.entry
        return str(entry["name"]) if entry else self._wanted

    @property
    def entry(self) -> dict[str, Any]:
        """What is known of the chosen model; empty until the worker has answered."""
        index = self.combo.currentIndex()
        return self._entries[index] if 0 <= index < len(self._entries) else {}

    @property
    def download_allowed(self) -> bool:
        """Whether the user agreed that the weights of the chosen model are fetched."""
        return self.model in self._downloads

    @property
    def label(self) -> str:
        """A short name for layers and lines."""
        return short_name(str(self.entry.get("name") or self._wanted))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What can be done with the chosen model; PCA features need no head."""
        entry = self.entry
        if not entry:
            return TASKS
        return tuple(t for t in TASKS if t in possible_tasks(entry))

    @property
    def own_tasks(self) -> tuple[str, ...]:
        """What the chosen model itself does, where another one does the rest for it."""
        lent = bool(self.entry.get("lent_tasks"))
        return tuple(str(t) for t in self.entry.get("tasks", ()) if lent)

    def models_for(self, task: str) -> list[str]:
        """Names of the models that have a head for `task`."""
        return [short_name(str(m["name"])) for m in self._entries if task in m.get("tasks", ())]

    def choose(self, model: str) -> None:
        """Select a model by name or path, now or as soon as it is in the list."""
        self._wanted = model
        self._select_wanted()

    def ask_for_file(self) -> str:
        """The path the user picks, or an empty text; replaced in tests."""
        patterns = " ".join(f"*{s}" for s in MODEL_SUFFIXES)
        path, _ = QFileDialog.getOpenFileName(self, "Open a model", "", f"Models ({patterns})")
        return path

    def _on_download(self) -> None:
        self._downloads.add(self.model)
        self._describe()

    def _on_browse(self) -> None:
        path = self.ask_for_file()
        if path:
            self._controller.choose_model(path)

    def _refresh(self) -> None:
        entries = list(self._controller.models)
        # The chosen model first where it is unusual; what needs a download last.
        entries.sort(key=lambda m: not m.get("available", True))
        with blocked(self.combo):
            self.combo.clear()
            self._entries = entries
            for entry in entries:
                text = short_name(str(entry["name"]))
                if not entry.get("available", True):
                    text = ("↓ " if _downloadable(entry) else "⚠ ") + text
                self.combo.addItem(text)
                row = self.combo.count() - 1
                self.combo.setItemData(row, _tooltip(entry), Qt.ItemDataRole.ToolTipRole)
            if not entries:
                self.combo.addItem(f"{short_name(self._wanted)} …")
        self._select_wanted()

    def _select_wanted(self) -> None:
        for row, entry in enumerate(self._entries):
            names = {entry.get("name"), entry.get("where")}
            if self._wanted in {str(n) for n in names if n}:
                with blocked(self.combo):
                    self.combo.setCurrentIndex(row)
                break
        self._describe()
        self.changed.emit()

    def _on_index(self, index: int) -> None:
        self._wanted = self.model
        self._describe()
        self.changed.emit()

    def _describe(self) -> None:
        entry = self.entry
        self.download.setVisible(_downloadable(entry) and not self.download_allowed)
        if not entry:
            set_tone(self.about, "Looking for models …")
            return
        note = str(entry.get("note") or "")
        if note:
            set_tone(self.about, note, "error")
        elif _downloadable(entry):
            text = "Its weights are not on this computer yet."
            if self.download_allowed:
                text = "Its weights will be fetched once, when you start."
            set_tone(self.about, text, "warning")
        elif not entry.get("available", True):
            set_tone(self.about, "Its backbone is not on this computer.", "error")
        else:
            set_tone(self.about, _about(entry))


def short_name(model: str) -> str:
    """A model's name without the folder and suffix of its file.

    Examples
    --------
    >>> short_name("/data/yeast.dinoscope"), short_name("dinov2_vits14")
    ('yeast', 'dinov2_vits14')
    """
    path = Path(model)
    return path.stem if path.suffix in MODEL_SUFFIXES else model


def _downloadable(entry: dict[str, Any]) -> bool:
    """Whether a hub has the weights that are missing here."""
    return (
        bool(entry)
        and not entry.get("available", True)
        and not entry.get("note")
        and str(entry.get("where", "")).startswith("http")
    )


def possible_tasks(entry: dict[str, Any]) -> set[str]:
    """Tasks of a model in the list, with those that a packaged model does for it."""
    return {*entry.get("tasks", ()), *entry.get("lent_tasks", ()), "pca"}


def _about(entry: dict[str, Any]) -> str:
    tasks = [str(t) for t in entry.get("tasks", ())]
    lent = [str(t) for t in entry.get("lent_tasks", ())]
    if lent:
        return f"Does {', '.join(tasks)}, pca; with {entry['backbone']}: {', '.join(lent)}."
    text = ", ".join([*tasks, "pca"]) if tasks else "pca only: a backbone without heads"
    return f"Does {text}."


def _tooltip(entry: dict[str, Any]) -> str:
    lines = [short_name(str(entry["name"])), _about(entry)]
    if entry.get("where"):
        lines.append(str(entry["where"]))
    if entry.get("note"):
        lines.append(str(entry["note"]))
    return "\n".join(lines)
