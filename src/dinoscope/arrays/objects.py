"""Measure objects: one row for each, without a loop over them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dinoscope.arrays.labels import validate_labels
from dinoscope.errors import InputError
from dinoscope.types import Table

#: Columns that are taken as how sure a model is of an object, most wanted first.
SCORE_COLUMNS = ("score", "confidence", "probability")
#: Rows that are measured together: memory beside the image's own stays small.
_ROWS = 256
#: Ids up to this are looked up in a table.
_TABLE = 1_000_000


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
    labels = _labels(ids)
    count = labels.size
    rank = _Rank(labels)
    area = np.zeros(count, np.int64)
    names = ["centroid_y", "centroid_x"]
    names += [f"mean_intensity_{c}" for c in range(0 if image is None else len(image))]
    names += [] if foreground is None else ["confidence"]
    sums = {name: (np.zeros(count, np.int64), np.zeros(count)) for name in names}
    for top in range(0, ids.shape[0], _ROWS):
        band = slice(top, top + _ROWS)
        flat = ids[band].ravel()
        place = np.flatnonzero(flat)
        row = rank(flat[place])
        area += np.bincount(row, minlength=count)
        y, x = np.divmod(place, ids.shape[1])
        values = {"centroid_y": y + top, "centroid_x": x}
        for channel, plane in enumerate(() if image is None else image):
            values[f"mean_intensity_{channel}"] = plane[band].ravel()[place]
        if foreground is not None:
            values["confidence"] = foreground[band].ravel()[place]
        for name, found in values.items():
            _add(sums[name], row, found)

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
        "centroid_y": _mean(*sums["centroid_y"]) + origin[0],
        "centroid_x": _mean(*sums["centroid_x"]) + origin[1],
    }
    table |= {n: _mean(*sums[n]) for n in names if n.startswith("mean_intensity_")}
    if foreground is not None:
        table["confidence"] = _mean(*sums["confidence"]) / 255
    return table


class _Rank:
    """The place of ids among the sorted `labels`."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self.table: np.ndarray | None = None
        if labels.size and labels[-1] < _TABLE:
            self.table = np.zeros(int(labels[-1]) + 1, np.intp)
            self.table[labels] = np.arange(labels.size)

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        if self.table is not None:
            return np.asarray(self.table[ids])
        return np.searchsorted(self.labels, ids)


def _labels(ids: np.ndarray) -> np.ndarray:
    """The ids that occur, but 0, in order."""
    highest = int(ids.max(initial=0))
    if highest >= _TABLE:
        found = np.unique(ids)
        return found[found > 0]
    there = np.zeros(highest + 1, bool)
    for top in range(0, ids.shape[0], _ROWS):
        there[ids[top : top + _ROWS]] = True
    there[0] = False
    return np.flatnonzero(there)


def _add(sums: tuple[np.ndarray, np.ndarray], row: np.ndarray, values: np.ndarray) -> None:
    """Add to the numbers and totals of each row the values that are finite."""
    number, total = sums
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        row, values = row[finite], values[finite]
    number += np.bincount(row, minlength=number.size)
    total += np.bincount(row, values, minlength=number.size)


def _mean(number: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Mean, float64; NaN where there was nothing."""
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
