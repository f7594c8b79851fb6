"""Score the predictions in a folder against the truth in another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.labels import IGNORE, validate_classes, validate_labels
from dinoscope.arrays.metrics import (
    classification_scores,
    confusion_matrix,
    depth_scores,
    instance_scores,
    match_instances,
    semantic_scores,
)
from dinoscope.config import TRAINABLE_TASKS
from dinoscope.engine.pairs import Pair, pair_classes, pair_files
from dinoscope.errors import InputError

#: Resamplings of the images for the confidence interval of the AP.
_RESAMPLES = 2000


def evaluate(predictions: str | Path, truth: str | Path, task: str) -> dict[str, Any]:
    """Score predictions against the truth.

    Files are paired by stem: prediction ``<stem>_<task>.tif`` (or ``<stem>.tif``), truth
    ``<stem>.tif``, ``.png`` or any other format that is read. Stacks are scored plane by plane, so
    *image* means plane below. For classification, see :func:`dinoscope.engine.pairs.pair_classes`.

    Parameters
    ----------
    predictions, truth : str or Path
        Two folders; for classification also the two CSV files.
    task : {"instance", "semantic", "depth", "classification"}
        What is scored.

    Returns
    -------
    dict
        ``n``: what was scored (images, or rows of classes); ``predictions_without_truth``: what
        was not; ``per_image``: list of scores (not for classification). By task, besides what the
        functions of :mod:`dinoscope.arrays.metrics` name:

        instance
            ``ap50 ap75 map f1_50 pq iou dice``: means over images (`dice`: of the foreground);
            ``ap50_low ap50_high``: 95 % interval of `ap50`, by bootstrap over images;
            ``ap50_pooled …``: from counts summed over images; ``tp fp fn n_truth n_pred``.
        semantic
            ``iou dice accuracy iou_<class> …`` from all pixels of all images together;
            ``iou_per_image``: mean over images.
        depth
            ``rmse mae rmse_fit rmse_over_mean …``: means over images; a scale and an offset are
            fitted to each image.
        classification
            ``accuracy balanced_accuracy f1_macro f1_weighted f1_<class> …``.

        Conventions: nothing to find and nothing found is AP 1; a semantic truth of 255 and a depth
        truth of NaN are not scored; a score that does not exist (a class that never occurs) has no
        key.

    Raises
    ------
    InputError
        A file, folder or partner is missing, shapes differ, or values are no labels.
    """
    predictions, truth = Path(predictions), Path(truth)
    if task not in TRAINABLE_TASKS:
        raise InputError(f"task is {task!r}", expected="one of " + ", ".join(TRAINABLE_TASKS))
    scores: dict[str, Any]
    if task == "classification":
        true, predicted, unused = pair_classes(predictions, truth)
        scores = dict(classification_scores(true, predicted))
    else:
        pairs, unused = pair_files(predictions, truth, task)
        scores = _DENSE[task](pairs)
    scores["predictions_without_truth"] = unused
    return {k: v for k, v in scores.items() if not (isinstance(v, float) and np.isnan(v))}


def _instances(pairs: Sequence[Pair]) -> dict[str, Any]:
    matches, rows = [], []
    for pair in pairs:
        for number, true, predicted in pair.planes():
            true = validate_labels(true, name=str(pair.truth))
            predicted = validate_labels(predicted, name=str(pair.prediction))
            match = match_instances(true, predicted)
            matches.append(match)
            own = instance_scores([match])
            names = ("ap50", "ap75", "map", "pq", "iou", "n_truth", "n_pred")
            rows.append(
                {"image": pair.name, "plane": number}
                | {name: own[name] for name in names}
                | {"dice": _foreground_dice(true, predicted)}
            )
    scores: dict[str, Any] = dict(instance_scores(matches))
    scores["dice"] = float(np.mean([row["dice"] for row in rows]))
    low, high = _interval(np.array([row["ap50"] for row in rows]))
    return scores | {"ap50_low": low, "ap50_high": high, "per_image": rows}


def _foreground_dice(true: np.ndarray, predicted: np.ndarray) -> float:
    both = np.count_nonzero((true > 0) & (predicted > 0))
    total = np.count_nonzero(true) + np.count_nonzero(predicted)
    return 2 * both / total if total else 1.0


def _interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean, by bootstrap; always the same for the same values."""
    draws = np.random.default_rng(0).integers(0, values.size, (_RESAMPLES, values.size))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _semantic(pairs: Sequence[Pair]) -> dict[str, Any]:
    total = np.zeros((IGNORE, IGNORE + 1), np.int64)
    rows, ignored = [], 0
    for pair in pairs:
        for number, true, predicted in pair.planes():
            true = validate_classes(true, name=str(pair.truth))
            predicted = validate_classes(predicted, name=str(pair.prediction))
            counts = confusion_matrix(true, predicted, IGNORE)
            total += counts
            ignored += true.size - int(counts.sum())
            own = semantic_scores(counts)
            if not np.isnan(own["iou"]):
                names = ("iou", "dice", "accuracy")
                rows.append(
                    {"image": pair.name, "plane": number} | {name: own[name] for name in names}
                )
    if ignored and not total[1:].any():
        raise InputError(
            f"the truth holds nothing but 0 and {IGNORE}, and {IGNORE} means ignored",
            expected="class numbers from 1",
            hint=f"In a black and white mask, replace {IGNORE} by 1.",
        )
    used = np.flatnonzero(total.sum(axis=1) + total[:, :IGNORE].sum(axis=0))
    classes = int(used[-1]) + 1
    trimmed = np.column_stack([total[:classes, :classes], total[:classes, IGNORE]])
    scores: dict[str, Any] = {"n": len(rows), **semantic_scores(trimmed)}
    scores["iou_per_image"] = float(np.mean([row["iou"] for row in rows]))
    return scores | {"per_image": rows}


def _depth(pairs: Sequence[Pair]) -> dict[str, Any]:
    rows = []
    for pair in pairs:
        for number, true, predicted in pair.planes():
            if not np.isfinite(true).any():
                continue  # nothing was measured there
            try:
                own = depth_scores(true, predicted)
            except InputError as error:
                raise InputError(
                    f"{pair.prediction}: {error.what}", expected=error.expected
                ) from error
            rows.append({"image": pair.name, "plane": number, **own})
    if not rows:
        raise InputError("no truth holds a finite depth", expected="numbers, NaN where unknown")
    names = [name for name in rows[0] if name not in ("image", "plane")]
    means = {name: _mean([row[name] for row in rows]) for name in names}
    return {"n": len(rows), **means, "per_image": rows}


def _mean(values: Sequence[Any]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


_DENSE: dict[str, Callable[[Sequence[Pair]], dict[str, Any]]] = {
    "instance": _instances,
    "semantic": _semantic,
    "depth": _depth,
}
