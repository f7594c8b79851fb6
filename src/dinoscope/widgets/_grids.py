"""Layers of one pixel a patch, lying exactly on their image."""

from __future__ import annotations

import dataclasses

import numpy as np

from dinoscope.arrays.patches import PatchGrid
from dinoscope.widgets._layers import Placement, Source, data_to_physical, place


def place_grid(
    source: Source, grid: PatchGrid, *, plane: tuple[int, ...] | None = None
) -> Placement:
    """Where one value a patch belongs: all planes, or one of them.

    Scale and offset are taken along the layer's own axes, before its rotation, shear and affine, so
    that the patches lie on their pixels however the layer is turned.
    """
    full = place(source, plane=plane)
    kwargs = dict(full.kwargs)
    lead = source.layer.ndim - len(full.axes)
    linear = data_to_physical(source.layer).linear_matrix[lead:, lead:]
    stretch, offset = np.ones(len(full.axes)), np.zeros(len(full.axes))
    shape = list(full.shape)
    for letter, count, step, first in zip("YX", grid.grid, grid.step, grid.first, strict=True):
        at = full.axes.index(letter)
        stretch[at], offset[at], shape[at] = step, first, count
    kwargs["scale"] = np.asarray(kwargs["scale"]) * stretch
    kwargs["translate"] = np.asarray(kwargs["translate"]) + linear @ offset
    return dataclasses.replace(full, shape=tuple(shape), kwargs=kwargs)


def cell_of(
    placement: Placement, index: np.ndarray, plane_axes: str, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Flat positions of patches in an array of ``placement.shape``, ``(n,)`` int64.

    Parameters
    ----------
    index : (n, planes) integer array
        The plane of each patch, along `plane_axes` of the image.
    rows, columns : (n,) integer arrays
        The patch in its plane.
    """
    key = []
    for letter in placement.axes:
        if letter == "Y":
            key.append(rows)
        elif letter == "X":
            key.append(columns)
        elif letter in placement.collapsed:
            key.append(np.zeros(len(rows), np.int64))
        else:
            at = index[:, plane_axes.index(letter)]
            key.append(at - placement.origin.get(letter, 0))
    return np.asarray(np.ravel_multi_index(tuple(key), placement.shape))
