"""Scores on held-out strokes."""

from __future__ import annotations

import numpy as np
import pytest

from dinoscope.engine.improve.scores import Told


@pytest.mark.parametrize(
    ("weights", "first", "second"), [(None, 90 / 100, 100 / 110), ([1.0, 0.1], 90 / 100, 10 / 20)]
)
def test_overlap_is_that_of_areas_where_classes_count_by_theirs(
    weights: list[float] | None, first: float, second: float
) -> None:
    truth = np.full((10, 30), 255, np.uint8)
    truth[:, :10], truth[:, 20:] = 0, 1
    labels = np.where(truth == 255, 1, truth)
    labels[0, :10] = 1  # ten of a hundred painted pixels of the first class are called the second
    told = Told(("background", "membrane"), weights)
    told.add_classes(truth, np.stack([labels == 0, labels == 1]).astype(np.float32))
    scores = told.scores()
    assert scores["iou_background"] == pytest.approx(first)
    assert scores["iou_membrane"] == pytest.approx(second)
    assert scores["iou"] == pytest.approx((first + second) / 2)


def test_being_sure_of_what_is_true_is_worth_something() -> None:
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    losses = []
    for sure in (0.6, 0.9):
        first = np.array([[sure, sure, 1 - sure, 0.5]], np.float32)
        told = Told(("background", "cell"))
        told.add_classes(truth, np.stack([first, 1 - first]))
        losses.append(told.scores()["log_loss"])
        assert told.scores()["iou"] == 1
    assert losses == pytest.approx([-np.log(0.6), -np.log(0.9)])
