"""Which prediction belongs to which truth: label images by stem, classes by the rows of a table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from dinoscope.arrays.axes import channel_count, iter_planes
from dinoscope.arrays.files import SUFFIXES, image_stem, read_image
from dinoscope.errors import AxesError, InputError
from dinoscope.types import ImageInput

#: What the names of predictions end in, most wanted first; a name without any of it comes last.
_ENDINGS = {"depth": ("_depth", "_height")}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Pair:
    """The files of one image: its prediction and its truth."""

    name: str
    prediction: Path
    truth: Path

    def planes(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Plane number, truth and prediction, each (Y, X), plane by plane.

        Raises
        ------
        InputError
            The two files have other shapes, or more than one channel.
        """
        prediction, truth = self._open()
        if _plane_shape(prediction) != _plane_shape(truth):
            raise InputError(
                f"{self.prediction} has shape {prediction.shape} ({prediction.axes}) but its truth "
                f"{self.truth} has {truth.shape} ({truth.axes})",
                expected="one shape",
                hint="Were the predictions made from the images that this truth belongs to?",
            )
        both = zip(iter_planes(truth), iter_planes(prediction), strict=True)
        for number, (true, predicted) in enumerate(both):
            yield number, true.image[0], predicted.image[0]

    def _open(self) -> tuple[ImageInput, ImageInput]:
        """Read both; where one file does not tell its axes, the other's count."""
        prediction, truth = _readable(self.prediction), _readable(self.truth)
        if prediction is None and truth is not None:
            prediction = read_image(self.prediction, truth.axes)
        elif truth is None and prediction is not None:
            truth = read_image(self.truth, prediction.axes)
        elif prediction is None or truth is None:
            # Planes are scored one by one, so the name of the axis they lie along does not matter.
            prediction, truth = _stack_of_planes(self.prediction), _stack_of_planes(self.truth)
        for path, image in ((self.prediction, prediction), (self.truth, truth)):
            if channel_count(image) != 1:
                raise InputError(
                    f"{path} has shape {image.shape} ({image.axes}), {channel_count(image)} "
                    f"channels or colours",
                    expected="one number for each pixel",
                    hint="Save labels and depth maps as single-channel images.",
                )
        return prediction, truth


def _readable(path: Path) -> ImageInput | None:
    """The image, with channels that lie before the rows taken as planes: labels have no colours.

    (A stack of three planes is easily saved as planar RGB without meaning to.)
    """
    try:
        image = read_image(path)
    except AxesError:
        return None
    before = image.axes.split("Y")[0]
    channels = next((axis for axis in "CS" if axis in before), None)
    if channels is None or "Q" in image.axes:
        return image
    return replace(image, axes=image.axes.replace(channels, "Q"))


def _stack_of_planes(path: Path) -> ImageInput:
    try:
        return read_image(path, "QYX")
    except AxesError:
        return read_image(path, "TZYX")


def _plane_shape(image: ImageInput) -> tuple[int, ...]:
    planes = tuple(length for length in image.plane_shape if length != 1)
    return (*planes, image.size("Y"), image.size("X"))


def pair_files(predictions: Path, truth: Path, task: str) -> tuple[list[Pair], int]:
    """Pair the label images of two folders by stem.

    Parameters
    ----------
    predictions : Path
        Folder with ``<stem>_<task>.tif`` (what ``predict`` writes) or ``<stem>.<ending>``.
    truth : Path
        Folder with ``<stem>.<ending>``, of any image format.
    task : str
        What the predictions' names end in.

    Returns
    -------
    pairs : list of Pair
        Sorted by name.
    without_truth : int
        How many predictions of this task have no truth; they are not scored.

    Raises
    ------
    InputError
        A folder is missing or has no images, a truth has no prediction, or a stem occurs twice.
    """
    predicted, true = _images_by_stem(predictions, "prediction"), _images_by_stem(truth, "truth")
    endings = (*_ENDINGS.get(task, (f"_{task}",)), "")
    pairs, missing = [], []
    for name, path in sorted(true.items()):
        found = next((name + e for e in endings if name + e in predicted), None)
        if found is None:
            missing.append(name)
        else:
            pairs.append(Pair(name, predicted[found], path))
    if missing:
        raise InputError(
            f"{len(missing)} of {len(true)} truths in {truth} have no prediction in {predictions}: "
            + _some(missing),
            expected=f"{missing[0]}{endings[0]}.tif",
            hint="Predict these images too, or take their truth out of the folder.",
        )
    used = {pair.prediction for pair in pairs}
    named = [path for stem, path in predicted.items() if stem.endswith(endings[:-1])]
    unused = [path for path in named or predicted.values() if path not in used]
    return pairs, len(unused)


def truth_stems(truth: Path, task: str) -> list[str]:
    """Stems of the images that have a truth, in order.

    Raises
    ------
    InputError
        There is no truth.
    """
    if task != "classification":
        return sorted(_images_by_stem(truth, "truth"))
    rows, _ = _read_table(truth, "truth")
    return sorted({_key(row, ())[0] for row in rows})


def _images_by_stem(folder: Path, kind: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{kind} folder {folder} does not exist", expected="a folder of images")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        stem = image_stem(path)
        if stem in images:
            raise InputError(
                f"{folder} holds both {images[stem].name} and {path.name}",
                expected=f"one {kind} for each image",
            )
        images[stem] = path
    if not images:
        raise InputError(
            f"{kind} folder {folder} holds no images", expected="files ending in " + _some(SUFFIXES)
        )
    return images


@dataclass(frozen=True)
class ClassPairs:
    """True and predicted classes of images or objects, in one order.

    `keys` name each: the image's stem and its numbers in the columns `parts`. `probabilities` is
    (n, K) float64 for the classes `names`, ``None`` where the predictions give none.
    `without_truth` counts predictions that the truth does not name.
    """

    keys: list[tuple[str, ...]]
    parts: list[str]
    true: list[str]
    predicted: list[str]
    names: list[str]
    probabilities: np.ndarray | None
    without_truth: int

    @property
    def images(self) -> list[str]:
        """The image of each."""
        return [key[0] for key in self.keys]


def pair_classes(predictions: Path, truth: Path) -> ClassPairs:
    """Pair true and predicted classes.

    Parameters
    ----------
    predictions : Path
        ``classification.csv``, or the folder that holds it: ``image,plane,object,class,…``, object
        0 (or none) being the image as a whole; probabilities in columns ``p_<class>``.
    truth : Path
        CSV file with ``image,class``, and ``object`` and ``plane`` where objects or planes have
        classes of their own; or the folder with one such file.

    Returns
    -------
    ClassPairs
        An image with several planes has the class of the highest mean probability.

    Raises
    ------
    InputError
        A file or column is missing, rows contradict each other, a truth has no prediction, or a
        probability is no number.
    """
    true_rows, true_path = _read_table(truth, "truth")
    rows, path = _read_table(predictions, "prediction", prefer="classification.csv")
    wanted: dict[tuple[str, ...], str] = {}
    parts = [str(part) for part in ("plane", "object") if part in true_rows[0]]
    for row in true_rows:
        key = _key(row, parts)
        if wanted.setdefault(key, row["class"]) != row["class"]:
            raise InputError(
                f"{true_path} gives {_said(key)} the classes {wanted[key]!r} and {row['class']!r}",
                expected="one class for each",
            )
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows if "object" in parts else [r for r in rows if _number(r, "object") == "0"]:
        found.setdefault(_key(row, parts), []).append(row)
    missing = [_said(key) for key in wanted if key not in found]
    if missing:
        only_objects = "object" not in parts and len(found) == 0
        raise InputError(
            f"{len(missing)} of {len(wanted)} truths in {true_path} have no prediction in {path}: "
            + _some(missing),
            hint="The predictions are for single objects: give the truth a column 'object'."
            if only_objects
            else "Predict these images too, or take them out of the table.",
        )
    columns = [name for name in rows[0] if name and name.startswith("p_")]
    table = [_probabilities(found[key], columns, path) for key in wanted]
    return ClassPairs(
        keys=list(wanted),
        parts=parts,
        true=list(wanted.values()),
        predicted=[_class_of(found[key], columns, path) for key in wanted],
        names=[name.removeprefix("p_") for name in columns],
        probabilities=np.array(table) if columns and None not in table else None,
        without_truth=len(found.keys() - wanted.keys()),
    )


def _read_table(path: Path, kind: str, prefer: str = "") -> tuple[list[dict[str, str]], Path]:
    """Rows of the class table at `path`, or of the one in that folder, and the path it has."""
    if path.is_dir():
        tables = [path / prefer] if prefer and (path / prefer).is_file() else _class_tables(path)
        if len(tables) != 1:
            raise InputError(
                f"{kind} folder {path} holds {len(tables)} tables with the columns image and class",
                expected="one",
                hint="Name the CSV file itself.",
            )
        path = tables[0]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{kind} table {path} cannot be read ({error})", expected="CSV") from error
    if not rows or not {"image", "class"} <= set(rows[0]):
        columns = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise InputError(f"{kind} table {path} has {columns}", expected="columns image and class")
    return rows, path


def _class_tables(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            header = next(csv.reader(file), [])
        if {"image", "class"} <= set(header):
            found.append(path)
    return found


def _key(row: dict[str, str], parts: Sequence[str]) -> tuple[str, ...]:
    name = Path(row["image"])
    # Tables name images with or without their ending; a dot may be part of a name.
    stem = image_stem(name) if name.suffix.lower() in SUFFIXES else name.name
    return (stem, *(_number(row, part) for part in parts))


def _number(row: dict[str, str], column: str) -> str:
    """A cell as text; an empty or absent one is 0, and 3.0 is 3."""
    text = (row.get(column) or "0").strip()
    try:
        return str(int(float(text)))
    except ValueError:
        return text


def _class_of(rows: list[dict[str, str]], columns: list[str], path: Path) -> str:
    if len({row["class"] for row in rows}) == 1:
        return rows[0]["class"]
    means = _probabilities(rows, columns, path)
    if not means:
        raise InputError(
            f"the predictions give {rows[0]['image']!r} {len(rows)} classes and no probabilities",
            expected="one class, or columns p_<class>",
        )
    return columns[int(np.argmax(means))].removeprefix("p_")


def _probabilities(
    rows: list[dict[str, str]], columns: list[str], path: Path
) -> list[float] | None:
    """Mean probabilities of the rows, ``None`` where a row has none at all."""
    if not columns or any(not any((row[name] or "").strip() for name in columns) for row in rows):
        return None
    try:
        return [float(np.mean([float(row[name] or 0) for row in rows])) for name in columns]
    except ValueError as error:
        raise InputError(
            f"{path} holds a probability that is no number ({error})",
            expected="numbers in p_ columns",
        ) from error


def _said(key: tuple[str, ...]) -> str:
    return " ".join(key)


def _some(items: Sequence[_T], at_most: int = 5) -> str:
    text = ", ".join(str(item) for item in items[:at_most])
    return text + (" …" if len(items) > at_most else "")
