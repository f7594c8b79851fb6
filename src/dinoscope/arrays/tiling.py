"""Cut an image into overlapping tiles and join the maps that come back.

A grid is anchored at the image's origin and depends on the image's shape only, so a region that is
predicted with the tiles that cover it agrees with the whole plane.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.axes import Region
from dinoscope.errors import InputError

#: A tile is never smaller than this many patches along a side.
LEAST_PATCHES = 8
#: A grid of more tokens than need be must save this share of the cost: larger tiles see more of
#: what is around an object, and each has a cost that no formula counts.
LEAST_GAIN = 0.05


@dataclass(frozen=True)
class Tile:
    """A tile's first row and column in the image; both are multiples of the patch."""

    y0: int
    x0: int


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one shape that cover an image.

    `shape` is that of the image, ``(Y, X)``; `padded_shape` that of all tiles together, less than a
    tile larger; `tiles` are in rows from the top left.
    """

    shape: tuple[int, int]
    tile_shape: tuple[int, int]
    padded_shape: tuple[int, int]
    tiles: tuple[Tile, ...]

    def covering(self, region: Region) -> tuple[Tile, ...]:
        """The tiles that have a part in the pixels of ``(y0, x0, y1, x1)``."""
        y0, x0, y1, x1 = region
        height, width = self.tile_shape
        return tuple(
            t
            for t in self.tiles
            if t.y0 < y1 and t.y0 + height > y0 and t.x0 < x1 and t.x0 + width > x0
        )

    def bounds(self, tiles: tuple[Tile, ...]) -> Region:
        """The pixels of the image, ``(y0, x0, y1, x1)``, that `tiles` look at."""
        height, width = self.tile_shape
        return (
            min(t.y0 for t in tiles),
            min(t.x0 for t in tiles),
            min(self.shape[0], max(t.y0 for t in tiles) + height),
            min(self.shape[1], max(t.x0 for t in tiles) + width),
        )


def tile_grid(
    shape: tuple[int, int],
    *,
    tile_min: int = 448,
    tile_max: int = 560,
    patch: int = 14,
    margin: int = 14,
    knee: float = math.inf,
) -> TileGrid:
    """The cheapest grid whose neighbouring tiles overlap by at least `margin` pixels.

    A tile of n tokens costs n·(1 + n / `knee`). The grid of fewest tokens is kept where another
    one saves less than a twentieth.

    Parameters
    ----------
    shape : tuple of int
        ``(Y, X)`` of the image.
    tile_min, tile_max : int
        Range of a tile's sides in pixels, inwards to multiples of `patch`. An image that fits into
        one tile may get the smallest one that holds it, of at least 8 patches a side.
    patch : int
        Side of a token in pixels; tiles begin and end at multiples of it.
    margin : int
        Least overlap in pixels.
    knee : float
        Tokens of a tile at which attention, which grows with their square, costs as much as all
        the rest. Infinite: tokens alone count.

    Raises
    ------
    InputError
        The image is empty or the options contradict each other.

    Examples
    --------
    >>> grid = tile_grid((1024, 300))
    >>> grid.tile_shape, grid.padded_shape, grid.tiles
    ((532, 308), (1036, 308), (Tile(y0=0, x0=0), Tile(y0=504, x0=0)))
    """
    height, width = (int(n) for n in shape)
    if height < 1 or width < 1:
        raise InputError(f"image has shape {(height, width)}", expected="at least one pixel")
    if patch < 1 or margin < 0 or not knee > 0:
        raise InputError(
            f"patch is {patch}, margin {margin} and knee {knee}",
            expected="patch >= 1, margin >= 0 and knee > 0",
        )
    smallest = max(math.ceil(tile_min / patch), 1)
    largest = tile_max // patch
    overlap = math.ceil(margin / patch)
    if largest < smallest or largest <= overlap:
        raise InputError(
            f"tiles of {tile_min} to {tile_max} px with a margin of {margin} px",
            expected=f"tile_min <= tile_max, which holds a multiple of {patch} above the margin",
        )
    lengths = math.ceil(height / patch), math.ceil(width / patch)
    down, across = (_splits(n, smallest, largest, overlap) for n in lengths)
    (count_y, tall), (count_x, wide) = _cheapest(down, across, knee)
    rows, columns = _places(lengths[0], count_y, tall), _places(lengths[1], count_x, wide)
    return TileGrid(
        shape=(height, width),
        tile_shape=(tall * patch, wide * patch),
        padded_shape=((rows[-1] + tall) * patch, (columns[-1] + wide) * patch),
        tiles=tuple(Tile(y * patch, x * patch) for y in rows for x in columns),
    )


def cut(
    image: np.ndarray, grid: TileGrid, tile: Tile, *, origin: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Cut one tile out of ``(C, Y, X)``, padded at the image's lower and right edge.

    Parameters
    ----------
    image : np.ndarray
        ``(C, Y, X)``: the whole plane, or a part of it that holds the tile.
    grid : TileGrid
        The grid of the whole plane.
    tile : Tile
        One of its tiles.
    origin : tuple of int
        Row and column of the plane where `image` begins.

    Returns
    -------
    np.ndarray
        ``(C, th, tw)`` in the image's dtype, continued by reflection, or by repeating the last
        pixel where the image is too small for that. A view where nothing had to be padded.
    """
    height, width = grid.tile_shape
    y0, x0 = tile.y0 - origin[0], tile.x0 - origin[1]
    part = image[:, y0 : y0 + height, x0 : x0 + width]
    for axis, full in ((1, height), (2, width)):
        missing = full - part.shape[axis]
        if missing > 0:
            pads = [(0, 0)] * 3
            pads[axis] = (0, missing)
            part = np.pad(part, pads, mode="reflect" if missing < part.shape[axis] else "edge")
    return part


class Stitcher:
    """Join the maps of overlapping tiles; weights fall off linearly where tiles overlap.

    Parameters
    ----------
    channels : int
        Number of maps, K.
    shape : tuple of int
        ``(Y, X)`` of the result: of the image, or of `region`.
    grid : TileGrid
        The grid of the whole plane.
    region : tuple of int, optional
        Join only these pixels, ``(y0, x0, y1, x1)``; add the tiles that cover it.
    """

    def __init__(
        self, channels: int, shape: tuple[int, int], grid: TileGrid, *, region: Region | None = None
    ) -> None:
        self._region = region or (0, 0, *grid.shape)
        y0, x0, y1, x1 = self._region
        if (y1 - y0, x1 - x0) != tuple(shape):
            raise InputError(
                f"result has shape {tuple(shape)}", expected=f"{(y1 - y0, x1 - x0)}, as the grid"
            )
        self._tile_shape = grid.tile_shape
        self._sum = np.zeros((channels, *shape), np.float32)
        self._rows = _weights(sorted({t.y0 for t in grid.tiles}), grid.tile_shape[0])
        self._columns = _weights(sorted({t.x0 for t in grid.tiles}), grid.tile_shape[1])

    def add(self, tile: Tile, maps: np.ndarray) -> None:
        """Add the maps ``(K, th, tw)`` of one tile, each tile once."""
        expected = (len(self._sum), *self._tile_shape)
        if maps.shape != expected:
            raise InputError(f"maps of a tile have shape {maps.shape}", expected=f"{expected}")
        y0, x0, y1, x1 = self._region
        top, left = max(tile.y0, y0), max(tile.x0, x0)
        bottom = min(tile.y0 + self._tile_shape[0], y1)
        right = min(tile.x0 + self._tile_shape[1], x1)
        if bottom <= top or right <= left:
            return
        rows = slice(top - tile.y0, bottom - tile.y0)
        columns = slice(left - tile.x0, right - tile.x0)
        weights = self._rows[tile.y0][rows, np.newaxis] * self._columns[tile.x0][columns]
        target = self._sum[:, top - y0 : bottom - y0, left - x0 : right - x0]
        target += maps[:, rows, columns] * weights

    def result(self) -> np.ndarray:
        """The joined maps ``(K, Y, X)`` float32; 0 where no tile was added."""
        return self._sum


def _splits(length: int, smallest: int, largest: int, overlap: int) -> list[tuple[int, int]]:
    """Numbers of tiles along an axis with their length, in patches."""
    options = []
    if length <= largest:
        options.append((1, max(length, LEAST_PATCHES)))
    for size in range(max(smallest, overlap + 1), min(largest, length - 1) + 1):
        options.append((1 + math.ceil((length - size) / (size - overlap)), size))
    return options


def _cheapest(
    down: list[tuple[int, int]], across: list[tuple[int, int]], knee: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The splits of the two axes that cost least together."""

    def cost(pair: tuple[tuple[int, int], tuple[int, int]]) -> float:
        (count_y, tall), (count_x, wide) = pair
        tokens = tall * wide
        return count_y * count_x * tokens * (1 + tokens / knee)

    pairs = list(itertools.product(down, across))
    fewest = min(pairs, key=lambda pair: (pair[0][0] * pair[0][1] * pair[1][0] * pair[1][1], pair))
    best = min(pairs, key=cost)
    return best if cost(best) < (1 - LEAST_GAIN) * cost(fewest) else fewest


def _places(length: int, count: int, size: int) -> list[int]:
    """Where `count` tiles begin along an axis, spread evenly, in patches."""
    if count == 1:
        return [0]
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def _weights(starts: list[int], size: int) -> dict[int, np.ndarray]:
    """Weights ``(size,)`` float32 of the tiles along one axis; they add up to 1 at every pixel."""
    end = starts[-1] + size
    total = np.zeros(end)
    ramps = {}
    for i, start in enumerate(starts):
        ramp = np.ones(size)
        position = np.arange(size) + 0.5
        if i > 0:
            ramp = np.minimum(ramp, position / (starts[i - 1] + size - start))
        if i + 1 < len(starts):
            ramp = np.minimum(ramp, (size - position) / (start + size - starts[i + 1]))
        ramps[start] = ramp
        total[start : start + size] += ramp
    return {s: (r / total[s : s + size]).astype(np.float32) for s, r in ramps.items()}
