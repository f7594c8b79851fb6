"""Dark and flat images undo the camera's offset and the lamp's shading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope.arrays.calibrate import Calibration, read_calibration
from dinoscope.arrays.files import write_image
from dinoscope.errors import AxesError, InputError

RNG = np.random.default_rng(0)
SHADE = np.linspace(0.5, 1.5, 40, dtype=np.float32) * np.ones((30, 1), np.float32)


def shaded(scene: np.ndarray, offset: float) -> np.ndarray:
    return (scene * SHADE + offset).astype(np.float32)


@settings(deadline=None)
@given(st.floats(0, 500), st.floats(10, 1000))
def test_a_shaded_scene_is_restored(offset: float, lamp: float) -> None:
    scene = RNG.random((1, 30, 40)).astype(np.float32) * 100
    calibration = Calibration(
        dark=np.full((30, 40), offset, np.float32), flat=shaded(np.full((30, 40), lamp), offset)
    )
    restored = calibration.apply(shaded(scene, offset))
    assert restored.dtype == np.float32
    assert np.abs(restored - scene).max() < 0.2


def test_the_flat_image_itself_becomes_even_and_keeps_its_mean() -> None:
    flat = shaded(np.full((30, 40), 200), 0)
    even = Calibration(flat=flat).apply(flat[np.newaxis])
    assert even == pytest.approx(flat.mean(), rel=1e-5)


def test_a_dark_image_alone_is_subtracted() -> None:
    plane = np.full((2, 30, 40), 7, np.uint8)
    result = Calibration(dark=np.full((30, 40), 10, np.uint8)).apply(plane)
    assert np.all(result == -3)


def test_each_channel_can_have_its_own_frames() -> None:
    dark = np.stack([np.full((4, 5), c, np.float32) for c in range(3)])
    calibration = Calibration(dark=dark)
    plane = np.full((3, 4, 5), 10, np.uint16)
    assert calibration.apply(plane)[:, 0, 0].tolist() == [10, 9, 8]
    assert calibration.apply(plane[:2], channels=(2, 0))[:, 0, 0].tolist() == [8, 10]


def test_a_region_is_corrected_as_in_the_whole_plane() -> None:
    plane = RNG.integers(0, 4000, (2, 30, 40)).astype(np.uint16)
    calibration = Calibration(dark=np.full((30, 40), 9.0), flat=SHADE * 1000)
    part = calibration.apply(plane[:, 5:20, 30:40], region=(5, 30, 20, 40))
    assert np.array_equal(part, calibration.apply(plane)[:, 5:20, 30:40])


@pytest.mark.parametrize(
    ("dtype", "saturation", "value"), [("u1", None, 255), ("u2", None, 65535), ("u2", 4095, 4095)]
)
def test_saturated_pixels_stay_at_least_as_bright(
    dtype: str, saturation: float | None, value: int
) -> None:
    plane = np.full((1, 30, 40), value, dtype)
    calibration = Calibration(
        dark=np.full((30, 40), 5.0), flat=SHADE * 100 + 5, saturation=saturation
    )
    assert calibration.apply(plane).min() == value
    below = calibration.apply(plane - np.ones(1, dtype))
    assert below.min() < value - 1


def test_dead_pixels_of_the_flat_image_get_no_gain() -> None:
    flat = np.full((30, 40), 100.0)
    flat[3, 4], flat[5, 6] = 0, np.nan
    result = Calibration(flat=flat).apply(np.full((1, 30, 40), 10.0))
    assert np.isfinite(result).all()
    assert result[0, 3, 4] == result[0, 5, 6] == 10


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ({}, "neither a dark nor a flat image"),
        ({"flat": np.zeros((4, 4))}, "nowhere brighter than the dark image"),
        ({"flat": np.full((4, 4), np.nan)}, "nowhere brighter"),
        ({"flat": np.ones((4, 4)), "dark": np.full((4, 4), 2.0)}, "Are the two swapped"),
        ({"flat": np.ones((4, 4)), "dark": np.ones((4, 5))}, "the same rows and columns"),
        ({"dark": np.zeros((0, 4))}, r"dark image has shape \(0, 4\)"),
        ({"dark": np.zeros((2, 2, 4, 4))}, "dark image has shape"),
        ({"dark": np.zeros((4, 4), complex)}, "complex"),
    ],
)
def test_frames_that_cannot_calibrate_are_refused(frames: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Calibration(**frames)


def test_an_image_of_another_size_is_refused() -> None:
    calibration = Calibration(dark=np.zeros((30, 40)))
    with pytest.raises(InputError, match=r"dark image is 30 x 40 pixels .* plane is 30 x 41"):
        calibration.apply(np.zeros((1, 30, 41)))
    with pytest.raises(InputError, match="has 3 channels and the image 2"):
        Calibration(dark=np.zeros((3, 4, 4))).apply(np.zeros((2, 4, 4)))


def test_frames_are_read_from_files_and_repeated_ones_averaged(tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", np.stack([np.full((30, 40), v, np.uint8) for v in (2, 3, 7)]))
    write_image(tmp_path / "flat.tif", SHADE * 100, "YX")
    calibration = read_calibration(tmp_path / "dark.npy", tmp_path / "flat.tif")
    assert calibration is not None
    assert calibration.dark is not None
    assert np.all(calibration.dark == 4)
    assert calibration.apply(np.full((1, 30, 40), 4)) == pytest.approx(0)
    assert read_calibration() is None


def test_frames_that_cannot_be_read_are_errors_that_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.tif does not exist"):
        read_calibration(dark=tmp_path / "gone.tif")
    np.save(tmp_path / "many.npy", np.zeros((2, 3, 4, 5)))
    with pytest.raises(AxesError, match=r"many\.npy"):
        read_calibration(flat=tmp_path / "many.npy")
