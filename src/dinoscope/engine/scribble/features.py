"""What the fast loop looks at: classical filters and tokens as 8-bit maps on one grid of pixels.

Trees ask whether a value exceeds a limit, so any monotonous scale will do; these are fixed, the
same for every image and session. Large planes are looked at at every second pixel, and class
probabilities are interpolated between: on the development sets this costs no accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dinoscope.arrays.filters import FilterBank, blas
from dinoscope.arrays.patches import PatchGrid

#: Planes of more pixels are looked at at every second one.
WHOLE_PIXELS = 600_000
#: Principal components of the tokens.
COMPONENTS = 16
#: Tokens that principal components are found on.
_FIT_TOKENS = 8000
#: Deviations of a component on either side that 8 bits hold.
_SPREAD = 4.0
#: Intensities smoothed by a larger deviation mix an object with what lies around it.
_PLAIN_SCALE = 4.0
#: Rows whose maps are interpolated at once.
_BAND = 128


@dataclass(frozen=True)
class PlaneFeatures:
    """Maps of one plane.

    Parameters
    ----------
    shape : tuple of int
        ``(Y, X)`` of the plane.
    stride : int
        Pixels from one looked-at pixel to the next.
    maps : (K, y, x) uint8
        ``y`` and `x` are ``shape / stride``, rounded up.
    said : int
        How many of the last maps are probabilities of the model's own semantic head.
    """

    shape: tuple[int, int]
    stride: int
    maps: np.ndarray
    said: int = 0

    @property
    def nbytes(self) -> int:
        return int(self.maps.nbytes)

    @cached_property
    def overview(self) -> PlaneFeatures:
        """A small copy, every second looked-at pixel of it, as a plane of its own: four times
        sooner predicted."""
        maps = np.ascontiguousarray(self.maps[:, ::2, ::2])
        return PlaneFeatures((maps.shape[1], maps.shape[2]), 1, maps, self.said)

    def at(self, pixels: np.ndarray) -> np.ndarray:
        """``(n, K)`` uint8 of flat pixel indices ``(n,)``; the nearest looked-at pixel's."""
        rows, columns = np.divmod(np.asarray(pixels, np.int64), self.shape[1])
        height, width = self.maps.shape[1:]
        place = np.minimum(rows // self.stride, height - 1) * width
        place += np.minimum(columns // self.stride, width - 1)
        return np.ascontiguousarray(self.maps.reshape(len(self.maps), -1)[:, place].T)

    def some(self, count: int) -> np.ndarray:
        """``(n, K)`` uint8 of about `count` pixels on an even grid over the plane."""
        step = max(1, round((self.maps[0].size / count) ** 0.5))
        rows = self.maps[:, step // 2 :: step, step // 2 :: step]
        return np.ascontiguousarray(rows.reshape(len(self.maps), -1).T)


@dataclass(frozen=True)
class HeadMaps:
    """What heads of the model see of a plane: `maps` (K, h, w) uint8, and the `positions` of the
    plane's rows and columns of pixels in them."""

    maps: np.ndarray
    positions: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Projection:
    """Tokens to a few components: ``(tokens - mean) @ matrix``, each divided by its deviation."""

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, tokens: np.ndarray, components: int = COMPONENTS) -> Projection:
        """Principal components of ``(n, D)`` tokens whose channels all count alike."""
        step = max(1, len(tokens) // _FIT_TOKENS)
        some = np.asarray(tokens[::step], np.float64)
        mean, spread = some.mean(0), some.std(0) + 1e-6
        centred = (some - mean) / spread
        scatter = centred.T @ centred / len(centred)
        with blas().limit(limits=1):
            values, vectors = np.linalg.eigh(scatter)
        order = np.argsort(-values)[:components]
        deviation = np.sqrt(np.maximum(values[order], 1e-6))
        # A sign is arbitrary; fixed, so that equal tokens give equal components anywhere.
        sign = np.sign(vectors[np.abs(vectors[:, order]).argmax(0), order])
        matrix = vectors[:, order] * sign / deviation / spread[:, None]
        return cls(mean.astype(np.float32), matrix.astype(np.float32))

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """``(n, D)`` to ``(n, components)`` float32 of deviation about 1."""
        flat = np.asarray(tokens, np.float32)
        return np.asarray((flat - self.mean) @ self.matrix)


def plain_columns(bank: FilterBank | None, channels: int) -> tuple[int, ...]:
    """Which maps are intensities, smoothed by no more than a few pixels."""
    names = bank.names(channels) if bank is not None else ()
    kept = []
    for place, name in enumerate(names):
        kind, _, scale = name.rpartition(" ")
        if kind == "gaussian" or kind.startswith("channel"):
            kept += [place] if float(scale) <= _PLAIN_SCALE else []
    return tuple(kept)


def stride_for(shape: tuple[int, int]) -> int:
    """Every how manyth pixel of a plane is looked at."""
    return 2 if shape[0] * shape[1] > WHOLE_PIXELS else 1


def filter_maps(
    channels: np.ndarray, bank: FilterBank | None, room: int, threads: int = 1
) -> np.ndarray:
    """The filters of one plane at its looked-at pixels.

    Parameters
    ----------
    channels : (C, Y, X) float32
        The plane, about 0 to 1.
    bank : FilterBank or None
        Which filters; ``None`` for no filters.
    room : int
        Maps that are left to be filled by :func:`plane_features`, after the filters.
    threads : int
        Threads to use.

    Returns
    -------
    (K + room, y, x) uint8
    """
    shape = (channels.shape[1], channels.shape[2])
    stride = stride_for(shape)
    names = bank.names(len(channels)) if bank is not None else ()
    small = (-(-shape[0] // stride), -(-shape[1] // stride))
    maps = np.empty((len(names) + room, *small), np.uint8)

    def keep(rows: slice, found: np.ndarray) -> None:
        for place, name in enumerate(names):
            maps[place, rows] = quantize(found[place], name)

    if bank is not None:
        bank.each_band(channels, keep, stride=stride, threads=threads)
    return maps


def plane_features(
    shape: tuple[int, int],
    tokens: np.ndarray,
    grid: PatchGrid,
    projection: Projection,
    maps: np.ndarray,
    heads: HeadMaps | None = None,
) -> PlaneFeatures:
    """The maps of one plane: its filters, components of its tokens, maps of heads.

    Parameters
    ----------
    shape : tuple of int
        ``(Y, X)`` of the plane.
    tokens : (h·w, D) array
        Tokens of `grid`, which covers the plane.
    projection : Projection
        From tokens to components.
    maps : (K, y, x) uint8
        From :func:`filter_maps`, with room for the components and heads, which are written into
        it.
    heads : HeadMaps, optional
        What the model's dense heads see.
    """
    stride = stride_for(shape)
    end = len(maps) - (len(heads.maps) if heads is not None else 0)
    with blas().limit(limits=1):
        components = np.moveaxis(projection(tokens).reshape(*grid.grid, -1), -1, 0)
        scaled = components * np.float32(127.5 / _SPREAD) + np.float32(128)
        rows, columns = (positions[::stride] for positions in grid.pixel_positions())
        _spread(scaled, rows, columns, maps[end - len(scaled) : end])
        if heads is not None:
            rows, columns = (positions[::stride] for positions in heads.positions)
            _spread(heads.maps.astype(np.float32), rows, columns, maps[end:])
    return PlaneFeatures(shape, stride, maps)


def quantize(values: np.ndarray, name: str) -> np.ndarray:
    """A filter's values as uint8: intensities evenly, the others in steps that grow with them."""
    kind = name.rpartition(" ")[0]
    if kind == "gaussian" or kind.startswith("channel"):
        scaled = (values + np.float32(0.25)) * np.float32(255 / 1.5)
    elif kind in ("gradient", "structure high", "structure low"):
        scaled = np.arcsinh(values * np.float32(1 / _FINE)) * np.float32(
            255 / np.arcsinh(_MOST / _FINE)
        )
    else:
        scaled = np.arcsinh(values * np.float32(1 / _SIGNED)) * np.float32(
            127 / np.arcsinh(_MOST / _SIGNED)
        )
        scaled += 128
    np.rint(scaled, out=scaled)
    return scaled.clip(0, 255).astype(np.uint8)


#: Below these, steps of a filter's 8-bit values are even; above, they grow with the value.
_FINE, _SIGNED = 0.004, 0.01
#: The largest filter value that is told from larger ones.
_MOST = 2.0


def _spread(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """Interpolate ``(P, h, w)`` maps at these rows and columns, as uint8 in `out` (P, y, x)."""
    across = _weights(columns, maps.shape[2])
    down = _weights(rows, maps.shape[1])
    for place, each in enumerate(maps):
        wide = each @ across.T
        for top in range(0, out.shape[1], _BAND):
            found = down[top : top + _BAND] @ wide
            out[place, top : top + _BAND] = found.clip(0, 255)


def _weights(positions: np.ndarray, count: int) -> np.ndarray:
    """``(n, count)`` float32: linear interpolation at `positions`, constant beyond the ends."""
    inside = positions.clip(0, count - 1)
    low = np.minimum(inside.astype(np.int64), max(count - 2, 0))
    share = (inside - low).astype(np.float32)
    matrix = np.zeros((len(positions), count), np.float32)
    each = np.arange(len(positions))
    matrix[each, low] = 1 - share
    matrix[each, np.minimum(low + 1, count - 1)] += share
    return matrix
