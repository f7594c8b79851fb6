"""Results are written whole or not at all, and read back equal."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from dinoscope.arrays.files import PlaneWriter, read_image, write_image
from dinoscope.arrays.output import replacing
from dinoscope.errors import InputError, OutputError

RNG = np.random.default_rng(0)
SIZES = {"Z": 0.5, "Y": 0.13, "X": 1 / 3}


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    "axes", ["YX", "ZYX", "TYX", "QYX", "TZYX", "ZTYX", "TZCYX", "YXS", "TYXS"]
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "f4", "f8"])
def test_arrays_axes_and_pixel_size_come_back_equal(tmp_path: Path, axes: str, dtype: str) -> None:
    lengths = {"T": 2, "Z": 3, "C": 2, "Q": 2, "Y": 20, "X": 30, "S": 3}
    array = (RNG.random([lengths[a] for a in axes]) * 250).astype(dtype)
    write_image(tmp_path / "a.tif", array, axes, SIZES)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == axes
    assert np.asarray(image.data[...]).dtype == array.dtype
    assert np.array_equal(np.asarray(image.data[...]), array)
    assert image.pixel_size_um == pytest.approx(SIZES)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (3, 5), (5, 3)])
def test_extreme_shapes_come_back_equal(tmp_path: Path, shape: tuple[int, int]) -> None:
    array = RNG.integers(0, 2**32, shape).astype(np.uint32)
    write_image(tmp_path / "a.tif", array, "YX")
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YX"
    assert np.array_equal(np.asarray(image.data[...]), array)
    assert image.pixel_size_um == {}


def test_other_programs_see_a_compressed_ome_tiff(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", np.zeros((3, 64, 64), np.uint32), "ZYX", SIZES)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_ome
        assert file.series[0].axes == "ZYX"
        assert file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE  # type: ignore[union-attr]
        assert 'PhysicalSizeXUnit="µm"' in (file.ome_metadata or "")


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (np.array([[True, False]]), "uint8"),
        (np.array([[1.5, 2]], np.float16), "float32"),
        (np.array([[1, 2**32 - 1]], np.int64), "uint32"),
        (np.array([[-1, 2**31 - 1]], np.int64), "int32"),
    ],
)
def test_types_that_ome_tiff_lacks_are_stored_in_ones_that_hold_them(
    tmp_path: Path, array: np.ndarray, stored: str
) -> None:
    write_image(tmp_path / "a.tif", array, "YX")
    image = read_image(tmp_path / "a.tif")
    assert image.data.dtype == stored
    assert np.array_equal(np.asarray(image.data[...]), array)


def test_ids_beyond_32_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="do not fit into 32 bits"):
        write_image(tmp_path / "a.tif", np.array([[0, 2**32]]), "YX")
    assert left_behind(tmp_path) == []


def test_rows_and_columns_may_stand_anywhere(tmp_path: Path) -> None:
    array = RNG.integers(0, 255, (20, 30, 4)).astype(np.uint8)
    write_image(tmp_path / "a.tif", array, "YXZ")
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "ZYX"
    assert np.array_equal(np.asarray(image.data[...]), array.transpose(2, 0, 1))


def test_colour_planes_are_announced_with_or_without_their_samples(tmp_path: Path) -> None:
    plane = RNG.random((20, 30, 3)).astype(np.float32)
    for name, shape, axes in (("a", (2, 20, 30), "ZYX"), ("b", (2, 20, 30, 3), "ZYXS")):
        with PlaneWriter(tmp_path / f"{name}.tif", shape, axes, "f4", {}, rgb=True) as writer:
            writer.write(plane)
            writer.write(plane / 2)
        image = read_image(tmp_path / f"{name}.tif")
        assert (image.axes, image.shape) == ("ZYXS", (2, 20, 30, 3))
        assert np.array_equal(np.asarray(image.data[1]), plane / 2)


def test_the_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.tif"
    with PlaneWriter(path, (2, 4, 4), "ZYX", "u1", {}) as writer:
        writer.write(np.zeros((4, 4), np.uint8))
        assert not path.exists()
        writer.write(np.ones((4, 4), np.uint8))
    assert left_behind(path.parent) == ["a.tif"]


def test_an_error_in_between_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("the user's")

    def stopped() -> None:
        with PlaneWriter(path, (2, 4, 4), "ZYX", "u1", {}) as writer:
            writer.write(np.zeros((4, 4), np.uint8))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        stopped()
    assert path.read_text() == "the user's"
    assert left_behind(tmp_path) == ["a.tif"]


def test_missing_planes_are_an_error_and_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="only 1 of 2 planes"),
        PlaneWriter(tmp_path / "a.tif", (2, 4, 4), "ZYX", "u1", {}) as writer,
    ):
        writer.write(np.zeros((4, 4), np.uint8))
    assert left_behind(tmp_path) == []


def test_planes_of_another_shape_or_too_many_are_refused(tmp_path: Path) -> None:
    with PlaneWriter(tmp_path / "a.tif", (4, 4), "YX", "u1", {}) as writer:
        with pytest.raises(InputError, match=r"shape \(4, 5\); expected \(4, 4\)"):
            writer.write(np.zeros((4, 5), np.uint8))
        writer.write(np.zeros((4, 4), np.uint8))
        with pytest.raises(InputError, match="plane 2 of 1"):
            writer.write(np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="not open"):
        writer.write(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("shape", "axes"), [((0, 4), "YX"), ((4, 4), "ZYX"), ((4, 4, 2), "YXZ"), ((2, 2, 4, 4), "WVYX")]
)
def test_what_ome_tiff_cannot_hold_is_refused(
    tmp_path: Path, shape: tuple[int, ...], axes: str
) -> None:
    with pytest.raises(InputError):
        PlaneWriter(tmp_path / "a.tif", shape, axes, "u1", {})


@pytest.mark.parametrize(("planes", "big"), [(3, False), (5_000, True)])
def test_large_results_become_big_tiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planes: int, big: bool
) -> None:
    asked: dict[str, Any] = {}
    plain = tifffile.TiffWriter

    def watching(file: Path, **options: Any) -> tifffile.TiffWriter:
        asked.update(options)
        return plain(file, **options)

    monkeypatch.setattr(tifffile, "TiffWriter", watching)
    with (
        pytest.raises(OutputError, match="planes were given"),
        PlaneWriter(tmp_path / "a.tif", (planes, 512, 512), "ZYX", "f4", {}),
    ):
        pass
    assert asked["bigtiff"] == big


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Lets files grow to so many bytes only: writing more fails as it does on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_while_writing_is_an_error_and_keeps_the_old_file(
    tmp_path: Path, small_disk: Callable[[int], None]
) -> None:
    path = tmp_path / "a.tif"
    path.write_text("the user's")
    noise = RNG.integers(0, 2**32, (64, 64)).astype(np.uint32)
    small_disk(100_000)
    with pytest.raises(OutputError, match=r"a\.tif could not be written") as caught:
        write_image(path, np.stack([noise] * 50), "ZYX")
    assert isinstance(caught.value, OSError)
    assert path.read_text() == "the user's"
    assert left_behind(tmp_path) == ["a.tif"]


def test_a_full_disk_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(OutputError, match=r"a\.tif could not be written .*The disk is full"):
        write_image(tmp_path / "a.tif", np.zeros((4, 4), np.uint8), "YX")
    assert left_behind(tmp_path) == []


def test_a_disk_that_is_full_only_at_the_end_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tifffile.TiffWriter.close

    def full(self: tifffile.TiffWriter) -> None:
        plain(self)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "close", full)
    with pytest.raises(OutputError, match="The disk is full"):
        write_image(tmp_path / "a.tif", np.zeros((4, 4), np.uint8), "YX")
    assert left_behind(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="A part of the path is a file"):
        write_image(tmp_path / "file" / "a.tif", np.zeros((4, 4), np.uint8), "YX")


def test_a_folder_of_the_same_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(OutputError, match=r"a\.tif could not be written"):
        write_image(tmp_path / "a.tif", np.zeros((4, 4), np.uint8), "YX")
    assert left_behind(tmp_path) == ["a.tif"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Choose a folder in which you may write"):
        write_image(folder / "a.tif", np.zeros((4, 4), np.uint8), "YX")


def test_an_unwritable_output_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tifffile, "TiffWriter", locked)
    with pytest.raises(OutputError, match="Choose a folder in which you may write"):
        write_image(tmp_path / "a.tif", np.zeros((4, 4), np.uint8), "YX")


def test_replacing_keeps_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "note.txt"
    with replacing(path) as part:
        part.write_text("one")

    def stopped() -> None:
        with replacing(path) as part:
            part.write_text("two")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        stopped()
    assert path.read_text() == "one"
    assert left_behind(path.parent) == ["note.txt"]
