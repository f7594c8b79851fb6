"""Unfold an image of any axes into planes ``(C, Y, X)``, reading one plane at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dinoscope.errors import DinoscopeError, InputError
from dinoscope.types import ImageInput, Plane

#: An index along ``image.plane_axes``; ``()`` for an image that is a single plane.
Index = tuple[int, ...]
#: ``(y0, x0, y1, x1)`` in pixels, the end excluded.
Region = tuple[int, int, int, int]


def iter_planes(
    image: ImageInput,
    *,
    channels: Sequence[int] | None = None,
    plane: Index | None = None,
    region: Region | None = None,
) -> Iterator[Plane]:
    """Yield the planes of `image` in the order of its plane axes.

    Parameters
    ----------
    image : ImageInput
        Read lazily: one plane is in memory at a time.
    channels : Sequence[int], optional
        Channels to keep, by number and in this order; all of them when not given.
    plane : tuple of int, optional
        Only this plane, an index along ``image.plane_axes``.
    region : tuple of int, optional
        Only these pixels, ``(y0, x0, y1, x1)``.

    Yields
    ------
    Plane
        ``Plane.image`` is ``(C, Y, X)`` in the image's own dtype.

    Raises
    ------
    InputError
        The image has no pixels, or `plane`, `region` or `channels` lie outside of it.

    Examples
    --------
    >>> stack = ImageInput(np.zeros((4, 8, 9), np.uint8), "ZYX")
    >>> [(p.index, p.image.shape) for p in iter_planes(stack, plane=(2,))]
    [((2,), (1, 8, 9))]
    """
    require_pixels(image)
    indices = plane_indices(image) if plane is None else iter([tuple(plane)])
    for index in indices:
        yield Plane(index, read_plane(image, index, channels=channels, region=region))


def read_plane(
    image: ImageInput,
    index: Index,
    *,
    channels: Sequence[int] | None = None,
    region: Region | None = None,
) -> np.ndarray:
    """Read one plane as ``(C, Y, X)`` in the image's own dtype.

    RGB samples count as channels; an alpha sample is dropped. The data is asked for with integers
    and slices only, so that every lazy array (dask, zarr, the worker's proxy) can answer.

    Raises
    ------
    InputError
        The image has no pixels, or `index`, `region` or `channels` lie outside of it.
    """
    require_pixels(image)
    index = _check_index(image, index)
    y0, x0, y1, x1 = _check_region(image, region)
    chosen = chosen_channels(image, channels)
    key: dict[str, int | slice] = dict(zip(image.plane_axes, index, strict=True))
    key |= {"Y": slice(y0, y1), "X": slice(x0, x1)}
    channel_axis = _channel_axis(image)
    if channel_axis is None:
        return _read(image, key)
    first, count = chosen[0], len(chosen)
    if chosen == tuple(range(first, first + count)):
        return _read(image, key | {channel_axis: slice(first, first + count)})
    if channel_axis == "S":
        # Samples lie side by side in the file: reading all of them costs one read, not three.
        return _read(image, key | {"S": slice(0, channel_count(image))})[list(chosen)]
    return np.concatenate([_read(image, key | {channel_axis: slice(c, c + 1)}) for c in chosen])


def plane_count(image: ImageInput) -> int:
    """Number of planes: the product of the lengths along ``image.plane_axes``."""
    return math.prod(image.plane_shape)


def plane_indices(image: ImageInput) -> Iterator[Index]:
    """All plane indices in order, the last plane axis fastest."""
    return iter(np.ndindex(image.plane_shape))


def sample_indices(image: ImageInput, at_most: int = 16) -> list[Index]:
    """At most `at_most` plane indices, evenly spaced from the first plane to the last.

    Examples
    --------
    >>> sample_indices(ImageInput(np.zeros((9, 4, 4)), "TYX"), at_most=3)
    [(0,), (4,), (8,)]
    """
    total = plane_count(image)
    flat = np.linspace(0, total - 1, min(total, at_most)).round().astype(int)
    return [
        tuple(int(i) for i in np.unravel_index(n, image.plane_shape)) if image.plane_shape else ()
        for n in flat
    ]


def channel_count(image: ImageInput) -> int:
    """Number of channels of a plane: along ``C``, or the samples ``S`` without alpha; else 1."""
    samples = image.size("S")
    if "S" in image.axes and samples in (2, 4):  # grey + alpha, RGB + alpha
        return samples - 1
    return samples if "S" in image.axes else image.size("C")


def chosen_channels(image: ImageInput, channels: Sequence[int] | None) -> tuple[int, ...]:
    """The numbers of the channels to read; all of them when `channels` is ``None``.

    Raises
    ------
    InputError
        None chosen, or a number the image does not have.
    """
    count = channel_count(image)
    if channels is None:
        return tuple(range(count))
    chosen = tuple(int(c) for c in channels)
    if not chosen or not all(0 <= c < count for c in chosen):
        raise InputError(
            f"channels {list(chosen)} of {image.name!r}, which has {count}",
            expected="one or more numbers from 0 " + (f"to {count - 1}" if count > 1 else "(only)"),
        )
    return chosen


def clip_region(image: ImageInput, region: Region) -> Region:
    """The part of `region` that lies on the image, for regions that come from a window's view.

    Raises
    ------
    InputError
        Nothing of it does.
    """
    y0, x0, y1, x1 = (int(v) for v in region)
    height, width = image.size("Y"), image.size("X")
    clipped = (max(0, y0), max(0, x0), min(height, y1), min(width, x1))
    return _check_region(image, clipped)


def require_pixels(image: ImageInput) -> None:
    """Raise an InputError where the image is empty (some axis has length 0)."""
    if 0 in image.shape:
        raise InputError(
            f"{image.name!r} has no pixels: its shape is {image.shape} ({image.axes})",
            expected="at least one pixel along every axis",
        )


def require_real(dtype: np.dtype[Any], name: str) -> None:
    """Raise an InputError where `dtype` is not bool, integer or floating point."""
    if dtype.kind not in "biuf":
        raise InputError(
            f"{name!r} has the data type {dtype}",
            expected="bool, integers or floating-point numbers",
            hint="Take the magnitude first." if dtype.kind == "c" else "",
        )


def _channel_axis(image: ImageInput) -> str | None:
    return next((a for a in "CS" if a in image.axes), None)


def _read(image: ImageInput, key: dict[str, int | slice]) -> np.ndarray:
    """Index the data and bring what is left into the order C, Y, X."""
    try:
        values = np.asarray(image.data[tuple(key[a] for a in image.axes)])
    except (DinoscopeError, MemoryError):
        raise
    except Exception as error:  # a lazy array fails in its own way: network, missing chunk, ...
        raise InputError(
            f"{image.name!r} could not be read ({str(error) or type(error).__name__})",
            hint="The image may be corrupt, or have been changed or closed while it was read.",
        ) from error
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    left = [a for a in image.axes if isinstance(key[a], slice)]
    if values.ndim != len(left):
        raise InputError(
            f"{image.name!r} gave an array of shape {values.shape} for one plane",
            expected=f"{len(left)} dimensions",
            hint="The image may have been changed while it was read.",
        )
    order = [left.index(a) for a in "CSYX" if a in left]
    values = values.transpose(order)
    return values if values.ndim == 3 else values[np.newaxis]


def _check_index(image: ImageInput, index: Index) -> Index:
    index = tuple(int(i) for i in index)
    shape = image.plane_shape
    if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise InputError(
            f"plane {index} of {image.name!r}, whose planes are {image.plane_axes!r} {shape}",
            expected=f"{len(shape)} numbers, each from 0 to the length of its axis",
        )
    return index


def _check_region(image: ImageInput, region: Region | None) -> Region:
    height, width = image.size("Y"), image.size("X")
    if region is None:
        return (0, 0, height, width)
    y0, x0, y1, x1 = (int(v) for v in region)
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise InputError(
            f"region {(y0, x0, y1, x1)} of {image.name!r}, which is {height} x {width} pixels",
            expected="y0, x0, y1, x1 inside the image and not empty",
        )
    return (y0, x0, y1, x1)
