from __future__ import annotations

import numpy as np
import pytest

from dinoscope.arrays.orientation import across, coherence_around, smooth_along


def stripes(degrees: float, period: float = 9.0, side: int = 90) -> np.ndarray:
    """Waves whose crests lie square to an angle from the X axis (Y down)."""
    y, x = np.mgrid[:side, :side]
    angle = np.deg2rad(degrees)
    wave = np.cos(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)))
    return np.asarray(0.5 + 0.5 * wave, np.float32)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135, 160])
@pytest.mark.parametrize("scale", [4.0, 20.0])
def test_stripes_change_most_square_to_their_crests(degrees: float, scale: float) -> None:
    square = across(stripes(degrees), scale)
    assert square.shape == (2, 90, 90)
    middle = square[:, 20:-20, 20:-20]
    twice = np.deg2rad(2 * degrees)
    np.testing.assert_allclose(middle[0], np.cos(twice), atol=0.06)
    np.testing.assert_allclose(middle[1], np.sin(twice), atol=0.06)


def test_a_round_object_has_no_direction() -> None:
    y, x = np.mgrid[:80, :80]
    cone = np.maximum(0, 25 - np.hypot(y - 40, x - 40)).astype(np.float32)
    square = across(cone, 25.0)
    assert np.hypot(*square[:, 40, 40]) < 0.05


def test_an_edge_of_blocks_is_no_edge_of_the_answer() -> None:
    whole = across(stripes(20, side=95), 24.0)  # blocks of 4 do not divide 95
    assert whole.shape == (2, 95, 95)
    assert np.isfinite(whole).all()
    assert np.hypot(*whole).min() > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (0, 4)])
def test_next_to_nothing_has_no_direction(shape: tuple[int, int]) -> None:
    assert not across(np.ones(shape, np.float32), 5.0).any()
    empty = np.zeros((2, *shape), np.float32)
    assert smooth_along(np.ones(shape, np.float32), empty, np.full(shape, 3.0)).shape == shape


def test_dents_in_a_ridge_fill_and_valleys_beside_it_stay() -> None:
    ridges = stripes(35)
    rng = np.random.default_rng(2)
    dented = ridges * rng.uniform(0.4, 1, ridges.shape).astype(np.float32)
    square = across(ridges, 8.0)
    smooth = smooth_along(dented, square, np.full(ridges.shape, 6.0, np.float32))
    inner = (slice(15, -15), slice(15, -15))
    crest, valley = ridges[inner] > 0.95, ridges[inner] < 0.05
    assert smooth[inner][crest].std() < 0.6 * dented[inner][crest].std()
    assert smooth[inner][valley].mean() < 0.1
    assert smooth[inner][crest].mean() == pytest.approx(dented[inner][crest].mean(), rel=0.06)


def test_pixels_without_a_length_stay_as_they_are() -> None:
    values = stripes(10)
    lengths = np.zeros(values.shape, np.float32)
    lengths[40:] = 4
    smooth = smooth_along(values, across(values, 8.0), lengths)
    assert np.array_equal(smooth[:40], values[:40])
    assert not np.array_equal(smooth[40:], values[40:])


def test_agreement_is_that_of_the_mask_s_pixels_nearby() -> None:
    field = np.zeros((2, 60, 120), np.float32)
    field[0, :, :60] = 0.8  # long objects on the left, round ones on the right
    mask = np.zeros((60, 120), bool)
    mask[::4] = True
    around = coherence_around(field, mask, 8.0)
    assert around.shape == mask.shape
    assert around[30, 5] == pytest.approx(0.8, abs=0.01)
    assert around[30, 115] == pytest.approx(0, abs=0.01)
    assert 0.3 < around[30, 60] < 0.5
    assert not coherence_around(field, np.zeros_like(mask), 8.0).any()
