"""Frozen values that cross module borders. Imports NumPy and the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dinoscope.errors import AxesError, InputError

#: Columns of equal length; the table of objects or of class scores.
Table = dict[str, np.ndarray]

#: Axis letters we understand. ``S`` are RGB(A) samples, ``Q`` any further axis of planes.
AXES = "TZCYXSQ"


@runtime_checkable
class ArrayLike(Protocol):
    """What an image must offer: NumPy, dask, zarr, a lazy TIFF and the worker's proxy all do."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class ImageInput:
    """An image as the user has it: lazy, uncopied, with named axes.

    Parameters
    ----------
    data : ArrayLike
        Any array with ``shape``, ``dtype`` and basic indexing; read plane by plane.
    axes : str
        One letter for each dimension of `data`, from ``"TZCYXSQ"``; ``Y`` and ``X`` are required.
        ``S`` (RGB or RGBA samples) excludes ``C`` only where both would be ambiguous: it counts as
        channels.
    pixel_size_um : Mapping[str, float]
        Micrometres per step along ``"Z"``, ``"Y"``, ``"X"``; a missing letter means unknown.
    name : str
        Shown to the user and used as the stem of results.

    Raises
    ------
    AxesError
        The letters do not fit the shape.
    """

    data: ArrayLike
    axes: str
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    name: str = "image"

    def __post_init__(self) -> None:
        ndim = len(self.data.shape)
        if len(self.axes) != ndim:
            raise AxesError(
                f"axes {self.axes!r} name {len(self.axes)} dimensions but {self.name!r} has shape "
                f"{tuple(self.data.shape)}",
                expected=f"{ndim} letters",
                hint="Give the axes in the order of the shape, for example ZCYX.",
            )
        if len(set(self.axes)) != ndim or not set(self.axes) <= set(AXES):
            raise AxesError(
                f"axes {self.axes!r} are not understood",
                expected=f"different letters out of {AXES}",
                hint="T time, Z depth, C channel, Y row, X column, S RGB samples, Q other.",
            )
        if not {"Y", "X"} <= set(self.axes):
            raise AxesError(f"axes {self.axes!r} lack Y or X", expected="both Y and X among them")
        if {"C", "S"} <= set(self.axes):
            raise AxesError(
                f"axes {self.axes!r} have both channels (C) and RGB samples (S)",
                expected="one of the two",
                hint="Split the channels first.",
            )
        for axis, size in self.pixel_size_um.items():
            if not np.isfinite(size) or size <= 0:
                raise InputError(
                    f"pixel size of {self.name!r} along {axis} is {size!r} µm",
                    expected="a positive number",
                )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.data.shape)

    def size(self, axis: str) -> int:
        """Length along `axis`, 1 where the image has no such axis."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def plane_axes(self) -> str:
        """The axes that are iterated over, in the image's own order (all but C, S, Y, X)."""
        return "".join(a for a in self.axes if a not in "CSYX")

    @property
    def plane_shape(self) -> tuple[int, ...]:
        """Lengths along `plane_axes`; ``()`` for a single plane."""
        return tuple(self.size(a) for a in self.plane_axes)


@dataclass(frozen=True)
class Plane:
    """One plane of an image: `image` is ``(C, Y, X)`` in the image's own dtype."""

    index: tuple[int, ...]
    image: np.ndarray


@dataclass(frozen=True)
class Progress:
    """How far a generator has come. `seconds_left` is ``None`` until it can be told."""

    step: str
    done: int
    total: int
    seconds_left: float | None = None
    message: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlaneOutput:
    """Finished results of one plane, ready to become layers or a page of a file.

    `arrays` by task: ``instance`` (Y, X) uint32, ids unique over the whole run, 0 background;
    ``semantic`` (Y, X) uint8; ``depth`` (Y, X) float32, larger = nearer the objective;
    ``pca`` (Y, X, 3) float32 in [0, 1].
    `maps` are what the live controls decode again without the network: ``instance`` (3, Y, X) uint8
    (foreground probability, centredness, boundary distance, each times 255);
    ``semantic`` is absent. `objects` and `classes` are tables (columns of equal length).
    """

    index: tuple[int, ...]
    arrays: Mapping[str, np.ndarray]
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    objects: Table | None = None
    classes: Table | None = None


@dataclass(frozen=True)
class Summary:
    """What a prediction run did: for the panel's last line, ``--json`` and the layers' metadata."""

    model: str
    model_hash: str
    device: str
    tasks: tuple[str, ...]
    planes: int
    diameter_px: float | None
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    depth_unit: str = "relative"
