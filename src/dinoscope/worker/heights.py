"""The job that measures heights in a z-stack by the sharpness of its slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dinoscope.errors import AxesError
from dinoscope.types import Progress
from dinoscope.worker.jobs import JobContext, Steps
from dinoscope.worker.protocol import Event


class Slices:
    """The slices of one z-stack as a lazy ``(Z, Y, X)`` array; channels are averaged.

    Parameters
    ----------
    context : JobContext
        Its image has a ``Z`` axis; between slices it is asked whether to go on.
    position : mapping
        Where along the other plane axes, by letter.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, context: JobContext, position: Mapping[str, int]) -> None:
        image = context.image
        self._context = context
        self._position = position
        self._channels = context.payload.get("channels") or None
        self.shape = (image.size("Z"), image.size("Y"), image.size("X"))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, z: int) -> np.ndarray:
        from dinoscope.arrays.axes import read_plane

        place = {**self._position, "Z": range(len(self))[z]}
        index = tuple(place[axis] for axis in self._context.image.plane_axes)
        plane = read_plane(self._context.image, index, channels=self._channels)
        self._context.report(Progress("focus", place["Z"] + 1, len(self)))
        return np.asarray(plane.mean(axis=0, dtype=np.float32))


def heightmap(context: JobContext) -> Steps:
    """A ``plane`` event with height, confidence, mask and sharp image for each stack."""
    from dinoscope.arrays.focus import height_map

    image = context.image
    if "Z" not in image.axes:
        raise AxesError(
            f"{image.name!r} has axes {image.axes} and so no stack of slices", expected="a Z axis"
        )
    step_um = context.payload.get("step_um") or image.pixel_size_um.get("Z")
    outer = image.plane_axes.replace("Z", "")
    shape = tuple(image.size(axis) for axis in outer)
    unit = ""
    for index in np.ndindex(*shape):
        stack: Any = Slices(context, dict(zip(outer, index, strict=True)))
        found = height_map(stack, step_um=step_um)
        unit = found.unit
        arrays = {
            name: np.asarray(getattr(found, name))
            for name in ("height", "confidence", "all_in_focus", "mask")
        }
        yield Event("plane", {"index": tuple(map(int, index)), "arrays": arrays, "unit": unit})
    return {"unit": unit, "step_um": step_um}
