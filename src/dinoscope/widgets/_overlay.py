"""The layer that lights up patches or objects in the image; ours, and gone with the plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.widgets._circle import GUIDE
from dinoscope.widgets._layers import full_size, spatial_kwargs
from dinoscope.widgets._pointmap import CellMap, ObjectMap, PointMap
from dinoscope.widgets._results import remove_layer, selection_kept

if TYPE_CHECKING:
    from napari.viewer import Viewer

SELECTED, HOVERED = 1, 2
#: Nothing, selected, under the pointer.
_COLOURS = ((0, 0, 0, 0), (1.0, 0.84, 0.04, 0.6), (0.0, 0.9, 1.0, 0.8))


class StateView:
    """The states of objects as an array like their labels: looked up when read, never stored.

    So lighting up objects costs as much as the plane in view has pixels, whatever the stack.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, points: ObjectMap) -> None:
        self._points = points
        self._data = full_size(points.layer)
        self._axes = [i for i, a in enumerate(points.data_axes) if a in points.label_axes]
        self.shape = tuple(int(n) for n in self._data.shape)
        self.ndim = len(self.shape)
        self.states = np.zeros(len(points.rows), np.uint8)

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
            plane = tuple(int(keys[i]) for i in self._axes)
            return self._points.replace(np.asarray(self._data[tuple(keys)]), plane, self.states)
        first, parts = open_axes[0], []
        for step in range(*keys[first].indices(self.shape[first])):
            parts.append(self[(*keys[:first], step, *keys[first + 1 :])])
        return np.stack(parts, axis=sum(isinstance(k, slice) for k in keys[:first]))


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
        self._view: StateView | None = None
        self._array: np.ndarray | None = None

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
            if self._array is None:
                self._array = np.zeros(self.points.placement.shape, np.uint8)
            self._array.reshape(-1)[self.points.cells] = self._states
        elif isinstance(self.points, ObjectMap):
            if self._view is None:
                self._view = StateView(self.points)
            self._view.states = self._states

    def _begin(self) -> None:
        from napari.layers import Image
        from napari.utils.colormaps import Colormap

        if isinstance(self.points, CellMap):
            kwargs = self.points.placement.kwargs
        else:
            kwargs = spatial_kwargs(self.points.layer)
        # An image, for a labels layer with colours of its own compiles code at its first use, and
        # the window would stand still for seconds.
        layer = Image(
            self._array if self._array is not None else self._view,
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
