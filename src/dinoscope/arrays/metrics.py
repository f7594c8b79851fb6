"""Scores for the four tasks, on NumPy arrays.

Conventions. Instances: ids, 0 = background; AP = TP / (TP + FP + FN) with one-to-one matching at
IoU >= threshold, which is what StarDist calls accuracy and Cellpose average precision (not COCO's);
nothing to find and nothing found scores 1. Semantic: 255 in the truth is ignored, 255 in a
prediction is an answer of no class; a class in neither truth nor prediction has no score (NaN) and
does not enter means. Depth: NaN in the truth is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinoscope.arrays.labels import IGNORE, validate_labels
from dinoscope.arrays.matching import InstanceMatch, match_instances
from dinoscope.errors import InputError

__all__ = [
    "AP_THRESHOLDS",
    "InstanceMatch",
    "accuracy_of",
    "average_precision",
    "classification_scores",
    "confusion_matrix",
    "depth_scores",
    "instance_scores",
    "match_instances",
    "semantic_scores",
]

#: IoU thresholds of the mean AP: 0.5, 0.55 … 0.95.
AP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


def average_precision(
    truth: np.ndarray, pred: np.ndarray, thresholds: Sequence[float] = AP_THRESHOLDS
) -> np.ndarray:
    """AP = TP / (TP + FP + FN) of one image at each IoU threshold.

    Returns
    -------
    (len(thresholds),) float64
        1 everywhere where there is nothing to find and nothing was found.

    Examples
    --------
    >>> average_precision(np.array([[1, 1, 0, 2]]), np.array([[5, 5, 0, 0]]), [0.5]).tolist()
    [0.5]
    """
    match = match_instances(truth, pred)
    return np.array([accuracy_of(*match.counts(threshold)) for threshold in thresholds])


def accuracy_of(true: int, false_positive: int, false_negative: int) -> float:
    """TP / (TP + FP + FN); 1 for no objects at all."""
    total = true + false_positive + false_negative
    return true / total if total else 1.0


def instance_scores(matches: Sequence[InstanceMatch]) -> dict[str, float]:
    """Scores of a set of images, as means over images and pooled over all their objects.

    Returns
    -------
    dict
        ``ap50 ap75 map f1_50 pq iou``: per-image means (`map`: over IoU .5:.05:.95; `pq`: panoptic
        quality; `iou`: mean IoU of the pairs matched at 0.5, 0 if there are none). The same names
        with ``_pooled``: from counts summed over all images. ``tp fp fn``: those sums at IoU 0.5;
        ``n_truth n_pred``: objects; ``n``: images.

    Raises
    ------
    InputError
        No images.
    """
    if not matches:
        raise InputError("there are no images to score", expected="at least one")
    per_image = [_scores([match]) for match in matches]
    scores: dict[str, float] = {"n": len(matches)}
    scores |= {name: float(np.mean([one[name] for one in per_image])) for name in per_image[0]}
    scores |= {f"{name}_pooled": value for name, value in _scores(matches).items()}
    true, false_positive, false_negative = _pooled_counts(matches, 0.5)
    scores |= {"tp": true, "fp": false_positive, "fn": false_negative}
    scores |= {
        "n_truth": sum(match.n_truth for match in matches),
        "n_pred": sum(match.n_pred for match in matches),
    }
    return scores


def _scores(matches: Sequence[InstanceMatch]) -> dict[str, float]:
    aps = {t: accuracy_of(*_pooled_counts(matches, t)) for t in AP_THRESHOLDS}
    true, false_positive, false_negative = _pooled_counts(matches, 0.5)
    weight = true + 0.5 * (false_positive + false_negative)
    overlap = float(sum(match.matched(0.5).sum() for match in matches))
    return {
        "ap50": aps[0.5],
        "ap75": aps[0.75],
        "map": float(np.mean(list(aps.values()))),
        "f1_50": true / weight if weight else 1.0,
        "pq": overlap / weight if weight else 1.0,
        "iou": overlap / true if true else float(weight == 0),
    }


def _pooled_counts(matches: Sequence[InstanceMatch], threshold: float) -> tuple[int, int, int]:
    counts = np.array([match.counts(threshold) for match in matches]).sum(axis=0)
    return int(counts[0]), int(counts[1]), int(counts[2])


def confusion_matrix(truth: np.ndarray, pred: np.ndarray, classes: int) -> np.ndarray:
    """Count (truth, prediction) pairs of class codes; truth 255 is left out.

    Parameters
    ----------
    truth, pred : integer arrays of one shape
        Codes 0..`classes` - 1, or 255: ignored in `truth`, an answer of no class in `pred`.
    classes : int
        Number of classes, background included.

    Returns
    -------
    (classes, classes + 1) int64
        Rows are the truth, columns the prediction; the last column counts "no class".

    Raises
    ------
    InputError
        The shapes differ or a code lies outside.
    """
    truth = validate_labels(truth, name="truth").astype(np.int64)
    pred = validate_labels(pred, shape=truth.shape, name="prediction").astype(np.int64)
    for name, codes in (("truth", truth), ("prediction", pred)):
        wrong = codes[(codes >= classes) & (codes != IGNORE)]
        if wrong.size:
            raise InputError(
                f"{name} holds class {int(wrong[0])}", expected=f"0 to {classes - 1} or {IGNORE}"
            )
    known = truth != IGNORE
    column = np.where(pred == IGNORE, classes, pred)
    flat = truth[known] * (classes + 1) + column[known]
    return np.bincount(flat, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def semantic_scores(confusion: np.ndarray, names: Sequence[str] | None = None) -> dict[str, float]:
    """IoU, Dice and accuracy from a confusion matrix of pixels.

    Parameters
    ----------
    confusion : (K, K + 1) integer array
        From :func:`confusion_matrix`, summed over images.
    names : sequence of K str, optional
        Class names for the keys; numbers when not given.

    Returns
    -------
    dict
        ``iou dice``: means over the classes that occur, background included; ``iou_foreground``:
        without class 0; ``accuracy``: share of right pixels; ``iou_<class>`` and ``dice_<class>``
        (NaN for a class that does not occur).
    """
    classes = confusion.shape[0]
    names = [str(code) for code in range(classes)] if names is None else list(names)
    true = np.diag(confusion[:, :classes]).astype(float)
    size = confusion.sum(axis=1) + confusion[:, :classes].sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(size > 0, true / (size - true), np.nan)
        dice = np.where(size > 0, 2 * true / size, np.nan)
    total = confusion.sum()
    scores = {
        "iou": _mean(iou),
        "dice": _mean(dice),
        "iou_foreground": _mean(iou[1:]),
        "accuracy": float(true.sum() / total) if total else float("nan"),
    }
    scores |= {f"iou_{name}": float(value) for name, value in zip(names, iou, strict=True)}
    scores |= {f"dice_{name}": float(value) for name, value in zip(names, dice, strict=True)}
    return scores


def classification_scores(truth: Sequence[str], pred: Sequence[str]) -> dict[str, float]:
    """Accuracy and F1 of class names, one for each image or object.

    Returns
    -------
    dict
        ``n accuracy``; ``balanced_accuracy``: mean recall over the classes of the truth;
        ``f1_macro``: mean F1 over the classes in truth or prediction; ``f1_weighted``: weighted by
        the truth's counts; ``f1_<class> recall_<class> precision_<class> n_<class>``. A precision
        or recall without any case counts 0.

    Raises
    ------
    InputError
        Nothing to score, or lists of different length.
    """
    if len(truth) != len(pred) or not truth:
        raise InputError(
            f"there are {len(truth)} true and {len(pred)} predicted classes",
            expected="as many of one as of the other, at least one",
        )
    names, codes = np.unique([*map(str, truth), *map(str, pred)], return_inverse=True)
    true_codes, pred_codes = np.split(codes, 2)
    matrix = np.zeros((names.size, names.size), np.int64)
    np.add.at(matrix, (true_codes, pred_codes), 1)
    right, support, answers = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    recall = right / np.maximum(support, 1)
    precision = right / np.maximum(answers, 1)
    f1 = 2 * right / np.maximum(support + answers, 1)
    scores: dict[str, float] = {
        "n": len(truth),
        "accuracy": float(right.sum() / len(truth)),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "f1_macro": float(f1.mean()),
        "f1_weighted": float((f1 * support).sum() / len(truth)),
    }
    for i, name in enumerate(names):
        scores |= {f"f1_{name}": float(f1[i]), f"recall_{name}": float(recall[i])}
        scores |= {f"precision_{name}": float(precision[i]), f"n_{name}": int(support[i])}
    return scores


def depth_scores(truth: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """Errors of one depth map, in the truth's unit.

    Parameters
    ----------
    truth, pred : float arrays of one shape
        Scored where both are finite.

    Returns
    -------
    dict
        ``rmse mae``: as they are. ``rmse_fit``: after the best scale and offset of `pred` (least
        squares), for maps that are relative. ``rmse_over_mean`` and ``rmse_fit_over_mean``: those
        errors divided by the error of answering the truth's mean everywhere (below 1 = better than
        knowing nothing). ``coverage``: share of the truth's pixels that have an answer.

    Raises
    ------
    InputError
        The shapes differ, or no pixel can be scored.
    """
    truth, pred = np.asarray(truth, np.float64), np.asarray(pred, np.float64)
    if truth.shape != pred.shape:
        raise InputError(f"prediction has shape {pred.shape}", expected=f"{truth.shape}")
    known = np.isfinite(truth)
    both = known & np.isfinite(pred)
    if not both.any():
        raise InputError("no pixel is finite in both truth and prediction", expected="at least one")
    t, p = truth[both], pred[both]
    rmse = float(np.sqrt(np.mean((p - t) ** 2)))
    spread = p.var()
    scale = float(np.mean((p - p.mean()) * (t - t.mean())) / spread) if spread > 0 else 0.0
    residual = (t - t.mean()) - scale * (p - p.mean())
    rmse_fit = float(np.sqrt(np.mean(residual**2)))
    baseline = float(t.std())
    return {
        "rmse": rmse,
        "mae": float(np.abs(p - t).mean()),
        "rmse_fit": rmse_fit,
        "rmse_over_mean": rmse / baseline if baseline > 0 else float("nan"),
        "rmse_fit_over_mean": rmse_fit / baseline if baseline > 0 else float("nan"),
        "coverage": float(both.sum() / known.sum()),
    }


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
