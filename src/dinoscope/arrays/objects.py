"""Measure objects: one row for each, without a loop over them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dinoscope.arrays.labels import validate_labels
from dinoscope.errors import InputError
from dinoscope.types import Table

#: Columns that are taken as how sure a model is of an object, most wanted first.
SCORE_COLUMNS = ("score", "confidence", "probability")


def object_table(
    ids: np.ndarray,
    image: np.ndarray | None = None,
    pixel_size_um: Mapping[str, float] | None = None,
    index: tuple[int, ...] = (),
    plane_axes: str = "",
    origin: tuple[int, ...] = (0, 0),
    foreground: np.ndarray | None = None,
) -> Table:
    """Area, diameter, centroid and mean intensity of every object of a plane.

    Parameters
    ----------
    ids : (Y, X) integer array
        Instance ids, 0 = background; they need not begin at 1.
    image : (C, Y, X) array of any real dtype, optional
        Where intensities are measured, in its own units; pixels that are not finite are left out.
    pixel_size_um : Mapping[str, float], optional
        Micrometres along ``"Y"`` and ``"X"``; without both, columns in µm are NaN.
    index : tuple of int
        Which plane this is, along `plane_axes`.
    plane_axes : str
        Axis letters of `index`; each becomes a column, in lower case.
    origin : (y, x)
        Where in its plane the region `ids` begins, in pixels; centroids count from the plane's.
    foreground : (Y, X) uint8 array, optional
        How sure the model is that a pixel belongs to an object, 255 = certain.

    Returns
    -------
    Table
        Rows in order of their id. ``label``; one column for each plane axis; ``area_px area_um2
        diameter_px diameter_um`` (of the circle of equal area); ``centroid_y centroid_x`` (pixels
        of the plane, pixel centres at whole numbers); ``mean_intensity_<c>`` for each channel;
        ``confidence``, the mean of `foreground` from 0 to 1, where it is given.

    Raises
    ------
    InputError
        `ids` are no labels, `image` covers other pixels, or `index` does not fit `plane_axes`.

    Examples
    --------
    >>> table = object_table(np.array([[0, 3, 3]]), pixel_size_um={"Y": 0.5, "X": 0.5})
    >>> table["label"].tolist(), table["area_um2"].tolist(), table["centroid_x"].tolist()
    ([3], [0.5], [1.5])
    """
    ids = validate_labels(ids, name="ids")
    if ids.ndim != 2:
        raise InputError(f"ids have shape {ids.shape}", expected="(Y, X)")
    if image is not None and (image.ndim != 3 or image.shape[1:] != ids.shape):
        raise InputError(
            f"image has shape {image.shape}", expected=f"(C, {ids.shape[0]}, {ids.shape[1]})"
        )
    if len(index) != len(plane_axes):
        raise InputError(
            f"index {index} does not fit plane axes {plane_axes!r}", expected="one number for each"
        )
    place = np.flatnonzero(ids)
    labels, row = np.unique(ids.ravel()[place], return_inverse=True)
    count = labels.size
    area = np.bincount(row, minlength=count)
    y, x = np.divmod(place, ids.shape[1])

    size = pixel_size_um or {}
    pixel_um2 = size["Y"] * size["X"] if "Y" in size and "X" in size else np.nan
    table: Table = {"label": labels.astype(np.int64)}
    table |= {
        axis.lower(): np.full(count, position, np.int64)
        for axis, position in zip(plane_axes, index, strict=True)
    }
    table |= {
        "area_px": area,
        "area_um2": area * pixel_um2,
        "diameter_px": 2 * np.sqrt(area / np.pi),
        "diameter_um": 2 * np.sqrt(area * pixel_um2 / np.pi),
        "centroid_y": _mean(row, y, count) + origin[0],
        "centroid_x": _mean(row, x, count) + origin[1],
    }
    for channel, plane in enumerate(() if image is None else image):
        table[f"mean_intensity_{channel}"] = _mean(row, plane.ravel()[place], count)
    if foreground is not None:
        table["confidence"] = _mean(row, foreground.ravel()[place], count) / 255
    return table


def _mean(row: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Mean of `values` by `row`, float64, over the finite ones; NaN where there is none."""
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        row, values = row[finite], values[finite]
    number = np.bincount(row, minlength=count)
    total = np.bincount(row, values, minlength=count)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
