from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dinoscope.engine.explore.separability import separability
from dinoscope.errors import InputError

End = Callable[..., Any]

RNG = np.random.default_rng(0)
CLASSES = np.repeat([3, 8], [60, 40])


def tokens(apart: float) -> np.ndarray:
    values = RNG.normal(size=(100, 6))
    values[:, 0] += apart * (CLASSES == 8)
    return values.astype(np.float32)


def test_it_agrees_with_sklearn_by_hand(end: End) -> None:
    values = tokens(1.5)
    found = end(separability(values, CLASSES))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    predicted = cross_val_predict(probe, values, CLASSES, cv=folds)
    assert found.accuracy == pytest.approx(balanced_accuracy_score(CLASSES, predicted))
    inner = silhouette_score(values, CLASSES, metric="cosine")
    share = found.table["n"] / found.table["n"].sum()
    assert (found.table["silhouette"] * share).sum() == pytest.approx(inner, abs=1e-5)
    assert found.table["class"].tolist() == ["3", "8"]
    assert found.table["n"].tolist() == [60, 40]
    assert found.folds == 5


def test_better_tokens_separate_better(end: End) -> None:
    before, after = (end(separability(tokens(apart), CLASSES)) for apart in (0.0, 6.0))
    assert before.accuracy < 0.7
    assert after.accuracy > 0.97
    assert after.silhouette > before.silhouette + 0.1


def test_points_without_a_class_are_left_out(end: End) -> None:
    values = np.concatenate([tokens(4), np.full((30, 6), np.nan, np.float32)])
    names = np.concatenate([np.where(CLASSES == 8, "rod", "coccus"), np.full(30, "")])
    found = end(separability(values, names))
    assert found.table["class"].tolist() == ["coccus", "rod"]
    assert found.table["n"].sum() == 100
    codes = np.concatenate([CLASSES, np.zeros(30, int)])
    named = end(separability(values, codes, names={3: "coccus", 8: "rod"}))
    assert named.table["class"].tolist() == ["coccus", "rod"]
    assert named.accuracy == found.accuracy


def test_planes_can_be_kept_apart(end: End) -> None:
    """Each plane has its own shift, which tells its classes apart within the plane only."""
    groups = np.repeat(np.arange(4), 25)
    classes = np.tile([1, 2], 50)
    values = RNG.normal(size=(100, 6)) + 10 * np.eye(4, 6)[groups] * (classes == 1)[:, None]
    together = end(separability(values, classes))
    apart = end(separability(values, classes, groups=groups))
    assert together.accuracy > 0.9
    assert apart.accuracy < together.accuracy - 0.2
    with pytest.raises(InputError, match="one image or plane only"):
        end(separability(values, classes, groups=classes))


def test_a_class_of_one_point_is_left_out_and_named(end: End) -> None:
    classes = CLASSES.copy()
    classes[0] = 9
    found = end(separability(tokens(3), classes))
    assert found.notes == ("Left out, as they have one point only: 9.",)
    small = CLASSES.copy()
    small[:97] = 3
    assert end(separability(tokens(3), small)).folds == 3


def test_many_points_are_sampled_by_class(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinoscope.engine.explore import separability as module

    monkeypatch.setattr(module, "PROBE_POINTS", 50)
    found = end(separability(tokens(5), CLASSES))
    assert "Measured on 50 of 100 points." in found.notes
    assert found.table["n"].tolist() == [60, 40]


@pytest.mark.parametrize(
    ("values", "classes", "match"),
    [
        (tokens(0), np.ones(100, int), r"1 classes with \[100\] points"),
        (tokens(0), np.zeros(100, int), r"0 classes with \[\] points"),
        (tokens(0), CLASSES[:99], r"\(99,\)"),
        (tokens(0), CLASSES.astype(float), "float64"),
        (np.full((100, 6), np.nan), CLASSES, "100 of 100 points"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    end: End, values: np.ndarray, classes: np.ndarray, match: str
) -> None:
    with pytest.raises(InputError, match=match):
        end(separability(values, classes))
