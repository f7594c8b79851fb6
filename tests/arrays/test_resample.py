from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.resample import needed_window, resample, scaled_shape


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    zoom=st.floats(0.2, 4.0),
    data=st.data(),
)
def test_a_window_equals_that_part_of_the_whole(
    height: int, width: int, zoom: float, data: st.DataObject
) -> None:
    maps = np.random.default_rng(0).random((2, height, width), np.float32)
    new = scaled_shape((height, width), zoom)
    y0 = data.draw(st.integers(0, new[0] - 1))
    x0 = data.draw(st.integers(0, new[1] - 1))
    window = (
        y0,
        x0,
        data.draw(st.integers(y0 + 1, new[0])),
        data.draw(st.integers(x0 + 1, new[1])),
    )
    whole = resample(maps, new)
    n = needed_window((height, width), new, window) if new != (height, width) else window
    part = resample(
        maps[:, n[0] : n[2], n[1] : n[3]], new, shape=(height, width), origin=n[:2], window=window
    )
    expected = whole[:, window[0] : window[2], window[1] : window[3]]
    np.testing.assert_allclose(part, expected, atol=1e-6)


def test_constant_stays_constant_and_ramps_stay_straight() -> None:
    ramp = np.tile(np.arange(40, dtype=np.float32), (1, 30, 1))
    assert np.allclose(resample(np.full((1, 9, 7), 3.0), (20, 3)), 3.0)
    doubled = resample(ramp, (60, 80))[0, 5]
    assert np.allclose(np.diff(doubled)[4:-4], 0.5, atol=1e-5)


def test_shrinking_averages_instead_of_skipping() -> None:
    checker = np.indices((64, 64)).sum(0)[None] % 2
    small = resample(checker.astype(np.float32), (16, 16))
    assert np.abs(small[:, 2:-2, 2:-2] - 0.5).max() < 0.05


@pytest.mark.parametrize(
    ("zoom", "expected"), [(1.02, (100, 50)), (2.0, (200, 100)), (0.001, (1, 1))]
)
def test_scaled_shape(zoom: float, expected: tuple[int, int]) -> None:
    assert scaled_shape((100, 50), zoom) == expected
