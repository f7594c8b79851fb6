"""Colours and names of classes, as napari's Labels layers take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def class_colormap(names: Sequence[str]) -> Any:
    """A colour for each class, background transparent, further ids in turn."""
    from napari.utils.colormaps import DirectLabelColormap

    colours: dict[int | None, str] = {None: "#999999", 0: "transparent"}
    for i in range(1, max(len(names), 9)):
        colours[i] = CLASS_COLOURS[(i - 1) % len(CLASS_COLOURS)]
    return DirectLabelColormap(color_dict=colours)


def class_features(names: Sequence[str]) -> dict[str, list[Any]]:
    """The features table that names the class under the cursor."""
    return {"index": list(range(len(names))), "class": list(names)}
