"""Colours and names of classes, as napari's Labels layers take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Colours for classes (Okabe and Ito), told apart by colour-blind readers too.
CLASS_COLOURS = (
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
    "#999999",
)


#: What a similarity search finds: stands out from heat maps and stains.
FOUND_COLOUR = "#00e5ff"
_IDS = 256


def class_colormap(names: Sequence[str] = (), colours: Sequence[str] = CLASS_COLOURS) -> Any:
    """A colour for each class in turn, background transparent; 255 (ignored) and ids past it grey.

    A table of colours, not a :class:`DirectLabelColormap`: for that napari compiles code at its
    first use, where numba is installed, and the window stands still for seconds.
    """
    from napari.utils.colormaps import CyclicLabelColormap
    from napari.utils.colormaps.standardize_color import transform_color

    table = np.tile(transform_color("#999999"), (_IDS, 1))
    shown = transform_color(list(colours))
    table[1:-1] = shown[np.arange(_IDS - 2) % len(shown)]
    table[0] = 0
    return CyclicLabelColormap(colors=table, background_value=0)


def class_features(names: Sequence[str]) -> dict[str, list[Any]]:
    """The features table that names the class under the cursor."""
    return {"index": list(range(len(names))), "class": list(names)}
