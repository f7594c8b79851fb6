"""Points of one image and its pixels, both ways: which point is here, what does a point cover."""

from __future__ import annotations

from typing import Any

import numpy as np

from dinoscope.arrays.patches import PatchGrid
from dinoscope.widgets._grids import cell_of, place_grid
from dinoscope.widgets._layers import Placement, full_size
from dinoscope.widgets._points import PointSet
from dinoscope.widgets._raster import inside_polygon
from dinoscope.widgets._tokens import TokenSet, label_image

#: Ids above this are looked up by search instead of in a table.
_TABLE = 1 << 22
#: A patch is painted from this share of its pixels on: half of a line of one pixel across it.
_TOUCHED = 0.5 / 14

Index = tuple[int, ...]


class PointMap:
    """Points of one set of a plot.

    Parameters
    ----------
    points : PointSet
        All points.
    number : int
        Which of its sets.
    """

    def __init__(self, points: PointSet, number: int) -> None:
        self.what = points.what
        self.one: TokenSet = points.sets[number]
        self.source = self.one.source
        #: The points of this set; positions below count in them.
        self.rows = np.flatnonzero(np.asarray(points.table["set"]) == number)
        axes = self.source.image.plane_axes
        self.index = points.index_of(self.rows, axes)
        table = points.table
        self.yx = np.zeros((len(self.rows), 2))
        if "y" in table and self.what != "images":
            self.yx = np.column_stack(
                [np.asarray(table["y"])[self.rows], np.asarray(table["x"])[self.rows]]
            ).astype(float)
        self.labels = np.asarray(table["label"])[self.rows] if self.what == "objects" else None

    @staticmethod
    def of(points: PointSet, number: int) -> PointMap:
        """The map for what the points stand for."""
        return ObjectMap(points, number) if points.what == "objects" else CellMap(points, number)

    def on_plane(self, index: Index) -> np.ndarray:
        """Mask over :attr:`rows` of the points of one plane."""
        if not index:
            return np.ones(len(self.rows), bool)
        return np.asarray((self.index == np.asarray(index)).all(axis=1))

    def at(self, index: Index, y: float, x: float) -> int:
        """The point (of the plot) that covers a pixel, or -1."""
        raise TypeError(f"{type(self).__name__} has no pixels")

    def inside(self, index: Index, corners: np.ndarray) -> np.ndarray:
        """Points (of the plot) of a plane whose centres lie in a polygon of (y, x) corners."""
        return np.asarray(self.rows[self.on_plane(index) & inside_polygon(self.yx, corners)])

    def under(self, index: Index, mask: np.ndarray) -> np.ndarray:
        """Points (of the plot) of a plane whose centres lie on a ``(Y, X)`` mask."""
        here = np.flatnonzero(self.on_plane(index))
        y = np.rint(self.yx[here, 0]).astype(int).clip(0, mask.shape[0] - 1)
        x = np.rint(self.yx[here, 1]).astype(int).clip(0, mask.shape[1] - 1)
        return np.asarray(self.rows[here[mask[y, x]]])

    def paint(self, index: Index, values: np.ndarray) -> np.ndarray:
        """A ``(Y, X)`` plane of the image in which pixels have the value of their point.

        Parameters
        ----------
        values : (n,) integer array
            For every point of the plot; 0 paints nothing.
        """
        raise TypeError(f"{type(self).__name__} has no pixels")


class CellMap(PointMap):
    """Patches, or whole planes as patches as large as the image."""

    def __init__(self, points: PointSet, number: int) -> None:
        super().__init__(points, number)
        if self.what == "images":
            self.grid = _whole(self.source.image.size("Y"), self.source.image.size("X"))
            row = column = np.zeros(len(self.rows), np.int64)
        else:
            self.grid = self.one.grid
            row = np.asarray(points.table["row"])[self.rows].astype(np.int64)
            column = np.asarray(points.table["column"])[self.rows].astype(np.int64)
        self._row, self._column = row, column
        self.placement: Placement = place_grid(self.source, self.grid, plane=self.one.plane)
        axes = self.source.image.plane_axes
        #: Flat place of each point in an array of the placement's shape.
        self.cells = cell_of(self.placement, self.index, axes, row, column)
        self._point_of = np.full(int(np.prod(self.placement.shape)), -1, np.int32)
        self._point_of[self.cells] = self.rows

    def at(self, index: Index, y: float, x: float) -> int:
        patch = self.grid.patch_at(y, x)
        if patch is None:
            return -1
        row, column = (np.array([p]) for p in patch)
        axes = self.source.image.plane_axes
        try:
            cell = cell_of(self.placement, np.asarray(index).reshape(1, -1), axes, row, column)
        except ValueError:  # another plane than the one that was encoded
            return -1
        return int(self._point_of[cell[0]])

    def under(self, index: Index, mask: np.ndarray) -> np.ndarray:
        top, left = self.grid.origin
        height, width = self.grid.shape
        shares = self.grid.shares(mask[top : top + height, left : left + width])
        here = np.flatnonzero(self.on_plane(index))
        return np.asarray(self.rows[here[shares[self._row[here], self._column[here]] >= _TOUCHED]])

    def paint(self, index: Index, values: np.ndarray) -> np.ndarray:
        here = self.on_plane(index)
        cells = np.zeros(self.grid.grid, np.asarray(values).dtype)
        cells[self._row[here], self._column[here]] = values[self.rows[here]]
        plane = np.zeros((self.source.image.size("Y"), self.source.image.size("X")), cells.dtype)
        top, left = self.grid.origin
        height, width = self.grid.shape
        plane[top : top + height, left : left + width] = self.grid.paint(cells)
        return plane


class ObjectMap(PointMap):
    """Objects of a Labels layer."""

    def __init__(self, points: PointSet, number: int) -> None:
        super().__init__(points, number)
        self.layer: Any = points.objects
        image = label_image(self.layer, self.source)
        #: Axes of the labels' planes, and the axes of its array.
        self.label_axes = image.plane_axes
        self.data_axes = image.axes
        keep = [self.source.image.plane_axes.index(a) for a in self.label_axes]
        self._keys = self.index[:, keep]
        self._by_plane: dict[Index, np.ndarray] = {}
        order = np.lexsort(self._keys.T[::-1]) if keep else np.arange(len(self.rows))
        cuts = np.flatnonzero((np.diff(self._keys[order], axis=0) != 0).any(axis=1)) + 1
        for part in np.split(order, cuts):
            if len(part):
                self._by_plane[tuple(int(i) for i in self._keys[part[0]])] = part

    def _label_index(self, index: Index) -> Index:
        axes = self.source.image.plane_axes
        return tuple(index[axes.index(a)] for a in self.label_axes)

    def at(self, index: Index, y: float, x: float) -> int:
        where = dict(zip(self.label_axes, self._label_index(index), strict=True))
        where |= {"Y": round(y), "X": round(x)}
        data = full_size(self.layer)
        key = tuple(where[a] for a in self.data_axes)
        if any(not 0 <= k < n for k, n in zip(key, data.shape, strict=True)):
            return -1
        label = int(np.asarray(data[key]))
        part = self._by_plane.get(self._label_index(index), np.zeros(0, np.intp))
        found = part[self.labels[part] == label] if label else part[:0]
        return int(self.rows[found[0]]) if len(found) else -1

    def paint(self, index: Index, values: np.ndarray) -> np.ndarray:
        where = dict(zip(self.label_axes, self._label_index(index), strict=True))
        key = tuple(where.get(a, slice(None)) for a in self.data_axes)
        labels = np.asarray(full_size(self.layer)[key])
        if self.data_axes.index("Y") > self.data_axes.index("X"):
            labels = labels.T
        return self.replace(labels, self._label_index(index), np.asarray(values)[self.rows])

    def replace(self, labels: np.ndarray, key: Index, values: np.ndarray) -> np.ndarray:
        """Labels of one plane replaced by the values of their points.

        Parameters
        ----------
        labels : array
            Any part of the plane `key` of the labels.
        values : (len(rows),) array
            For each point of this set.
        """
        part = self._by_plane.get(key)
        values = np.asarray(values)
        if part is None:
            return np.zeros(labels.shape, values.dtype)
        own = self.labels[part].astype(np.int64)
        highest = int(own.max(initial=0))
        if highest < _TABLE:
            table = np.zeros(highest + 2, values.dtype)
            table[own] = values[part]
            # Ids that are no points (new ones) share the empty last entry.
            return np.asarray(table[np.clip(labels, 0, highest + 1)])
        order = np.argsort(own)
        place = np.searchsorted(own, labels, sorter=order).clip(0, len(own) - 1)
        hit = own[order][place] == labels
        return np.where(hit, values[part][order][place], 0).astype(values.dtype)


def _whole(height: int, width: int) -> PatchGrid:
    """One patch as large as the plane."""
    return PatchGrid(
        (height, width), (1, 1), (float(height), float(width)), ((height - 1) / 2, (width - 1) / 2)
    )
