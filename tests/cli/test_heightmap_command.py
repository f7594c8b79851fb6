"""``dinoscope heightmap``: files, axes, units and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from dinoscope.arrays.files import read_image, write_image
from dinoscope.arrays.focus import height_map


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    """(7, 48, 52) uint16: texture that is sharpest in slice 2 on the left and 4 on the right."""
    from scipy.ndimage import gaussian_filter

    texture = np.random.default_rng(0).random((48, 52)).astype(np.float32)
    slices = []
    for z in range(7):
        left = gaussian_filter(texture, 0.4 + abs(z - 2))
        right = gaussian_filter(texture, 0.4 + abs(z - 4))
        slices.append(np.where(np.arange(52) < 26, left, right))
    return (1000 * np.stack(slices)).astype(np.uint16)


def test_three_maps_are_written_with_step_and_pixel_size(
    run: Any, stack: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "relief.ome.tif"
    write_image(path, stack, "ZYX", {"Z": 0.5, "Y": 0.2, "X": 0.2})
    done = run("heightmap", path, "--output", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"relief_height.tif", "relief_confidence.tif", "relief_focused.tif"}
    height = read_image(tmp_path / "out" / "relief_height.tif")
    assert height.axes == "YX"
    assert height.data.dtype == np.float32
    assert height.pixel_size_um == {"Y": 0.2, "X": 0.2}
    values = np.asarray(height.data[:])
    assert np.nanmedian(values[:, :20]) == pytest.approx(1.0, abs=0.2)
    assert np.nanmedian(values[:, -20:]) == pytest.approx(2.0, abs=0.2)
    expected = height_map(stack, step_um=0.5)
    np.testing.assert_allclose(values, expected.height, rtol=1e-4)
    assert done.document["unit"] == "µm"
    assert done.document["outputs"]["height"].endswith("relief_height.tif")
    assert done.document["seconds"]["focus"] > 0


def test_a_step_on_the_command_line_overrules_the_file(
    run: Any, stack: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "relief.tif"
    write_image(path, stack, "ZYX", {"Z": 0.5, "Y": 0.2, "X": 0.2})
    run("heightmap", path, "--output", tmp_path / "o", "--step-um", "5")
    values = np.asarray(read_image(tmp_path / "o" / "relief_height.tif").data[:])
    assert np.nanmedian(values[:, :20]) == pytest.approx(10.0, abs=2)


def test_three_dimensions_without_axes_are_slices_and_that_is_said(
    run: Any, stack: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, stack)
    done = run("heightmap", path, "--output", tmp_path / "o")
    assert done.status == 0, done.err
    assert "read as ZYX" in done.err
    assert "heights are in slices" in done.err


def test_every_time_point_gets_its_own_map_and_channels_are_averaged(
    run: Any, stack: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "series.tif"
    both = np.stack([np.stack([stack, stack], axis=1), np.stack([stack[::-1]] * 2, axis=1)])
    write_image(path, both, "TZCYX", {"Z": 1.0})
    done = run("heightmap", path, "--output", tmp_path / "o", "--channel", "1")
    assert done.status == 0, done.err
    height = read_image(tmp_path / "o" / "series_height.tif")
    assert (height.axes, height.shape) == ("TYX", (2, 48, 52))
    values = np.asarray(height.data[:])
    assert np.nanmedian(values[0, :, :20]) == pytest.approx(2.0, abs=0.3)
    assert np.nanmedian(values[1, :, :20]) == pytest.approx(4.0, abs=0.3)


@pytest.mark.parametrize(
    ("axes", "flags", "status", "said"),
    [
        ("TYX", [], 2, "a Z axis"),
        ("ZYX", ["--step-um", "0"], 2, "--step-um is 0.0"),
        ("ZYX", ["--step-um", "nan"], 2, "--step-um is nan"),
        ("ZYX", ["--channel", "2"], 1, "channels [2]"),
        ("ZYX", ["--axes", "ZCYX"], 2, "4 dimensions"),
    ],
)
def test_what_it_refuses(
    axes: str, flags: list[str], status: int, said: str, run: Any, stack: np.ndarray, tmp_path: Path
) -> None:
    write_image(tmp_path / "a.tif", stack, axes)
    done = run("heightmap", tmp_path / "a.tif", "--output", tmp_path / "o", *flags)
    assert done.status == status
    assert said in done.err


def test_too_few_slices_leave_no_file(run: Any, stack: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", stack[:2], "ZYX", {"Z": 1.0})
    done = run("heightmap", tmp_path / "a.tif", "--output", tmp_path / "o")
    assert done.status == 1
    assert "2 slices" in done.err
    assert list((tmp_path / "o").iterdir()) == []


def test_a_missing_stack_is_one_line(run: Any, tmp_path: Path) -> None:
    done = run("heightmap", tmp_path / "none.tif", "--output", tmp_path / "o")
    assert done.status == 1
    assert "does not exist" in done.err
    assert len(done.err.splitlines()) == 1
