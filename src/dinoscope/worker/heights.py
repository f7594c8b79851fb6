"""The job that measures heights in a z-stack by the sharpness of its slices."""

from __future__ import annotations

import numpy as np

from dinoscope.errors import AxesError
from dinoscope.types import Progress
from dinoscope.worker.jobs import JobContext, Steps
from dinoscope.worker.protocol import Event


def heightmap(context: JobContext) -> Steps:
    """A ``plane`` event with height, confidence, mask and sharp image for each stack."""
    from dinoscope.arrays.focus import FocusStack, height_map

    image = context.image
    if "Z" not in image.axes:
        raise AxesError(
            f"{image.name!r} has axes {image.axes} and so no stack of slices", expected="a Z axis"
        )
    step_um = context.payload.get("step_um") or image.pixel_size_um.get("Z")
    outer = image.plane_axes.replace("Z", "")
    shape = tuple(image.size(axis) for axis in outer)
    unit = ""

    def told(z: int) -> None:
        context.report(Progress("focus", z + 1, image.size("Z")))

    for index in np.ndindex(*shape):
        position = dict(zip(outer, index, strict=True))
        stack = FocusStack(image, position, context.payload.get("channels"), told)
        found = height_map(stack, step_um=step_um)
        unit = found.unit
        arrays = {
            name: np.asarray(getattr(found, name))
            for name in ("height", "confidence", "all_in_focus", "mask")
        }
        yield Event("plane", {"index": tuple(map(int, index)), "arrays": arrays, "unit": unit})
    return {"unit": unit, "step_um": step_um}
