from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.orientation import Across
from dinoscope.arrays.watershed import Valleys, hills


def ridge(*heights: float) -> np.ndarray:
    return np.array([heights], np.float32)


def count(height: np.ndarray, ratio: float, depth: float = 0.0) -> int:
    found = hills(height, height > 0, Valleys(ratio, depth))
    return np.unique(found[found > 0]).size


def test_two_summits_join_when_the_pass_is_high_enough() -> None:
    height = ridge(0.1, 0.5, 1.0, 0.6, 0.8, 0.3)  # pass 0.6, lower summit 0.8
    assert count(height, ratio=0.76) == 2
    assert count(height, ratio=0.74) == 1


def test_shallow_valley_joins_whatever_its_ratio() -> None:
    height = ridge(0.02, 0.05, 0.01, 0.04)
    assert count(height, ratio=0.9, depth=0.0) == 2
    assert count(height, ratio=0.9, depth=0.04) == 1


def test_cut_runs_along_the_valley() -> None:
    found = hills(ridge(0.4, 1.0, 0.5, 0.2, 0.7, 0.9), np.ones((1, 6), bool), Valleys(1, 0))[0]
    assert found[0] == found[1] == found[2]
    assert found[4] == found[5] == found[3]
    assert found[2] != found[4]


def test_small_hill_joins_the_neighbour_with_the_higher_pass() -> None:
    height = ridge(1.0, 0.30, 0.5, 0.45, 1.0)
    found = hills(height, height > 0, Valleys(0.5, 0))[0]
    assert found[2] == found[4]
    assert found[0] != found[2]


def test_plateau_is_one_hill_and_masked_pixels_are_none() -> None:
    mask = np.ones((20, 30), bool)
    mask[:, 14:16] = False
    found = hills(np.ones((20, 30), np.float32), mask, Valleys(0.9, 0))
    assert (found[~mask] == 0).all()
    assert np.unique(found[:, :14]).size == np.unique(found[:, 16:]).size == 1
    assert found[0, 0] != found[0, 29]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 4)])
def test_empty_mask_has_no_hills(shape: tuple[int, int]) -> None:
    found = hills(np.ones(shape, np.float32), np.zeros(shape, bool), Valleys(0.9, 0))
    assert found.shape == shape
    assert not found.any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31), st.integers(1, 5))
def test_zero_ratio_gives_exactly_the_connected_regions_of_the_mask(
    rows: int, columns: int, seed: int, levels: int
) -> None:
    from scipy.ndimage import label

    rng = np.random.default_rng(seed)
    height = rng.integers(0, levels, (rows, columns)).astype(np.float32)
    mask = rng.random((rows, columns)) < 0.6
    found = hills(height, mask, Valleys(0, 0))
    regions, n = label(mask, np.ones((3, 3)))
    pairs = np.unique(np.stack([found[mask], regions[mask]]), axis=1)
    assert pairs.shape[1] == n == np.unique(found[mask]).size


@pytest.mark.parametrize(("lateral", "expected"), [(1.0, 2), (0.0, 2), (-1.0, 1)])
def test_a_dent_across_a_long_hill_must_be_deeper_than_a_valley_beside_it(
    lateral: float, expected: int
) -> None:
    height = ridge(0.5, 1.0, 0.7, 0.9, 0.5)  # the hills lie side by side in X where lateral is 1
    across = Across(np.full((2, 1, 5), [[[lateral]], [[0]]], np.float32), 1)
    valleys = Valleys(0.8, 0.0, ratio_across=0.2)
    found = hills(height, height > 0, valleys, across)
    assert np.unique(found).size == expected
    shallow = Valleys(2.0, 0.3, depth_across=0.5)  # 0.2 deep: 0.45 along joins, 0.15 across parts
    assert np.unique(hills(height, height > 0, shallow, across)).size == (2 if lateral > 0 else 1)


def test_diagonal_steps_know_their_angle() -> None:
    diagonal = np.eye(7, dtype=np.float32) * np.float32([5, 8, 9, 6, 9, 8, 5])
    mirrored = diagonal[:, ::-1]
    # Steps down and to the right lead to a neighbour, steps down and left do not.
    across = Across(np.full((2, 4, 4), [[[0]], [[1]]], np.float32), 2)
    valleys = Valleys(0.7, 0.0, ratio_across=0.2)
    assert np.unique(hills(diagonal, diagonal > 0, valleys, across)).size == 3
    assert np.unique(hills(mirrored, mirrored > 0, valleys, across)).size == 2
