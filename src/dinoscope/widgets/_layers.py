"""Layers to images: axes, pixel size, the plane and the region in view, and where a result belongs.

Nothing here reads pixels; an image made here is as lazy as its layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.errors import AxesError, InputError
from dinoscope.types import ImageInput

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

#: What users and file readers call their axes, by our letter.
_WORDS = {
    "T": ("t", "time", "frame", "frames", "timepoint"),
    "Z": ("z", "depth", "slice", "slices", "plane", "focus"),
    "C": ("c", "ch", "channel", "channels", "wavelength"),
    "Y": ("y", "row", "rows", "height"),
    "X": ("x", "column", "columns", "col", "width"),
}
_LETTER_OF = {word: letter for letter, words in _WORDS.items() for word in words}
#: An unlabelled last axis this short beside two long ones holds channels, not columns.
_SAMPLE_COUNTS = (3, 4)
_LONG_AXIS = 16


@dataclass(frozen=True)
class Source:
    """One image as the user sees it: a layer, or several layers of one geometry as its channels.

    `layer_axes` has one letter for each napari dimension of the first layer; samples of an RGB
    layer and the channels of several layers are no napari dimension.
    """

    layers: tuple[Layer, ...]
    image: ImageInput
    layer_axes: str
    anchor: Layer | None = None

    @property
    def layer(self) -> Layer:
        """The layer that results are placed over and named after."""
        return self.anchor if self.anchor is not None else self.layers[0]

    @property
    def key(self) -> str:
        """Names the source in the settings: its file where it has one, else the layer itself."""
        origin = getattr(self.layer.source, "path", None)
        return f"{origin}::{self.layer.name}" if origin else str(self.layer.unique_id)


class ChannelStack:
    """Arrays of one shape as one array with a leading channel axis; reads only what is asked."""

    def __init__(self, channels: Sequence[Any]) -> None:
        self._channels = list(channels)
        self.shape = (len(self._channels), *map(int, self._channels[0].shape))
        self.dtype = np.result_type(*(np.dtype(c.dtype) for c in self._channels))
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            fill = (slice(None),) * (self.ndim - len(keys) + 1)
            keys = keys[:at] + fill + keys[at + 1 :]
        first, rest = (keys[0], keys[1:]) if keys else (slice(None), ())
        if isinstance(first, (int, np.integer)):
            return np.asarray(self._channels[int(first)][rest], dtype=self.dtype)
        chosen = range(len(self._channels))[first] if isinstance(first, slice) else first
        return np.stack([np.asarray(self._channels[int(c)][rest], self.dtype) for c in chosen])


def full_size(layer: Layer) -> Any:
    """The array of `layer` at full size (level 0 of a pyramid), unread."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def guess_axes(layer: Layer) -> str:
    """One letter for each napari dimension of `layer`, from its axis labels and its shape.

    Axes without a telling label are taken as napari shows them: rows and columns last, before them
    depth, then time.

    Raises
    ------
    AxesError
        Two axes carry the same meaning, or there are more axes than letters.
    """
    letters: list[str | None] = [_LETTER_OF.get(str(a).strip().lower()) for a in layer.axis_labels]
    named = [letter for letter in letters if letter]
    if len(set(named)) != len(named):
        raise AxesError(
            f"the axis labels of {layer.name!r} are {tuple(layer.axis_labels)}",
            expected="a different meaning for each axis",
            hint="Type the axes in the panel, for example TZYX.",
        )
    shape = tuple(full_size(layer).shape)[: layer.ndim]
    free = [i for i, letter in enumerate(letters) if letter is None]
    if (
        not named
        and layer.ndim >= 3
        and shape[-1] in _SAMPLE_COUNTS
        and min(shape[-3:-1]) >= _LONG_AXIS
    ):
        letters[-1] = "C"
        free = free[:-1]
    for i, letter in zip(reversed(free), [a for a in "XYZTQC" if a not in letters], strict=False):
        letters[i] = letter
    if None in letters:
        raise AxesError(
            f"{layer.name!r} has {layer.ndim} dimensions", expected="at most six: QTZCYX"
        )
    return "".join(letter for letter in letters if letter)


def parse_axes(text: str, layer: Layer) -> str:
    """The letters the user typed for `layer`; an empty text means "as guessed".

    Raises
    ------
    AxesError
        The letters do not fit the layer.
    """
    letters = (
        text.strip().upper().removesuffix("S") if layer_is_rgb(layer) else text.strip().upper()
    )
    if not letters:
        return guess_axes(layer)
    if len(letters) != layer.ndim:
        raise AxesError(
            f"axes {text.strip()!r} for {layer.name!r} of {layer.ndim} dimensions",
            expected=f"{layer.ndim} letters out of TZCYXQ",
        )
    return letters


def layer_is_rgb(layer: Layer) -> bool:
    """Whether the last array axis holds RGB(A) samples that napari does not count."""
    return bool(getattr(layer, "rgb", False))


def pixel_sizes_um(layer: Layer, axes: str) -> dict[str, float]:
    """Micrometres per step along Z, Y and X; axes whose unit is no length are left out.

    Rotation, shear and the extra affine are part of it: the size is how far one step along the
    axis goes in the world.
    """
    steps = layer.affine.linear_matrix @ data_to_physical(layer).linear_matrix
    sizes: dict[str, float] = {}
    to_um: list[float] = []
    for unit in layer.units:
        try:
            to_um.append(float((1.0 * unit).to("micrometer").magnitude))
        except (TypeError, AttributeError):  # a pixel is no length
            to_um.append(np.nan)
    for i, letter in enumerate(axes):
        if letter in "ZYX" and np.isfinite(to_um[i]):
            in_um = [steps[j, i] * to_um[j] for j in range(len(axes)) if np.isfinite(to_um[j])]
            size = float(np.linalg.norm(in_um))
            if size > 0 and np.isfinite(size):
                sizes[letter] = float(f"{size:.9g}")
    return sizes


def make_source(layers: Sequence[Layer], *, axes: str = "", anchor: Layer | None = None) -> Source:
    """The image that one layer, or several layers as channels, hold; nothing is read.

    Parameters
    ----------
    layers : sequence of Layer
        One layer, or several as channels in this order.
    axes : str
        One letter for each dimension, where the user knows better than the labels.
    anchor : Layer, optional
        The layer that results belong to; the first one when not given.

    Raises
    ------
    AxesError
        The axes cannot be told, or the typed ones do not fit.
    InputError
        Nothing was chosen, or the layers differ in geometry.
    """
    if not layers:
        raise InputError("no image layer is chosen", hint="Open an image, or pick a layer.")
    first = layers[0]
    letters = parse_axes(axes, first)
    if "C" in letters and layer_is_rgb(first):
        # napari lets a channel axis be added to colour images; each is then a picture of its own.
        letters = letters.replace("C", next(a for a in "QTZ" if a not in letters))
    data = full_size(first)
    sizes = pixel_sizes_um(first, letters)
    if len(layers) == 1:
        image_axes = letters + ("S" if layer_is_rgb(first) else "")
        image = ImageInput(data, image_axes, sizes, name=first.name)
        return Source((first,), image, letters)
    for other in layers[1:]:
        _check_same_geometry(first, other)
    if "C" in letters or layer_is_rgb(first):
        raise InputError(
            f"{first.name!r} has channels of its own",
            expected="layers of one channel each",
            hint="Use it alone, or split it (right click ▸ Split Stack / Split RGB).",
        )
    stack = ChannelStack([full_size(layer) for layer in layers])
    if anchor is not None:
        _check_same_geometry(first, anchor)
    name = (anchor or first).name
    image = ImageInput(stack, "C" + letters, sizes, name=name)
    return Source(tuple(layers), image, letters, anchor)


def _check_same_geometry(first: Layer, other: Layer) -> None:
    def refuse(what: str, got: Any, expected: Any) -> None:
        raise InputError(
            f"{what} of {other.name!r} is {got}",
            expected=f"{expected} as in {first.name!r}",
            hint="Channels must be layers of one geometry.",
        )

    shapes = [tuple(full_size(layer).shape) for layer in (first, other)]
    if shapes[0] != shapes[1] or layer_is_rgb(other):
        refuse("the shape", "RGB" if layer_is_rgb(other) else shapes[1], shapes[0])
    for what in ("scale", "translate", "rotate", "shear"):
        mine, theirs = getattr(first, what), getattr(other, what)
        if np.shape(mine) != np.shape(theirs) or not np.allclose(mine, theirs):
            refuse(f"the {what}", np.round(theirs, 4).tolist(), np.round(mine, 4).tolist())
    if not np.allclose(first.affine.affine_matrix, other.affine.affine_matrix):
        refuse("the affine", "different", "the same")
    if tuple(first.units) != tuple(other.units):
        refuse("the unit", " ".join(map(str, other.units)), " ".join(map(str, first.units)))


def same_geometry(first: Layer, other: Layer) -> bool:
    """Whether both layers could be channels of one image."""
    try:
        _check_same_geometry(first, other)
    except InputError:
        return False
    return not layer_is_rgb(first)


# -- what is in view ---------------------------------------------------------------------------


def world_to_layer(viewer: Viewer, layer: Layer, position: Iterable[float]) -> np.ndarray:
    """World position (in the viewer's common units) to data coordinates of `layer`."""
    point = [float(p) for p in position][-layer.ndim :]
    point = [0.0] * (layer.ndim - len(point)) + point
    common = viewer.layers.units
    if common is not None:
        point = [
            float((p * unit).to(own).magnitude)
            for p, unit, own in zip(point, common[-layer.ndim :], layer.units, strict=True)
        ]
    return np.asarray(layer.world_to_data(point), dtype=float)


def current_plane(viewer: Viewer, source: Source) -> tuple[int, ...]:
    """Index of the plane that the sliders show, one number for each of the image's plane axes."""
    at = np.round(world_to_layer(viewer, source.layer, viewer.dims.point)).astype(int)
    place = dict(zip(source.layer_axes, at, strict=True))
    return tuple(
        int(np.clip(place[a], 0, source.image.size(a) - 1)) for a in source.image.plane_axes
    )


def show_plane(viewer: Viewer, source: Source, index: Sequence[int]) -> None:
    """Move the sliders to a plane of the image."""
    layer = source.layer
    at = dict(zip(source.image.plane_axes, index, strict=True))
    world = layer.data_to_world([at.get(axis, 0) for axis in source.layer_axes])
    common, lead = viewer.layers.units, viewer.dims.ndim - layer.ndim
    for i, axis in enumerate(source.layer_axes):
        if axis not in at:
            continue
        value = float(world[i])
        if common is not None:
            value = float((value * layer.units[i]).to(common[lead + i]).magnitude)
        viewer.dims.set_point(lead + i, value)


def visible_region(viewer: Viewer, source: Source) -> tuple[int, int, int, int]:
    """Rows and columns in view, ``(y0, x0, y1, x1)`` in pixels of the image, ends excluded.

    Raises
    ------
    InputError
        The image is out of view, or is not seen along its rows and columns.
    """
    layer, axes = source.layer, source.layer_axes
    shown = [d - (viewer.dims.ndim - layer.ndim) for d in viewer.dims.displayed]
    if viewer.dims.ndisplay != 2 or {axes.index("Y"), axes.index("X")} != set(shown):
        raise InputError(
            f"{layer.name!r} is not seen in its own plane",
            expected="the 2D view along rows and columns",
            hint="Leave the 3D view, or choose another scope.",
        )
    corners = np.asarray(layer.corner_pixels, dtype=float)
    if getattr(layer, "multiscale", False):
        corners = corners * np.asarray(layer.downsample_factors)[layer.data_level]
    bounds = []
    for letter in "YX":
        size = source.image.size(letter)
        low, high = corners[:, axes.index(letter)]
        bounds.append((int(np.clip(low, 0, size)), int(np.clip(np.ceil(high) + 1, 0, size))))
    (y0, y1), (x0, x1) = bounds
    if y1 - y0 < 2 or x1 - x0 < 2:
        raise InputError(
            f"{layer.name!r} is out of view", hint="Move the view onto the image, or fit it (Home)."
        )
    return y0, x0, y1, x1


# -- where a result belongs --------------------------------------------------------------------


def data_to_physical(layer: Layer) -> Any:
    """The transform from pixels to the layer's units, before its extra affine."""
    from napari.utils.transforms import CompositeAffine

    return CompositeAffine(
        scale=layer.scale,
        translate=layer.translate,
        rotate=layer.rotate,
        shear=layer.shear,
        ndim=layer.ndim,
        units=layer.units,
        axis_labels=layer.axis_labels,
    )


def spatial_kwargs(layer: Layer, *, keep: Sequence[int] | None = None) -> dict[str, Any]:
    """What places a new layer exactly where `layer` is (with only the dimensions `keep` of it)."""
    if keep is not None and len(keep) < layer.ndim:
        chosen = list(keep)
        transform = data_to_physical(layer).set_slice(chosen)
        affine = layer.affine.set_slice(chosen)
        labels = [layer.axis_labels[i] for i in chosen]
        units = [layer.units[i] for i in chosen]
    else:
        transform, affine, labels, units = layer, layer.affine, layer.axis_labels, layer.units
    return {
        "scale": transform.scale,
        "translate": transform.translate,
        "rotate": transform.rotate,
        "shear": transform.shear,
        # A copy: an Affine object would be shared between the two layers.
        "affine": np.array(affine.affine_matrix),
        "units": tuple(units),
        "axis_labels": tuple(labels),
    }


@dataclass(frozen=True)
class Placement:
    """Shape and place of a result over its source.

    `axes` are the letters of the result's dimensions in the layer's order, `shape` their lengths,
    `origin` where each starts in the source. `collapsed` axes have length 1 and stand for the whole
    axis of the source.
    """

    axes: str
    shape: tuple[int, ...]
    origin: Mapping[str, int]
    collapsed: str
    kwargs: dict[str, Any]

    def key(self, index: Mapping[str, int]) -> tuple[Any, ...]:
        """Where the plane at `index` (by axis letter, in the source) lies in the result."""
        key: list[Any] = []
        for letter in self.axes:
            if letter in "YX":
                key.append(slice(None))
            elif letter in self.collapsed:
                key.append(0)
            else:
                key.append(index[letter] - self.origin.get(letter, 0))
        return tuple(key)

    def oriented(self, plane: np.ndarray) -> np.ndarray:
        """A (Y, X[, 3]) plane in the order in which the layer has its rows and columns."""
        if self.axes.index("Y") < self.axes.index("X"):
            return plane
        return np.swapaxes(plane, 0, 1)


def place(
    source: Source,
    *,
    plane: Sequence[int] | None = None,
    region: tuple[int, int, int, int] | None = None,
    collapse: str = "",
) -> Placement:
    """Where results of `source` belong: all of it, one plane, a region, or without some axes.

    Parameters
    ----------
    plane : sequence of int, optional
        Only this plane, indices along the image's plane axes.
    region : tuple of int, optional
        Only this region, ``(y0, x0, y1, x1)`` in pixels.
    collapse : str
        Axes that the result does not have; channels never have any.
    """
    layer, axes = source.layer, source.layer_axes
    gone = "".join(a for a in axes if a in "C" + collapse)
    lead = 0
    while axes[lead] in gone:
        lead += 1
    origin = dict(zip(source.image.plane_axes, map(int, plane or ()), strict=False))
    length = dict.fromkeys(origin, 1)
    if region is not None:
        y0, x0, y1, x1 = region
        origin |= {"Y": y0, "X": x0}
        length |= {"Y": y1 - y0, "X": x1 - x0}
    shape, offset, stretch = [], np.zeros(len(axes)), np.ones(len(axes))
    for i, letter in enumerate(axes):
        size = source.image.size(letter)
        if letter in gone:
            # One element as long as the whole axis, centred on it, so that every slider position
            # shows it.
            stretch[i], offset[i] = size, (size - 1) / 2
        else:
            offset[i] = origin.get(letter, 0)
        if i >= lead:
            shape.append(1 if letter in gone else length.get(letter, size))
    kwargs = spatial_kwargs(layer, keep=range(lead, len(axes)))
    if offset[lead:].any():
        linear = data_to_physical(layer).linear_matrix[lead:, lead:]
        kwargs["translate"] = np.asarray(kwargs["translate"]) + linear @ offset[lead:]
    if (stretch[lead:] != 1).any():
        kwargs["scale"] = np.asarray(kwargs["scale"]) * stretch[lead:]
    letters = axes[lead:]
    return Placement(
        letters, tuple(shape), origin, "".join(a for a in letters if a in gone), kwargs
    )
