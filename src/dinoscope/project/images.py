"""The images of a project: made known, kept, moved, opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.files import let_go, write_image
from dinoscope.arrays.output import replacing
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.project.references import ImageRef, make_reference, open_checked
from dinoscope.types import ImageInput

IMAGES = "images"


class ProjectImages(ABC):
    """The part of a project that is about images; `Project` says where they are kept."""

    folder: Path

    @property
    @abstractmethod
    def sources(self) -> dict[str, ImageRef]:
        """The images by their ids."""

    @abstractmethod
    def _change(self, header: Mapping[str, Any], blob: bytes = b"") -> int: ...

    def source(self, source: str) -> ImageRef:
        """One image.

        Raises
        ------
        InputError
            There is none of that id.
        """
        known = self.sources
        if source not in known:
            raise InputError(
                f"the project has no image {source!r}",
                expected="one of " + (", ".join(known) or "none yet"),
            )
        return known[source]

    def add_source(self, image: ImageInput, path: str | Path | None = None) -> str:
        """Make an image known; returns its id. An image that is known already keeps its own.

        Parameters
        ----------
        image : ImageInput
            Some of its pixels are read.
        path : path, optional
            Its file, where it has one. Without, see :meth:`keep_image`.
        """
        place = None if path is None else Path(path)
        made = make_reference(image, place, self.folder)
        for known in self.sources.values():
            if known.hash == made.hash:
                if place is not None and known.path != made.path:
                    self._set_source(known.at(place, self.folder))
                return known.id
        self._set_source(made)
        return made.id

    def keep_image(self, source: str, image: ImageInput) -> Path:
        """Keep a copy of an image that has no file, so that it is there again next time."""
        reference = self.source(source)
        pixels = np.asarray(image.data[(slice(None),) * len(image.axes)])
        for suffix in (".tif", ".npy"):
            path = self.folder / IMAGES / f"{source}{suffix}"
            if suffix == ".tif":
                write_image(path, pixels, image.axes, image.pixel_size_um)
            else:
                with replacing(path) as part, part.open("wb") as file:
                    np.save(file, pixels, allow_pickle=False)
            try:
                open_checked(reference, path)
            except DinoscopeError:  # OME-TIFF orders axes and stores some types in its own way
                path.unlink()
                continue
            break
        else:
            raise InputError(f"image {image.name!r} is not the {reference.name!r} of the project")
        let_go(image.data)
        kept = {"kept": f"{IMAGES}/{path.name}"}
        self._set_source(ImageRef.from_json(reference.to_json() | kept))
        return path

    def missing(self) -> list[str]:
        """Images that have a file which is not where it was; ask the user and `relocate` them."""
        return [
            r.id for r in self.sources.values() if r.path is not None and not r.file(self.folder)
        ]

    def relocate(self, source: str, path: str | Path) -> None:
        """Say where an image's file is now.

        Raises
        ------
        InputError
            It cannot be read, or is another image.
        """
        reference = self.source(source)
        open_checked(reference, Path(path))
        self._set_source(reference.at(Path(path), self.folder))

    def open_image(self, source: str) -> ImageInput:
        """The image itself, from its file or kept copy; read lazily.

        Raises
        ------
        InputError
            It is not there (any more), or was changed.
        """
        reference = self.source(source)
        path = reference.file(self.folder)
        if path is None:
            raise InputError(
                f"image {reference.name!r} is not at {reference.path or 'any file'}",
                hint="Say where it is now."
                if reference.path
                else "It is a layer without a file: open it in napari, or save it first.",
            )
        image = open_checked(reference, path)
        return ImageInput(image.data, image.axes, reference.pixel_size_um, reference.name)

    def _set_source(self, reference: ImageRef) -> None:
        self._change({"op": "source", "reference": reference.to_json()})
