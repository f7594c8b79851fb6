from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, wilcoxon

from dinoscope.arrays.intervals import (
    bootstrap_interval,
    mean_intervals,
    paired_test,
    sum_by_group,
)
from dinoscope.errors import InputError


def test_interval_is_as_wide_as_the_standard_error_says() -> None:
    values = np.random.default_rng(0).normal(5, 2, (400, 1))
    low, high = mean_intervals(values)
    assert low[0] < values.mean() < high[0]
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * 2 / np.sqrt(400), rel=0.15)


def test_interval_is_the_same_each_time_and_ignores_nan() -> None:
    values = np.array([[0.2, np.nan], [0.4, np.nan], [np.nan, np.nan], [0.9, np.nan]])
    first, second = mean_intervals(values), mean_intervals(values)
    np.testing.assert_array_equal(first, second)
    assert first[0][0] >= 0.2
    assert np.isnan(first[0][1])
    assert np.isnan(first[1][1])


def test_images_of_a_group_are_drawn_together() -> None:
    # Ten alike planes of two files: there are two observations, not twenty.
    values = np.array([[0.0]] * 10 + [[1.0]] * 10)
    groups = ["a"] * 10 + ["b"] * 10
    apart, together = mean_intervals(values), mean_intervals(values, groups)
    assert (together[0][0], together[1][0]) == (0, 1)
    assert apart[1][0] - apart[0][0] < 0.6
    np.testing.assert_array_equal(sum_by_group(values, groups), [[0], [10]])
    with pytest.raises(InputError, match=r"there are 1 groups; expected 20"):
        sum_by_group(values, ["a"])


def test_interval_of_a_ratio_of_sums() -> None:
    rows = np.array([[1, 10], [9, 10]])
    low, high = bootstrap_interval(rows, lambda s: s[:, :1] / s[:, 1:])
    assert (low[0], high[0]) == (0.1, 0.9)
    with pytest.raises(InputError, match="nothing to resample"):
        bootstrap_interval(np.zeros((0, 2)), lambda s: s)


def test_right_and_wrong_answers_are_tested_as_mcnemar_does() -> None:
    first = [1] * 5 + [0] * 5 + [1] * 20
    second = [0] * 1 + [1] * 4 + [1] * 5 + [1] * 20
    # 1 answer became worse and 5 better: the exact McNemar test is a sign test on those 6.
    assert paired_test(first, second).p_value == pytest.approx(binomtest(1, 6).pvalue)


def test_clear_difference_is_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(3)
    first = rng.random(60)
    better = paired_test(first, first + 0.1 + rng.normal(0, 0.05, 60))
    assert better.p_value < 0.001
    assert better.low > 0.05
    assert better.difference == pytest.approx(0.1, abs=0.02)
    alike = paired_test(first, first + rng.normal(0, 0.05, 60))
    assert alike.p_value > 0.05
    assert alike.low < 0 < alike.high
    differences = np.asarray(first) * 0 + rng.normal(0, 1, 60)
    found = paired_test(np.zeros(60), differences)
    assert found.p_wilcoxon == pytest.approx(wilcoxon(differences).pvalue)


def test_no_difference_at_all_is_no_evidence() -> None:
    same = paired_test([0.5, 0.5, 1.0], [0.5, 0.5, 1.0])
    assert same.p_value == 1
    assert same.difference == 0
    assert np.isnan(same.p_wilcoxon)


def test_pairs_without_a_figure_are_left_out() -> None:
    assert paired_test([0.1, np.nan, 0.3], [0.2, 0.2, np.nan]).n == 1
    grouped = paired_test([0.0, 0.0, 0.0], [1.0, 0.0, 1.0], ["a", "a", "b"])
    assert (grouped.n, grouped.difference) == (2, 0.75)
    with pytest.raises(InputError, match="no image has a figure on both sides"):
        paired_test([np.nan], [1.0])
    with pytest.raises(InputError, match="there are 1 and 2 figures"):
        paired_test([1.0], [1.0, 2.0])
