"""The layers of an annotated image: what the user paints, and what the classifier makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.widgets._classes import class_colormap, class_features
from dinoscope.widgets._layers import Placement, Source, place
from dinoscope.widgets._results import METADATA, remove_layer, selection_kept
from dinoscope.widgets._store import ResultStore

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from dinoscope.widgets._classlist import ClassList

#: Scribbles are one array in memory up to this size: pages that nobody paints on take no memory.
SCRIBBLE_LIMIT = 8 * 2**30
#: A preview is filled plane by plane; past this it goes to a file.
PREVIEW_LIMIT = 2 * 2**30
#: Parts of a plane smaller than this share are drawn alone, not the whole plane again.
_PART = 0.5
#: From the top of the pile down.
ROLES = ("scribbles", "objects", "object classes", "preview", "uncertainty")
DTYPES = {role: np.uint32 if role == "objects" else np.uint8 for role in ROLES}
_OPACITY = {"scribbles": 0.9, "objects": 0.6, "object classes": 0.6, "preview": 0.4}


class AnnotatedImage:
    """An image and its layers of annotation, however the user renames, moves or hides them.

    Parameters
    ----------
    viewer : napari.Viewer
        Where the layers are.
    source : Source
        The image.
    """

    def __init__(self, viewer: Viewer, source: Source) -> None:
        self._viewer = viewer
        self.source = source
        self.placement: Placement = place(source)
        self.key = str(source.layer.unique_id)
        self._layers: dict[str, Layer | None] = dict.fromkeys(ROLES)

    # -- layers --------------------------------------------------------------------------------

    def layer(self, role: str) -> Any:
        """The layer of a role; ``None`` where it was not made or was removed."""
        layer = self._layers[role]
        return layer if layer is not None and layer in self._viewer.layers else None

    @property
    def scribbles(self) -> Any:
        return self.layer("scribbles")

    @property
    def preview(self) -> Any:
        return self.layer("preview")

    @property
    def uncertainty(self) -> Any:
        return self.layer("uncertainty")

    def role_of(self, layer: Any) -> str:
        """Which of ours a layer is; an empty text where it is none."""
        return next((role for role in ROLES if self._layers[role] is layer), "")

    def make(self, role: str, classes: ClassList) -> Any:
        """The layer of a role, made where it is missing; the user's tool stays as it is."""
        found = self.layer(role) or self._adopt(role, classes)
        if found is not None:
            return found
        from napari.layers import Image, Labels

        limit = SCRIBBLE_LIMIT if role == "scribbles" else PREVIEW_LIMIT
        array = ResultStore(self.placement.shape, DTYPES[role], limit=limit).array
        name = f"{self.source.layer.name} · {role}"
        common = {"name": name, "multiscale": False, **self.placement.kwargs}
        if role == "uncertainty":
            layer: Any = Image(
                array,
                colormap=_doubt_colours(),
                contrast_limits=(0, 255),
                opacity=0.8,
                rgb=False,
                **common,
            )
        else:
            layer = Labels(array, opacity=_OPACITY[role], **common)
            _colour(layer, role, classes)
        layer.metadata[METADATA] = self._facts(role)
        with selection_kept(self._viewer):
            self._viewer.layers.insert(self._place_in_pile(role), layer)
        if role in ("scribbles", "objects"):
            layer.locked = True  # a stray Delete must not take the user's work away
        else:
            layer.editable = False
        self._layers[role] = layer
        return layer

    def _facts(self, role: str) -> dict[str, Any]:
        return {"annotate": role, "source": self.source.layer.name, "source_id": self.key}

    def _adopt(self, role: str, classes: ClassList) -> Any:
        """A layer of ours that an earlier panel left."""
        for layer in self._viewer.layers:
            facts = layer.metadata.get(METADATA) or {}
            ours = facts.get("annotate") == role and facts.get("source_id") == self.key
            if ours and tuple(layer.data.shape) == self.placement.shape:
                self._layers[role] = layer
                self.recolour(classes)
                return layer
        return None

    def remove(self) -> None:
        """Take our layers off the viewer."""
        for role in ROLES:
            layer = self.layer(role)
            self._layers[role] = None
            if layer is not None:
                remove_layer(self._viewer, layer)

    def recolour(self, classes: ClassList) -> None:
        """Classes have other names or colours."""
        for role in ROLES:
            layer = self.layer(role)
            if layer is not None:
                _colour(layer, role, classes)

    def _place_in_pile(self, role: str) -> int:
        """Above the image, the scribbles on top of the preview, that on top of uncertainty."""
        layers = self._viewer.layers
        for above in reversed(ROLES[: ROLES.index(role)]):
            other = self.layer(above)
            if other is not None:
                return int(layers.index(other))
        below = [self.source.layer, *(self.layer(r) for r in ROLES[ROLES.index(role) + 1 :])]
        return 1 + max(layers.index(x) for x in below if x is not None and x in layers)

    # -- planes --------------------------------------------------------------------------------

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.source.image.size("Y"), self.source.image.size("X")

    def _key(self, index: Sequence[int]) -> tuple[Any, ...]:
        return self.placement.key(dict(zip(self.source.image.plane_axes, index, strict=True)))

    def plane(self, role: str, index: Sequence[int]) -> np.ndarray:
        """The (Y, X) plane of a layer; a view where the layer is in memory."""
        plane = np.asarray(self.layer(role).data[self._key(index)])
        return self.placement.oriented(plane)

    def write(
        self,
        role: str,
        index: Sequence[int],
        region: tuple[int, int, int, int] | None,
        values: np.ndarray,
        *,
        shown: bool = True,
    ) -> None:
        """Put `values` into ``(y0, x0, y1, x1)`` of a plane (all of it without a region)."""
        layer = self.layer(role)
        if layer is None:
            return
        y0, x0, y1, x1 = region or (0, 0, *self.plane_shape)
        rows, columns = slice(y0, y1), slice(x0, x1)
        key = list(self._key(index))
        axes = self.placement.axes
        key[axes.index("Y")], key[axes.index("X")] = rows, columns
        part = self.placement.oriented(values)
        layer.data[tuple(key)] = part
        if shown:
            self._draw(layer, part, (y0, x0), values.size)

    def _draw(self, layer: Any, part: np.ndarray, start: tuple[int, int], size: int) -> None:
        """Bring a written part to the screen: alone where it is small, for an upload costs."""
        rows, columns = self.plane_shape
        axes = self.placement.axes
        shown = [
            axes[d - (self._viewer.dims.ndim - layer.ndim)] for d in self._viewer.dims.displayed
        ]
        upright = shown == ["Y", "X"] and axes.index("Y") < axes.index("X")
        in_memory = isinstance(layer.data, np.ndarray) and hasattr(layer.events, "labels_update")
        if in_memory and upright and layer.visible and size < _PART * rows * columns:
            layer.events.labels_update(data=part, offset=list(start))
            return
        layer.refresh(extent=False, thumbnail=False, highlight=False)

    def edit(self, role: str, index: Sequence[int], flat: np.ndarray, values: Any) -> None:
        """Set pixels of a plane through their layer, so that Ctrl+Z takes it back."""
        if not len(flat):
            return
        axes = self.placement.axes
        rows, columns = np.divmod(flat, self.plane_shape[1])
        key = self._key(index)
        where = [rows if a == "Y" else columns if a == "X" else None for a in axes]
        full = [np.full(len(flat), k) if w is None else w for k, w in zip(key, where, strict=True)]
        one = np.ndim(values) == 0
        self.layer(role).data_setitem(tuple(full), int(values) if one else [int(v) for v in values])

    def put_strokes(self, index: Sequence[int], flat: np.ndarray, codes: np.ndarray) -> None:
        """Paint the strokes of a plane into the scribble layer, without history."""
        layer = self.scribbles
        height, width = self.plane_shape
        rows, columns = np.divmod(flat, width)
        key = list(self._key(index))
        axes = self.placement.axes
        key[axes.index("Y")], key[axes.index("X")] = rows, columns
        if isinstance(layer.data, np.ndarray):
            layer.data[tuple(key)] = codes
            return
        plane = np.zeros((height, width), np.uint8)
        plane[rows, columns] = codes
        layer.data[self._key(index)] = self.placement.oriented(plane)


def _doubt_colours() -> Any:
    """Transparent where the classifier is sure: seen on dark and on bright images alike."""
    from napari.utils.colormaps import Colormap

    return Colormap([[1.0, 0.0, 0.7, 0.0], [1.0, 0.0, 0.7, 0.9]], name="doubt")


def _colour(layer: Any, role: str, classes: ClassList) -> None:
    """Layers of codes have the colours and names of the classes."""
    if role in ("scribbles", "preview", "object classes"):
        layer.colormap = class_colormap(classes.names, classes.colours)
        layer.features = class_features(["not annotated", *classes.names])
