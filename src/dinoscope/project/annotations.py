"""What can be asked and said of one annotated plane."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dinoscope.arrays.files import read_image, write_image
from dinoscope.arrays.labels import pixel_checksums
from dinoscope.errors import InputError
from dinoscope.project.images import ProjectImages
from dinoscope.project.planes import SparsePlane
from dinoscope.project.records import encode_pixels
from dinoscope.project.references import ImageRef
from dinoscope.project.state import LAYERS, Index, PlaneState

DEPTH = "depth"


@dataclass(frozen=True)
class PlaneObjects:
    """Objects of a plane: flat indices (n,) int64, ids (n,) uint32, class codes by id."""

    flat: np.ndarray
    ids: np.ndarray
    classes: Mapping[int, int]


class PlaneAnnotations(ProjectImages):
    """The part of a project that is about planes; `Project` says where they are kept."""

    @abstractmethod
    def _plane(self, source: str, index: Sequence[int]) -> PlaneState: ...

    @abstractmethod
    def _need_writable(self) -> None: ...

    def pixels(
        self, source: str, index: Sequence[int], layer: str = "strokes"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices (n,) int64, ascending, and codes (n,) of what is painted on a layer."""
        painted = self._plane(source, index).painted.get(layer)
        return painted.pixels() if painted is not None else SparsePlane(LAYERS[layer]).pixels()

    def strokes(self, source: str, index: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices (n,) int64 and class codes (n,) uint8 of all annotated pixels."""
        return self.pixels(source, index, "strokes")

    def dense(self, source: str, index: Sequence[int], layer: str = "strokes") -> np.ndarray:
        """A layer as ``(Y, X)``: uint8 codes of ``strokes`` and ``area``, uint32 ids."""
        shape = self.source(source).plane
        painted = self._plane(source, index).painted.get(layer)
        return painted.dense(shape) if painted is not None else np.zeros(shape, LAYERS[layer])

    def objects(self, source: str, index: Sequence[int]) -> PlaneObjects:
        """Corrected objects, and the classes that were given to some."""
        flat, ids = self.pixels(source, index, "objects")
        return PlaneObjects(flat, ids, dict(self._plane(source, index).object_classes))

    def set_object_classes(
        self, source: str, index: Sequence[int], classes: Mapping[int, int]
    ) -> None:
        """Give objects (by id) class codes; 0 takes the class away."""
        value = {str(int(number)): int(code) for number, code in classes.items()}
        if any(int(n) < 1 or not 0 <= c <= 255 for n, c in value.items()):
            raise InputError(
                f"object classes are {dict(classes)!r}", expected="ids from 1, codes 0 to 255"
            )
        self._set("object_class", source, index, value)

    def add_found(self, source: str, index: Sequence[int], objects: np.ndarray) -> None:
        """Tell which objects ``(Y, X)`` a program found: until somebody corrects them, gives them
        a class or vouches for the plane, they are no annotations (see `corrected_objects`)."""
        new = set(pixel_checksums(objects).values()) - self._plane(source, index).found
        if new:
            self._set("found", source, index, sorted(new))

    def corrected_objects(self, source: str, index: Sequence[int]) -> np.ndarray:
        """``(Y, X)`` uint32 ids of the objects that a user drew, corrected, gave a class, or
        vouches for: those in an annotated area, or on a plane that is complete."""
        objects = self.dense(source, index, "objects")
        plane = self._plane(source, index)
        if not plane.found or plane.complete:
            return objects
        same = {n for n, told in pixel_checksums(objects).items() if told in plane.found}
        left = same - plane.object_classes.keys()
        area = self.area_mask(source, index)
        if left and area.any():
            left &= set(np.unique(objects[~area]).tolist())  # others lie wholly within it
        objects[np.isin(objects, sorted(left))] = 0
        return objects

    def image_class(self, source: str, index: Sequence[int]) -> int | None:
        """The class code of the plane as a whole, where it has one."""
        return self._plane(source, index).image_class

    def set_image_class(self, source: str, index: Sequence[int], code: int | None) -> None:
        """Say of which class the plane as a whole is; ``None`` takes that back."""
        if code is not None and not 1 <= int(code) <= 255:
            raise InputError(f"class code of an image is {code!r}", expected="1 to 255, or None")
        self._set("image_class", source, index, None if code is None else int(code))

    def complete(self, source: str, index: Sequence[int]) -> bool:
        """Whether everything on the plane is annotated: 0 means background there."""
        return self._plane(source, index).complete

    def set_complete(self, source: str, index: Sequence[int], value: bool) -> None:
        """Say that everything on the plane is annotated, or that it is not."""
        if self.complete(source, index) != bool(value):
            self._set("complete", source, index, bool(value))

    def area(self, source: str, index: Sequence[int]) -> list[np.ndarray]:
        """Polygons within which everything is annotated, each (n, 2) rows and columns."""
        return [np.array(p, float) for p in self._plane(source, index).polygons]

    def set_area(self, source: str, index: Sequence[int], polygons: Sequence[Any]) -> None:
        """Replace the polygons within which everything is annotated.

        Raises
        ------
        InputError
            One is not (n, 2) with three corners or more.
        """
        value = []
        for polygon in polygons:
            corners = np.asarray(polygon, float)
            if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
                raise InputError(
                    f"an annotated area has shape {corners.shape}",
                    expected="(n, 2): rows and columns of three corners or more",
                )
            value.append([[round(float(y), 3), round(float(x), 3)] for y, x in corners])
        self._set("area", source, index, value)

    def area_mask(self, source: str, index: Sequence[int]) -> np.ndarray:
        """``(Y, X)`` bool: where 0 means background and not unknown."""
        from skimage.draw import polygon2mask

        shape = self.source(source).plane
        if self.complete(source, index):
            return np.ones(shape, bool)
        mask = self.dense(source, index, "area") > 0
        for polygon in self.area(source, index):
            mask |= polygon2mask(shape, polygon)
        return mask

    def record(
        self,
        source: str,
        index: Sequence[int],
        kind: str,
        flat_indices: np.ndarray,
        codes: np.ndarray | int,
        layer: str = "strokes",
    ) -> int:
        """Append a change of painted pixels; returns the bytes that it took.

        Parameters
        ----------
        source, index
            Which plane.
        kind : str
            What was done, such as ``paint``, ``fill``, ``erase``, ``undo``; for the record only.
        flat_indices : (n,) integer array
            Pixels, as flat indices into the plane (``y * X + x``); of one that occurs twice the
            last counts.
        codes : (n,) integer array or int
            What they are now: class codes of ``strokes``, ids of ``objects``, 0 or 1 of ``area``;
            0 = erased.
        layer : {"strokes", "objects", "area"}
            What was painted on.

        Raises
        ------
        InputError
            Pixels outside of the plane, codes that do not fit, an unknown layer or image.
        OutputError
            The disk is full: the change counts, and is written when there is room again.
        """
        reference = self.source(source)
        index = _checked_index(reference, index)
        flat, values = _checked_pixels(reference, flat_indices, codes, layer)
        if not len(flat):
            return 0
        header = {"op": "paint", "source": source, "index": list(index), "layer": layer}
        return self._change({**header, "kind": kind}, encode_pixels(flat, values))

    def set_depth(self, source: str, index: Sequence[int], depth: np.ndarray | None) -> None:
        """Give a plane's depth, ``(Y, X)`` float, NaN = unknown; ``None`` takes it away."""
        reference = self.source(source)
        index = _checked_index(reference, index)
        value = None
        if depth is not None:
            if depth.shape != reference.plane:
                raise InputError(
                    f"depth has shape {depth.shape}", expected=f"{reference.plane} as the image"
                )
            name = "_".join([source, *map(str, index), f"{time.time_ns():x}"]) + ".tif"
            self._need_writable()
            write_image(self.folder / DEPTH / name, depth.astype(np.float32), "YX", {})
            value = {"file": f"{DEPTH}/{name}"}
        header = {"op": "depth", "source": source, "index": list(index), "value": value}
        self._change(header)

    def depth(self, source: str, index: Sequence[int]) -> np.ndarray | None:
        """``(Y, X)`` float32, NaN = unknown; ``None`` where none was given."""
        told = self._plane(source, index).depth
        if told is None:
            return None
        return np.asarray(read_image(self.folder / str(told["file"]), "YX").data[:, :], np.float32)

    def _set(self, op: str, source: str, index: Sequence[int], value: Any) -> None:
        index = _checked_index(self.source(source), index)
        self._change({"op": op, "source": source, "index": list(index), "value": value})


def _checked_index(reference: ImageRef, index: Sequence[int]) -> Index:
    index = tuple(int(i) for i in index)
    shape = reference.plane_shape
    if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise InputError(
            f"plane {index} of {reference.name!r}, whose planes are {shape}",
            expected=f"{len(shape)} numbers, each from 0 to the length of its axis",
        )
    return index


def _checked_pixels(
    reference: ImageRef, flat: np.ndarray, codes: np.ndarray | int, layer: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ascending flat indices, each once, and their codes."""
    if layer not in LAYERS:
        raise InputError(f"layer is {layer!r}", expected="one of " + ", ".join(LAYERS))
    flat = np.asarray(flat).ravel().astype(np.int64)
    values = np.broadcast_to(np.asarray(codes).ravel(), flat.shape)
    if not len(flat):
        return flat, values.astype(np.uint32)
    pixels = reference.plane[0] * reference.plane[1]
    highest = int(np.iinfo(LAYERS[layer]).max)
    if int(flat.min()) < 0 or int(flat.max()) >= pixels:
        raise InputError(
            f"painted pixels reach from {int(flat.min())} to {int(flat.max())}",
            expected=f"flat indices from 0 to {pixels - 1}, the plane of {reference.name!r}",
        )
    if int(values.min()) < 0 or int(values.max()) > highest:
        raise InputError(
            f"codes of {layer} reach from {int(values.min())} to {int(values.max())}",
            expected=f"0 to {highest}",
        )
    if bool((np.diff(flat) > 0).all()):
        return flat, values.astype(np.uint32)
    order = np.argsort(flat, kind="stable")
    flat, values = flat[order], values[order]
    last = np.append(flat[1:] != flat[:-1], True)
    return flat[last], values[last].astype(np.uint32)
