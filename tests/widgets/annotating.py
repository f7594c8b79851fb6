"""What the tests of the Annotate panel do: paint, look at the preview, press keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from dinoscope.widgets.annotate import AnnotatePanel

HEIGHT, WIDTH = 48, 60


def halves(*shape: int) -> np.ndarray:
    """Dark on the left, bright on the right."""
    image = np.full(shape, 20, np.uint8)
    image[..., shape[-1] // 2 :] = 200
    return image


def paint(panel: AnnotatePanel, code: int, rows: slice, columns: slice, *lead: int) -> None:
    """A stroke through the layer, as the brush makes it."""
    layer = panel.image.scribbles
    where = np.meshgrid(
        *([np.array([i]) for i in lead]),
        np.arange(HEIGHT)[rows],
        np.arange(WIDTH)[columns],
        indexing="ij",
    )
    layer.data_setitem(tuple(w.ravel() for w in where), code)


def two_strokes(panel: AnnotatePanel, *lead: int) -> None:
    paint(panel, 1, slice(5, 10), slice(2, 12), *lead)
    paint(panel, 2, slice(5, 10), slice(45, 55), *lead)


def press(owner: Any, key: str) -> None:
    """A key that is bound on a layer or on the viewer."""
    bound = {str(k): act for k, act in owner.keymap.items()}
    bound[key](owner)


def preview(panel: AnnotatePanel) -> np.ndarray:
    layer = panel.image.preview
    return np.zeros(panel.image.placement.shape) if layer is None else np.asarray(layer.data)


def right(panel: AnnotatePanel, left: int = 1, other: int = 2) -> bool:
    """Whether the preview has one code on each half."""
    plane = preview(panel)
    half = plane.shape[-1] // 2
    return bool((plane[..., :half] == left).all() and (plane[..., half:] == other).all())
