"""Dark- and flat-field correction: remove the camera's offset and the lamp's vignette."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dinoscope.arrays.axes import Region, iter_planes, plane_count
from dinoscope.arrays.files import read_image
from dinoscope.errors import AxesError, InputError

#: Where the flat image has less than this share of its mean, its light says nothing: no gain there.
LEAST_LIGHT = 0.01


@dataclass(eq=False)
class Calibration:
    """A dark image, a flat image, or both.

    Parameters
    ----------
    dark : np.ndarray or None
        What the camera gives without light, ``(Y, X)`` or ``(C, Y, X)``.
    flat : np.ndarray or None
        An empty, evenly lit field, ``(Y, X)`` or ``(C, Y, X)``.
    saturation : float, optional
        The value at which the camera saturates; the largest value of the image's integer type when
        not given. Floating-point images have none.

    Raises
    ------
    InputError
        Neither is given, one has wrong dimensions, or the flat image has no light.
    """

    dark: np.ndarray | None = None
    flat: np.ndarray | None = None
    saturation: float | None = None

    def __post_init__(self) -> None:
        if self.dark is None and self.flat is None:
            raise InputError("neither a dark nor a flat image is given", expected="at least one")
        shapes = set()
        for name, frame in (("dark", self.dark), ("flat", self.flat)):
            if frame is None:
                continue
            if frame.ndim not in (2, 3) or frame.size == 0 or frame.dtype.kind not in "biuf":
                raise InputError(
                    f"{name} image has shape {frame.shape} and type {frame.dtype}",
                    expected="real numbers (Y, X) or (C, Y, X)",
                )
            shapes.add(frame.shape[-2:])
        if len(shapes) > 1 and self.dark is not None and self.flat is not None:
            raise InputError(
                f"dark image has shape {self.dark.shape} and flat image {self.flat.shape}",
                expected="the same rows and columns",
            )
        if not np.all(np.isfinite(self._gain)):
            raise InputError(
                "flat image is nowhere brighter than the dark image",
                expected="an evenly lit, empty field",
                hint="Are the two swapped?",
            )

    def apply(
        self,
        plane: np.ndarray,
        region: Region | None = None,
        *,
        channels: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Correct a plane: ``(I - D) / (F - D) * mean(F - D)``.

        Parameters
        ----------
        plane : np.ndarray
            ``(C, Y, X)`` as the camera gave it.
        region : tuple of int, optional
            ``(y0, x0, y1, x1)``: the part of the camera's frame that `plane` is; the whole frame
            when not given.
        channels : Sequence[int], optional
            Which channels of the frames belong to those of `plane`; all of them when not given.

        Returns
        -------
        np.ndarray
            ``(C, Y, X)`` float32. Saturated pixels never become darker than they were, and where
            the flat image has no light only the dark image is subtracted.

        Raises
        ------
        InputError
            The shapes do not fit.
        """
        if plane.ndim != 3:
            raise InputError(f"plane has shape {plane.shape}", expected="(C, Y, X)")
        offset = self._part(self._offset, "dark", plane, region, channels)
        result: np.ndarray = np.subtract(plane, offset, dtype=np.float32)
        if self.flat is not None:
            result *= self._part(self._gain, "flat", plane, region, channels)
        ceiling = self.saturation
        if ceiling is None and plane.dtype.kind in "iu":
            ceiling = float(np.iinfo(plane.dtype).max)
        if ceiling is not None:
            saturated = plane >= ceiling
            if saturated.any():
                np.maximum(result, plane, out=result, where=saturated, casting="same_kind")
        return result

    @cached_property
    def _offset(self) -> np.ndarray:
        """``(C or 1, Y, X)`` float32, 0 where the dark image is not a number."""
        if self.dark is None:
            return np.zeros((1, 1, 1), np.float32)
        dark = np.asarray(self.dark, np.float32)
        return np.where(np.isfinite(dark), dark, np.float32(0)).reshape(-1, *dark.shape[-2:])

    @cached_property
    def _gain(self) -> np.ndarray:
        """``(C or 1, Y, X)`` float32: mean(F - D) / (F - D), 1 where there is no light."""
        if self.flat is None:
            return np.ones((1, 1, 1), np.float32)
        flat = np.asarray(self.flat, np.float64)
        light = flat.reshape(-1, *flat.shape[-2:]) - self._offset
        known = np.isfinite(light)
        count = known.sum(axis=(1, 2), keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, light, 0).sum(axis=(1, 2), keepdims=True) / count
            gain = np.where(known & (light > LEAST_LIGHT * mean), mean / light, 1.0)
        # A channel without light has no gain at all: marked, and refused when it is made.
        return np.where(mean > 0, gain, np.nan).astype(np.float32)

    def _part(
        self,
        frame: np.ndarray,
        name: str,
        plane: np.ndarray,
        region: Region | None,
        channels: Sequence[int] | None,
    ) -> np.ndarray:
        """The channels and pixels of a frame that belong to `plane`."""
        if frame.shape == (1, 1, 1) and getattr(self, name) is None:
            return frame
        if len(frame) > 1:
            chosen = list(range(len(frame)) if channels is None else channels)
            if len(chosen) != len(plane) or max(chosen) >= len(frame):
                raise InputError(
                    f"{name} image has {len(frame)} channels and the image {len(plane)}",
                    expected="one channel, or as many as the image",
                )
            frame = frame[chosen]
        y0, x0, y1, x1 = region or (0, 0, *frame.shape[1:])
        frame = frame[:, y0:y1, x0:x1]
        if frame.shape[1:] != plane.shape[1:]:
            whole = getattr(self, name).shape[-2:]
            raise InputError(
                f"{name} image is {whole[0]} x {whole[1]} pixels and does not fit the image, whose "
                f"{'region' if region else 'plane'} is {plane.shape[1]} x {plane.shape[2]}",
                expected="the same rows and columns",
                hint="Take both with the same camera settings (size, binning).",
            )
        return frame


def read_calibration(
    dark: str | Path | None = None, flat: str | Path | None = None
) -> Calibration | None:
    """Read dark and flat images from files; ``None`` where neither is given.

    Several frames in one file (a stack or a time series) are averaged.

    Raises
    ------
    InputError
        A file cannot be read, or the images do not fit each other.
    """
    if dark is None and flat is None:
        return None
    return Calibration(
        dark=None if dark is None else _read_frame(dark),
        flat=None if flat is None else _read_frame(flat),
    )


def _read_frame(path: str | Path) -> np.ndarray:
    try:
        image = read_image(path)
    except AxesError:
        image = read_image(path, axes="QYX")  # pages without a name are repeated frames
    total: np.ndarray | None = None
    for plane in iter_planes(image):
        total = plane.image.astype(np.float64) if total is None else total + plane.image
    mean: np.ndarray = (np.zeros((1, 1, 1)) if total is None else total) / plane_count(image)
    return mean.astype(np.float32)
