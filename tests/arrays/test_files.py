"""Opening image files: formats, axes rules, names, and files that are none."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from dinoscope.arrays.axes import read_plane
from dinoscope.arrays.files import image_stem, let_go, read_image
from dinoscope.errors import AxesError, InputError, UsageError

GREY = np.random.default_rng(0).integers(0, 255, (12, 17)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
@pytest.mark.parametrize(("samples", "axes"), [(0, "YX"), (3, "YXS")])
def test_pictures_are_grey_or_colour(tmp_path: Path, suffix: str, samples: int, axes: str) -> None:
    array = np.stack([GREY] * samples, axis=-1) if samples else GREY
    imageio.imwrite(tmp_path / f"a{suffix}", array)
    image = read_image(tmp_path / f"a{suffix}")
    assert (image.axes, image.name) == (axes, "a")
    assert np.array_equal(np.asarray(image.data), array)


def test_jpeg_is_read(tmp_path: Path) -> None:
    imageio.imwrite(tmp_path / "a.jpg", np.stack([GREY] * 3, axis=-1))
    assert read_image(tmp_path / "a.jpg").axes == "YXS"


def test_sixteen_bits_and_one_bit_keep_their_depth(tmp_path: Path) -> None:
    imageio.imwrite(tmp_path / "deep.png", GREY.astype(np.uint16) * 257)
    Image.fromarray(GREY > 100).save(tmp_path / "mask.png")
    assert read_image(tmp_path / "deep.png").data.dtype == np.uint16
    assert np.array_equal(read_plane(read_image(tmp_path / "mask.png"), ())[0] > 0, GREY > 100)


@pytest.mark.parametrize(("samples", "channels"), [(2, 1), (4, 3)])
def test_alpha_is_no_channel(tmp_path: Path, samples: int, channels: int) -> None:
    imageio.imwrite(tmp_path / "a.png", np.stack([GREY] * samples, axis=-1))
    assert len(read_plane(read_image(tmp_path / "a.png"), ())) == channels


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((5, 6), "YX"), ((5, 6, 3), "YXS"), ((5, 6, 4), "YXS"), ((1, 5, 6), "YX"), ((1, 1, 9), "YX")],
)
def test_arrays_are_mapped_and_get_axes_by_the_rule(
    tmp_path: Path, shape: tuple[int, ...], axes: str
) -> None:
    array = np.random.default_rng(1).random(shape)
    np.save(tmp_path / "a.npy", array)
    image = read_image(tmp_path / "a.npy")
    assert image.axes == axes
    assert np.array_equal(np.asarray(image.data[:]), array.reshape(image.shape))


@pytest.mark.parametrize("shape", [(7, 5, 6), (3, 5, 6), (2, 5, 6, 3), (9,), ()])
def test_other_shapes_ask_for_axes_which_is_a_usage_error(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(AxesError, match=r"a\.npy has shape .*--axes") as caught:
        read_image(tmp_path / "a.npy")
    assert isinstance(caught.value, UsageError)


def test_given_axes_overrule_the_rule(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((7, 6, 3)))
    assert read_image(tmp_path / "a.npy").axes == "YXS"
    assert read_image(tmp_path / "a.npy", axes="zyx").axes == "ZYX"


@pytest.mark.parametrize("axes", ["ZYX", "TZCYX", "YXS"])
def test_a_single_plane_among_stacks_needs_no_axes_of_its_own(tmp_path: Path, axes: str) -> None:
    np.save(tmp_path / "a.npy", GREY)
    assert read_image(tmp_path / "a.npy", axes=axes).axes == "YX"


@pytest.mark.parametrize("axes", ["TZYX", "ZZX", "ABX", "ZTC"])
def test_axes_that_do_not_fit_are_refused_by_name(tmp_path: Path, axes: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((7, 6, 3)))
    with pytest.raises(AxesError, match=r"a\.npy: axes"):
        read_image(tmp_path / "a.npy", axes=axes)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("empty.tif", b"", r"empty\.tif is empty"),
        ("text.tif", b"hello", "not what its name says"),
        ("notes.docx", b"hello", "unknown format"),
        ("cut.png", b"\x89PNG\r\n\x1a\n" + bytes(30), r"cut\.png cannot be read"),
        ("cut.jpg", b"\xff\xd8\xff\xe0" + bytes(30), r"cut\.jpg cannot be read"),
        ("cut.npy", b"\x93NUMPY\x01\x00", r"cut\.npy cannot be read"),
    ],
)
def test_what_is_no_image_is_an_error_that_names_the_file(
    tmp_path: Path, name: str, data: bytes, match: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=match):
        read_image(tmp_path / name)


def test_missing_files_and_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.tif does not exist"):
        read_image(tmp_path / "gone.tif")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be opened"):
        read_image(tmp_path / "file" / "a.tif")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 3)])
def test_an_image_without_pixels_is_an_error(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(InputError, match=r"a\.npy' has no pixels"):
        read_image(tmp_path / "a.npy")


def test_arrays_that_hold_no_numbers_are_errors(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "waves.npy", np.zeros((4, 4), complex))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("text", "waves"):
        with pytest.raises(InputError, match=rf"{name}\.npy' has the data type"):
            read_image(tmp_path / f"{name}.npy")
    with pytest.raises(InputError, match=r"objects\.npy cannot be read"):
        read_image(tmp_path / "objects.npy")  # and above all is not unpickled


def test_a_truncated_array_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((50, 50)))
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:500])
    with pytest.raises(InputError, match=r"b\.npy cannot be read"):
        read_image(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.tif", "a"),
        ("a.ome.tif", "a"),
        ("x/a.b.png", "a.b"),
        ("a.ome.zarr", "a"),
        (".tif", ".tif"),
    ],
)
def test_the_stem_of_an_image(name: str, stem: str) -> None:
    assert image_stem(name) == stem


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_what_a_mapped_file_holds_and_what_was_changed_outlive_letting_go(
    mode: str, tmp_path: Path
) -> None:
    path = tmp_path / "stack.npy"
    np.save(path, np.arange(200_000, dtype=np.uint16))
    mapped = np.load(path, mmap_mode=mode)  # type: ignore[call-overload]
    if mode != "r":
        mapped[7] = 60_000
    let_go(mapped)
    assert int(mapped[7]) == (7 if mode == "r" else 60_000)
    assert int(mapped[-1]) == 199_999 % 65_536
    let_go(np.zeros(3))
