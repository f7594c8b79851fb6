"""Score classes of images or objects, and their probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dinoscope.arrays.intervals import bootstrap_interval
from dinoscope.arrays.metrics import class_counts, classification_scores
from dinoscope.arrays.probabilities import (
    calibration_error,
    confidence_of,
    probability_scores,
    ranked_precision,
    reliability,
    roc_auc,
    roc_curve,
)
from dinoscope.engine.evaluate.evaluation import Evaluation, existing, known_intervals
from dinoscope.engine.pairs import ClassPairs

#: Resamplings of figures that rank all answers anew.
_RANKED_RESAMPLES = 300
#: Above so many answers their ranking is not resampled.
_RANKED_MOST = 20_000
_RANKED_FIGURES = ("roc_auc", "average_precision", "ece")
_FIGURES = ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted")


def evaluate_classes(pairs: ClassPairs, groups: Mapping[str, str] | None = None) -> Evaluation:
    """Score the answers.

    Parameters
    ----------
    pairs : ClassPairs
        True and predicted classes, with probabilities where there are any.
    groups : mapping, optional
        Group of each image, for the intervals; objects of one image are drawn together anyway.
    """
    scores: dict[str, Any] = dict(classification_scores(pairs.true, pairs.predicted))
    names, matrix = class_counts(pairs.true, pairs.predicted)
    rows = _rows(pairs)
    group = [(groups or {}).get(name, name) for name in pairs.images]
    intervals = _intervals(pairs, names, group)
    curves: dict[str, Any] = {"classes": names, "confusion": matrix.tolist()}
    notes = []
    if len(names) == 1:
        notes.append(f"Only the class {names[0]!r} occurs: nothing can be told apart.")
    if pairs.probabilities is not None:
        scores |= probability_scores(pairs.true, pairs.probabilities, pairs.names)
        confidence, right = confidence_of(pairs.true, pairs.probabilities, pairs.names)
        bins = reliability(confidence, right)
        curves["reliability"] = {name: column.tolist() for name, column in bins.items()}
        curves["roc"] = _roc(pairs)
        if len(group) <= _RANKED_MOST:
            intervals |= _ranked_intervals(pairs, group)
    else:
        notes.append("The predictions carry no probabilities (columns p_<class>): no ROC, no ECE.")
    wrong = [row for row in rows if not row["right"]]
    wrong.sort(key=lambda row: -row.get("confidence", 0.0))
    columns = list(wrong[0]) if wrong else []
    objects = {name: np.array([row[name] for row in wrong]) for name in columns if name != "right"}
    return Evaluation(
        "classification", existing(scores), intervals, rows, objects, curves, notes=notes
    )


def _rows(pairs: ClassPairs) -> list[dict[str, Any]]:
    rows = []
    for i, key in enumerate(pairs.keys):
        row: dict[str, Any] = {"image": key[0]}
        row |= dict(zip(pairs.parts, key[1:], strict=True))
        row |= {"truth": pairs.true[i], "predicted": pairs.predicted[i]}
        row["right"] = int(pairs.true[i] == pairs.predicted[i])
        if pairs.probabilities is not None:
            row["confidence"] = float(pairs.probabilities[i].max())
        rows.append(row)
    return rows


def _intervals(
    pairs: ClassPairs, names: list[str], group: list[str]
) -> dict[str, tuple[float, float]]:
    """Of everything that follows from the confusion matrix."""
    code = {name: i for i, name in enumerate(names)}
    count = len(names)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(group))}
    sums = np.zeros((len(numbers), count * count))
    for name, true, said in zip(group, pairs.true, pairs.predicted, strict=True):
        sums[numbers[name], code[true] * count + code[said]] += 1
    low, high = bootstrap_interval(sums, lambda rows: _figures(rows, count))
    wanted = [*_FIGURES, *(f"f1_{name}" for name in names)]
    return known_intervals({name: (low[i], high[i]) for i, name in enumerate(wanted)})


def _figures(sums: np.ndarray, count: int) -> np.ndarray:
    matrix = sums.reshape(-1, count, count)
    right = np.diagonal(matrix, axis1=1, axis2=2)
    support, answers, total = matrix.sum(axis=2), matrix.sum(axis=1), matrix.sum(axis=(1, 2))
    occurs, used = support > 0, support + answers > 0
    recall = np.where(occurs, right / np.maximum(support, 1), 0)
    f1 = np.where(used, 2 * right / np.maximum(support + answers, 1), 0)
    balanced = recall.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)
    macro = f1.sum(axis=1) / np.maximum(used.sum(axis=1), 1)
    weighted = (f1 * support).sum(axis=1) / total
    columns = [right.sum(axis=1) / total, balanced, macro, weighted]
    return np.concatenate([np.stack(columns, axis=1), np.where(used, f1, np.nan)], axis=1)


def _ranked_intervals(pairs: ClassPairs, group: list[str]) -> dict[str, tuple[float, float]]:
    """Of ROC AUC, average precision and ECE, which are no functions of sums."""
    if pairs.probabilities is None:
        return {}
    truth = np.asarray(pairs.true)
    names = list(dict.fromkeys(group))
    if len(names) == 1:
        return {}  # one image says nothing about how much others would differ
    number = {name: i for i, name in enumerate(names)}
    members: list[list[int]] = [[] for _ in names]
    for i, name in enumerate(group):
        members[number[name]].append(i)
    places = [np.array(own) for own in members]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_RANKED_RESAMPLES):
        drawn = np.concatenate([places[i] for i in rng.integers(0, len(places), len(places))])
        own, table = truth[drawn], pairs.probabilities[drawn]
        areas = [roc_auc(own == name, table[:, i]) for i, name in enumerate(pairs.names)]
        ranks = [ranked_precision(own == name, table[:, i]) for i, name in enumerate(pairs.names)]
        bins = reliability(*confidence_of(own.tolist(), table, pairs.names))
        found.append([_mean(areas), _mean(ranks), calibration_error(bins)])
    intervals = {}
    for name, column in zip(
        ("roc_auc", "average_precision", "ece"), np.array(found).T, strict=True
    ):
        known = column[np.isfinite(column)]
        if known.size:
            low, high = np.percentile(known, [2.5, 97.5])
            intervals[name] = (float(low), float(high))
    return intervals


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _roc(pairs: ClassPairs) -> dict[str, list[list[float]]]:
    if pairs.probabilities is None:
        return {}
    truth = np.asarray(pairs.true)
    curves = {}
    for i, name in enumerate(pairs.names):
        positive = truth == name
        if positive.any() and not positive.all():
            x, y = roc_curve(positive, pairs.probabilities[:, i])
            curves[name] = [x.tolist(), y.tolist()]
    return curves
