from __future__ import annotations

import numpy as np
import pytest

from dinoscope.arrays.guided import box_mean, guided_filter, upsample_guided
from dinoscope.errors import InputError


def window_means(values: np.ndarray, reach: int) -> np.ndarray:
    """The definition, pixel by pixel."""
    out = np.empty(values.shape)
    for y, x in np.ndindex(values.shape):
        out[y, x] = values[
            max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1
        ].mean()
    return out


def test_box_mean_is_the_mean_of_the_pixels_that_are_there() -> None:
    values = np.random.default_rng(0).normal(size=(9, 7))
    for reach in (1, 2, 20):
        assert np.allclose(box_mean(values, (reach, reach)), window_means(values, reach), atol=1e-5)


def test_the_filter_is_the_one_of_the_paper() -> None:
    rng = np.random.default_rng(1)
    guide, plane = rng.random((12, 11)), rng.random((12, 11))
    eps, reach = 0.01, 2

    def mean(values: np.ndarray) -> np.ndarray:
        return window_means(values, reach)

    slope = (mean(guide * plane) - mean(guide) * mean(plane)) / (
        mean(guide * guide) - mean(guide) ** 2 + eps
    )
    offset = mean(plane) - slope * mean(guide)
    expected = mean(slope) * guide + mean(offset)
    found = guided_filter(guide, plane[None], (reach, reach), eps)[0]
    assert np.allclose(found, expected, atol=1e-4)


def test_a_linear_function_of_the_guide_comes_through() -> None:
    guide = np.random.default_rng(2).random((20, 20))
    found = guided_filter(guide, (3 * guide - 1)[None], (3, 3), 1e-9)[0]
    assert np.allclose(found, 3 * guide - 1, atol=1e-3)


def test_edges_of_the_image_become_edges_of_the_map() -> None:
    guide = np.zeros((56, 56), np.uint8)
    guide[:, 28:] = 255
    blurred = np.clip((np.arange(56) - 14) / 28, 0, 1)[None, None] * np.ones((1, 56, 1))
    sharp = upsample_guided(blurred, guide, (14, 14))
    step = np.abs(np.diff(sharp[0, 28]))
    assert step.argmax() == 27
    assert step.max() > 5 * np.abs(np.diff(blurred[0, 28])).max()
    assert sharp.min() >= 0
    assert sharp.max() <= 1


def test_a_flat_guide_smooths_and_nothing_else() -> None:
    maps = np.random.default_rng(3).random((2, 16, 16)).astype(np.float32)
    found = guided_filter(np.full((16, 16), 0.4), maps, (1, 1))
    twice = [window_means(window_means(m, 1), 1) for m in maps]
    assert np.allclose(found, twice, atol=1e-5)


@pytest.mark.parametrize(
    ("guide", "maps", "eps"),
    [
        (np.zeros((4, 5)), np.zeros((1, 5, 4)), 0.1),
        (np.zeros((4, 5)), np.zeros((4, 5)), 0.1),
        (np.zeros((4, 5)), np.zeros((1, 4, 5)), 0.0),
    ],
)
def test_what_does_not_fit_is_refused(guide: np.ndarray, maps: np.ndarray, eps: float) -> None:
    with pytest.raises(InputError):
        guided_filter(guide, maps, (1, 1), eps)
