"""TIFF files of every origin: axes, pixel size, lazy pages, broken files."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from dinoscope.arrays import tiff
from dinoscope.arrays.axes import iter_planes, read_plane
from dinoscope.arrays.files import read_image
from dinoscope.errors import AxesError, InputError

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 60_000, (4, 3, 20, 30)).astype(np.uint16)


def saved(path: Path, array: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, array, **({"photometric": "minisblack"} | options))
    return path


OME: dict[str, Any] = {"ome": True, "metadata": {"axes": "TZYX"}}


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_pixels_survive_compression_and_byte_order(
    tmp_path: Path, compression: str | None, byteorder: str
) -> None:
    path = saved(tmp_path / "a.tif", STACK, compression=compression, byteorder=byteorder, **OME)
    image = read_image(path)
    assert image.axes == "TZYX"
    for plane in iter_planes(image):
        assert plane.image.dtype == np.uint16
        assert np.array_equal(plane.image[0], STACK[plane.index])


KEYS: list[Any] = [
    (1, 2),
    (slice(None), 2),
    (slice(1, 3), slice(0, 2), slice(5, 9), slice(3, 4)),
    (-1, -1, slice(None), slice(None, None, 2)),
    (3, slice(2, 3)),
    (slice(2, 2),),
    2,
    ...,
    (..., 3),
    (1, ..., slice(4, 7)),
]


@pytest.mark.parametrize("key", KEYS)
def test_lazy_pages_are_indexed_as_numpy_does(tmp_path: Path, key: Any) -> None:
    image = read_image(saved(tmp_path / "a.tif", STACK, compression="zlib", **OME))
    assert isinstance(image.data, tiff.TiffPages)
    if key == (slice(2, 2),):
        assert image.data[key].size == 0
    else:
        assert np.array_equal(image.data[key], STACK[key])


def test_a_compressed_stack_is_decoded_page_by_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.tif", STACK, compression="zlib", **OME)
    decoded = []
    plain = tifffile.TiffPage.asarray

    def counting(page: tifffile.TiffPage, *args: Any, **kwargs: Any) -> np.ndarray:
        decoded.append(page.index)
        return plain(page, *args, **kwargs)

    monkeypatch.setattr(tifffile.TiffPage, "asarray", counting)
    monkeypatch.setattr(tifffile.TiffFrame, "asarray", counting)
    image = read_image(path)
    assert decoded == []
    read_plane(image, (2, 1))
    read_plane(image, (2, 1), region=(0, 0, 5, 5))
    assert len(decoded) == 1


def test_an_uncompressed_stack_is_mapped(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.tif", STACK, **OME))
    assert isinstance(image.data, np.memmap)
    assert np.array_equal(image.data, STACK)


def test_a_large_tiled_page_is_read_tile_by_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = RNG.integers(0, 255, (200, 300)).astype(np.uint8)
    path = saved(tmp_path / "slide.tif", page, tile=(64, 64), compression="zlib")
    monkeypatch.setattr(tiff, "CHUNKED_PIXELS", 1000)
    image = read_image(path)
    assert not isinstance(image.data, (np.ndarray, tiff.TiffPages))
    gc.collect()
    assert np.array_equal(read_plane(image, (), region=(60, 70, 130, 200))[0], page[60:130, 70:200])


@pytest.mark.parametrize(
    ("shape", "options", "axes"),
    [
        ((20, 30), {}, "YX"),
        ((20, 30, 3), {"photometric": "rgb"}, "YXS"),
        ((20, 30, 4), {"photometric": "rgb"}, "YXS"),
        ((20, 30, 3), {}, "YXS"),  # not marked as colour, but the last axis is 3
        ((3, 20, 30), {"photometric": "rgb", "planarconfig": "separate"}, "SYX"),
        ((5, 20, 30), {"planarconfig": "separate"}, "CYX"),
        ((20, 30, 2), {"planarconfig": "contig"}, "YXC"),
        ((4, 20, 30), {"metadata": {"axes": "ZYX"}}, "ZYX"),
        ((4, 2, 20, 30), {"imagej": True, "metadata": {"axes": "TCYX"}}, "TCYX"),
        (
            (4, 20, 30, 3),
            {"imagej": True, "photometric": "rgb", "metadata": {"axes": "TYXS"}},
            "TYXS",
        ),
        ((4, 2, 20, 30), {"ome": True, "metadata": {"axes": "QTYX"}}, "QTYX"),
        ((4, 20, 30), {"ome": True, "metadata": {"axes": "AYX"}}, "QYX"),
        ((1, 10_000), {}, "YX"),
        ((1, 1), {}, "YX"),
    ],
)
def test_axes_come_from_the_file(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], axes: str
) -> None:
    array = RNG.integers(0, 255, shape).astype(np.uint8)
    image = read_image(saved(tmp_path / "a.tif", array, **options))
    assert (image.axes, image.shape) == (axes, shape)
    assert np.array_equal(np.asarray(image.data[...]), array)


@pytest.mark.parametrize("shape", [(4, 20, 30), (4, 20, 30, 3), (2, 4, 20, 30)])
def test_pages_without_names_need_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.uint8)
    colour = "rgb" if shape[-1] == 3 else "minisblack"
    path = saved(tmp_path / "a.tif", array, photometric=colour)
    with pytest.raises(AxesError, match=r"does not say what its axes are.*--axes"):
        read_image(path)
    axes = {3: "TYX", 4: "ZYXS" if colour == "rgb" else "TZYX"}[len(shape)]
    assert read_image(path, axes=axes).axes == axes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {
                "ome": True,
                "metadata": {
                    "axes": "ZYX",
                    "PhysicalSizeX": 250,
                    "PhysicalSizeXUnit": "nm",
                    "PhysicalSizeY": 0.3,
                    "PhysicalSizeZ": 0.002,
                    "PhysicalSizeZUnit": "mm",
                },
            },
            {"X": 0.25, "Y": 0.3, "Z": 2},
        ),
        (
            {
                "ome": True,
                "metadata": {"axes": "ZYX", "PhysicalSizeX": 1, "PhysicalSizeXUnit": "pixel"},
            },
            {},
        ),
        (
            {
                "imagej": True,
                "resolution": (4, 2),
                "metadata": {"axes": "ZYX", "unit": "micron", "spacing": -1.5},
            },
            {"X": 0.25, "Y": 0.5, "Z": 1.5},
        ),
        ({"imagej": True, "resolution": (4, 2), "metadata": {"axes": "ZYX"}}, {}),
        ({"resolution": (72, 72), "resolutionunit": "inch", "metadata": {"axes": "ZYX"}}, {}),
    ],
)
def test_pixel_sizes_come_in_micrometres(
    tmp_path: Path, options: dict[str, Any], expected: dict[str, float]
) -> None:
    image = read_image(saved(tmp_path / "a.tif", np.zeros((3, 20, 30), np.uint8), **options))
    assert image.pixel_size_um == pytest.approx(expected)


def whole(tmp_path: Path, compression: str | None) -> bytes:
    path = saved(tmp_path / "whole.tif", STACK, compression=compression, **OME)
    return path.read_bytes()


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_an_error_and_never_a_shorter_stack(
    tmp_path: Path, compression: str | None, share: float
) -> None:
    data = whole(tmp_path, compression)
    path = tmp_path / "cut.tif"
    path.write_bytes(data[: max(9, int(len(data) * share))])
    with pytest.raises(InputError, match=r"cut\.tif"):
        list(iter_planes(read_image(path)))


def test_damaged_pixels_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    data = bytearray(whole(tmp_path, "zlib"))
    with tifffile.TiffFile(tmp_path / "whole.tif") as file:
        start = file.pages[5].dataoffsets[0]  # type: ignore[union-attr]
    data[start : start + 80] = bytes(80)
    path = tmp_path / "damaged.tif"
    path.write_bytes(data)
    image = read_image(path)
    assert np.array_equal(read_plane(image, (0, 0))[0], STACK[0, 0])
    with pytest.raises(InputError, match=r"damaged\.tif cannot be read as TIFF"):
        list(iter_planes(image))


@pytest.mark.parametrize(
    "data",
    [
        b"II*\0",
        b"II*\0\x08\0\0\0",
        b"II*\0" + bytes(range(256)) * 4,
        b"II*\0\x04\0\0\0" + bytes(50),
    ],
)
def test_a_file_that_only_begins_like_tiff_is_an_error(
    tmp_path: Path, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.tif"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"odd\.tif"):
        read_image(path)
    assert capfd.readouterr().err == ""  # tifffile's own complaints stay out of the terminal


def test_a_missing_codec_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.tif", STACK[0, 0], compression="zlib")

    def lacking(*_: Any, **__: Any) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    image = read_image(path)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lacking)
    with pytest.raises(InputError, match="pip install imagecodecs"):
        read_plane(image, ())


def test_files_are_closed_with_their_image(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.tif", STACK, compression="zlib", **OME))
    assert isinstance(image.data, tiff.TiffPages)
    handle = image.data._pages[0].parent.filehandle
    close = image.data.close
    del image
    gc.collect()
    assert not close.alive
    assert handle.closed
