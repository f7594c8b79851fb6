"""Read images of any common format lazily, and write results (from ``output``)."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays import tiff
from dinoscope.arrays.axes import require_pixels, require_real
from dinoscope.arrays.ome_zarr import is_zarr, open_zarr
from dinoscope.arrays.output import PlaneWriter, write_image
from dinoscope.arrays.tables import write_table
from dinoscope.errors import AxesError, DinoscopeError, InputError
from dinoscope.types import ArrayLike, ImageInput

__all__ = ["PlaneWriter", "image_stem", "let_go", "read_image", "write_image", "write_table"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
#: What `read_image` opens, for messages and for listing folders.
SUFFIXES = (".tif", ".tiff", *PICTURES, ".npy", ".zarr")
_NPY_MAGIC = b"\x93NUMPY"
_PICTURE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM")


def read_image(path: str | Path, axes: str | None = None) -> ImageInput:
    """Open an image file; TIFF, NPY and Zarr are read plane by plane, when they are asked for.

    Axes come from `axes`, else from the file (OME, ImageJ, RGB tags); else two dimensions are
    ``YX`` and a last axis of 3 or 4 is RGB. Nothing else is guessed.

    Parameters
    ----------
    path : str or Path
        TIFF (OME, ImageJ, plain, and the many formats built on it), PNG, JPEG, BMP, NPY, or the
        folder of a Zarr array or OME-Zarr image. The first image of a file with several.
    axes : str, optional
        One letter for each dimension, from ``"TZCYXSQ"``; overrules the file.

    Returns
    -------
    ImageInput
        With the pixel size in µm where OME, ImageJ or OME-Zarr metadata tell it.

    Raises
    ------
    InputError
        The file is missing, empty, truncated, corrupt or of an unknown format.
    AxesError
        The axes cannot be told, or `axes` do not fit.
    """
    path = Path(path)
    data, found, sizes = _open(path)
    try:
        require_real(np.dtype(data.dtype), str(path))
    except TypeError as error:
        raise InputError(f"{path} has the data type {data.dtype!r}") from error
    if axes is None and found is None:
        data = _squeezed(data)
    letters = axes.upper() if axes else found or _guess(path, data.shape)
    if len(data.shape) == 2 and {"Y", "X"} <= set(letters):
        letters = "".join(a for a in letters if a in "YX")  # a stack of one plane, saved as a plane
    try:
        image = ImageInput(data, letters, sizes, name=image_stem(path))
    except AxesError as error:
        raise AxesError(
            f"{path}: {error.what}", expected=error.expected, hint=_axes_hint(data.shape)
        ) from error
    if 0 in image.shape:
        require_pixels(ImageInput(data, letters, sizes, name=str(path)))
    return image


def image_stem(path: str | Path) -> str:
    """The name of an image without its suffixes: ``a`` of ``a.ome.tif``, ``a.b`` of ``a.b.png``."""
    path = Path(path)
    return path.stem.removesuffix(".ome").removesuffix(".OME") or path.name


def _open(path: Path) -> tuple[ArrayLike, str | None, dict[str, float]]:
    if is_zarr(path):
        return open_zarr(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder", expected="an image file or a Zarr image")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", hint="Is the path right?") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror or error})") from error
    if not head:
        raise InputError(f"{path} is empty (0 bytes)", hint="Copy it again.")
    if head.startswith(tiff.MAGIC):
        return tiff.open_tiff(path)
    if head.startswith(_NPY_MAGIC):
        return _open_npy(path), None, {}
    if head.startswith(_PICTURE_MAGIC):
        return _open_picture(path)
    if path.suffix.lower() in SUFFIXES:
        raise InputError(
            f"{path} is not what its name says: it does not begin like a {path.suffix} file",
            hint="The file may be corrupt; does another program open it?",
        )
    raise InputError(
        f"{path} has an unknown format",
        expected="one of " + ", ".join(SUFFIXES),
        hint="Convert it to OME-TIFF, or open it in napari and use the panels there.",
    )


def _open_npy(path: Path) -> ArrayLike:
    try:
        array: ArrayLike = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read as NPY ({error})", hint="The file may be corrupt."
        ) from error
    return array


def _open_picture(path: Path) -> tuple[ArrayLike, str | None, dict[str, float]]:
    import imageio.v3 as imageio

    try:
        picture: np.ndarray = np.asarray(imageio.imread(path))
    except DinoscopeError:
        raise
    except Exception as error:  # Pillow raises nearly every kind on corrupt bytes
        raise InputError(
            f"{path} cannot be read ({error})",
            hint="The file may be corrupt; does another program open it?",
        ) from error
    return picture, "YXS" if picture.ndim == 3 else None, {}


def _squeezed(data: ArrayLike) -> ArrayLike:
    """Without leading axes of length 1, which carry no information and cost the user a question."""
    extra = 0
    while len(data.shape) - extra > 2 and data.shape[extra] == 1:
        extra += 1
    return _Squeezed(data, extra) if extra else data


class _Squeezed:
    """An array without its first `extra` axes, which have length 1; still lazy."""

    def __init__(self, data: ArrayLike, extra: int) -> None:
        self._data = data
        self._first = (0,) * extra
        self.shape = tuple(data.shape[extra:])
        self.dtype = data.dtype

    def __getitem__(self, key: Any, /) -> Any:
        return self._data[self._first + (key if isinstance(key, tuple) else (key,))]


def _guess(path: Path, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3 and shape[-1] in (3, 4):
        return "YXS"
    raise AxesError(
        f"{path} has shape {tuple(shape)} and does not say what its axes are",
        expected="the axes, one letter for each dimension",
        hint=_axes_hint(shape),
    )


def _axes_hint(shape: tuple[int, ...]) -> str:
    colour = {3: "YXS", 4: "ZYXS", 5: "TZYXS"}
    plain = {3: "ZYX (or TYX, CYX)", 4: "ZCYX (or TCYX)", 5: "TZCYX"}
    known = colour if shape and shape[-1] in (3, 4) else plain
    return f"Say them in the order of the shape, for example --axes {known.get(len(shape), 'YX')}"


def let_go(pixels: Any) -> None:
    """Give back the memory that a file mapped to be read takes; it is read again when looked at."""
    mapped = getattr(pixels, "_mmap", None)
    if isinstance(pixels, np.memmap) and pixels.mode == "r" and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]
