"""Read TIFF files page by page: axes and pixel size from OME, ImageJ and plain tags."""

from __future__ import annotations

import itertools
import logging
import math
import re
import threading
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.arrays.units import to_um
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.types import ArrayLike

if TYPE_CHECKING:
    import tifffile

#: The first bytes of classic and big TIFF files, little and big endian.
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Tiled pages of more pixels (slide scanners) are read tile by tile, through zarr.
CHUNKED_PIXELS = 2**26
#: What tifffile logs, and then goes on with fewer pages than the file should have.
_BROKEN = re.compile(
    "invalid page offset|invalid offset to page|failed to reshape"
    # ... or without its description, or without the places of its pixels.
    "|TiffTag (270|273|279|324|325) .*invalid value offset"
)


def open_tiff(path: Path) -> tuple[ArrayLike, str | None, dict[str, float]]:
    """Open the first image series of a TIFF file, without reading pixels.

    Returns
    -------
    data : ArrayLike
        Reads pages when they are asked for. Pages that lie in the file as they are get mapped.
    axes : str or None
        From the metadata, ``None`` where it does not tell all of them.
    pixel_size_um : dict
        From OME or ImageJ metadata; empty where unknown.

    Raises
    ------
    InputError
        The file is truncated, corrupt, or no TIFF.
    """
    import tifffile

    with _naming(path), _watched() as complaints:
        file = tifffile.TiffFile(path)
        try:
            if not file.series:
                raise InputError(
                    f"{path} holds no image", hint="The file may be truncated or corrupt."
                )
            series = file.series[0]
            data = _data(path, file, series)
            sizes = _pixel_size(file)
            axes = _axes(series)
        except BaseException:
            file.close()
            raise
        if any(_BROKEN.search(text) for text in complaints):
            if isinstance(data, TiffPages):
                data.close()
            raise _truncated(path)
    if not isinstance(data, TiffPages):
        file.close()
    return data, axes, sizes


class TiffPages:
    """The pages of a TIFF series as one array that is read page by page.

    Understands integers, slices and ``...``. The page read last is kept, because channels and
    regions of a page are often asked for one after another.
    """

    def __init__(
        self, path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries
    ) -> None:
        self.shape = tuple(int(n) for n in series.shape)
        self.dtype = np.dtype(series.dtype)
        self._path = path
        self._pages = series.pages
        self._lead = _leading_axes(self.shape, len(series.pages), series.keyframe.size)
        self._lock = threading.Lock()
        self._last: tuple[int, np.ndarray] | None = None
        # tifffile leaves closing to the caller, but a lazy array has no end of its own.
        self.close = weakref.finalize(self, file.close)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: Any, /) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        missing = (slice(None),) * (self.ndim - sum(k is not Ellipsis for k in keys))
        at = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
        keys = keys[:at] + missing + keys[at + 1 :]
        if not all(isinstance(k, (int, np.integer, slice)) for k in keys):
            raise TypeError(f"index is {key!r}; integers, slices and ... are understood")
        lead, rest = keys[: self._lead], keys[self._lead :]
        ranges = [
            range(n)[k] if isinstance(k, slice) else [range(n)[k]]
            for k, n in zip(lead, self.shape, strict=False)
        ]
        shape = tuple(len(r) for r, k in zip(ranges, lead, strict=True) if isinstance(k, slice))
        numbers = [
            int(np.ravel_multi_index(index, self.shape[: self._lead])) if index else 0
            for index in itertools.product(*ranges)
        ]
        parts = [np.array(self._page(n)[rest]) for n in numbers]
        if not shape and len(parts) == 1:
            return parts[0]
        stack = np.stack(parts) if parts else np.empty((0,), self.dtype)
        return stack.reshape(shape + stack.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[()], dtype=dtype)

    def _page(self, number: int) -> np.ndarray:
        shape = self.shape[self._lead :]
        with self._lock:
            if self._last is not None and self._last[0] == number:
                return self._last[1]
            page = self._pages[number]
            if page is None:  # a file of a multi-file series is missing; OME says: zeros
                return np.zeros(shape, self.dtype)
            with _naming(self._path), _watched():
                ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))
                if max(ends, default=0) > page.parent.filehandle.size:
                    raise _truncated(self._path)
                values = page.asarray().reshape(shape)
            self._last = (number, values)
            return values


def _data(path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ArrayLike:
    keyframe = series.keyframe
    if math.prod(series.shape) == 0 or not series.shape:
        raise InputError(f"{path} has no pixels: its shape is {tuple(series.shape)}")
    if series.dataoffset is not None and keyframe.is_memmappable:
        if series.dataoffset + series.nbytes > file.filehandle.size:
            raise _truncated(path)
        dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
        return np.memmap(path, dtype, mode="r", offset=series.dataoffset, shape=series.shape)
    if keyframe.is_tiled and keyframe.size > CHUNKED_PIXELS:
        import zarr

        array: Any = zarr.open(series.aszarr(level=0), mode="r")
        weakref.finalize(array, file.close)
        chunked: ArrayLike = array
        return chunked
    return TiffPages(path, file, series)


def _leading_axes(shape: tuple[int, ...], pages: int, page_size: int) -> int:
    """How many of the first axes count pages."""
    for lead in range(len(shape) + 1):
        if math.prod(shape[:lead]) == pages and math.prod(shape[lead:]) == page_size:
            return lead
    raise InputError(f"image of shape {shape} is spread unevenly over {pages} pages")


def _axes(series: tifffile.TiffPageSeries) -> str | None:
    """Axes in our letters, ``None`` where pages are just counted (``Q``, ``I``)."""
    axes = str(series.axes)
    if series.kind == "ome":
        # OME has more names for further axes than we tell apart.
        others = [a for a in axes if a not in "TZCYXS"]
        if len(others) == 1:
            axes = axes.replace(others[0], "Q")
    elif not set(axes) <= set("TZCYXS"):
        return None
    if "S" in axes and "C" not in axes and series.shape[axes.index("S")] not in (3, 4):
        axes = axes.replace("S", "C")  # five samples are channels, not a colour
    return axes


def _pixel_size(file: tifffile.TiffFile) -> dict[str, float]:
    if file.is_ome and file.ome_metadata:
        found = _ome_pixel_size(file.ome_metadata)
    elif file.is_imagej and file.imagej_metadata is not None:
        found = _imagej_pixel_size(file)
    else:
        # Resolution in plain TIFF is for printers (72 dpi), not a measured pixel size.
        found = {}
    return {axis: size for axis, size in found.items() if size is not None}


def _ome_pixel_size(xml: str) -> dict[str, float | None]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}
    pixels = next((e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return {}
    return {
        axis: to_um(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "ZYX"
    }


def _imagej_pixel_size(file: tifffile.TiffFile) -> dict[str, float | None]:
    metadata = file.imagej_metadata or {}
    unit = str(metadata.get("unit", ""))
    sizes: dict[str, float | None] = {}
    for axis, tag in (("Y", "YResolution"), ("X", "XResolution")):
        value = file.pages[0].tags.valueof(tag)  # type: ignore[union-attr]
        if isinstance(value, tuple) and len(value) == 2 and value[0]:
            sizes[axis] = to_um(value[1] / value[0], unit)
    spacing = metadata.get("spacing")
    if isinstance(spacing, (int, float)):
        sizes["Z"] = to_um(abs(spacing), unit)  # negative where the stage moved downwards
    return sizes


def _truncated(path: Path) -> InputError:
    return InputError(
        f"{path} is truncated or corrupt: some of its pages lie beyond the end of the file",
        hint="Copy it again from where it came from.",
    )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a broken file makes tifffile raise into one error that names the file."""
    try:
        yield
    except DinoscopeError:
        raise
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory, or is corrupt") from error
    except Exception as error:  # the parsers raise nearly every kind on corrupt bytes
        text = str(error) or type(error).__name__
        codec = "imagecodecs" in text
        raise InputError(
            f"{path} cannot be read as TIFF ({text})",
            hint="pip install imagecodecs adds this compression."
            if codec
            else "The file may be corrupt; does another program open it?",
        ) from error


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Collect what tifffile logs here, so that it neither is lost nor clutters the terminal."""
    complaints: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                complaints.append(record.getMessage())

    logger = logging.getLogger("tifffile")
    handler = Collector(level=logging.WARNING)
    logger.addHandler(handler)
    try:
        yield complaints
    finally:
        logger.removeHandler(handler)
