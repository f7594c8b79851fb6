from __future__ import annotations

import numpy as np
import pytest

from dinoscope.arrays.orientation import Across, across, coherence_around, smooth_along


def stripes(degrees: float, period: float = 9.0, side: int = 90) -> np.ndarray:
    """Waves whose crests lie square to an angle from the X axis (Y down)."""
    y, x = np.mgrid[:side, :side]
    angle = np.deg2rad(degrees)
    wave = np.cos(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)))
    return np.asarray(0.5 + 0.5 * wave, np.float32)


def everywhere(field: Across, shape: tuple[int, int]) -> np.ndarray:
    """``(2, Y, X)`` of all pixels."""
    return field.at(*np.mgrid[: shape[0], : shape[1]])


@pytest.mark.parametrize("degrees", [0, 30, 90, 135, 160])
@pytest.mark.parametrize("scale", [2.0, 4.0, 20.0])
def test_stripes_change_most_square_to_their_crests(degrees: float, scale: float) -> None:
    square = everywhere(across(stripes(degrees), scale), (90, 90))
    middle = square[:, 20:-20, 20:-20]
    twice = np.deg2rad(2 * degrees)
    np.testing.assert_allclose(middle[0], np.cos(twice), atol=0.08)
    np.testing.assert_allclose(middle[1], np.sin(twice), atol=0.08)


def test_a_round_object_has_no_direction() -> None:
    y, x = np.mgrid[:80, :80]
    cone = np.maximum(0, 25 - np.hypot(y - 40, x - 40)).astype(np.float32)
    field = across(cone, 25.0)
    assert np.hypot(*field.at(np.array(40), np.array(40))) < 0.08


def test_a_plane_in_parts_is_as_the_plane_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = stripes(20, side=95)  # blocks do not divide 95
    for scale in (3.0, 24.0):
        monkeypatch.setattr("dinoscope.arrays.orientation._ROWS", 1000)
        whole = across(values, scale)
        monkeypatch.setattr("dinoscope.arrays.orientation._ROWS", 17)
        parts = across(values, scale)
        np.testing.assert_allclose(parts.blocks, whole.blocks, atol=1e-5)
        assert np.hypot(*everywhere(parts, values.shape)).min() > 0.85


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (0, 4), (3, 0)])
def test_next_to_nothing_has_no_direction(shape: tuple[int, int]) -> None:
    values, mask = np.ones(shape, np.float32), np.ones(shape, bool)
    field = across(values, 5.0)
    assert not field.coherence.any()
    around = coherence_around(field, mask, 20.0)
    assert not around.any()
    assert smooth_along(values, field, around + 3, mask).shape == shape


def test_dents_in_a_ridge_fill_and_valleys_beside_it_stay() -> None:
    ridges = stripes(35)
    rng = np.random.default_rng(2)
    dented = ridges * rng.uniform(0.4, 1, ridges.shape).astype(np.float32)
    field = across(ridges, 8.0)
    lengths = np.full(field.coherence.shape, 6.0, np.float32)
    smooth = smooth_along(dented, field, lengths, np.ones(ridges.shape, bool))
    inner = (slice(15, -15), slice(15, -15))
    crest, valley = ridges[inner] > 0.95, ridges[inner] < 0.05
    assert smooth[inner][crest].std() < 0.6 * dented[inner][crest].std()
    assert smooth[inner][valley].mean() < 0.1
    assert smooth[inner][crest].mean() == pytest.approx(dented[inner][crest].mean(), rel=0.06)


def test_pixels_without_a_length_or_outside_the_mask_stay_as_they_are() -> None:
    values = stripes(10)
    field = across(values, 9.0)  # blocks of 3
    lengths = np.zeros(field.coherence.shape, np.float32)
    everything = np.ones(values.shape, bool)
    assert smooth_along(values, field, lengths, everything) is values
    lengths[13:] = 4
    mask = everything.copy()
    mask[:, 60:] = False
    smooth = smooth_along(values, field, lengths, mask)
    assert np.array_equal(smooth[:39], values[:39])
    assert np.array_equal(smooth[:, 60:], values[:, 60:])
    assert not np.array_equal(smooth[39:, :60], values[39:, :60])


def test_agreement_is_that_of_the_mask_s_pixels_nearby() -> None:
    blocks = np.zeros((2, 30, 60), np.float32)
    blocks[0, :, :30] = 0.8  # long objects on the left, round ones on the right
    mask = np.zeros((60, 120), bool)
    mask[::4] = True
    field = Across(blocks, 2)
    around = coherence_around(field, mask, 8.0)
    assert around.shape == (30, 60)
    assert around[15, 2] == pytest.approx(0.8, abs=0.01)
    assert around[15, 57] == pytest.approx(0, abs=0.01)
    assert 0.3 < around[15, 30] < 0.5
    assert not coherence_around(field, np.zeros_like(mask), 8.0).any()
