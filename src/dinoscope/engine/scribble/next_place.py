"""Where a stroke would help most: the least certain patch that nobody has painted near."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dinoscope.engine.scribble.session import Place

#: Side of a patch in pixels; smaller ones follow outlines, larger ones mean nothing.
SIDE = 32
#: On small planes: so many patches along the shorter side, of so many pixels at least.
_PATCHES, _LEAST = 8, 8


@dataclass(frozen=True)
class NextPlace:
    """Pixel ``(y, x)`` of a plane, and how uncertain its patch is, 0 to 1."""

    source: str
    index: tuple[int, ...]
    y: int
    x: int
    score: float


def least_certain(
    place: Place,
    uncertainty: np.ndarray,
    annotated: np.ndarray,
    visited: Iterable[tuple[int, int]] = (),
) -> NextPlace | None:
    """The least certain patch of one plane; ``None`` where every patch was painted or visited.

    Parameters
    ----------
    place : Place
        The plane's name, for the answer.
    uncertainty : (Y, X) uint8
        255 = undecided.
    annotated : (n,) integer array
        Flat indices of painted pixels; the patches around theirs are left out too.
    visited : iterable of (y, x)
        Places that were shown before.
    """
    height, width = uncertainty.shape
    side = min(SIDE, max(_LEAST, min(height, width) // _PATCHES))
    rows, columns = -(-height // side), -(-width // side)
    by_row = np.add.reduceat(uncertainty, range(0, height, side), axis=0, dtype=np.int64)
    total = np.add.reduceat(by_row, range(0, width, side), axis=1)
    tall = np.minimum(side, height - np.arange(rows) * side)
    wide = np.minimum(side, width - np.arange(columns) * side)
    score = total / (tall[:, None] * wide) / 255
    # Slivers at the border are no places to paint in.
    score[tall < side // 2] = -1 if rows > 1 else score[tall < side // 2]
    score[:, wide < side // 2] = -1 if columns > 1 else score[:, wide < side // 2]
    y, x = np.divmod(np.asarray(annotated, np.int64), width)
    used = np.zeros((rows + 2, columns + 2), bool)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            used[y // side + dy, x // side + dx] = True
    used = used[1:-1, 1:-1]
    for seen_y, seen_x in visited:
        if 0 <= seen_y < height and 0 <= seen_x < width:
            used[int(seen_y) // side, int(seen_x) // side] = True
    score[used] = -1
    row, column = np.unravel_index(int(score.argmax()), score.shape)
    if score[row, column] < 0:
        return None
    top, left = int(row) * side, int(column) * side
    patch = uncertainty[top : top + side, left : left + side].astype(np.float64)
    # The centre of what is uncertain, which is where one will want to paint.
    weight = patch.sum()
    if weight > 0:
        down = (patch.sum(1) @ np.arange(len(patch))) / weight
        right = (patch.sum(0) @ np.arange(patch.shape[1])) / weight
    else:
        down, right = (patch.shape[0] - 1) / 2, (patch.shape[1] - 1) / 2
    source, index = place
    return NextPlace(
        source, index, top + round(down), left + round(right), float(score[row, column])
    )
