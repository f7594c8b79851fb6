"""The layer that lights up patches or objects in the image; ours, and gone with the plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.widgets._circle import GUIDE
from dinoscope.widgets._layers import full_size, place, spatial_kwargs
from dinoscope.widgets._pointmap import CellMap, ObjectMap, PointMap
from dinoscope.widgets._results import remove_layer, selection_kept

if TYPE_CHECKING:
    from napari.viewer import Viewer

SELECTED, HOVERED = 1, 2
#: Planes of more pixels are shown as patches: those at the edge may then reach over the image.
MOST_PIXELS = 2048 * 2048
#: Nothing, selected, under the pointer.
_COLOURS = ((0, 0, 0, 0), (1.0, 0.84, 0.04, 0.6), (0.0, 0.9, 1.0, 0.8))


class StateView:
    """States of points as an array as large as their image: painted when read, never stored.

    So lighting up points costs as much as the plane in view has pixels, whatever the stack.

    Parameters
    ----------
    shape : tuple of int
        Of the layer.
    plane_axes : sequence of int
        The dimensions that are no rows and columns.
    read : callable
        ``read(plane, keys)``: a part of one plane; ``keys`` has an entry for each dimension.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        shape: Sequence[int],
        plane_axes: Sequence[int],
        read: Callable[[tuple[int, ...], tuple[Any, ...]], np.ndarray],
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.ndim = len(self.shape)
        self._axes, self._read = tuple(plane_axes), read

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self[()], dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = list(key if isinstance(key, tuple) else (key,))
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        open_axes = [i for i in self._axes if isinstance(keys[i], slice)]
        if not open_axes:
            return self._read(tuple(int(keys[i]) for i in self._axes), tuple(keys))
        first, parts = open_axes[0], []
        for step in range(*keys[first].indices(self.shape[first])):
            parts.append(self[(*keys[:first], step, *keys[first + 1 :])])
        return np.stack(parts, axis=sum(isinstance(k, slice) for k in keys[:first]))


def object_view(points: ObjectMap, states: Callable[[], np.ndarray]) -> StateView:
    """States of objects, looked up in their labels."""
    data = full_size(points.layer)
    axes = [i for i, a in enumerate(points.data_axes) if a in points.label_axes]

    def read(plane: tuple[int, ...], keys: tuple[Any, ...]) -> np.ndarray:
        return points.replace(np.asarray(data[keys]), plane, states())

    return StateView(data.shape, axes, read)


def patch_view(points: CellMap, cells: np.ndarray) -> tuple[StateView, dict[str, Any]]:
    """States of patches as pixels, so that those at the edge end with the image; and its place.

    Parameters
    ----------
    cells : array
        One state a patch, in the shape of ``points.placement``.
    """
    (top, left), (height, width) = points.grid.origin, points.grid.shape
    region = (top, left, top + height, left + width)
    placement = place(points.source, plane=points.one.plane, region=region)
    axes = [i for i, a in enumerate(placement.axes) if a not in "YX"]

    def read(plane: tuple[int, ...], keys: tuple[Any, ...]) -> np.ndarray:
        at: list[Any] = [slice(None)] * len(keys)
        for axis, index in zip(axes, plane, strict=True):
            at[axis] = index
        painted = points.grid.paint(placement.oriented(cells[tuple(at)]))
        rest = tuple(k for i, k in enumerate(keys) if i not in axes)
        return placement.oriented(painted)[rest]

    return StateView(placement.shape, axes, read), placement.kwargs


class Overlay:
    """Shows the states of the points of one image.

    Parameters
    ----------
    viewer : napari.Viewer
        Where.
    points : PointMap
        Which points, and what they cover.
    """

    def __init__(self, viewer: Viewer, points: PointMap) -> None:
        self._viewer = viewer
        self.points = points
        self._states = np.zeros(len(points.rows), np.uint8)
        self._layer: Any = None
        #: The user took the layer away, and does not want another one.
        self.refused = False
        self._cells: np.ndarray | None = None

    @property
    def layer(self) -> Any:
        """The layer, while it is in the viewer."""
        return self._layer if self._layer in self._viewer.layers else None

    def show(self, mask: np.ndarray, hover: int = -1) -> None:
        """Light up the points of a mask over all points of the plot, and the one under the pointer.

        The layer appears with the first point that there is something to show of.
        """
        states = mask[self.points.rows].astype(np.uint8)
        if hover >= 0:
            at = np.searchsorted(self.points.rows, hover)
            if at < len(states) and self.points.rows[at] == hover:
                states[at] = HOVERED
        if np.array_equal(states, self._states):
            return
        self._states = states
        if self._layer is not None and self.layer is None:
            self._layer, self.refused = None, True
        if self.refused:
            return
        self._write()
        if self._layer is None:
            self._begin()
        elif self._layer.visible:
            self._layer.refresh(extent=False, thumbnail=False, highlight=False)

    def remove(self) -> None:
        """Take the layer away."""
        if self.layer is not None:
            remove_layer(self._viewer, self._layer)
        self._layer = None

    def _write(self) -> None:
        if isinstance(self.points, CellMap):
            if self._cells is None:
                self._cells = np.zeros(self.points.placement.shape, np.uint8)
            self._cells.reshape(-1)[self.points.cells] = self._states

    def _data(self) -> tuple[Any, dict[str, Any]]:
        """What the layer shows, and where it lies."""
        if isinstance(self.points, ObjectMap):
            view = object_view(self.points, lambda: self._states)
            return view, spatial_kwargs(self.points.layer)
        points = self.points
        if not isinstance(points, CellMap) or self._cells is None:
            raise TypeError(f"no overlay for {type(points).__name__}")
        if np.prod(points.grid.shape) <= MOST_PIXELS:
            return patch_view(points, self._cells)
        return self._cells, points.placement.kwargs

    def _begin(self) -> None:
        from napari.layers import Image
        from napari.utils.colormaps import Colormap

        data, kwargs = self._data()
        # An image, for a labels layer with colours of its own compiles code at its first use, and
        # the window would stand still for seconds.
        layer = Image(
            data,
            name=f"{self.points.source.layer.name} · selected points",
            colormap=Colormap(_COLOURS, name="dinoscope selection", interpolation="zero"),
            contrast_limits=(-0.5, len(_COLOURS) - 0.5),
            blending="translucent",
            rgb=False,
            multiscale=False,
            **kwargs,
        )
        layer.metadata[GUIDE] = True
        with selection_kept(self._viewer):
            self._viewer.add_layer(layer)
        self._layer = layer
