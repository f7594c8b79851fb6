from __future__ import annotations

import numpy as np
import pytest

from dinoscope.arrays.focus import HeightMap, height_map
from dinoscope.errors import InputError

SIDE = 96
SLICES = 12


def dome() -> np.ndarray:
    """True height in slices, from 3 at the rim to 8.4 in the middle."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.asarray(3 + 5.4 * np.exp(-((y - 48) ** 2 + (x - 48) ** 2) / 25**2))


def stack_of(height: np.ndarray, noise: float = 2.0, slices: int = SLICES) -> np.ndarray:
    """A rough surface seen slice by slice, blurred by its distance from the focus."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=height.shape), 0.7)
    texture *= 20 / texture.std()
    blurs = np.arange(0, 8.5, 0.5)
    blurred = np.stack([gaussian_filter(texture, b) if b else texture for b in blurs])
    stack = []
    for z in range(slices):
        level = np.clip(np.abs(z - height) * 0.8 / 0.5, 0, len(blurs) - 1.001)
        low = level.astype(int)[None]
        near = np.take_along_axis(blurred, low, 0)[0]
        far = np.take_along_axis(blurred, low + 1, 0)[0]
        plane = near + (level - low[0]) * (far - near)
        stack.append(100 + plane + rng.normal(0, noise, height.shape))
    return np.stack(stack)


@pytest.fixture(scope="module")
def measured() -> HeightMap:
    return height_map(stack_of(dome()), step_um=0.5)


def test_heights_lie_between_slices_and_count_in_micrometres(measured: HeightMap) -> None:
    error = measured.height / 0.5 - dome()
    assert measured.unit == "µm"
    assert measured.mask.mean() > 0.98
    assert np.sqrt(np.nanmean(error**2)) < 0.1  # slices; rounding to whole slices would give 0.29


def test_later_slices_are_higher(measured: HeightMap) -> None:
    assert np.nanmean(measured.height[40:56, 40:56]) > np.nanmean(measured.height[:16, :16]) + 1


def test_unknown_step_gives_heights_in_slices(measured: HeightMap) -> None:
    found = height_map(stack_of(dome()))
    assert found.unit == "slices"
    assert np.nanmax(np.abs(found.height * 0.5 - measured.height)) < 1e-5


def test_reversed_stack_gives_the_mirrored_height(measured: HeightMap) -> None:
    found = height_map(stack_of(dome())[::-1], step_um=0.5)
    mirrored = (SLICES - 1) * 0.5 - found.height
    assert np.nanmax(np.abs(mirrored - measured.height)) < 1e-4


def test_sharp_image_is_put_together_from_the_sharpest_slices() -> None:
    stack = stack_of(dome(), noise=0)
    found = height_map(stack).all_in_focus
    contrast = np.abs(np.diff(found, axis=0)).mean()
    assert contrast > 1.3 * max(np.abs(np.diff(plane, axis=0)).mean() for plane in stack)
    assert np.isin(found.ravel()[:50], stack.astype(np.float32)).all()


def test_noise_alone_is_hardly_ever_trusted() -> None:
    noise = np.random.default_rng(1).normal(100, 2, (12, SIDE, SIDE))
    found = height_map(noise)
    assert found.mask.mean() < 0.06
    assert np.array_equal(np.isnan(found.height), ~found.mask)


def test_what_is_equally_sharp_in_all_slices_has_no_height() -> None:
    dirt = np.random.default_rng(1).normal(100, 20, (SIDE, SIDE))
    found = height_map(np.stack([dirt] * 6))
    assert not found.mask.any()
    assert found.confidence.max() < 0.01


def test_surface_beyond_the_last_slice_is_not_measured() -> None:
    found = height_map(stack_of(np.full((SIDE, SIDE), 14.0)))
    assert found.mask.mean() < 0.02


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_constant_stack_has_no_height_and_no_warning(value: int) -> None:
    found = height_map(np.full((4, 9, 5), value, np.uint16))
    assert not found.mask.any()
    assert (found.confidence == 0).all()
    assert (found.all_in_focus == value).all()


def test_pixels_that_are_not_finite_do_not_spread() -> None:
    stack = stack_of(dome())
    stack[:, 10, 10], stack[5] = np.nan, np.inf
    found = height_map(stack)
    assert np.isfinite(found.confidence).all()
    assert np.isfinite(found.all_in_focus).all()


def test_slices_are_read_once_each_and_in_order() -> None:
    class Lazy:
        shape = (5, 20, 20)
        dtype = np.dtype(np.uint8)
        asked: list[int]

        def __getitem__(self, key: int) -> np.ndarray:
            self.asked.append(key)
            return np.random.default_rng(key).integers(0, 255, (20, 20), np.uint8)

    stack = Lazy()
    stack.asked = []
    height_map(stack)
    assert stack.asked == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float64])
def test_any_real_dtype_is_measured(dtype: type) -> None:
    stack: np.ndarray = (stack_of(dome()) > 100) if dtype is bool else stack_of(dome())
    found = height_map(stack.astype(dtype))
    assert found.height.dtype == found.confidence.dtype == np.float32
    assert found.mask.any()


@pytest.mark.parametrize(
    ("shape", "arguments", "match"),
    [
        ((2, 8, 8), {}, "2 slices; expected at least 3"),
        ((8, 8), {}, r"shape \(8, 8\); expected three dimensions"),
        ((3, 0, 8), {}, r"shape \(3, 0, 8\); expected at least one pixel"),
        ((3, 8, 8), {"step_um": 0.0}, "step_um is 0.0; expected a positive number"),
        ((3, 8, 8), {"step_um": float("nan")}, "step_um is nan"),
        ((3, 8, 8), {"window": 0}, "window is 0"),
    ],
)
def test_stacks_and_settings_that_make_no_sense_are_refused(
    shape: tuple[int, ...], arguments: dict[str, float], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        height_map(np.zeros(shape), **arguments)  # type: ignore[arg-type]
