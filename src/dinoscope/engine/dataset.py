"""What training reads: images with the truths of any subset of the tasks, and where they come
from."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from dinoscope.arrays.axes import read_plane, sample_indices
from dinoscope.arrays.files import image_stem
from dinoscope.arrays.normalize import Normalization, limits, to_model_input
from dinoscope.errors import InputError
from dinoscope.types import ImageInput

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy")


@dataclass(frozen=True)
class TrainingImage:
    """One plane ready to be cropped.

    `pixels` (3, Y, X) float16 normalised; `targets` by task: ``instance`` (Y, X) int32 ids,
    negative = unknown; ``semantic`` (Y, X) uint8, 255 = ignore; ``depth`` (Y, X) float32, NaN =
    unknown; ``classification`` an int. `diameter_px` is the typical object diameter in these
    pixels. Images of one `group` never stand on both sides of a split.
    """

    name: str
    group: str
    pixels: np.ndarray
    targets: Mapping[str, np.ndarray | int]
    diameter_px: float | None = None


class Source(Protocol):
    """Anything that training images can be drawn from."""

    name: str
    weight: float
    tasks: tuple[str, ...]

    def __len__(self) -> int: ...
    def draw(self, rng: np.random.Generator) -> TrainingImage: ...


@dataclass
class ImageSet:
    """Images held in memory, drawn uniformly."""

    name: str
    images: list[TrainingImage]
    weight: float = 1.0
    tasks: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = tuple(dict.fromkeys(t for image in self.images for t in image.targets))

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, rng: np.random.Generator) -> TrainingImage:
        return self.images[int(rng.integers(len(self.images)))]


@dataclass
class GeneratedSet:
    """Images made on the fly; `make` turns a seed into a `TrainingImage`."""

    name: str
    make: Callable[[int], TrainingImage]
    tasks: tuple[str, ...]
    weight: float = 1.0
    size: int = 1000

    def __len__(self) -> int:
        return self.size

    def draw(self, rng: np.random.Generator) -> TrainingImage:
        return self.make(int(rng.integers(2**31)))


@dataclass(frozen=True)
class TaskSource:
    """What a user gives for one task: images and their truths, in the same order.

    `truths` are label images (paths or `ImageInput`), or class names for classification.
    `groups` name what must not be split (slides, wells, stacks); each image is its own group by
    default.
    """

    task: str
    images: Sequence[Path | ImageInput]
    truths: Sequence[Path | ImageInput | str]
    name: str = "images"
    axes: str | None = None
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.truths):
            raise InputError(
                f"{self.name!r} has {len(self.images)} images and {len(self.truths)} truths",
                expected="one truth for each image",
            )
        if not self.images:
            raise InputError(
                f"{self.name!r} has no image with a truth for {self.task!r}",
                hint="Images and labels are paired by file name without its ending.",
            )


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name.

    Raises
    ------
    InputError
        The folder does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"image folder {str(folder)!r} does not exist", expected="a folder")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def sources_from_folders(
    images_dir: str | Path, truth: str | Path, task: str, *, axes: str | None = None
) -> TaskSource:
    """Pair images with truths by stem; for classification `truth` is a CSV with ``image,class``.

    Raises
    ------
    InputError
        A folder or column is missing, the CSV names an unknown image, or nothing pairs.
    """
    images_dir, truth = Path(images_dir), Path(truth)
    images = images_in(images_dir)
    by_stem = {image_stem(p): p for p in images}
    if task == "classification":
        return _classes_from_csv(images_dir, by_stem, truth, axes)
    truths = {image_stem(p): p for p in images_in(truth)}
    stems = [s for s in by_stem if s in truths]
    if not stems:
        raise InputError(
            f"no image in {str(images_dir)!r} has a label of the same stem in {str(truth)!r}",
            expected="for example images/a.png and labels/a.tif",
        )
    return TaskSource(
        task, [by_stem[s] for s in stems], [truths[s] for s in stems], images_dir.name, axes
    )


def _classes_from_csv(
    images_dir: Path, by_stem: Mapping[str, Path], table: Path, axes: str | None
) -> TaskSource:
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except OSError as error:
        raise InputError(
            f"class table {str(table)!r} cannot be read ({error.strerror})", expected="a CSV file"
        ) from error
    if not rows or not {"image", "class"} <= set(rows[0]):
        found = ", ".join(rows[0]) if rows else "no rows"
        raise InputError(
            f"class table {str(table)!r} has {found}", expected="columns image and class"
        )
    unknown = [r["image"] for r in rows if image_stem(r["image"]) not in by_stem]
    if unknown:
        raise InputError(
            f"class table {str(table)!r} names {len(unknown)} unknown images, first {unknown[0]!r}",
            expected=f"files of {str(images_dir)!r}",
        )
    groups = [r["group"] for r in rows] if "group" in rows[0] else None
    return TaskSource(
        "classification",
        [by_stem[image_stem(r["image"])] for r in rows],
        [r["class"] for r in rows],
        images_dir.name,
        axes,
        groups,
    )


def normalized_planes(
    image: ImageInput, normalization: Normalization
) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Every plane of an image as ``(3, Y, X)`` float16, normalised as prediction does it."""
    bounds = limits(image, normalization)
    indices = list(np.ndindex(image.plane_shape)) if image.plane_shape else [()]
    return [
        (
            tuple(int(i) for i in index),
            to_model_input(read_plane(image, tuple(index)), bounds, normalization).astype(
                np.float16
            ),
        )
        for index in indices
    ]


def channel_ranges(
    images: Sequence[ImageInput], at_most: int = 200
) -> tuple[tuple[float, float], ...]:
    """Range of each channel over a set of images, for classes that live on absolute intensity.

    The 0.1 and 99.9 percentiles of at most `at_most` evenly spaced images.
    """
    chosen = [images[int(i)] for i in np.linspace(0, len(images) - 1, min(len(images), at_most))]
    values: list[list[np.ndarray]] = []
    for image in chosen:
        for index in sample_indices(image, 4):
            plane = read_plane(image, index)
            flat = plane.reshape(plane.shape[0], -1)
            step = max(1, flat.shape[1] // 4096)
            values.append([channel[::step] for channel in flat])
    counts = {len(v) for v in values}
    if len(counts) != 1:
        raise InputError(
            f"training images have {sorted(counts)} channels", expected="the same number in each"
        )
    ranges = []
    for channel in range(counts.pop()):
        joined = np.concatenate([v[channel] for v in values]).astype(np.float64)
        joined = joined[np.isfinite(joined)]
        low, high = np.percentile(joined, [0.1, 99.9]) if joined.size else (0.0, 1.0)
        ranges.append((float(low), float(max(high, low + 1e-6))))
    return tuple(ranges)
