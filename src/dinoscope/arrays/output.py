"""Write results whole or not at all: OME-TIFF plane by plane."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.errors import InputError, OutputError

if TYPE_CHECKING:
    import tifffile

#: zlib's level by kind of number: labels shrink a lot further with effort, floats do not.
DEFLATE_LEVEL = {"f": 1}
DEFLATE_LEVEL_OTHERS = 4
#: Classic TIFF ends at 4 GiB; some room is left for tags.
CLASSIC_BYTES = 2**32 - 2**25
#: Types OME-TIFF does not have, and what holds the same values.
_STORED = {"bool": "uint8", "float16": "float32"}
_HINTS = {
    errno.ENOSPC: "The disk is full; free some space or choose another folder.",
    errno.EDQUOT: "Your quota is used up; free some space or choose another folder.",
    errno.EFBIG: "The file would be larger than this disk or user may hold.",
    errno.EACCES: "Choose a folder in which you may write.",
    errno.EPERM: "Choose a folder in which you may write.",
    errno.EROFS: "Choose a folder in which you may write.",
    errno.ENOTDIR: "A part of the path is a file, not a folder.",
    errno.EEXIST: "A part of the path is a file, not a folder.",
    errno.EISDIR: "There is a folder of this name.",
}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    The folder is made if need be. On an error the temporary file is removed, and what was at `path`
    before is untouched.

    Raises
    ------
    OutputError
        Something could not be written: every OSError raised in the block.
    """
    path = Path(path)
    part = _part_beside(path)
    try:
        yield part
        os.replace(part, path)
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        _discard(part)


class PlaneWriter:
    """Write an OME-TIFF plane by plane; use it as a context manager.

    The file appears under its name only when all planes are written; after an error, or when the
    block is left early, nothing of it stays behind.

    Parameters
    ----------
    path : str or Path
        The file; its folder is made if need be.
    shape : tuple of int
        Lengths of `axes`.
    axes : str
        Ends in ``YX``, or ``YXS`` for colour; ``"ZYX"``, ``"TZYX"``, ``"TCYX"`` …
    dtype : dtype
        Of the planes. bool is stored as uint8, float16 as float32.
    pixel_size_um : Mapping[str, float]
        Micrometres along ``"Z"``, ``"Y"``, ``"X"``, as far as they are known.
    rgb : bool
        Planes are ``(Y, X, 3)``; `axes` and `shape` may leave the samples out.

    Raises
    ------
    InputError
        OME-TIFF cannot hold such an image.
    OutputError
        The disk is full, the folder must not be written to, or planes are missing at the end.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with PlaneWriter(f"{folder}/a.tif", (2, 4, 5), "ZYX", np.uint8, {"Z": 0.5}) as writer:
    ...         for _ in range(2):
    ...             writer.write(np.zeros((4, 5), np.uint8))
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, ...],
        axes: str,
        dtype: Any,
        pixel_size_um: Mapping[str, float] | None = None,
        rgb: bool = False,
    ) -> None:
        if rgb and not axes.endswith("S"):
            axes += "S"
            shape = (*shape, 3) if len(shape) < len(axes) else shape
        self.path = Path(path)
        self._shape = tuple(int(n) for n in shape)
        self._axes = axes
        self._dtype = np.dtype(_STORED.get(np.dtype(dtype).name, dtype))
        self._colour = axes.endswith("S")
        if len(self._shape) != len(axes) or not axes.endswith(("YX", "YXS")) or 0 in self._shape:
            raise InputError(
                f"result has shape {self._shape} and axes {axes!r}",
                expected="as many letters as dimensions, ending in YX or YXS, and some pixels",
            )
        split = len(axes) - (3 if self._colour else 2)
        self._plane_shape = self._shape[split:]
        self._planes = math.prod(self._shape[:split])
        self._description = self._ome_xml(pixel_size_um or {})
        self._written = 0
        self._part = self.path
        self._file: tifffile.TiffWriter | None = None

    def __enter__(self) -> PlaneWriter:
        import tifffile

        big = math.prod(self._shape) * self._dtype.itemsize > CLASSIC_BYTES
        self._part = _part_beside(self.path)
        try:
            self._file = tifffile.TiffWriter(self._part, bigtiff=big, ome=False)
        except OSError as error:
            _discard(self._part)
            raise output_error(self.path, error) from error
        return self

    def write(self, plane: np.ndarray) -> None:
        """Write the next plane, ``(Y, X)`` or ``(Y, X, S)``, in the order of the axes.

        Raises
        ------
        InputError
            The plane's shape is not the announced one, or there are too many planes.
        OutputError
            The disk is full or has gone.
        """
        if self._file is None:
            raise InputError(f"{self.path} is not open for writing")
        if plane.shape != self._plane_shape or self._written >= self._planes:
            raise InputError(
                f"plane {self._written + 1} of {self._planes} has shape {plane.shape}",
                expected=f"{self._plane_shape}",
            )
        options: dict[str, Any] = {}
        if self._colour:
            samples = self._plane_shape[-1]
            options = {"planarconfig": "contig", "extrasamples": ["unassalpha"] * (samples - 3)}
        try:
            self._file.write(
                np.ascontiguousarray(plane, dtype=self._dtype),
                photometric="rgb" if self._colour else "minisblack",
                compression="zlib",
                compressionargs={
                    "level": DEFLATE_LEVEL.get(self._dtype.kind, DEFLATE_LEVEL_OTHERS)
                },
                description=self._description if self._written == 0 else None,
                metadata=None,
                software="dinoscope",
                **options,
            )
        except OSError as error:
            raise output_error(self.path, error) from error
        self._written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        file, self._file = self._file, None
        complete = kind is None and self._written == self._planes
        try:
            if file is not None:
                file.close()
            if complete:
                os.replace(self._part, self.path)
        except OSError as failure:
            if kind is None:  # otherwise the first error says more
                raise output_error(self.path, failure) from failure
        finally:
            _discard(self._part)
        if kind is None and not complete:
            raise OutputError(
                f"{self.path}: only {self._written} of {self._planes} planes were given"
            )

    def _ome_xml(self, pixel_size_um: Mapping[str, float]) -> bytes:
        import tifffile

        height, width = self._plane_shape[:2]
        samples = self._plane_shape[2] if self._colour else 1
        sizes = {
            key: value
            for axis in "ZYX"
            if axis in pixel_size_um
            for key, value in (
                (f"PhysicalSize{axis}", float(pixel_size_um[axis])),
                (f"PhysicalSize{axis}Unit", "µm"),
            )
        }
        xml = tifffile.OmeXml(Creator="dinoscope")
        try:
            xml.addimage(
                self._dtype,
                self._shape,
                (self._planes, 1, 1, height, width, samples),
                axes=self._axes,
                Name=self.path.name.split(".")[0],
                **sizes,
            )
        except (tifffile.OmeXmlError, ValueError) as error:
            raise InputError(
                f"OME-TIFF cannot hold axes {self._axes!r} of type {self._dtype} ({error})"
            ) from error
        return xml.tostring(declaration=True).encode()


def write_image(
    path: str | Path,
    array: np.ndarray,
    axes: str,
    pixel_size_um: Mapping[str, float] | None = None,
) -> None:
    """Write an array as OME-TIFF; see :class:`PlaneWriter`.

    Axes other than ``Y``, ``X`` and ``S`` keep their order and come first. 64-bit integers are
    stored in 32 bits where their values fit.

    Raises
    ------
    InputError
        OME-TIFF cannot hold the array.
    OutputError
        The file could not be written.
    """
    if array.ndim != len(axes) or not {"Y", "X"} <= set(axes):
        raise InputError(
            f"array has shape {array.shape} and axes {axes!r}",
            expected="as many letters as dimensions, Y and X among them",
        )
    order = "".join(a for a in axes if a not in "YXS") + "YX" + ("S" if "S" in axes else "")
    array = _narrowed(array.transpose([axes.index(a) for a in order]))
    lead = len(order) - (3 if "S" in axes else 2)
    with PlaneWriter(path, array.shape, order, array.dtype, pixel_size_um) as writer:
        for index in np.ndindex(array.shape[:lead]):
            writer.write(array[index])


def _narrowed(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or array.size == 0:
        return array
    low, high = int(array.min()), int(array.max())
    for kind in (np.uint32, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    raise InputError(
        f"values from {low} to {high} do not fit into 32 bits", expected="smaller integers"
    )


def _part_beside(path: Path) -> Path:
    """A new name in the folder of `path`, which is made if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    return path.with_name(f".dinoscope-{secrets.token_hex(6)}.part")


def _discard(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()


def output_error(path: Path, error: OSError) -> OutputError:
    """What to tell the user about `error`, which came up while `path` was written."""
    return OutputError(
        f"{path} could not be written ({error.strerror or error})",
        hint=_HINTS.get(error.errno or 0, ""),
    )
