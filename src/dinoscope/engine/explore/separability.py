"""How well classes come apart in the tokens: two figures that say whether tuning helps.

The linear probe is a logistic regression on standardised tokens, scored on folds it has not seen;
the silhouette (Rousseeuw 1987) compares cosine distances within and between classes. Both are
scikit-learn's.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np

from dinoscope.engine.explore.projection import require_finite
from dinoscope.errors import InputError
from dinoscope.types import Progress, Table

#: Points at most, drawn from each class by its share.
PROBE_POINTS = 10_000
SILHOUETTE_POINTS = 3_000


@dataclass(frozen=True)
class Separability:
    """How well classes come apart.

    `accuracy` is the mean over classes (balanced accuracy) of the held-out predictions, and
    `accuracy_std` its deviation over the folds; `silhouette` the mean over classes in [-1, 1].
    `table` has a row for each class: ``class``, ``n``, ``accuracy`` (share of its points that are
    recognised), ``silhouette``.
    """

    accuracy: float
    accuracy_std: float
    silhouette: float
    table: Table
    folds: int
    notes: tuple[str, ...] = ()


def separability(
    features: np.ndarray,
    classes: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    names: Mapping[int, str] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Generator[Progress, None, Separability]:
    """Measure it.

    Parameters
    ----------
    features : (n, D) float array
        Tokens of patches or objects.
    classes : (n,) integer or str array
        The class of each; 0 or an empty text: none, such points are left out.
    groups : (n,) array, optional
        Points of one group (a plane, an image) are never on both sides of a fold.
    names : mapping of int to str, optional
        What classes are called in the table.
    folds : int
        Parts of the cross-validation; fewer where a class is smaller.
    seed : int
        Seed of the folds and samples.

    Raises
    ------
    InputError
        Another length, values that are not numbers, fewer than two classes, or classes too small.
    """
    classes = np.asarray(classes)
    if classes.shape != (len(features),):
        raise InputError(
            f"classes have shape {classes.shape}",
            expected=f"({len(features)},), one for each point",
        )
    kept, notes = _usable(classes)
    rng = np.random.default_rng(seed)
    rows = _stratified(classes, kept, PROBE_POINTS, rng)
    if len(rows) < len(kept):
        notes = (*notes, f"Measured on {len(rows)} of {len(kept)} points.")
    values = require_finite(np.asarray(features[rows], np.float32))
    found, codes = np.unique(classes[rows], return_inverse=True)
    splits = _splits(codes, None if groups is None else np.asarray(groups)[rows], folds, seed)
    predicted = np.full(len(rows), -1)
    scores = []
    for number, (train, test) in enumerate(splits):
        yield Progress("probe", number, len(splits))
        predicted[test] = _probe(values[train], codes[train], values[test])
        scores.append(_recalls(codes[test], predicted[test], len(found)))
    recalls = _recalls(codes, predicted, len(found))
    yield Progress("probe", len(splits), len(splits))
    inner = _silhouettes(values, codes, rng)
    shown = [str((names or {}).get(int(c), c)) if c.dtype.kind in "iu" else str(c) for c in found]
    counts = [int((classes[kept] == c).sum()) for c in found]
    table: Table = {
        "class": np.array(shown, dtype=str),
        "n": np.array(counts),
        "accuracy": recalls,
        "silhouette": inner,
    }
    per_fold = [float(np.nanmean(s)) for s in scores]
    return Separability(
        float(np.nanmean(recalls)),
        float(np.std(per_fold)),
        float(np.nanmean(inner)),
        table,
        len(splits),
        notes,
    )


def _usable(classes: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows whose class has at least two points."""
    if classes.dtype.kind == "f":
        raise InputError(f"classes have dtype {classes.dtype}", expected="integers or texts")
    if classes.dtype.kind == "O":
        classes = classes.astype(str)
    named = classes != "" if classes.dtype.kind == "U" else classes != 0
    found, counts = np.unique(classes[named], return_counts=True)
    large, small = found[counts >= 2], found[counts < 2]
    if len(large) < 2:
        raise InputError(
            f"{len(found)} classes with {counts.tolist()} points",
            expected="at least two classes of at least two points each",
            hint="Label a second class, or more of it.",
        )
    notes: tuple[str, ...] = ()
    if len(small):
        text = ", ".join(str(c) for c in small[:5])
        notes = (f"Left out, as they have one point only: {text}.",)
    return np.flatnonzero(named & np.isin(classes, large)), notes


def _stratified(
    classes: np.ndarray, kept: np.ndarray, at_most: int, rng: np.random.Generator
) -> np.ndarray:
    """At most about `at_most` of the rows `kept`, of each class its share, at least two."""
    if len(kept) <= at_most:
        return kept
    parts = []
    for value in np.unique(classes[kept]):
        rows = kept[classes[kept] == value]
        size = max(2, round(len(rows) * at_most / len(kept)))
        parts.append(rng.choice(rows, min(size, len(rows)), replace=False))
    return np.sort(np.concatenate(parts))


def _splits(
    codes: np.ndarray, groups: np.ndarray | None, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    smallest = int(np.bincount(codes).min())
    if groups is None:
        count = max(2, min(folds, smallest))
        made = StratifiedKFold(count, shuffle=True, random_state=seed)
        return list(made.split(codes, codes))
    by_class = [len(np.unique(groups[codes == c])) for c in range(codes.max() + 1)]
    count = min(folds, *by_class)
    if count < 2:
        raise InputError(
            "a class occurs in one image or plane only",
            expected="every class in at least two of them",
            hint="Label it in another image, or score without keeping images apart.",
        )
    grouped = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return list(grouped.split(codes, codes, groups))


def _probe(train: np.ndarray, codes: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Classes of `test` by a logistic regression."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(codes)) < 2:
        return np.full(len(test), codes[0])
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, max_iter=300, class_weight="balanced")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe need not be the last word
        return np.asarray(probe.fit(train, codes).predict(test))


def _recalls(codes: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """Share of each class that is recognised; NaN where it does not occur."""
    total = np.bincount(codes, minlength=count)
    right = np.bincount(codes[codes == predicted], minlength=count)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def _silhouettes(values: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from sklearn.metrics import silhouette_samples

    rows = _stratified(codes, np.arange(len(codes)), SILHOUETTE_POINTS, rng)
    scores = silhouette_samples(values[rows], codes[rows], metric="cosine")
    return np.array([scores[codes[rows] == c].mean() for c in range(codes.max() + 1)])
