"""The part of the world that several layers share, in the pixels of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.widgets._layers import full_size

if TYPE_CHECKING:
    from napari.layers import Layer

#: Pixels by which grids may be shifted against each other without a word.
_UNSEEN_PX = 0.01
#: Relative difference of scales that is rounding.
_SAME_SCALE = 1e-4


@dataclass(frozen=True)
class CommonPart:
    """For each layer the slices of its last axes that all layers share, and what to say of it."""

    windows: tuple[tuple[slice, ...], ...]
    notes: tuple[str, ...]


class Window:
    """A part of an array, read only when asked for; leading axes of length 1 are left out."""

    def __init__(self, data: Any, window: Sequence[slice]) -> None:
        self._data, self._window = data, tuple(window)
        self._lead = len(data.shape) - len(self._window)
        self.shape = tuple(part.stop - part.start for part in self._window)
        self.dtype = np.dtype(data.dtype)
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            fill = (slice(None),) * (self.ndim - len(keys) + 1)
            keys = keys[:at] + fill + keys[at + 1 :]
        keys = keys + (slice(None),) * (self.ndim - len(keys))
        places = [_moved(k, w) for k, w in zip(keys, self._window, strict=True)]
        return np.asarray(self._data[(0,) * self._lead + tuple(places)])


def _moved(key: Any, window: slice) -> Any:
    length = window.stop - window.start
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        return slice(window.start + start, window.start + stop, step)
    if isinstance(key, (list, np.ndarray)):
        return [range(length)[int(k)] + window.start for k in key]
    return range(length)[int(key)] + window.start


def common_part(layers: Sequence[Layer]) -> CommonPart:
    """Find what all layers cover; the first one gives the grid.

    Layers of one shape whose scales differ (one of them was opened without) are taken pixel by
    pixel. Grids that are shifted by a part of a pixel are moved to the nearest one.

    Raises
    ------
    InputError
        The layers do not overlap, or differ in dimensions, or in scale and shape.
    """
    first = layers[0]
    ndim = min(layer.ndim for layer in layers)
    shapes = [_shape(layer, ndim, first) for layer in layers]
    notes: list[str] = []
    start, stop = np.zeros(ndim, int), np.array(shapes[0])
    shifts = [np.zeros(ndim, int)]
    for layer, shape in zip(layers[1:], shapes[1:], strict=True):
        shift, note = _shift(first, layer, shapes[0], shape)
        shifts.append(shift)
        notes += [note] if note else []
        start = np.maximum(start, shift)
        stop = np.minimum(stop, shift + np.array(shape))
    if (stop <= start).any():
        raise InputError(
            f"{_names(layers)} do not overlap",
            expected="layers that lie over each other",
            hint="Check their position (right click ▸ Edit transform) and units.",
        )
    windows = []
    for layer, shift, shape in zip(layers, shifts, shapes, strict=True):
        window = tuple(
            slice(int(a), int(b)) for a, b in zip(start - shift, stop - shift, strict=True)
        )
        windows.append(window)
        if any(w != slice(0, n) for w, n in zip(window, shape, strict=True)):
            part = " × ".join(str(w.stop - w.start) for w in window)
            whole = " × ".join(map(str, shape))
            notes.append(f"Only the common part is scored: {part} of {whole} px of {layer.name!r}.")
    return CommonPart(tuple(windows), tuple(notes))


def _shape(layer: Layer, ndim: int, first: Layer) -> tuple[int, ...]:
    shape = tuple(map(int, full_size(layer).shape))[: layer.ndim]
    lead = shape[: layer.ndim - ndim]
    if any(n != 1 for n in lead):
        raise InputError(
            f"{layer.name!r} has shape {shape}",
            expected=f"{ndim} dimensions, as the other layer has",
            hint="Predict the whole stack, or choose single planes of both.",
        )
    return shape[len(lead) :]


def _shift(
    first: Layer, other: Layer, shape: tuple[int, ...], other_shape: tuple[int, ...]
) -> tuple[np.ndarray, str]:
    """Where `other` begins in the pixels of `first`, and what to say of it."""
    ndim = len(shape)
    nothing = np.zeros(ndim, int)
    mine, origin = _grid(first, first, ndim)
    theirs, place = _grid(other, first, ndim)
    alike = mine is not None and theirs is not None
    if alike:
        alike = np.allclose(mine, theirs, rtol=_SAME_SCALE, atol=_SAME_SCALE * np.abs(mine).max())
    if not alike:
        if shape == other_shape:
            return nothing, (
                f"{other.name!r} and {first.name!r} differ in scale or unit; they have one shape "
                "and were compared pixel by pixel."
            )
        raise InputError(
            f"{other.name!r} has shape {other_shape} and another scale than {first.name!r}",
            expected=f"one scale, or the shape {shape}",
            hint="Give both layers the scale of their image.",
        )
    shift = np.linalg.solve(mine, place - origin)
    whole = np.round(shift).astype(int)
    away = float(np.abs(shift - whole).max())
    note = ""
    if away > _UNSEEN_PX:
        note = f"{other.name!r} was moved by {away:.2g} px to the pixels of {first.name!r}."
    return whole, note


def _grid(layer: Layer, reference: Layer, ndim: int) -> tuple[Any, Any]:
    """Steps (columns) and origin of a layer's pixels, in the units of `reference`."""
    factors = []
    for own, wanted in zip(layer.units[-ndim:], reference.units[-ndim:], strict=True):
        try:
            factors.append(float((1.0 * own).to(wanted).magnitude))
        except Exception:  # pint's errors for units that do not convert differ by version
            return None, None
    zero = np.asarray(layer.data_to_world(np.zeros(layer.ndim)), float)
    steps = [np.asarray(layer.data_to_world(e), float) - zero for e in np.eye(layer.ndim)]
    linear = np.array(steps).T[-ndim:, -ndim:]
    scale = np.array(factors)
    return linear * scale[:, None], zero[-ndim:] * scale


def _names(layers: Sequence[Layer]) -> str:
    return " and ".join(repr(layer.name) for layer in layers)
