"""Planes to score from files: prediction and truth, and the image and scores beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from dinoscope.arrays.axes import iter_planes
from dinoscope.arrays.files import SUFFIXES, image_stem, read_image
from dinoscope.arrays.objects import SCORE_COLUMNS
from dinoscope.engine.evaluate.evaluation import Case
from dinoscope.engine.pairs import Pair
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.types import Plane


def file_cases(pairs: Sequence[Pair], images: Path | None = None) -> Iterator[Case]:
    """The planes of all pairs, one after the other.

    Raises
    ------
    InputError
        A pair does not fit, or an image has other planes than its truth.
    """
    pictures = _by_stem(images) if images is not None else {}
    for pair in pairs:
        scores = _object_scores(pair)
        shown = iter_planes(read_image(pictures[pair.name])) if pair.name in pictures else None
        for number, truth, predicted in pair.planes():
            image = None
            if shown is not None:
                plane: Plane | None = next(shown, None)
                if plane is None or plane.image.shape[1:] != truth.shape:
                    got = "too few planes" if plane is None else f"planes {plane.image.shape[1:]}"
                    raise InputError(
                        f"image {pictures[pair.name]} has {got}", expected=f"{truth.shape}"
                    )
                image = plane.image
            origins = (str(pair.prediction), str(pair.truth))
            yield Case(pair.name, number, truth, predicted, image, scores, *origins)


def read_groups(path: Path) -> dict[str, str]:
    """Group of each image, from a CSV table with the columns ``image`` and ``group``.

    Raises
    ------
    InputError
        The table cannot be read or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"group table {path} cannot be read ({error})", expected="CSV") from error
    if not rows or not {"image", "group"} <= set(rows[0]):
        raise InputError(f"group table {path} has other columns", expected="image and group")
    return {_stem(row["image"]): row["group"] for row in rows}


def _stem(name: str) -> str:
    path = Path(name)
    return image_stem(path) if path.suffix.lower() in SUFFIXES else path.name


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist", expected="a folder of images")
    return {
        image_stem(path): path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    }


def _object_scores(pair: Pair) -> dict[int, float] | None:
    """Scores of the objects, from the table that lies beside the prediction."""
    stem = image_stem(pair.prediction).removesuffix("_instance")
    path = pair.prediction.with_name(f"{stem}_objects.csv")
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        column = next((name for name in SCORE_COLUMNS if rows and name in rows[0]), None)
        if column is None or "label" not in rows[0]:
            return None
        return {int(float(r["label"])): float(r[column]) for r in rows if r[column]}
    except (OSError, ValueError, csv.Error, DinoscopeError):
        return None  # a table of other making; the objects have no scores then
