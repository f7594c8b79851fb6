"""Score classes of pixels: IoU, Dice, boundary F1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dinoscope.arrays.boundaries import boundary_counts, boundary_f1
from dinoscope.arrays.faults import class_fault_map
from dinoscope.arrays.intervals import bootstrap_interval
from dinoscope.arrays.labels import IGNORE, validate_classes
from dinoscope.arrays.metrics import class_overlaps, confusion_matrix, semantic_scores
from dinoscope.config import EvaluateOptions
from dinoscope.engine.evaluate.evaluation import (
    Case,
    Evaluation,
    existing,
    figure_intervals,
    groups_of,
    known_intervals,
    mean_of,
    row_figures,
)
from dinoscope.engine.evaluate.pictures import Gallery, Picture, fault_picture
from dinoscope.errors import InputError

_FIGURES = ("iou", "dice", "accuracy", "boundary_f1")


class SemanticScorer:
    """Scores class codes; 255 in the truth is not scored."""

    def __init__(self, options: EvaluateOptions, groups: Mapping[str, str] | None = None) -> None:
        self._options, self._groups = options, groups
        self._rows: list[dict[str, Any]] = []
        self._counts: list[tuple[np.ndarray, np.ndarray]] = []
        self._seen = np.zeros(IGNORE, bool)
        self._ignored = 0
        self._gallery = Gallery(options.worst, more_is_better=True)

    def add(self, case: Case) -> np.ndarray:
        """Score a plane; returns its map of faults."""
        true = validate_classes(case.truth, name=case.truth_origin)
        said = validate_classes(case.predicted, shape=true.shape, name=case.origin)
        codes = class_fault_map(true, said)
        classes = 1 + max(int(part.max(initial=0, where=part != IGNORE)) for part in (true, said))
        counts = confusion_matrix(true, said, classes)
        self._ignored += true.size - int(counts.sum())
        own = semantic_scores(counts)
        if np.isnan(own["iou"]):
            return codes  # nothing of it is known
        outline = boundary_counts(true, said, classes, self._options.boundary_tolerance_px)
        self._seen[:classes] |= counts.sum(axis=1) + counts[:, :classes].sum(axis=0) > 0
        self._counts.append((counts, outline))
        own["boundary_f1"] = _mean(boundary_f1(outline))
        self._rows.append({"image": case.name, "plane": case.plane, **row_figures(own, _FIGURES)})

        def draw() -> Picture:
            pixels, origin = fault_picture(codes, case.image, np.where(true == IGNORE, 0, true))
            return Picture(case.name, case.plane, own["iou"], origin, pixels)

        self._gallery.offer(own["iou"], draw)
        return codes

    def finish(self) -> Evaluation:
        """The figures over all planes.

        Raises
        ------
        InputError
            Nothing in the truth is known.
        """
        if self._ignored and not self._seen[1:].any():
            raise InputError(
                f"the truth holds nothing but 0 and {IGNORE}, and {IGNORE} means ignored",
                expected="class numbers from 1",
                hint=f"In a black and white mask, replace {IGNORE} by 1.",
            )
        classes = int(np.flatnonzero(self._seen)[-1]) + 1
        sums = np.array([_flat(*counts, classes) for counts in self._counts])
        confusion, outline = _unflat(sums.sum(axis=0), classes)
        scores: dict[str, Any] = {"n": len(self._rows), **semantic_scores(confusion)}
        sharp = boundary_f1(outline)
        scores["boundary_f1"] = _mean(sharp)
        scores |= {f"boundary_f1_{code}": float(value) for code, value in enumerate(sharp)}
        scores |= {f"{n}_per_image": mean_of(self._rows, n) for n in ("iou", "dice", "boundary_f1")}
        groups = groups_of(self._rows, self._groups)
        per_image = figure_intervals(self._rows, _FIGURES, groups)
        intervals = {f"{name}_per_image": pair for name, pair in per_image.items()}
        names = [*_FIGURES, *(f"iou_{code}" for code in range(classes))]
        low, high = bootstrap_interval(sums, lambda rows: _figures(rows, classes), groups)
        intervals |= known_intervals({n: (low[i], high[i]) for i, n in enumerate(names)})
        notes = []
        if not self._seen[1:].any():
            notes.append("Only background occurs: the scores say nothing about any class.")
        elif int(self._seen.sum()) == 1:
            notes.append("Only one class occurs.")
        return Evaluation(
            "semantic",
            existing(scores),
            intervals,
            self._rows,
            curves={
                "classes": [str(code) for code in range(classes)],
                "confusion": confusion[:, :classes].tolist(),
            },
            pictures=self._gallery.pictures(),
            notes=notes,
        )


def _flat(confusion: np.ndarray, outline: np.ndarray, classes: int) -> np.ndarray:
    """Counts of one image with `classes` classes, as one row."""
    own = len(confusion)
    full = np.zeros((classes, classes + 1), np.float64)
    kept = min(own, classes)
    full[:kept, :kept] = confusion[:kept, :kept]
    full[:kept, classes] = confusion[:kept, own]
    sharp = np.zeros((classes, 4), np.float64)
    sharp[:kept] = outline[:kept]
    return np.concatenate([full.ravel(), sharp.ravel()])


def _unflat(sums: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    cells = classes * (classes + 1)
    lead = sums.shape[:-1]
    confusion = sums[..., :cells].reshape(*lead, classes, classes + 1)
    return confusion.astype(np.int64), sums[..., cells:].reshape(*lead, classes, 4)


def _figures(sums: np.ndarray, classes: int) -> np.ndarray:
    confusion, outline = _unflat(sums, classes)
    iou, dice = class_overlaps(confusion)
    right = np.trace(confusion[..., :classes], axis1=-2, axis2=-1)
    total = confusion.sum(axis=(-2, -1))
    means = [_mean_along(part) for part in (iou, dice)]
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = np.where(total > 0, right / total, np.nan)
    columns = [*means, accuracy, _mean_along(boundary_f1(outline))]
    return np.concatenate([np.stack(columns, axis=-1), iou], axis=-1)


def _mean_along(values: np.ndarray) -> np.ndarray:
    """Mean of the last axis without NaN; NaN where nothing is left."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    return float(_mean_along(values))
