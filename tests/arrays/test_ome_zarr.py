"""Zarr arrays and OME-Zarr images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from dinoscope.arrays.axes import read_plane
from dinoscope.arrays.files import read_image
from dinoscope.errors import AxesError, InputError

ARRAY = np.random.default_rng(0).integers(0, 200, (2, 3, 40, 50)).astype(np.uint16)


def multiscale(axes: list[dict[str, str]], scale: list[float], path: str = "0") -> dict[str, Any]:
    transforms = [{"type": "scale", "scale": scale}]
    return {"axes": axes, "datasets": [{"path": path, "coordinateTransformations": transforms}]}


AXES = [
    {"name": "c", "type": "channel"},
    {"name": "z", "type": "space", "unit": "micrometer"},
    {"name": "y", "type": "space", "unit": "nanometer"},
    {"name": "x", "type": "space", "unit": "nanometer"},
]


def ome_zarr(path: Path, version: int) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == 4 else 3)
    group.create_array("0", data=ARRAY, chunks=(1, 1, 32, 32))
    group.create_array("1", data=ARRAY[..., ::2, ::2])
    entry = [multiscale(AXES, [1, 0.5, 250, 125])]
    group.attrs.update(
        {"multiscales": entry}
        if version == 4
        else {"ome": {"version": "0.5", "multiscales": entry}}
    )
    return path


@pytest.mark.parametrize("version", [4, 5])
def test_full_resolution_axes_and_pixel_size_are_found(tmp_path: Path, version: int) -> None:
    image = read_image(ome_zarr(tmp_path / "cells.ome.zarr", version))
    assert (image.name, image.axes, image.shape) == ("cells", "CZYX", ARRAY.shape)
    assert image.pixel_size_um == pytest.approx({"Z": 0.5, "Y": 0.25, "X": 0.125})
    assert np.array_equal(read_plane(image, (2,), channels=(1,)), ARRAY[1:, 2])


def test_the_group_that_bioformats2raw_makes_is_opened(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w").attrs["bioformats2raw.layout"] = 3
    ome_zarr(tmp_path / "a.zarr" / "0", 5)
    assert read_image(tmp_path / "a.zarr").axes == "CZYX"


def test_a_plain_array_follows_the_rules_for_any_array(tmp_path: Path) -> None:
    zarr.save(tmp_path / "flat.zarr", ARRAY[0, 0])
    assert read_image(tmp_path / "flat.zarr").axes == "YX"
    zarr.save(tmp_path / "deep.zarr", ARRAY)
    with pytest.raises(AxesError, match="--axes"):
        read_image(tmp_path / "deep.zarr")
    assert read_image(tmp_path / "deep.zarr", axes="tzyx").axes == "TZYX"


@pytest.mark.parametrize(("names", "axes"), [(("time", "y", "x"), "TYX"), (("z", "Y", "X"), "ZYX")])
def test_dimension_names_are_axes(tmp_path: Path, names: tuple[str, ...], axes: str) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=ARRAY[0], dimension_names=names)
    assert read_image(tmp_path / "a.zarr").axes == axes


def test_names_that_only_begin_like_axes_are_not_axes(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=ARRAY[0], dimension_names=("yes", "y", "x"))
    with pytest.raises(AxesError, match="--axes"):
        read_image(tmp_path / "a.zarr")


def test_a_group_without_an_image_is_an_error(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name in "ab":
        group.create_array(name, data=ARRAY)
    with pytest.raises(InputError, match="without an OME image, with 2 arrays"):
        read_image(tmp_path / "a.zarr")


def test_broken_metadata_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    folder = ome_zarr(tmp_path / "a.zarr", 5)
    (folder / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.zarr cannot be read as Zarr"):
        read_image(folder)


def test_a_broken_chunk_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    folder = ome_zarr(tmp_path / "a.zarr", 5)
    for chunk in (folder / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no chunk")
    with pytest.raises(InputError, match="'a' could not be read"):
        read_plane(read_image(folder), (0,))
