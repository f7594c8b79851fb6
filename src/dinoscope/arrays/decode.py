"""From the three instance maps to objects: cut once, then redo the cheap part at every slider move.

The landscape is boundary distance times the square root of centredness. Both fall towards the line
where two objects touch, one across a packed rod and one along it, so their product has one summit
for each object. Centredness is the harder to tell of long objects, whose ends are far away, so it
counts half. Where long objects lie side by side, the landscape is smoothed along them, which fills
dents in a ridge, and a valley along them parts sooner than a dent across one. How deep a valley
must be was chosen on the development images and on generated rods, by the shipped model's maps.
"""

from __future__ import annotations

import numpy as np

from dinoscope.arrays.labels import border_ids
from dinoscope.arrays.orientation import across, coherence_around, smooth_along
from dinoscope.arrays.watershed import Valleys, hills
from dinoscope.config import InstanceOptions
from dinoscope.errors import InputError

#: Foreground probability (of 255) below which no slider position can make a pixel an object's.
_FLOOR = 5
#: Smoothing of the landscape: this share of the objects' width, and never less or more pixels than
#: these. The least drowns the 8-bit steps; wide objects have shallow slopes that noise can notch.
_SMOOTHING_SHARE = 0.05
_SMOOTHING_PX = (0.5, 8.0)
#: Gradients of long objects agree over this share of their width (0: they have all directions, as
#: in round objects; 1: all are parallel)…
_AGREEMENT_SHARE = 1.1
#: …and where, over several widths, their mean agreement grows from the first of these to the
#: second, objects come to be treated as long: nuclei have 0.1 to 0.5, packed rods 0.5 to 0.9.
_LONG = (0.45, 0.55)
_AROUND_WIDTHS = 8.0
#: The landscape is then smoothed along them by up to this share of their width, not at all where
#: the agreement on the spot is below the least.
_ALONG_SHARE = 0.5
_LEAST_AGREEMENT = 0.15
#: A pixel is in an object's core if foreground and boundary distance reach these (of 255).
_CORE = (128, 64)
#: Which valleys part objects (the landscape goes from 0 to 1).
_VALLEYS = Valleys(ratio=0.66, depth=0.15, ratio_across=0.35, depth_across=1.3)

#: Square roots of centredness by its 256 values, over 255 for the boundary distance.
_ROOTS = np.sqrt(np.arange(256, dtype=np.float32) / 255) / 255
#: Rows of maps that are rounded together.
_ROWS = 256


def basins(maps: np.ndarray) -> np.ndarray:
    """Divide the plane among objects, whatever the threshold will be.

    Parameters
    ----------
    maps : (3, Y, X) uint8
        Foreground probability, centredness and boundary distance, each times 255.

    Returns
    -------
    (Y, X) int32
        Numbers from 1, not consecutive; 0 where the foreground is next to impossible.

    Raises
    ------
    InputError
        Another shape or dtype.
    """
    _check(maps)
    return _grow(maps)


def quantize(maps: np.ndarray) -> np.ndarray:
    """Maps ``(K, Y, X)`` in [0, 1] as uint8, 0 to 255, a few rows at a time."""
    found = np.empty(maps.shape, np.uint8)
    for y in range(0, maps.shape[1], _ROWS):
        part = maps[:, y : y + _ROWS] * np.float32(255)
        found[:, y : y + _ROWS] = np.rint(part, out=part).clip(0, 255, out=part)
    return found


def decode_instances(
    maps: np.ndarray, options: InstanceOptions | None = None, basins: np.ndarray | None = None
) -> np.ndarray:
    """Turn instance maps into objects.

    Parameters
    ----------
    maps : (3, Y, X) uint8
        Foreground probability, centredness and boundary distance, each times 255.
    options : InstanceOptions, optional
        Threshold, smallest size (in pixels, and as a share of the typical area), border objects,
        holes.
    basins : (Y, X) int32, optional
        What :func:`basins` gave for the same maps; saves most of the time when options change.

    Returns
    -------
    (Y, X) uint32
        Ids 1..n in reading order, each one connected region; 0 background.

    Raises
    ------
    InputError
        Another shape or dtype.

    Examples
    --------
    >>> from dinoscope.arrays.targets import instance_targets
    >>> ids = np.kron([[0, 0, 0], [0, 4, 9], [0, 0, 0]], np.ones((8, 8), int))
    >>> found = decode_instances((instance_targets(ids) * 255).astype(np.uint8))
    >>> np.unique(found).tolist()
    [0, 1, 2]
    """
    _check(maps)
    options = InstanceOptions() if options is None else options
    if basins is None:
        basins = _grow(maps)
    elif basins.shape != maps.shape[1:]:
        raise InputError(f"basins have shape {basins.shape}", expected=f"{maps.shape[1:]}")
    ids = _largest_pieces(np.where(maps[0] >= 255 * options.threshold, basins, 0))
    if options.fill_holes:
        ids = fill_holes(ids)
    area = np.bincount(ids.ravel(), minlength=1)
    least = max(options.min_size_px, options.min_size_share * _typical_area(area[1:]))
    keep = area >= max(least, 1)
    keep[0] = False
    keep &= _sureness(ids, maps[0], area) >= least_sureness(options.threshold)
    if options.remove_border and ids.size:
        keep[border_ids(ids)] = False
    table = np.cumsum(keep, dtype=np.uint32) * keep
    return np.asarray(table[ids].astype(np.uint32))


def least_sureness(threshold: float) -> float:
    """The mean foreground probability that an object must reach, for a pixel's threshold.

    A little above the threshold where that is low, so that faint objects can be asked for; haze and
    debris, which hover about the usual threshold, fall away there.

    Examples
    --------
    >>> round(least_sureness(0.5), 2), round(least_sureness(0.1), 3)
    (0.78, 0.156)
    """
    return min(1.56 * threshold, 1 - 0.44 * (1 - threshold))


def _sureness(ids: np.ndarray, foreground: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Mean foreground probability of every id, its filled holes included."""
    total = np.bincount(ids.ravel(), foreground.ravel(), minlength=len(area))
    return np.asarray(total / np.maximum(area, 1) / 255)


def _typical_area(area: np.ndarray) -> float:
    """Area of the object that the middle pixel of all objects belongs to; specks hardly move it."""
    if area.size == 0:
        return 0.0
    ordered = np.sort(area)
    half = np.searchsorted(np.cumsum(ordered), ordered.sum() / 2)
    return float(ordered[min(int(half), ordered.size - 1)])


def fill_holes(ids: np.ndarray) -> np.ndarray:
    """Give background that one object encloses to that object.

    Parameters
    ----------
    ids : (Y, X) integer array
        Instance ids, 0 = background.

    Returns
    -------
    (Y, X) array of the same dtype
        Gaps between several objects, and background that reaches the border, stay background.
    """
    from scipy.ndimage import label

    gaps, count = label(ids == 0)
    enclosed = np.ones(count + 1, bool)
    enclosed[0] = False
    enclosed[border_ids(gaps)] = False
    if not enclosed.any():
        return ids
    # The smallest and the largest id around each gap; where they agree one object encloses it.
    # Enclosed pixels never lie on the border, so their neighbours are one step or one row away.
    place = np.flatnonzero(enclosed[gaps])
    gap, flat = gaps.ravel()[place], ids.ravel()
    lowest = np.full(count + 1, np.iinfo(np.int64).max)
    highest = np.zeros(count + 1, np.int64)
    for step in (-ids.shape[1], -1, 1, ids.shape[1]):
        neighbour = flat[place + step]
        rim = neighbour > 0
        np.minimum.at(lowest, gap[rim], neighbour[rim])
        np.maximum.at(highest, gap[rim], neighbour[rim])
    owner = np.where(lowest == highest, highest, 0)
    filled = ids.copy()
    filled.ravel()[place] = owner[gap]
    return filled


def _check(maps: np.ndarray) -> None:
    if maps.ndim != 3 or maps.shape[0] != 3 or maps.dtype != np.uint8:
        raise InputError(
            f"instance maps have shape {maps.shape} and dtype {maps.dtype}",
            expected="(3, Y, X) and uint8",
        )


def _grow(maps: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    mask = maps[0] >= _FLOOR
    width = _width(maps)
    smoothing = float(np.clip(_SMOOTHING_SHARE * width, *_SMOOTHING_PX))
    height = np.multiply(_ROOTS[maps[1]], maps[2], dtype=np.float32)
    gaussian_filter(height, smoothing, truncate=3, output=height)
    square = across(height, _AGREEMENT_SHARE * width)
    around = coherence_around(square, maps[0] >= _CORE[0], _AROUND_WIDTHS * width)
    low, high = _LONG
    square = square.times(((around - low) / (high - low)).clip(0, 1))  # nothing among round ones
    agreement = (square.coherence - _LEAST_AGREEMENT) / (1 - _LEAST_AGREEMENT)
    height = smooth_along(height, square, _ALONG_SHARE * width * agreement, mask)
    return hills(height, mask, _VALLEYS, square)


def _width(maps: np.ndarray) -> float:
    """The objects' width in pixels, from their cores: about a disc's diameter, twice a rod's."""
    core = (maps[0] >= _CORE[0]) & (maps[2] >= _CORE[1])
    down = np.count_nonzero(core[1:] != core[:-1])
    along = np.count_nonzero(core[:, 1:] != core[:, :-1])
    width = 4.0 * int(np.count_nonzero(core)) / max(1, int(down + along))  # 4 areas by perimeter
    # In steps of √2, so that a part of a plane is nearly always cut as the whole plane is.
    return float(2 ** (0.5 * round(2 * np.log2(max(width, 4.0)))))


def _largest_pieces(ids: np.ndarray) -> np.ndarray:
    """Keep the largest connected piece of each id and number the pieces from 1, (Y, X) int32."""
    from skimage.measure import label

    pieces = label(ids, connectivity=2)
    area = np.bincount(pieces.ravel(), minlength=1)
    owner = np.zeros(area.size, ids.dtype)
    owner[pieces.ravel()] = ids.ravel()
    order = np.lexsort((-area, owner))
    first = np.concatenate([[True], owner[order][1:] != owner[order][:-1]])
    keep = np.zeros(area.size, bool)
    keep[order[first]] = True
    keep[0] = False
    return np.asarray((np.cumsum(keep, dtype=np.int32) * keep)[pieces])
