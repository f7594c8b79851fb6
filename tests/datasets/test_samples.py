"""Sample images: offline, in place in the world, and reproduced by their script."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dinoscope.arrays.files import read_image
from dinoscope.datasets import samples
from dinoscope.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("make_sample_data", ROOT / "sample_data" / "make_sample_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_reproduces_the_samples(script: ModuleType) -> None:
    made = script.make_all()
    assert tuple(made) == samples.SAMPLE_FILES
    for name, sample in made.items():
        stored = read_image(samples.sample_path(name))
        pixels = np.asarray(stored.data[:])
        assert stored.axes == sample.axes
        assert dict(stored.pixel_size_um) == pytest.approx(dict(sample.pixel_size_um))
        assert pixels.dtype == sample.pixels.dtype
        # Processors round differently in the last place; a pixel in a thousand may flip.
        differs = np.abs(pixels.astype(float) - sample.pixels.astype(float)) > 1
        assert differs.mean() < 1e-3, name


def test_samples_are_small() -> None:
    total = sum(samples.sample_path(name).stat().st_size for name in samples.SAMPLE_FILES)
    assert total < 2_000_000


def test_samples_of_the_menu_need_neither_napari_nor_torch_nor_the_network() -> None:
    code = """
import socket, sys
def refuse(*args): raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = refuse
for blocked in ("napari", "torch", "pooch", "qtpy"):
    sys.modules[blocked] = None
from dinoscope.datasets import samples
for function in (samples.ihc, samples.cell, samples.zstack, samples.timelapse):
    assert function()
assert samples.demo_images()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_demo_images_are_two_micrographs_and_a_stack() -> None:
    tissue, cell, stack = samples.demo_images()
    assert (tissue.name, tissue.axes, tissue.shape) == ("ihc", "YXS", (512, 512, 3))
    assert (cell.name, cell.axes, cell.shape) == ("cell", "YX", (660, 550))
    assert (stack.name, stack.axes) == ("zstack", "ZYX")
    assert stack.pixel_size_um == pytest.approx({"Z": 1.0, "Y": 0.5, "X": 0.5})


@pytest.mark.parametrize("function", [samples.ihc, samples.cell, samples.zstack, samples.timelapse])
def test_layer_data_fits_its_layer(function: object) -> None:
    layers = function()  # type: ignore[operator]
    for data, arguments, kind in layers:
        ndim = data.ndim - 1 if arguments.get("rgb") else data.ndim
        assert kind in ("image", "labels")
        assert len(arguments["axis_labels"]) == ndim
        for name in ("scale", "units"):
            assert len(arguments.get(name, [0] * ndim)) == ndim
        assert "source" in arguments["metadata"]
        if kind == "labels":
            assert data.dtype.kind in "iu"
    assert len({arguments["name"] for _, arguments, _ in layers}) == len(layers)


def test_zstack_layers_share_one_place_in_micrometres() -> None:
    (stack, placed, _), (height, height_placed, _), (masks, masks_placed, _) = samples.zstack()
    assert placed["scale"] == (1.0, 0.5, 0.5)
    assert placed["units"] == ("um", "um", "um")
    assert height_placed["scale"] == masks_placed["scale"] == (0.5, 0.5)
    assert height.shape == masks.shape == stack.shape[1:]
    assert 0 < height.min() < height.max() < len(stack) - 1
    assert masks.max() > 10


def test_timelapse_ids_follow_their_cells_and_one_divides() -> None:
    cells, nuclei, masks = (data for data, _, _ in samples.timelapse())
    assert cells.shape == nuclei.shape == masks.shape
    present = [set(np.unique(frame)) - {0} for frame in masks]
    assert max(present[-1]) == max(present[0]) + 1
    for track in present[0] & present[-1]:
        first, last = (np.argwhere(masks[t] == track).mean(0) for t in (0, -1))
        assert np.hypot(*(first - last)) < 30
    assert (nuclei[masks > 0].mean()) > 2 * nuclei[masks == 0].mean()


def test_unknown_sample_is_refused() -> None:
    with pytest.raises(InputError, match=r"no sample 'cat\.tif'; expected one of zstack\.tif"):
        samples.sample_path("cat.tif")
