from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinoscope.arrays.files import write_image
from dinoscope.project import Project
from dinoscope.types import ImageInput


def picture(seed: int, shape: tuple[int, ...] = (40, 50), axes: str = "YX") -> ImageInput:
    """An image of noise that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)
    return ImageInput(pixels, axes, {"Y": 0.5, "X": 0.5}, f"image {seed}")


def picture_file(folder: Path, seed: int) -> tuple[ImageInput, Path]:
    """The same as a file."""
    image, path = picture(seed), folder / f"picture{seed}.tif"
    write_image(path, np.asarray(image.data), "YX", image.pixel_size_um)
    return image, path


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A new project with a plane and a stack; closed at the end."""
    made = Project.create(tmp_path / "work.dinoproject", ["background", "cell", "nucleus"])
    made.add_source(picture(1))
    made.add_source(picture(2, (3, 40, 50), "ZYX"))
    yield made
    made.close()


@pytest.fixture
def plane(project: Project) -> str:
    """Id of the image that is one plane."""
    return next(iter(project.sources))


@pytest.fixture
def stack(project: Project) -> str:
    """Id of the image that is a stack of three planes."""
    return list(project.sources)[1]
