"""At which scale a plane is looked at while it is annotated, and which part of it."""

from __future__ import annotations

from dinoscope.arrays.axes import Region
from dinoscope.errors import InputError

#: Planes are enlarged up to so many model pixels; finer tokens hardly help beside filters.
MODEL_PIXELS = 2_500_000
#: Model pixels of the small copy that the first labels of a plane come from, about one tile of
#: DINOv2's, and how much larger a plane has to be for that to be worth while.
ROUGH_PIXELS, ROUGH_WORTH = 262_144, 2.0


def affordable(zoom: float, shape: tuple[int, int]) -> float:
    """`zoom`, or what a plane can be enlarged by without a long wait for its tokens.

    Examples
    --------
    >>> affordable(2.0, (512, 512)), affordable(2.0, (4096, 4096)), affordable(0.5, (4096, 4096))
    (2.0, 1.0, 0.5)
    """
    most = max(1.0, float(MODEL_PIXELS / (shape[0] * shape[1])) ** 0.5)
    return float(min(zoom, most))


def rough_zoom(zoom: float, shape: tuple[int, int]) -> float:
    """`zoom`, or that of the small copy which first labels come from.

    Examples
    --------
    >>> rough_zoom(1.0, (512, 512)), rough_zoom(1.0, (1024, 1024)), rough_zoom(0.5, (4096, 4096))
    (1.0, 0.5, 0.125)
    """
    share = ROUGH_PIXELS / (zoom**2 * shape[0] * shape[1])
    return zoom if share * ROUGH_WORTH > 1 else zoom * float(share) ** 0.5


def clipped(region: Region, shape: tuple[int, int]) -> Region:
    """The part of `region` that lies on a plane.

    Raises
    ------
    InputError
        Nothing of it does.
    """
    y0, x0, y1, x1 = (int(v) for v in region)
    found = max(0, y0), max(0, x0), min(shape[0], y1), min(shape[1], x1)
    if found[0] >= found[2] or found[1] >= found[3]:
        raise InputError(
            f"region is {tuple(region)!r}", expected=f"pixels of a plane of {shape[0]} x {shape[1]}"
        )
    return found
