"""What the generator returns, and the names of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dinoscope.types import ImageInput

#: Class names of ``SyntheticImage.semantic``; the position is the code.
SEMANTIC_CLASSES = ("background", "nucleus", "cell", "rod", "filament", "membrane")

BACKGROUND, NUCLEUS, CELL, ROD, FILAMENT, MEMBRANE = range(6)


@dataclass(frozen=True)
class SyntheticImage:
    """One made image with its exact truth.

    Parameters
    ----------
    image : (C, Y, X) or, for ``zstack``, (Z, Y, X) float32 in [0, 1]
    axes : str
        ``"CYX"``, or ``"ZYX"`` for stacks.
    instances : (Y, X) int32
        0 background, ids 1..n without gaps; every id is one 4-connected region, so none overlap.
    semantic : (Y, X) uint8
        Codes of `SEMANTIC_CLASSES`.
    depth : (Y, X) float32 or None
        Relative height in [0, 1], larger = nearer the objective.
    pixel_size_um : Mapping[str, float]
        Micrometres per step along ``"Y"``, ``"X"`` and, for stacks, ``"Z"``.
    kind : str
    tasks : tuple of str
        The truths that mean something for this kind: ``instance``, ``semantic``, ``depth``.
    height_um : (Y, X) float32 or None
        Absolute height of the surface above the first plane of a stack.
    """

    image: np.ndarray
    axes: str
    instances: np.ndarray
    semantic: np.ndarray
    depth: np.ndarray | None
    pixel_size_um: Mapping[str, float]
    kind: str
    tasks: tuple[str, ...] = ("instance", "semantic")
    height_um: np.ndarray | None = field(default=None)

    @property
    def object_count(self) -> int:
        """Number of labelled objects."""
        return int(self.instances.max(initial=0))

    @property
    def object_classes(self) -> np.ndarray:
        """(n,) uint8: the semantic class of objects 1..n (the commonest of its pixels)."""
        count = self.object_count
        classes = len(SEMANTIC_CLASSES)
        inside = self.instances > 0
        joint = (self.instances[inside] - 1) * classes + self.semantic[inside]
        votes = np.bincount(joint, minlength=count * classes).reshape(count, classes)
        commonest: np.ndarray = votes.argmax(1).astype(np.uint8)
        return commonest

    def as_input(self) -> ImageInput:
        """The image as the engine takes it."""
        return ImageInput(self.image, self.axes, dict(self.pixel_size_um), f"synthetic_{self.kind}")
