"""Scores for the four tasks, on NumPy arrays.

Conventions. Instances: ids, 0 = background; AP = TP / (TP + FP + FN) with one-to-one matching at
IoU >= threshold, which is what StarDist calls accuracy and Cellpose average precision (not COCO's);
nothing to find and nothing found scores 1. Objects that touch the border of the image are objects
like all others; instance ids have no ignored value. Semantic: 255 in the truth is ignored, 255 in a
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
    "INSTANCE_FIGURES",
    "InstanceMatch",
    "accuracy_of",
    "average_precision",
    "class_counts",
    "class_overlaps",
    "classification_scores",
    "confusion_matrix",
    "depth_scores",
    "fit_depth",
    "instance_figures",
    "instance_scores",
    "instance_sums",
    "match_instances",
    "semantic_scores",
]

#: IoU thresholds of the mean AP: 0.5, 0.55 … 0.95.
AP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
#: Instance scores that exist for an image and for all images together.
INSTANCE_FIGURES = ("ap50", "ap75", "map", "f1_50", "pq", "iou", "seg")
#: Depth: an answer is near enough where larger / smaller stays below this (Eigen et al. 2014).
DELTA = 1.25


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
        quality; `iou`: mean IoU of the pairs matched at 0.5, 0 if there are none; `seg`: mean over
        the objects of the truth, as in the Cell Tracking Challenge, of images that have any). The
        same names with ``_pooled``: from counts summed over all images. ``tp fp fn``: those sums at
        IoU 0.5; ``n_truth n_pred``: objects; ``count_error``: mean over images of how many objects
        too many or too few; ``n``: images.

    Raises
    ------
    InputError
        No images.
    """
    if not matches:
        raise InputError("there are no images to score", expected="at least one")
    sums = np.array([instance_sums(match) for match in matches])
    per_image, pooled = instance_figures(sums), instance_figures(sums.sum(axis=0))
    n_truth, n_pred = sums[:, -2], sums[:, -1]
    true = int(sums[:, 0].sum())
    scores: dict[str, float] = {"n": len(matches)}
    scores |= {name: _mean(per_image[:, i]) for i, name in enumerate(INSTANCE_FIGURES)}
    scores |= {f"{name}_pooled": float(pooled[i]) for i, name in enumerate(INSTANCE_FIGURES)}
    scores |= {"tp": true, "fp": int(n_pred.sum()) - true, "fn": int(n_truth.sum()) - true}
    scores |= {"n_truth": int(n_truth.sum()), "n_pred": int(n_pred.sum())}
    return scores | {"count_error": float(np.abs(n_pred - n_truth).mean())}


def instance_sums(match: InstanceMatch) -> np.ndarray:
    """What one image adds to the sums that all instance scores are made of.

    Returns
    -------
    (14,) float64
        True positives at each of :data:`AP_THRESHOLDS`, IoUs of the matches at 0.5 summed, SEG
        summed, objects in truth and prediction.
    """
    true = [match.pairs(threshold).size for threshold in AP_THRESHOLDS]
    # SEG: an object counts with the one predicted object that covers more than half of it.
    most = 2 * match.overlap > match.truth_area[match.truth]
    overlap = float(match.matched(0.5).sum())
    return np.array(
        [*true, overlap, float(match.iou[most].sum()), match.n_truth, match.n_pred], np.float64
    )


def instance_figures(sums: np.ndarray) -> np.ndarray:
    """The scores of :data:`INSTANCE_FIGURES` from sums over any number of images.

    Parameters
    ----------
    sums : (..., 14) array
        Of :func:`instance_sums`.

    Returns
    -------
    (..., 7) float64
        Nothing to find and nothing found scores 1; SEG is NaN where there is nothing to find.
    """
    count = len(AP_THRESHOLDS)
    true, overlap, seg = sums[..., :count], sums[..., count], sums[..., count + 1]
    n_truth, n_pred = sums[..., -2], sums[..., -1]
    objects = n_truth + n_pred
    with np.errstate(invalid="ignore", divide="ignore"):
        ap = np.where(objects[..., None] > 0, true / (objects[..., None] - true), 1.0)
        f1 = np.where(objects > 0, 2 * true[..., 0] / objects, 1.0)
        pq = np.where(objects > 0, 2 * overlap / objects, 1.0)
        iou = np.where(true[..., 0] > 0, overlap / true[..., 0], objects == 0)
        seg = np.where(n_truth > 0, seg / n_truth, np.nan)
    at75 = AP_THRESHOLDS.index(0.75)
    return np.stack([ap[..., 0], ap[..., at75], ap.mean(axis=-1), f1, pq, iou, seg], axis=-1)


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
    iou, dice = class_overlaps(confusion)
    total = confusion.sum()
    true = np.trace(confusion[:, :classes])
    scores = {
        "iou": _mean(iou),
        "dice": _mean(dice),
        "iou_foreground": _mean(iou[1:]),
        "accuracy": float(true / total) if total else float("nan"),
    }
    scores |= {f"iou_{name}": float(value) for name, value in zip(names, iou, strict=True)}
    scores |= {f"dice_{name}": float(value) for name, value in zip(names, dice, strict=True)}
    return scores


def class_overlaps(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and Dice of each class.

    Parameters
    ----------
    confusion : (..., K, K + 1) array
        From :func:`confusion_matrix`.

    Returns
    -------
    iou, dice : (..., K) float64
        NaN for a class in neither truth nor prediction.
    """
    square = confusion[..., :-1]
    true = np.diagonal(square, axis1=-2, axis2=-1).astype(float)
    size = confusion.sum(axis=-1) + square.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            np.where(size > 0, true / (size - true), np.nan),
            np.where(size > 0, 2 * true / size, np.nan),
        )


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
    names, matrix = class_counts(truth, pred)
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


def class_counts(truth: Sequence[str], pred: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Class names in order, and how often each (row: true, column: predicted) pair occurs."""
    names, codes = np.unique([*map(str, truth), *map(str, pred)], return_inverse=True)
    true_codes, pred_codes = np.split(codes, 2)
    matrix = np.zeros((names.size, names.size), np.int64)
    np.add.at(matrix, (true_codes, pred_codes), 1)
    return names.tolist(), matrix


def depth_scores(truth: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """Errors of one depth map, in the truth's unit.

    Parameters
    ----------
    truth, pred : float arrays of one shape
        Scored where both are finite.

    Returns
    -------
    dict
        ``rmse mae absrel delta1``: as they are. ``absrel``: mean of error / truth; ``delta1``:
        share of pixels whose larger value is below 1.25 times the smaller one; both only where the
        truth is positive, for they mean nothing at a height of 0. The same names with ``_fit``:
        after the best scale and offset of `pred` (least squares), for maps that are relative.
        ``rmse_mean mae_mean``: the errors of answering the truth's mean everywhere (knowing
        nothing); ``rmse_over_mean rmse_fit_over_mean``: shares of that. ``coverage``: share of the
        truth's pixels that have an answer.

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
    plain, fitted = _depth_errors(t, p), _depth_errors(t, fit_depth(t, p))
    baseline = _depth_errors(t, np.full_like(t, t.mean()))
    spread = baseline["rmse"] if t.std() > 0 else np.nan
    return {
        **plain,
        **{f"{name}_fit": value for name, value in fitted.items()},
        "rmse_mean": baseline["rmse"],
        "mae_mean": baseline["mae"],
        "rmse_over_mean": plain["rmse"] / spread,
        "rmse_fit_over_mean": fitted["rmse"] / spread,
        "coverage": float(both.sum() / known.sum()),
    }


def fit_depth(truth: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """`pred` with the scale and offset that bring it closest to `truth` (least squares).

    Parameters
    ----------
    truth, pred : float arrays of one shape
        Pixels that are not finite in either are left out of the fit; a map without any structure
        becomes the truth's mean.

    Examples
    --------
    >>> fit_depth(np.array([1.0, 3.0]), np.array([0.0, 10.0])).tolist()
    [1.0, 3.0]
    """
    both = np.isfinite(truth) & np.isfinite(pred)
    t, p = truth[both], pred[both]
    spread = p.var()
    scale = float(np.mean((p - p.mean()) * (t - t.mean())) / spread) if spread > 0 else 0.0
    return np.asarray(t.mean() + scale * (pred - p.mean()))


def _depth_errors(t: np.ndarray, p: np.ndarray) -> dict[str, float]:
    above = t > 0
    tp, pp = t[above], p[above]
    with np.errstate(divide="ignore"):
        near = (pp > 0) & (np.maximum(pp / tp, tp / pp) < DELTA)
    return {
        "rmse": float(np.sqrt(np.mean((p - t) ** 2))),
        "mae": float(np.abs(p - t).mean()),
        "absrel": float((np.abs(pp - tp) / tp).mean()) if tp.size else float("nan"),
        "delta1": float(near.mean()) if tp.size else float("nan"),
    }


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
