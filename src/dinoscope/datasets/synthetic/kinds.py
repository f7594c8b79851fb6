"""The kinds of images by name, and the one function that makes them."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from dinoscope.datasets.synthetic.bright_field import BRIGHTFIELD_STYLES, brightfield
from dinoscope.datasets.synthetic.electron import membranes
from dinoscope.datasets.synthetic.fluorescence import filaments, nuclei, touching
from dinoscope.datasets.synthetic.heights import RELIEFS
from dinoscope.datasets.synthetic.image import SyntheticImage
from dinoscope.datasets.synthetic.phase_contrast import CELL_FORMS, phase
from dinoscope.datasets.synthetic.relief import surface, zstack
from dinoscope.datasets.synthetic.rods import ARRANGEMENTS, LOOKS, rods
from dinoscope.datasets.synthetic.tissue import STAINS, tissue
from dinoscope.errors import InputError

_MAKERS: dict[str, Callable[..., SyntheticImage]] = {
    "nuclei": nuclei,
    "touching": touching,
    "rods": rods,
    "phase": phase,
    "brightfield": brightfield,
    "tissue": tissue,
    "filaments": filaments,
    "membranes": membranes,
    "surface": surface,
    "zstack": zstack,
}

KINDS = tuple(_MAKERS)

#: Diameters are drawn from these ranges (pixels, log-uniform) where none is given.
DIAMETERS_PX: dict[str, tuple[float, float]] = {
    "nuclei": (8, 80),
    "touching": (8, 70),
    "rods": (10, 50),
    "phase": (14, 90),
    "brightfield": (12, 70),
    "tissue": (9, 50),
    "filaments": (15, 60),
    "membranes": (18, 80),
    "surface": (16, 80),
    "zstack": (14, 50),
}

#: The values of those parameters that are words.
CHOICES: dict[str, tuple[str, ...]] = {
    "polarity": ("bright", "dark"),
    "arrangement": ARRANGEMENTS,
    "look": LOOKS,
    "form": CELL_FORMS,
    "style": BRIGHTFIELD_STYLES,
    "stain": STAINS,
    "relief": RELIEFS,
}


def parameters(kind: str) -> tuple[str, ...]:
    """Names of the parameters that `make` takes for this kind, besides those it always takes."""
    return tuple(inspect.signature(_maker(kind)).parameters)[3:]


def make(
    kind: str,
    shape: tuple[int, int] = (256, 256),
    seed: int = 0,
    diameter: float | None = None,
    **params: Any,
) -> SyntheticImage:
    """Make one image with its exact truth; the same arguments give the same image.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    shape : (Y, X)
        Pixels; both at least 32.
    seed : int
        Seed of everything random, 0 or more.
    diameter : float, optional
        Typical object diameter in pixels (of the circle of equal area); random when not given.
    **params
        Parameters of the kind (see :func:`parameters`); the others are random.

    Returns
    -------
    SyntheticImage

    Raises
    ------
    InputError
        An unknown kind or parameter, or a value that cannot be used.

    Examples
    --------
    >>> made = make("rods", (64, 96), seed=3, aspect=4.0)
    >>> made.image.shape, made.instances.shape
    ((1, 64, 96), (64, 96))
    """
    maker = _maker(kind)
    unknown = sorted(set(params) - set(parameters(kind)))
    if unknown:
        raise InputError(
            f"{kind} images have no parameter {unknown[0]!r}",
            expected="some of " + ", ".join(parameters(kind)),
        )
    for name, value in params.items():
        _check_parameter(name, value)
    if len(shape) != 2 or min(shape) < 32:
        raise InputError(f"shape is {shape!r}", expected="(rows, columns) of at least 32 pixels")
    if seed < 0:
        raise InputError(f"seed is {seed!r}", expected="0 or more")
    # The kind's name is part of the seed: seed 0 of two kinds has nothing in common.
    rng = np.random.default_rng([int(seed), zlib.crc32(kind.encode())])
    low, high = DIAMETERS_PX[kind]
    fitting = max(1.2 * low, min(high, max(shape) / 2.5))
    drawn = float(np.exp(rng.uniform(np.log(low), np.log(fitting))))
    size = drawn if diameter is None else float(diameter)
    if not 3 <= size <= 4 * max(shape):
        raise InputError(
            f"diameter is {diameter!r}", expected=f"3 to {4 * max(shape)} px for this shape"
        )
    return maker(rng, (int(shape[0]), int(shape[1])), size, **params)


def _check_parameter(name: str, value: Any) -> None:
    if value is None:
        return
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise InputError(f"{name} is {value!r}", expected="one of " + ", ".join(CHOICES[name]))
    elif not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
        raise InputError(f"{name} is {value!r}", expected="a number, 0 or more")


def _maker(kind: str) -> Callable[..., SyntheticImage]:
    if kind not in _MAKERS:
        raise InputError(f"kind is {kind!r}", expected="one of " + ", ".join(KINDS))
    return _MAKERS[kind]
