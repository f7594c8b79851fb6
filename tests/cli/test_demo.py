"""``dinoscope demo`` and the pictures it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.arrays.files import read_image
from dinoscope.commands import demo, pictures
from dinoscope.commands.overview import Panel, Row, draw
from dinoscope.errors import OutputError
from dinoscope.types import ImageInput


def test_the_demo_writes_every_task_and_one_picture(
    run: Any, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spots: np.ndarray
) -> None:
    rgb = np.stack([spots[:80, :90] // 5] * 3, axis=-1).astype(np.uint8)
    stack = np.stack([spots[:60, :70]] * 3)
    samples = [
        ImageInput(rgb, "YXS", name="cell"),
        ImageInput(stack, "ZYX", {"Z": 1.0, "Y": 0.5, "X": 0.5}, "relief"),
    ]
    monkeypatch.setattr("dinoscope.datasets.samples.demo_images", lambda: samples)
    monkeypatch.setitem(demo.DIAMETERS_PX, "relief", 40.0)
    folder = tmp_path / "demo"
    done = run("demo", "--output", folder, "--model", model_file, "--json")
    assert done.status == 0, done.err
    names = {p.name for p in folder.iterdir()}
    for stem in ("cell", "relief"):
        assert f"{stem}.tif" in names
        for task in ("instance", "semantic", "depth", "pca"):
            assert f"{stem}_{task}.tif" in names
    assert {"relief_height.tif", "relief_confidence.tif", "relief_focused.tif"} <= names
    picture = read_image(folder / "overview.png")
    assert picture.axes == "YXS"
    # Three rows of at most five pictures.
    assert picture.shape[1] > 5 * 300
    assert picture.shape[0] > 3 * 300
    colours = np.asarray(picture.data)[::9, ::9, :3].reshape(-1, 3)
    assert len({tuple(c) for c in colours.tolist()}) > 100
    diameters = [image["diameter_px"] for image in done.document["images"]]
    assert diameters == [130.0, 40.0]
    assert done.document["overview"] == str(folder / "overview.png")
    assert set(done.document["outputs"]) >= {str(folder / "cell_depth.tif")}


def test_the_real_samples_are_there_offline() -> None:
    from dinoscope.datasets.samples import demo_images

    names = {image.name: image.axes for image in demo_images()}
    assert names == {"ihc": "YXS", "cell": "YX", "zstack": "ZYX"}


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_plane_becomes_a_picture(dtype: Any, channels: int) -> None:
    plane = (np.random.default_rng(0).random((channels, 9, 7)) * 100).astype(dtype)
    shown = pictures.grey_or_rgb(plane)
    assert shown.shape == (9, 7, 3)
    assert shown.dtype == np.uint8


def test_colour_images_of_8_bits_are_shown_as_they_are() -> None:
    plane = np.random.default_rng(0).integers(0, 255, (3, 5, 6)).astype(np.uint8)
    np.testing.assert_array_equal(pictures.grey_or_rgb(plane), np.moveaxis(plane, 0, -1))


def test_neighbouring_ids_get_other_colours_and_the_background_stays() -> None:
    base = np.full((20, 30, 3), 90, np.uint8)
    ids = np.zeros((20, 30), np.uint32)
    ids[5:15, 2:10], ids[5:15, 10:20] = 1, 2
    shown = pictures.instances_on(base, ids)
    assert (shown[0, 0] == 90).all()
    assert (shown[10, 5] != shown[10, 15]).any()


def test_classes_have_the_colours_of_their_legend() -> None:
    base = np.zeros((4, 4, 3), np.uint8)
    labels = np.array([[0, 1, 2, 255]] * 4, np.uint8)
    shown = pictures.classes_on(base, labels)
    assert (shown[0, 0] == 0).all()
    assert (shown[0, 3] == 0).all()
    expected = (0.65 * np.array(pictures.PALETTE[1])).round()
    np.testing.assert_array_equal(shown[0, 2], expected)


def test_heights_rise_from_dark_to_light_and_unknown_ones_are_grey() -> None:
    values = np.linspace(0, 1, 50).reshape(5, 10).astype(np.float32)
    values[0, 0] = np.nan
    shown = pictures.heights(values)
    assert (shown[0, 0] == 128).all()
    assert int(shown[-1, -1].sum()) > int(shown[0, 1].sum())
    assert pictures.heights(np.full((3, 3), np.nan, np.float32)).shape == (3, 3, 3)


def test_a_picture_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    row = Row("a", [Panel("image", np.zeros((5, 5, 3), np.uint8))])
    with pytest.raises(OutputError, match=r"overview\.png"):
        draw([row], tmp_path / "missing" / "overview.png", "title")
