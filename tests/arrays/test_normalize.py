"""Any image becomes (3, Y, X) float32, about 0 to 1."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dinoscope.arrays.calibrate import Calibration
from dinoscope.arrays.normalize import CLIP, Normalization, limits, to_model_input
from dinoscope.errors import InputError
from dinoscope.types import ImageInput

PLAIN = Normalization()
DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">u2", ">f4"]


def ramp(dtype: str, channels: int = 1) -> np.ndarray:
    values = np.linspace(0, 100, 64 * 48).reshape(64, 48)
    return np.stack([values] * channels).astype(dtype)


def normalized(
    array: np.ndarray, axes: str = "CYX", how: Normalization = PLAIN, **options: Any
) -> np.ndarray:
    image = ImageInput(array, axes)
    plane = array if axes == "CYX" else array[np.newaxis]
    return to_model_input(plane, limits(image, how), how, **options)


@settings(deadline=None)
@given(
    hnp.arrays(
        dtype=st.sampled_from([np.float16, np.float32, np.float64, np.uint8, np.int32, np.bool_]),
        shape=hnp.array_shapes(min_dims=3, max_dims=3, max_side=7),
    )
)
def test_any_values_give_three_finite_clipped_channels(plane: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        result = normalized(plane)
    assert result.shape == (3, *plane.shape[1:])
    assert result.dtype == np.float32
    assert np.all((result >= CLIP[0]) & (result <= CLIP[1]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_scaled_between_its_percentiles(dtype: str) -> None:
    result = normalized(ramp(dtype))
    if dtype != "bool":
        assert result[0, 0, 0] == pytest.approx(-0.01, abs=0.02)
        assert result[0, 32, 0] == pytest.approx(0.5, abs=0.02)
    assert result[0, -1, -1] == pytest.approx(1, abs=0.02 if dtype != "bool" else 1)


def test_large_integers_far_from_zero_keep_their_contrast() -> None:
    plane = (np.arange(100, dtype=np.uint32) + 4_000_000_000).reshape(1, 10, 10)
    result = normalized(plane)
    assert len(np.unique(result[0])) == 100


@pytest.mark.parametrize("value", [0, 7, -3.5, np.nan, np.inf])
def test_a_constant_image_becomes_zeros(value: float) -> None:
    assert not normalized(np.full((1, 9, 9), value, np.float32)).any()


def test_nan_and_infinities_become_the_low_limit_and_do_not_move_the_limits() -> None:
    plane = ramp("f4")
    clean = limits(ImageInput(plane, "CYX"), PLAIN)
    broken = plane.copy()
    broken[0, 5, :3] = np.nan, np.inf, -np.inf
    assert limits(ImageInput(broken, "CYX"), PLAIN) == pytest.approx(clean, abs=0.3)
    assert not to_model_input(broken, clean, PLAIN)[:, 5, :3].any()
    assert to_model_input(broken, clean, PLAIN)[0, 20, 20] == pytest.approx(
        to_model_input(plane, clean, PLAIN)[0, 20, 20]
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (2, 3)])
@pytest.mark.parametrize("filters", [False, True])
def test_extreme_shapes_work_with_and_without_filters(
    shape: tuple[int, int], filters: bool
) -> None:
    plane = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(1, *shape)
    how = Normalization(denoise=filters, local_contrast=filters)
    result = normalized(plane, how=how)
    assert result.shape == (3, *shape)
    assert np.isfinite(result).all()


def test_one_channel_is_repeated_and_two_get_their_mean() -> None:
    one = normalized(ramp("u1"))
    assert np.array_equal(one[0], one[1])
    assert np.array_equal(one[0], one[2])
    pair = np.concatenate([ramp("f4"), ramp("f4")[:, ::-1]])
    two = normalized(pair)
    assert two[2] == pytest.approx((two[0] + two[1]) / 2)
    assert not np.allclose(two[0], two[1])


def test_three_channels_stay_apart_and_twenty_are_averaged() -> None:
    rng = np.random.default_rng(0)
    twenty = rng.random((20, 16, 16)).astype(np.float32)
    three = normalized(twenty[:3])
    assert not np.allclose(three[0], three[1])
    pairs = limits(ImageInput(twenty, "CYX"), PLAIN)
    expected = np.mean(
        [to_model_input(twenty[c : c + 1], pairs[c : c + 1], PLAIN)[0] for c in range(20)], axis=0
    )
    assert normalized(twenty)[1] == pytest.approx(expected, abs=1e-5)


def test_weights_mix_channels_in_proportion() -> None:
    pair = np.concatenate([ramp("f4"), ramp("f4")[:, ::-1]])
    apart = normalized(pair)
    mixed = normalized(pair, weights=(3, 1))
    assert mixed[0] == pytest.approx(0.75 * apart[0] + 0.25 * apart[1], abs=1e-6)
    assert np.array_equal(normalized(pair, weights=(0, 2)), np.stack([apart[1]] * 3))


@pytest.mark.parametrize("fuse", ["rgb", "mean"])
def test_the_card_can_ask_for_another_fusion(fuse: str) -> None:
    array = np.random.default_rng(1).random((5, 12, 12)).astype(np.float32)
    result = normalized(array, how=Normalization(fuse=fuse))
    alike = np.array_equal(result[0], result[1])
    assert alike == (fuse == "mean")


def test_rgb_keeps_its_colours() -> None:
    rng = np.random.default_rng(2)
    picture = (rng.random((32, 32, 3)) * [250, 120, 40]).astype(np.uint8)
    pairs = limits(ImageInput(picture, "YXS"), PLAIN)
    assert np.array_equal(pairs[0], pairs[1])
    assert np.array_equal(pairs[0], pairs[2])
    means = to_model_input(picture.transpose(2, 0, 1), pairs, PLAIN).mean(axis=(1, 2))
    assert means[0] > means[1] > means[2]


def test_fixed_ranges_ignore_the_image() -> None:
    how = Normalization(mode="fixed", ranges=((0, 200),))
    plane = np.full((1, 4, 4), 50, np.uint8)
    assert normalized(plane, how=how) == pytest.approx(0.25)
    assert limits(ImageInput(np.zeros((3, 4, 4)), "CYX"), how).shape == (3, 2)


def test_fixed_ranges_follow_the_chosen_channels() -> None:
    how = Normalization(mode="fixed", ranges=((0, 1), (0, 2), (0, 3)))
    image = ImageInput(np.zeros((3, 4, 4)), "CYX")
    assert limits(image, how, channels=(2,)).tolist() == [[0, 3]]
    with pytest.raises(InputError, match="5 channels in use but the model has fixed ranges for 3"):
        limits(ImageInput(np.zeros((5, 4, 4)), "CYX"), how)


def test_a_calibration_is_applied_before_the_percentiles() -> None:
    plane = ramp("f4")
    dark = Calibration(dark=np.full((64, 48), 20, np.float32))
    image = ImageInput(plane, "CYX")
    difference = limits(image, PLAIN) - limits(image, PLAIN, calibration=dark)
    assert difference == pytest.approx(20, abs=1e-3)


def test_local_contrast_evens_out_shading_and_denoise_removes_spikes() -> None:
    rng = np.random.default_rng(3)
    texture = rng.random((128, 128)).astype(np.float32)
    shaded = (texture * np.linspace(0.1, 1, 128, dtype=np.float32))[np.newaxis]
    plain = normalized(shaded)
    evened = normalized(shaded, how=Normalization(local_contrast=True))
    contrast = [r[0, :, :32].std() / r[0, :, -32:].std() for r in (plain, evened)]
    assert contrast[1] > 1.5 * contrast[0]
    spike = np.zeros((1, 32, 32), np.float32)
    spike[0, 16, 16] = 1
    pairs = np.array([[0.0, 1.0]])
    assert not to_model_input(spike, pairs, Normalization(denoise=True)).any()


def test_the_input_is_not_changed() -> None:
    plane = ramp("f4", 3)
    before = plane.copy()
    normalized(plane, how=Normalization(denoise=True, local_contrast=True))
    assert np.array_equal(plane, before)


@pytest.mark.parametrize(
    "how",
    [PLAIN, Normalization(mode="fixed", ranges=((0, 255), (-1, 1.5)), denoise=True, fuse="mean")],
)
def test_a_normalisation_survives_its_card(how: Normalization) -> None:
    assert Normalization.from_json(json.loads(json.dumps(how.to_json()))) == how


def test_a_card_of_a_later_version_is_read() -> None:
    assert Normalization.from_json(PLAIN.to_json() | {"gamma": 2}) == PLAIN


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"mode": "magic"}, "mode is 'magic'"),
        ({"fuse": "blend"}, "fuse is 'blend'"),
        ({"low": 50, "high": 50}, "percentiles"),
        ({"high": 101}, "percentiles"),
        ({"mode": "fixed"}, "ranges are missing"),
        ({"mode": "fixed", "ranges": [[3, 3]]}, "range is"),
        ({"mode": "fixed", "ranges": [[0, "a"]]}, "not understood"),
        ({"low": None}, "not understood"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Normalization.from_json(values)


@pytest.mark.parametrize("weights", [(1,), (1, 2, 3), (-1, 2), (0, 0), (np.nan, 1)])
def test_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="channel weights"):
        normalized(ramp("f4", 2), weights=weights)


def test_complex_and_text_images_are_refused() -> None:
    for dtype in ("c8", "U3"):
        with pytest.raises(InputError, match="data type"):
            limits(ImageInput(np.zeros((4, 4), dtype), "YX"), PLAIN)


def test_limits_of_another_image_are_refused() -> None:
    with pytest.raises(InputError, match=r"limits have shape \(2, 2\) for 1 channels"):
        to_model_input(np.zeros((1, 3, 3)), np.zeros((2, 2)), PLAIN)
