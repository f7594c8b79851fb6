"""From what a user gives (files or layers, truths) to sets of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.axes import read_plane
from dinoscope.arrays.files import read_image
from dinoscope.arrays.labels import typical_diameter
from dinoscope.arrays.normalize import Normalization
from dinoscope.engine.dataset import ImageSet, TaskSource, TrainingImage, normalized_planes
from dinoscope.errors import AxesError, InputError
from dinoscope.tasks.base import IGNORE
from dinoscope.types import ImageInput


def load_sources(
    sources: Sequence[TaskSource],
    normalization: Normalization,
    classes: Mapping[str, tuple[str, ...]],
) -> list[ImageSet]:
    """Read every image once, with the truths of all tasks that name it.

    Parameters
    ----------
    sources : Sequence[TaskSource]
        What the user gave, any number of tasks.
    normalization : Normalization
        As the trained model's card will have it.
    classes : Mapping[str, tuple[str, ...]]
        Class names of ``classification`` (to turn names into numbers).

    Raises
    ------
    InputError
        An image and its truth differ in shape, or a truth cannot be one.
    """
    sets: dict[str, dict[str, TrainingImage]] = {}
    for source in sources:
        images = sets.setdefault(source.name, {})
        for position, (reference, truth) in enumerate(
            zip(source.images, source.truths, strict=True)
        ):
            image = as_image(reference, source.axes)
            key = image_key(reference, position)
            group = source.groups[position] if source.groups else key
            if not any(name.rsplit("@", 1)[0] == key for name in images):
                for index, pixels in normalized_planes(image, normalization):
                    name = f"{key}@{'_'.join(map(str, index))}"
                    images[name] = TrainingImage(name, group, pixels, {})
            _add_truth(images, key, image, source.task, truth, classes)
    return [ImageSet(name, list(images.values())) for name, images in sets.items()]


def as_image(reference: Path | ImageInput | str, axes: str | None = None) -> ImageInput:
    """Files are opened, images pass through."""
    return reference if isinstance(reference, ImageInput) else read_image(reference, axes)


def image_key(reference: Path | ImageInput, position: int) -> str:
    """What tells one image of a source from another: its path, or name and number of a layer."""
    return f"{reference.name}#{position}" if isinstance(reference, ImageInput) else str(reference)


def open_label(truth: Path | ImageInput | str, image: ImageInput) -> ImageInput:
    """A label image; a file that does not name its axes, or takes planes for colours, has those
    of the image, without channels."""
    if isinstance(truth, ImageInput):
        return truth
    axes = image.plane_axes + "YX"
    try:
        label = read_image(truth)
    except AxesError:
        return read_image(truth, axes)
    fits = label.shape == (*image.plane_shape, image.size("Y"), image.size("X"))
    return ImageInput(label.data, axes, label.pixel_size_um, label.name) if fits else label


def _add_truth(
    images: dict[str, TrainingImage],
    key: str,
    image: ImageInput,
    task: str,
    truth: Path | ImageInput | str,
    classes: Mapping[str, tuple[str, ...]],
) -> None:
    names = [n for n in images if n.rsplit("@", 1)[0] == key]
    if task == "classification":
        number = classes["classification"].index(str(truth))
        for name in names:
            images[name] = _with(images[name], task, number)
        return
    label = open_label(truth, image)
    if label.plane_shape != image.plane_shape or (label.size("Y"), label.size("X")) != (
        image.size("Y"),
        image.size("X"),
    ):
        raise InputError(
            f"labels {label.name!r} have shape {label.shape} ({label.axes}) but image "
            f"{image.name!r} has {image.shape} ({image.axes})",
            expected="the same planes, rows and columns",
        )
    indices = list(np.ndindex(image.plane_shape)) if image.plane_shape else [()]
    for name, index in zip(names, indices, strict=True):
        plane = read_plane(label, tuple(int(i) for i in index))
        if plane.shape[0] != 1:
            raise InputError(
                f"labels {label.name!r} have {plane.shape[0]} channels", expected="one channel"
            )
        images[name] = _with(images[name], task, check_truth(task, plane[0], label.name))


def _with(image: TrainingImage, task: str, truth: np.ndarray | int) -> TrainingImage:
    diameter = image.diameter_px
    if task == "instance" and isinstance(truth, np.ndarray):
        diameter = typical_diameter(np.maximum(truth, 0))
    return TrainingImage(
        image.name, image.group, image.pixels, {**image.targets, task: truth}, diameter
    )


def check_truth(task: str, truth: np.ndarray, name: str) -> np.ndarray:
    """A label plane in the dtype training uses.

    Raises
    ------
    InputError
        Fractional or out-of-range labels, or depth without a finite value.
    """
    if task == "depth":
        depth = truth.astype(np.float32)
        if not np.isfinite(depth).any():
            raise InputError(f"depth image {name!r} has no finite value", expected="some numbers")
        return np.where(np.isfinite(depth), depth, np.float32(np.nan))
    whole: Any = truth
    if truth.dtype.kind == "f":
        if not np.isfinite(truth).all() or (truth != np.round(truth)).any():
            raise InputError(
                f"labels {name!r} have fractional values ({truth.dtype})", expected="whole numbers"
            )
        whole = truth.astype(np.int64)
    low, high = int(whole.min()), int(whole.max())
    if task == "semantic":
        if low < 0 or high > IGNORE:
            raise InputError(
                f"semantic labels {name!r} range from {low} to {high}",
                expected="0 to 255, 255 = ignore",
            )
        return np.asarray(whole, np.uint8)
    if high >= 2**31:
        raise InputError(f"instance ids of {name!r} reach {high}", expected="less than 2147483648")
    return np.asarray(whole, np.int32)
