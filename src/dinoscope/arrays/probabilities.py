"""Scores of probabilities: ROC, average precision, calibration.

Definitions are scikit-learn's (``roc_auc_score``, ``average_precision_score``); the calibration
error is that of Guo et al., On Calibration of Modern Neural Networks (ICML 2017): mean gap between
confidence and accuracy over bins of equal width, weighted by how many answers fall in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dinoscope.errors import InputError

#: Bins of confidence.
BINS = 15
#: Points kept of a curve, for drawing.
_CURVE_POINTS = 101


def roc_auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties count half.

    Parameters
    ----------
    positive : (n,) bool
        Which items are of the class.
    score : (n,) float
        The higher, the more so.

    Returns
    -------
    float
        NaN where there are only positives or only negatives.

    Examples
    --------
    >>> roc_auc(np.array([True, False, True]), np.array([0.9, 0.4, 0.3]))
    0.5
    """
    from scipy.stats import rankdata

    positive = np.asarray(positive, bool)
    count = int(positive.sum())
    others = positive.size - count
    if not count or not others:
        return float("nan")
    ranks = rankdata(score)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * others))


def ranked_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Average precision of a ranking: precision summed over the steps of recall.

    Returns
    -------
    float
        NaN where there is no positive.
    """
    true, answers = _steps(positive, score)
    total = true[-1] if true.size else 0
    if not total:
        return float("nan")
    gained = np.diff(true, prepend=0) / total
    return float((gained * true / answers).sum())


def _steps(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True positives and answers at each different score, highest first."""
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    ranked = np.asarray(score)[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if ranked.size else ranked
    ends = np.asarray(ends, np.int64)
    return np.cumsum(np.asarray(positive, bool)[order])[ends], ends + 1


def roc_curve(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate, each from 0 to 1, thinned for drawing."""
    true, answers = _steps(positive, score)
    count = max(int(np.asarray(positive, bool).sum()), 1)
    others = max(len(positive) - int(np.asarray(positive, bool).sum()), 1)
    x = np.concatenate([[0.0], (answers - true) / others])
    y = np.concatenate([[0.0], true / count])
    keep = np.unique(np.linspace(0, x.size - 1, min(x.size, _CURVE_POINTS)).astype(int))
    return x[keep], y[keep]


def reliability(
    confidence: np.ndarray, right: np.ndarray, bins: int = BINS
) -> dict[str, np.ndarray]:
    """Accuracy by confidence.

    Parameters
    ----------
    confidence : (n,) float in [0, 1]
        Probability of the answer that was given.
    right : (n,) bool
        Whether it was right.

    Returns
    -------
    dict
        ``count confidence accuracy``, each (bins,); NaN means where a bin is empty. A bin contains
        its lower edge; the last one also contains 1.

    Raises
    ------
    InputError
        A confidence outside 0 to 1.
    """
    confidence = np.asarray(confidence, np.float64)
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-6):
        raise InputError(
            f"probabilities lie between {confidence.min():g} and {confidence.max():g}",
            expected="0 to 1",
        )
    # By the edges themselves: 0.6 * 15 is not quite 9.
    place = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="right") - 1
    place = place.clip(0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return {
            "count": count,
            "confidence": np.bincount(place, confidence, bins) / count,
            "accuracy": np.bincount(place, np.asarray(right, float), bins) / count,
        }


def calibration_error(curve: dict[str, np.ndarray]) -> float:
    """Expected calibration error of what :func:`reliability` returns."""
    count = curve["count"]
    total = count.sum()
    if not total:
        return float("nan")
    gap = np.abs(curve["confidence"] - curve["accuracy"])
    return float((np.nan_to_num(gap) * count).sum() / total)


def probability_scores(
    truth: Sequence[str], probabilities: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """Scores of class probabilities, each class against the rest.

    Parameters
    ----------
    truth : sequence of n str
        Class names; one that is not in `names` is never right.
    probabilities : (n, K) float array
        Probability of each of the `names`.
    names : sequence of K str

    Returns
    -------
    dict
        ``roc_auc average_precision``: means over the classes that have one; ``roc_auc_<class>
        average_precision_<class>``; ``ece``: expected calibration error of the likeliest class.

    Raises
    ------
    InputError
        The shapes do not fit.

    Examples
    --------
    >>> sure = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> probability_scores(["a", "b"], sure, ["a", "b"])["roc_auc"]
    1.0
    """
    table = np.asarray(probabilities, np.float64)
    if table.shape != (len(truth), len(names)):
        raise InputError(
            f"probabilities have shape {table.shape}", expected=f"({len(truth)}, {len(names)})"
        )
    wanted = np.asarray([str(name) for name in truth])
    areas = {name: roc_auc(wanted == name, table[:, i]) for i, name in enumerate(names)}
    precisions = {
        name: ranked_precision(wanted == name, table[:, i]) for i, name in enumerate(names)
    }
    curve = reliability(*confidence_of(truth, table, names))
    scores = {
        "roc_auc": _mean(areas.values()),
        "average_precision": _mean(precisions.values()),
        "ece": calibration_error(curve),
    }
    scores |= {f"roc_auc_{name}": value for name, value in areas.items()}
    scores |= {f"average_precision_{name}": value for name, value in precisions.items()}
    return scores


def confidence_of(
    truth: Sequence[str], probabilities: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Highest probability of each item, and whether its class is the true one."""
    best = probabilities.argmax(axis=1)
    said = np.asarray(list(names))[best]
    return probabilities.max(axis=1), said == np.asarray([str(name) for name in truth])


def _mean(values: Any) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
