"""What an evaluation is made of: cases in, figures with intervals out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from dinoscope.arrays.intervals import mean_intervals
from dinoscope.engine.evaluate.pictures import Picture
from dinoscope.errors import InputError
from dinoscope.types import Table

#: The figure of each image by which images are ranked and predictions compared, and whether more
#: is better.
MAIN_FIGURE = {
    "instance": ("ap50", True),
    "semantic": ("iou", True),
    "depth": ("rmse", False),
    "classification": ("right", True),
}


@dataclass(frozen=True)
class Case:
    """One plane to score.

    Parameters
    ----------
    name : str
        The image.
    plane : int
        Which plane of it.
    truth, predicted : (Y, X) arrays
        Ids, classes or depths.
    image : (C, Y, X) array, optional
        What was predicted on; for pictures and for the focus baseline of depth.
    scores : mapping, optional
        Score of each predicted object, by its id.
    origin, truth_origin : str
        Where prediction and truth come from, for error messages.
    """

    name: str
    plane: int
    truth: np.ndarray
    predicted: np.ndarray
    image: np.ndarray | None = None
    scores: Mapping[int, float] | None = None
    origin: str = "prediction"
    truth_origin: str = "truth"


@dataclass(frozen=True)
class Evaluation:
    """The outcome for one set of predictions.

    Parameters
    ----------
    task : str
    scores : dict
        Figures over everything; counts are int. Only those that exist.
    intervals : dict
        95 % interval of those figures that have one.
    per_image : list of dict
        ``image plane`` and figures of each.
    objects : Table
        Objects that are wrong, worst first (instance), or wrong answers (classification).
    curves : dict
        What is drawn: lists of numbers and names by name of the plot.
    pictures : list of Picture
        The worst images, worst first.
    notes : list of str
        What a reader has to know.
    """

    task: str
    scores: dict[str, Any]
    intervals: dict[str, tuple[float, float]]
    per_image: list[dict[str, Any]]
    objects: Table = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Everything but tables of objects and pictures, ready for JSON."""
        intervals = {name: list(pair) for name, pair in self.intervals.items()}
        rest = {"intervals": intervals, "per_image": self.per_image, "notes": self.notes}
        return {**self.scores, **rest}


class Scorer(Protocol):
    """Scores one task, case by case."""

    def add(self, case: Case) -> np.ndarray | None:
        """Score a plane; returns its error map, if the task has one."""

    def finish(self) -> Evaluation:
        """The figures over all cases that were added."""


def groups_of(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, str] | None) -> list[str]:
    """The group of each row: as given, else its image, for planes of one image are alike.

    Planes of a single image are groups of their own: there is nothing else to draw from.

    Raises
    ------
    InputError
        Groups were given, but not for every image.
    """
    names = [str(row["image"]) for row in rows]
    if groups is not None:
        missing = sorted({name for name in names if name not in groups})
        if missing:
            raise InputError(
                f"{len(missing)} images have no group: {', '.join(missing[:5])}",
                expected="a group for each image",
            )
        return [groups[name] for name in names]
    if len(set(names)) > 1:
        return names
    return [f"{name} {number}" for number, name in enumerate(names)]


def figure_intervals(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], groups: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the means of figures of single images."""
    values = np.array([[row.get(name, np.nan) for name in names] for row in rows], np.float64)
    low, high = mean_intervals(values, groups)
    return known_intervals(dict(zip(names, zip(low, high, strict=True), strict=True)))


def known_intervals(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[float, float]]:
    """Those that exist, as plain floats."""
    return {n: (float(low), float(high)) for n, (low, high) in pairs.items() if np.isfinite(low)}


def existing(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores without those that do not exist (NaN)."""
    return {k: v for k, v in scores.items() if not (isinstance(v, float) and np.isnan(v))}


def row_figures(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Figures of one image, without those that do not exist."""
    return existing({name: values[name] for name in names if name in values})


def mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean of a figure over the images that have it; NaN where none has."""
    known = [float(row[name]) for row in rows if name in row]
    return float(np.mean(known)) if known else float("nan")
