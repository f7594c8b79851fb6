"""What the jobs of the Features panel share: encoded planes, sets, points, fitted components."""

from __future__ import annotations

import dataclasses
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.engine.explore.encode import TokenSet
from dinoscope.engine.explore.points import PointSet
from dinoscope.engine.explore.store import TokenStore
from dinoscope.engine.pca import Basis
from dinoscope.errors import InputError
from dinoscope.models.model import Model

#: Fitted bases that are kept, so that other components are shown without fitting again.
_KEPT_BASES = 8


class Exploration:
    """What the jobs share: encoded planes, sets, points and fitted bases.

    Parameters
    ----------
    folder : Path
        Where planes go that memory has no room for.
    """

    def __init__(self, folder: Path) -> None:
        self.store = TokenStore(folder)
        self.sets: dict[str, TokenSet] = {}
        self.points: dict[str, PointSet] = {}
        self.sets_of_points: dict[str, tuple[str, ...]] = {}
        self.coordinates: dict[str, np.ndarray] = {}
        self.bases: OrderedDict[Any, tuple[Basis, ...]] = OrderedDict()
        self.means: dict[str, np.ndarray] = {}
        self.original: tuple[Any, Model] | None = None
        self._numbers = itertools.count(1)

    def add_set(self, found: TokenSet) -> str:
        """Keep a set; returns its id."""
        name = f"t{next(self._numbers)}"
        self.sets[name] = found
        return name

    def add_points(self, found: PointSet, sets: Sequence[str]) -> str:
        """Keep points; returns their id. They keep the planes they were made of."""
        name = f"p{next(self._numbers)}"
        self.points[name] = found
        self.sets_of_points[name] = tuple(sets)
        for used in found.sets:
            self.store.hold(used.keys)
        return name

    def set_of(self, name: Any) -> TokenSet:
        """The set of an id.

        Raises
        ------
        InputError
            It is not known (any more).
        """
        if name not in self.sets:
            raise InputError(f"set {name!r} is not known", hint="Encode the image again.")
        return self.sets[name]

    def points_of(self, name: Any) -> PointSet:
        """The points of an id.

        Raises
        ------
        InputError
            They are not known (any more).
        """
        if name not in self.points:
            raise InputError(f"points {name!r} are not known", hint="Make the points again.")
        return self.points[name]

    def keep_bases(self, key: Any, bases: tuple[Basis, ...]) -> None:
        """Keep fitted components under what they were fitted on; the oldest go."""
        self.bases[key] = bases
        self.bases.move_to_end(key)
        while len(self.bases) > _KEPT_BASES:
            self.bases.popitem(last=False)

    def forget_set(self, name: str) -> None:
        """Let a set's planes go, unless points need them."""
        found = self.sets.pop(name, None)
        self.means.pop(name, None)
        if found is not None:
            self.store.release(found.keys)

    def forget_points(self, name: str) -> None:
        """Let points go."""
        found = self.points.pop(name, None)
        self.coordinates.pop(name, None)
        self.sets_of_points.pop(name, None)
        for used in found.sets if found is not None else ():
            self.store.release(used.keys)

    def mean(self, name: str) -> np.ndarray:
        """``(D,)`` mean token of all planes of a set."""
        if name not in self.means:
            found = self.set_of(name)
            planes = [np.asarray(found.tokens(i), np.float32).mean(0) for i in found.indices]
            self.means[name] = np.mean(planes, axis=0)
        return self.means[name]


def describe_set(name: str, image: str, found: TokenSet) -> dict[str, Any]:
    """A set as plain values.

    ``set`` (its id), ``image`` (the image's name in the job), ``name``, ``model``, ``adapter``,
    ``tuned``, ``indices``, ``plane_axes``, ``dim``, ``layers``, ``zoom``, ``cached`` (planes that
    were known), ``grid`` (the entries of :class:`~dinoscope.arrays.patches.PatchGrid`).
    """
    return {
        "set": name,
        "image": image,
        "name": found.image,
        "model": found.model,
        "adapter": found.adapter,
        "tuned": found.tuned,
        "indices": [tuple(map(int, index)) for index in found.indices],
        "plane_axes": found.plane_axes,
        "dim": found.dim,
        "layers": found.layers,
        "zoom": float(found.zoom),
        "cached": found.cached,
        "grid": dataclasses.asdict(found.grid),
    }
