"""The project behind the panel: begun at the first stroke, opened again into the viewer."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from dinoscope.errors import DinoscopeError
from dinoscope.types import ImageInput
from dinoscope.widgets._annotator import Annotator
from dinoscope.widgets._layers import make_source
from dinoscope.widgets._results import METADATA

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from dinoscope.project import ImageRef

SUFFIX = ".dinoproject"
_SETTINGS = "annotate"
#: A larger image is shown from its file, plane by plane.
_IN_MEMORY = 512 * 2**20


class ProjectLink(QObject):
    """Opens, creates and moves projects, and brings their images and strokes into the viewer.

    Parameters
    ----------
    annotator : Annotator
        What is annotated.
    """

    #: The project, what it says of itself, or what is missing has changed.
    changed = Signal()
    said = Signal(str, str)
    #: Everything of a project that was opened is in the viewer.
    ready = Signal()

    def __init__(self, viewer: Viewer, annotator: Annotator, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._annotator = annotator
        self._controller = annotator.controller
        self._drafting = False
        #: Images of the project whose files are not found.
        self.missing: list[ImageRef] = []
        self.saved_at = 0.0
        self.is_draft = False
        annotator.told.connect(self._on_told)

    @property
    def project(self) -> Any:
        return self._annotator.keeper.project

    @property
    def reading_only(self) -> str:
        """Why nothing is saved; empty where it is."""
        project = self.project
        return str(project.read_only_reason) if project is not None and project.read_only else ""

    # -- making and opening --------------------------------------------------------------------

    def draft(self) -> None:
        """Begin a project of our own, so that nothing is ever unsaved."""
        if self._drafting or self.project is not None:
            return
        self._drafting = True
        current = self._annotator.current
        name = plain_name(current.source.layer.name if current is not None else "annotations")
        path = free_path(drafts_folder(self._controller.models_folder), name)
        self.is_draft = True
        self._annotator.keeper.create(path, self._annotator.classes.as_values())

    def create(self, path: Path) -> None:
        """Begin an empty project; what was annotated so far stays in the one before."""
        self._annotator.clear()
        self.is_draft = False
        self._annotator.keeper.forget()
        self._annotator.keeper.create(with_suffix(path), self._annotator.classes.as_values())

    def open(self, path: Path) -> None:
        """Open a project; the layers of the one before are taken off."""
        self._annotator.flush()
        self._annotator.keeper.open(path)

    def save_as(self, path: Path) -> None:
        """Go on in a copy of the project."""
        self._annotator.flush()
        if self.project is None:
            self._drafting = True
            self._annotator.keeper.create(with_suffix(path), self._annotator.classes.as_values())
        else:
            self._annotator.keeper.move(with_suffix(path))
        self.is_draft = False

    def reopen_last(self) -> bool:
        """Open the project that an earlier panel of this window had; whether there was one."""
        path = self._controller.settings.get(_SETTINGS, {}).get("project")
        if self.project is None and path and Path(path).is_dir():
            self.open(Path(path))
            return True
        return False

    def close(self) -> None:
        """The panel goes away: the next one of this window goes on here."""
        if self.project is not None:
            self._controller.settings[_SETTINGS] = {"project": str(self.project.folder)}

    def relocate(self, source: str, path: Path) -> None:
        """Say where a missing image is now."""
        self._annotator.keeper.do("relocated", lambda project: project.relocate(source, path))

    # -- course --------------------------------------------------------------------------------

    def _on_told(self, event: str, data: Any) -> None:
        if event == "changed":
            self.draft()
        elif event == "opened":
            self._opened(data["project"], new=data["new"])
        elif event == "moved":
            self._remember(data["project"])
            self.said.emit(f"Saved as {data['project'].folder}.", "")
        elif event == "saved":
            self.saved_at = time.time()
            self.changed.emit()
        elif event == "found":
            self._found(data["value"])
        elif event == "taken":
            self._taken(data["value"])
        elif event == "relocated":
            self._look_for_images()
        elif event == "failed":
            self._drafting = False

    def _remember(self, project: Any) -> None:
        self._controller.settings[_SETTINGS] = {"project": str(project.folder)}
        self.changed.emit()

    def _opened(self, project: Any, *, new: bool) -> None:
        self._remember(project)
        self.missing = []
        if new:
            return
        self.is_draft = project.folder.parent == drafts_folder(self._controller.models_folder)
        self._annotator.clear()
        self._annotator.take_classes(project.classes)
        if project.read_only:
            self.said.emit(f"Nothing is saved here: {project.read_only_reason}", "warning")
        elif project.notes:
            self.said.emit(" ".join(project.notes), "")
        self._look_for_images()

    def _look_for_images(self) -> None:
        """Which layers are images of the project, which are to be opened, which are missing?"""
        candidates: dict[str, ImageInput] = {}
        for layer in self._viewer.layers:
            if layer._type_string != "image" or METADATA in layer.metadata:
                continue
            try:
                candidates[str(layer.unique_id)] = make_source([layer]).image
            except DinoscopeError:
                continue
        keeper = self._annotator.keeper
        keeper.do("found", lambda project: find_images(project, keeper, candidates))

    def _found(self, found: Mapping[str, Any]) -> None:
        self.missing = list(found["missing"])
        layers = {str(layer.unique_id): layer for layer in self._viewer.layers}
        for key in found["layers"]:
            if key in layers:
                self._annotator.start(make_source([layers[key]]), activate=False)
        keys = {}
        for source, image, path in found["images"]:
            layer = self._add_layer(image, path)
            keys[str(layer.unique_id)] = source
        keeper = self._annotator.keeper

        def take(project: Any) -> list[str]:
            for key, source in keys.items():
                keeper.take(key, source)
            return list(keys)

        keeper.do("taken", take)
        self.changed.emit()

    def _taken(self, keys: list[str]) -> None:
        layers = {str(layer.unique_id): layer for layer in self._viewer.layers}
        for key in keys:
            if key in layers:
                self._annotator.start(make_source([layers[key]]), activate=False)
        self.ready.emit()
        if self.missing:
            names = ", ".join(repr(reference.name) for reference in self.missing)
            self.said.emit(f"Not found: {names}. Say where they are now, under Project.", "warning")

    def _add_layer(self, image: ImageInput, path: str | None) -> Any:
        from napari.layers import Image

        rgb = image.axes.endswith("S")
        letters = image.axes.removesuffix("S") if rgb else image.axes
        scale = [image.pixel_size_um.get(axis, 1.0) for axis in letters]
        units = ["um" if axis in image.pixel_size_um else "pixel" for axis in letters]
        layer = Image(
            image.data,
            rgb=rgb,
            name=image.name,
            scale=scale,
            units=units,
            axis_labels=[axis.lower() for axis in letters],
            multiscale=False,
        )
        self._viewer.add_layer(layer)
        return layer


def find_images(
    project: Any, keeper: Any, candidates: Mapping[str, ImageInput]
) -> dict[str, list[Any]]:
    """Find a project's images among layers, then among files; for the keeper's thread.

    Returns
    -------
    dict
        ``layers`` (keys of layers that are images of the project), ``images`` (id, image, path),
        ``missing`` (references).
    """
    from dinoscope.project import content_hash

    found: dict[str, list[Any]] = {"layers": [], "images": [], "missing": []}
    known = set(keeper.ids.values())
    hashes: dict[str, str] = {}
    for source, reference in project.sources.items():
        if source in known:
            continue
        for key, image in candidates.items():
            if image.shape != reference.shape or key in keeper.ids:
                continue
            if key not in hashes:
                hashes[key] = content_hash(image)
            if hashes[key] == reference.hash:
                keeper.take(key, source)
                found["layers"].append(key)
                break
        else:
            try:
                image = project.open_image(source)
            except DinoscopeError:
                found["missing"].append(reference)
                continue
            found["images"].append((source, _loaded(image), reference.path))
    return found


def _loaded(image: ImageInput) -> ImageInput:
    """Small images in memory: napari is quicker with them, and needs a true array's methods."""
    size = int(np.prod(image.shape, dtype=np.int64)) * np.dtype(image.data.dtype).itemsize
    if size > _IN_MEMORY:
        return image
    data = np.asarray(image.data[(slice(None),) * len(image.axes)])
    return ImageInput(data, image.axes, image.pixel_size_um, image.name)


def drafts_folder(models_folder: Path) -> Path:
    """Where projects go that the user gave no place: beside their models."""
    chosen = os.environ.get("DINOSCOPE_PROJECTS")
    if chosen:
        return Path(chosen).expanduser()
    if models_folder == Path.home():  # the worker has not said yet where models are
        return Path.home() / "dinoscope-projects"
    return models_folder.parent / "projects"


def plain_name(name: str) -> str:
    """A name that can be a file's on every system."""
    return re.sub(r"[^\w\- .]+", "_", name).strip(" .")[:60] or "annotations"


def free_path(folder: Path, name: str) -> Path:
    """A path that is not taken, with the day in its name."""
    stem = f"{name} {time.strftime('%Y-%m-%d %H%M')}"
    path, number = folder / f"{stem}{SUFFIX}", 2
    while path.exists():
        path, number = folder / f"{stem} {number}{SUFFIX}", number + 1
    return path


def with_suffix(path: Path) -> Path:
    """A project's folder is told by its suffix."""
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
