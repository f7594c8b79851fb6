from __future__ import annotations

import numpy as np
import pytest

from dinoscope.engine.explore.similarity import similarity, suggested_threshold
from dinoscope.errors import InputError

TOKENS = np.array([[3.0, 4.0], [-3.0, -4.0], [4.0, -3.0], [0.0, 0.0]], np.float16)


def test_the_score_is_the_cosine() -> None:
    assert similarity(TOKENS, np.array([[6.0, 8.0]])) == pytest.approx([1, -1, 0, 0])
    assert similarity(TOKENS, np.array([1.0, 0.0])) == pytest.approx([0.6, -0.6, 0.8, 0])


def test_of_several_clicks_the_nearest_counts() -> None:
    found = similarity(TOKENS, np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert found == pytest.approx([0.8, -0.6, 0.8, 0])


def test_negative_clicks_push_down_and_zero_is_between() -> None:
    positive, negative = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, -1.0]])
    found = similarity(TOKENS, positive, negative)
    assert found == pytest.approx([(0.6 - 0.8) / 2, (-0.6 - 0.8) / 2, (0.8 - 0.6) / 2, 0])
    same = similarity(TOKENS, positive, positive)
    assert same == pytest.approx([0, 0, 0, 0])


def test_the_mean_is_taken_off_both() -> None:
    shift = np.array([1.0, 2.0])
    found = similarity(TOKENS + shift, np.array([[1.0, 0.0]]) + shift, mean=shift)
    assert found == pytest.approx(similarity(TOKENS, np.array([[1.0, 0.0]])), abs=1e-3)


def test_scores_stay_in_range() -> None:
    tokens = np.random.default_rng(0).normal(size=(500, 32)).astype(np.float32)
    found = similarity(tokens, tokens[:5], tokens[5:9])
    assert np.abs(found).max() <= 1
    assert similarity(tokens, tokens[:5])[:5] == pytest.approx([1] * 5, abs=1e-5)


def test_where_to_cut() -> None:
    scores = np.concatenate([np.full(50, 0.2), np.full(50, 0.9)])
    assert 0.2 <= suggested_threshold([scores], negatives=False) < 0.9
    assert suggested_threshold([scores], negatives=True) == 0
    assert suggested_threshold([np.full(4, 0.5)], negatives=False) == 0.5
    assert suggested_threshold([], negatives=False) == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="nothing was clicked"):
        similarity(TOKENS, np.zeros((0, 2)))
    with pytest.raises(InputError, match="references have 3 values and tokens 2"):
        similarity(TOKENS, np.ones((1, 3)))
