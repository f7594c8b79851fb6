"""Images of a project: where they are, and what they are, so that a moved file is found again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.axes import read_plane, sample_indices
from dinoscope.arrays.files import read_image
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.types import ImageInput

#: Planes that the hash of a stack looks at, and rows of each.
HASHED_PLANES = 5
HASHED_ROWS = 1024


@dataclass(frozen=True)
class ImageRef:
    """An image as a project knows it.

    Attributes
    ----------
    id : str
        Stable name within the project, made of the pixels.
    name : str
        Shown to the user.
    path : Path or None
        Where its file was last seen; ``None`` for a layer that has none.
    relative : str
        The same as seen from the project's folder, so that both can move together.
    hash : str
        Of shape, type and pixels (see `content_hash`).
    shape, axes, pixel_size_um
        As in :class:`~dinoscope.types.ImageInput`.
    kept : str
        A copy of the pixels in the project's folder, for images that have no file.
    """

    id: str
    name: str
    path: Path | None
    hash: str
    shape: tuple[int, ...]
    axes: str
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    relative: str = ""
    kept: str = ""

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.shape[self.axes.index("Y")], self.shape[self.axes.index("X")]

    @property
    def plane_shape(self) -> tuple[int, ...]:
        """Lengths of the axes that planes are counted along."""
        return tuple(n for n, a in zip(self.shape, self.axes, strict=True) if a not in "CSYX")

    def file(self, folder: Path) -> Path | None:
        """Where its pixels are now, ``None`` where they are not found."""
        places = [folder / self.kept] if self.kept else []
        places += [Path(os.path.normpath(folder / self.relative))] if self.relative else []
        places += [self.path] if self.path is not None else []
        return next((place for place in places if place.exists()), None)

    def at(self, path: Path, folder: Path) -> ImageRef:
        """The same image in another file."""
        path = path.resolve()
        return replace(self, path=path, relative=relative_to(path, folder))

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        return {
            "id": self.id,
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "relative": self.relative,
            "kept": self.kept,
            "hash": self.hash,
            "shape": list(self.shape),
            "axes": self.axes,
            "pixel_size_um": dict(self.pixel_size_um),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageRef:
        """What `to_json` wrote."""
        path = values.get("path")
        return cls(
            id=str(values["id"]),
            name=str(values["name"]),
            path=None if path is None else Path(path),
            hash=str(values["hash"]),
            shape=tuple(int(n) for n in values["shape"]),
            axes=str(values["axes"]),
            pixel_size_um={k: float(v) for k, v in dict(values["pixel_size_um"]).items()},
            relative=str(values.get("relative", "")),
            kept=str(values.get("kept", "")),
        )


def relative_to(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`; empty where no way leads there (another drive)."""
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:
        return ""


def make_reference(image: ImageInput, path: Path | None, folder: Path) -> ImageRef:
    """The reference of an image; its pixels are looked at."""
    digest = content_hash(image)
    path = None if path is None else path.resolve()
    return ImageRef(
        id=f"{_plain(image.name)}-{digest[:10]}",
        name=image.name,
        path=path,
        hash=digest,
        shape=image.shape,
        axes=image.axes,
        pixel_size_um={k: float(v) for k, v in image.pixel_size_um.items()},
        relative="" if path is None else relative_to(path, folder),
    )


def content_hash(image: ImageInput) -> str:
    """Hash of an image's shape, type and pixels, whatever file or layer they are in.

    Of a stack `HASHED_PLANES` evenly spaced planes are read, of a plane its middle `HASHED_ROWS`
    rows: enough to tell images apart, and quick on images that are larger than memory.

    Examples
    --------
    >>> content_hash(ImageInput(np.zeros((8, 8), np.uint8), "YX"))[:8]
    'a496fa2d'
    """
    told = hashlib.blake2b(digest_size=16)
    told.update(repr((image.shape, np.dtype(image.data.dtype).str[1:])).encode())
    height, width = image.size("Y"), image.size("X")
    top = max(0, (height - HASHED_ROWS) // 2)
    region = (top, 0, min(height, top + HASHED_ROWS), width)
    for index in sample_indices(image, HASHED_PLANES):
        pixels = np.ascontiguousarray(read_plane(image, index, region=region))
        told.update(pixels.view(np.uint8).data)
    return told.hexdigest()


def open_checked(reference: ImageRef, path: Path) -> ImageInput:
    """Open a file that is said to be an image of the project.

    Raises
    ------
    InputError
        It cannot be read, or is another image.
    """
    try:
        image = read_image(path, reference.axes)
    except DinoscopeError:  # it has axes of its own
        image = read_image(path)
    if content_hash(image) != reference.hash:
        raise InputError(
            f"{path} is not the image {reference.name!r} that was annotated: "
            + (
                f"its shape is {image.shape}"
                if image.shape != reference.shape
                else "its pixels differ"
            ),
            expected=f"the file with the same pixels ({reference.shape}, {reference.axes})",
            hint="Choose the original file, or add this one as a new image.",
        )
    return image


def _plain(name: str) -> str:
    """A name that can be part of a file's, on every system."""
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)[:24]
    return kept.strip("_") or "image"
