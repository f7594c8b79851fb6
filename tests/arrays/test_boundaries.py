from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.boundaries import boundary_counts, boundary_f1
from dinoscope.errors import InputError


def brute(truth: np.ndarray, pred: np.ndarray, code: int, tolerance: float) -> tuple[int, ...]:
    """Counts of one class, pixel by pixel."""

    def outline(classes: np.ndarray) -> list[tuple[int, int]]:
        found = []
        for y, x in np.argwhere(classes == code):
            for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                v, u = y + dy, x + dx
                inside = 0 <= v < classes.shape[0] and 0 <= u < classes.shape[1]
                known = inside and truth[y, x] != 255 and truth[v, u] != 255
                if known and classes[v, u] != code:
                    found.append((int(y), int(x)))
                    break
        return found

    def near(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> int:
        return sum(any(np.hypot(y - v, x - u) <= tolerance for v, u in others) for y, x in points)

    true, said = outline(truth), outline(pred)
    return near(said, true), len(said), near(true, said), len(true)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), tolerance=st.sampled_from([0.0, 1.0, 1.5, 2.0]))
def test_counts_are_those_of_looking_at_every_pixel(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.repeat(rng.integers(0, 3, (3, 4)), 3, axis=0), 3, axis=1)
    pred = np.roll(truth, 1, axis=1)
    truth = np.where(rng.random(truth.shape) < 0.1, 255, truth)
    counts = boundary_counts(truth, pred, 3, tolerance)
    for code in range(3):
        assert tuple(counts[code]) == brute(truth, pred, code, tolerance)


def test_shift_within_the_tolerance_is_perfect_and_beyond_it_is_not() -> None:
    truth = np.zeros((20, 30), int)
    truth[:, 10:20] = 1
    assert boundary_f1(boundary_counts(truth, np.roll(truth, 2, axis=1), 2, 2.0)).tolist() == [1, 1]
    assert boundary_f1(boundary_counts(truth, np.roll(truth, 3, axis=1), 2, 2.0)).tolist() == [0, 0]


def test_ignored_region_has_no_outline_and_one_class_has_no_score() -> None:
    truth = np.zeros((8, 8), int)
    truth[:, 4:] = 255
    pred = np.zeros((8, 8), int)
    pred[:, 6:] = 1
    assert not boundary_counts(truth, pred, 2).any()
    assert np.isnan(boundary_f1(boundary_counts(truth, pred, 2))).all()


def test_bad_values_are_named() -> None:
    plane = np.zeros((4, 4), int)
    with pytest.raises(InputError, match="tolerance is -1"):
        boundary_counts(plane, plane, 2, -1)
    pred = plane.copy()
    pred[:2] = 3
    with pytest.raises(InputError, match="class 3 occurs; expected 0 to 1"):
        boundary_counts(plane, pred, 2)
