"""Pixels of the next part of an image, read and normalised while the network works on this one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from dinoscope.arrays.axes import Region
from dinoscope.arrays.tiling import Tile, TileGrid
from dinoscope.engine.scale import Prepared

#: A part has at least this many model pixels (48 MB as float32): one more is kept, however large
#: the image is.
PART_PIXELS = 4_000_000

Wanted = tuple[tuple[int, ...], Region]


def parts_of(
    grid: TileGrid, tiles: Sequence[Tile], *, whole: bool = False
) -> list[tuple[Tile, ...]]:
    """Rows of tiles that are read together; everything at once where `whole`."""
    if whole:
        return [tuple(tiles)]
    width = max(t.x0 for t in tiles) + grid.tile_shape[1] - min(t.x0 for t in tiles)
    parts: list[list[Tile]] = []
    for tile in sorted(tiles, key=lambda t: (t.y0, t.x0)):
        if parts:
            height = tile.y0 - parts[-1][0].y0
            same_row = tile.y0 == parts[-1][-1].y0
            if same_row or (height + grid.tile_shape[0]) * width <= PART_PIXELS:
                parts[-1].append(tile)
                continue
        parts.append([tile])
    return [tuple(p) for p in parts]


class PixelsAhead:
    """Prepares parts of an image, one ahead of the one that is asked for.

    Parameters
    ----------
    prepared : Prepared
        How planes become model pixels.
    zoom : float
        Model pixels per image pixel.
    """

    def __init__(self, prepared: Prepared, zoom: float) -> None:
        self._prepared = prepared
        self._zoom = zoom
        self._pool = ThreadPoolExecutor(1, "dinoscope-pixels")
        self._next: tuple[Wanted, Future[np.ndarray]] | None = None

    def take(self, wanted: Wanted, then: Wanted | None = None) -> np.ndarray:
        """``(3, y, x)`` of plane and window; `then` is prepared in the background."""
        ahead, self._next = self._next, None
        if ahead is not None and ahead[0] == wanted:
            pixels = ahead[1].result()
        else:
            if ahead is not None:
                ahead[1].cancel()
            pixels = self._make(wanted)
        if then is not None:
            self._next = (then, self._pool.submit(self._make, then))
        return pixels

    def _make(self, wanted: Wanted) -> np.ndarray:
        index, window = wanted
        return self._prepared.pixels(index, self._zoom, window)

    def close(self) -> None:
        """Wait for the thread; what it was preparing is dropped."""
        self._next = None
        self._pool.shutdown(wait=True, cancel_futures=True)
