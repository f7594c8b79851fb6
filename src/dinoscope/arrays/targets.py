"""What the instance head learns: an id image as three maps.

The maps follow the recipe that works on few images and on packed objects alike: foreground,
centredness and boundary distance, from which :mod:`dinoscope.arrays.decode` grows objects.
"""

from __future__ import annotations

import numpy as np

#: Order of the instance maps along their first axis.
MAP_NAMES = ("foreground", "centredness", "boundary")

#: A pixel may be a centre if its boundary distance reaches this share of its object's largest one:
#: the middle of a rod is chosen from its whole axis, the centre of a bent object stays inside it.
_CORE_SHARE = 0.75


def instance_targets(ids: np.ndarray) -> np.ndarray:
    """Maps that an instance head should predict for one annotated plane or crop.

    Parameters
    ----------
    ids : (Y, X) integer array
        Instance ids; 0 (and any negative value) is background. Ids need not be consecutive.

    Returns
    -------
    (3, Y, X) float32 in [0, 1]
        `foreground`: 1 inside objects, contact lines included. `centredness`: 1 at the centre of
        each object, falling linearly with the Euclidean distance to 0 at its farthest pixel.
        `boundary`: distance to the nearest pixel outside the object, divided by the largest one
        in the object. The edge of the array is not a boundary: objects go on beyond it.

    Raises
    ------
    ValueError
        `ids` is not two-dimensional.

    Examples
    --------
    >>> maps = instance_targets(np.pad(np.ones((3, 3), int), 1))
    >>> maps.shape, float(maps[1, 2, 2]), float(maps[2, 2, 2])
    ((3, 5, 5), 1.0, 1.0)
    """
    ids = np.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(f"ids have shape {ids.shape}; expected (Y, X)")
    maps = np.zeros((3, *ids.shape), np.float32)
    inside = ids > 0
    flat = np.flatnonzero(inside)
    if flat.size == 0:
        return maps
    distance = boundary_distance(ids).ravel()[flat]

    # Pixels grouped by object, so that everything below is one reduction per group.
    _, group = np.unique(ids.ravel()[flat], return_inverse=True)
    count = int(group.max()) + 1
    order = np.argsort(group.astype(np.min_scalar_type(count)), kind="stable")
    flat, group, distance = flat[order], group[order], distance[order]
    starts = np.searchsorted(group, np.arange(count))

    peak = np.maximum.reduceat(distance, starts)
    y, x = np.divmod(flat, ids.shape[1])
    centre_y, centre_x = _centres(y, x, distance >= _CORE_SHARE * peak[group], group, starts)
    radius = np.hypot(y - centre_y[group], x - centre_x[group])
    farthest = np.maximum(np.maximum.reduceat(radius, starts), 1.0)

    maps[0] = inside
    maps[1].ravel()[flat] = 1.0 - radius / farthest[group]
    maps[2].ravel()[flat] = distance / peak[group]
    return maps


def boundary_distance(ids: np.ndarray) -> np.ndarray:
    """Distance of each object pixel to the outside of its own object, in pixels.

    Parameters
    ----------
    ids : (Y, X) integer array
        Instance ids; 0 and negative values are background.

    Returns
    -------
    (Y, X) float32
        1 on the outermost pixels of an object, 0 in the background. Measured to the object's own
        rim, in one transform for all objects: time does not depend on their number.
    """
    from scipy.ndimage import distance_transform_edt

    inside = ids > 0
    interior = inside.copy()
    differs_y = ids[1:] != ids[:-1]
    differs_x = ids[:, 1:] != ids[:, :-1]
    interior[1:][differs_y] = False
    interior[:-1][differs_y] = False
    interior[:, 1:][differs_x] = False
    interior[:, :-1][differs_x] = False
    if interior.all():  # one object larger than the crop: no rim in sight, any constant will do
        return np.ones(ids.shape, np.float32)
    distance = np.asarray(distance_transform_edt(interior), np.float32)
    distance[inside] += 1.0
    return distance


def _centres(
    y: np.ndarray, x: np.ndarray, core: np.ndarray, group: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The core pixel nearest the centroid, for each group of sorted pixels."""
    sizes = np.diff(np.append(starts, y.size))
    mean_y = np.add.reduceat(y, starts) / sizes
    mean_x = np.add.reduceat(x, starts) / sizes
    away = (y - mean_y[group]) ** 2 + (x - mean_x[group]) ** 2
    away[~core] = np.inf
    nearest = np.flatnonzero(away == np.minimum.reduceat(away, starts)[group])
    # Ties (an even number of pixels across): the first in reading order.
    first = nearest[np.searchsorted(group[nearest], np.arange(starts.size))]
    return y[first], x[first]
