"""What is annotated, as the few pixels that are: plane by plane, with what changed since last.

A layer of 4096 × 4096 pixels with a hundred strokes is some kilobytes here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

#: A plane: the key of its image, and its index along the image's plane axes.
PlaneKey = tuple[str, tuple[int, ...]]

#: Of a class that fills more pixels than this only an even share goes to the classifier.
PIXELS_OF_A_CLASS = 20_000


@dataclass(frozen=True)
class Strokes:
    """Annotated pixels of one plane: `flat` (n,) int64 sorted indices, `codes` (n,) integers."""

    flat: np.ndarray
    codes: np.ndarray
    version: int = 0

    @property
    def count(self) -> int:
        return len(self.flat)


@dataclass(frozen=True)
class Change:
    """What changed on one plane: `codes` are the new ones, 0 where something was erased."""

    key: str
    index: tuple[int, ...]
    flat: np.ndarray
    codes: np.ndarray


def annotated(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of a (Y, X) plane that are not 0: sorted flat int64 indices and codes.

    Eight pixels are looked at at once: most of a scribble layer is empty.
    """
    values = np.ascontiguousarray(plane).reshape(-1)
    flat = _nonzero(values)
    return flat, values[flat]


def difference(before: Strokes, flat: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Flat indices whose code changed and their new codes (0 = erased), sorted."""
    if len(before.flat) == len(flat) and np.array_equal(before.flat, flat):
        changed = before.codes != codes
        return flat[changed], codes[changed]
    at = np.searchsorted(before.flat, flat)
    inside = at < len(before.flat)
    known = np.zeros(len(flat), bool)
    known[inside] = before.flat[at[inside]] == flat[inside]
    old = np.zeros(len(flat), codes.dtype)
    old[known] = before.codes[at[known]]
    new = old != codes
    gone = np.ones(len(before.flat), bool)
    gone[at[known]] = False
    if not gone.any():  # nothing erased: in order already
        return flat[new], codes[new]
    where = np.concatenate([flat[new], before.flat[gone]])
    what = np.concatenate([codes[new], np.zeros(int(gone.sum()), codes.dtype)])
    order = np.argsort(where, kind="stable")
    return where[order], what[order]


def thinned(strokes: Strokes, at_most: int = PIXELS_OF_A_CLASS) -> tuple[np.ndarray, np.ndarray]:
    """All pixels of small classes, an even share of those that fill half the image."""
    counts = np.bincount(strokes.codes, minlength=256)
    if counts.max(initial=0) <= at_most:
        return strokes.flat, strokes.codes
    keep = np.ones(strokes.count, bool)
    for code in np.flatnonzero(counts > at_most):
        where = np.flatnonzero(strokes.codes == code)
        keep[where] = False
        keep[where[:: -(-len(where) // at_most)]] = True
    return strokes.flat[keep], strokes.codes[keep]


class StrokeBook:
    """All strokes (or objects), by plane. One thread writes, any may read.

    Parameters
    ----------
    dtype : dtype
        Of codes or ids.
    """

    def __init__(self, dtype: Any = np.uint8) -> None:
        self._nothing = Strokes(np.zeros(0, np.int64), np.zeros(0, dtype))
        self._planes: dict[PlaneKey, Strokes] = {}
        self._lock = threading.Lock()
        self._version = 0

    def update(self, key: str, index: tuple[int, ...], plane: np.ndarray) -> Change | None:
        """Read a (Y, X) plane of a scribble layer; what changed, or ``None``."""
        flat, codes = annotated(plane)
        before = self.strokes(key, index)
        where, what = difference(before, flat, codes)
        if not len(where):
            return None
        self.put(key, index, flat, codes)
        return Change(key, index, where, what)

    def put(self, key: str, index: tuple[int, ...], flat: np.ndarray, codes: np.ndarray) -> None:
        """Replace what is known of a plane."""
        with self._lock:
            self._version += 1
            if len(flat) or (key, index) in self._planes:
                self._planes[key, index] = Strokes(flat, codes, self._version)

    def strokes(self, key: str, index: tuple[int, ...]) -> Strokes:
        """What is annotated on a plane."""
        with self._lock:
            return self._planes.get((key, index), self._nothing)

    def planes(self, key: str | None = None) -> list[PlaneKey]:
        """The planes that were ever annotated, of one image or of all."""
        with self._lock:
            return [plane for plane in self._planes if key is None or plane[0] == key]

    def recode(self, table: np.ndarray) -> Iterator[Change]:
        """Send all codes through a ``(256,)`` uint8 table; yields what changed, plane by plane."""
        for key, index in self.planes():
            before = self.strokes(key, index)
            codes = table[before.codes]
            changed = codes != before.codes
            if changed.any():
                kept = codes > 0
                self.put(key, index, before.flat[kept], codes[kept])
                yield Change(key, index, before.flat[changed], codes[changed])

    def forget(self, key: str) -> None:
        """Know nothing of an image any more."""
        with self._lock:
            for plane in [p for p in self._planes if p[0] == key]:
                del self._planes[plane]

    def clear(self) -> None:
        """Know nothing any more."""
        with self._lock:
            self._planes.clear()

    def counts(self) -> np.ndarray:
        """Annotated pixels of each code, ``(256,)`` int64, over all planes."""
        total = np.zeros(256, np.int64)
        with self._lock:
            known = list(self._planes.values())
        for strokes in known:
            total += np.bincount(strokes.codes, minlength=256)
        return total


def _nonzero(values: np.ndarray) -> np.ndarray:
    """As :func:`numpy.flatnonzero`, quick where nearly all is zero."""
    step = 8 // values.dtype.itemsize
    whole = len(values) // step * step
    words = np.flatnonzero(values[:whole].view(np.uint64))
    if len(words) * 16 > whole:  # much is painted: no gain
        return np.flatnonzero(values)
    near = (words[:, None] * step + np.arange(step)).reshape(-1)
    found = near[values[near] != 0]
    rest = np.flatnonzero(values[whole:]) + whole
    return np.concatenate([found, rest]).astype(np.int64, copy=False)
